"""Broken captures among whole ones: 18 kinds at 1.5% of a pool, recall at a budget of 2%."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.detect_cells import Cells, Embedded, at_once, joined, ours
from benchmarks.detect_images import Luma, corruptions, luma, png
from benchmarks.detect_rivals import cleanvision
from benchmarks.detect_rows import OURS, Floats, Row, mean_of, recall_at, resampled
from benchmarks.detect_tables import Rows, Size
from schemas.records import LEVELS

BROKEN = 0.015
BUDGET = 0.02


def captures(cells: Cells, size: Size) -> Rows:
    """Each of the 18 kinds among clean cells, and their mean."""
    rows: Rows = defaultdict(Row)
    for seed in range(size.seeds):
        rng, clean, _ = cells.split(seed)
        clean = clean[: size.cells]
        count = round(BROKEN * len(clean))
        broken, rest = clean[:count], clean[count:]
        images = [luma(cells.paths[row]) for row in broken]
        files = [cells.paths[row].read_bytes() for row in rest]
        add_recalls(rows, cells, rng, images, files, cells.of(rest))
    rows["mean of 18 kinds"] = mean_of(rows)
    return rows


def add_recalls(
    rows: Rows,
    cells: Cells,
    rng: np.random.Generator,
    images: Sequence[Luma],
    clean: Sequence[bytes],
    embedded: Embedded,
) -> None:
    """What each method finds of `images`, broken in each way, among the `clean` files.

    Our alarm looks at three levels, so the rivals get all three side by side; cleanvision looks at
    the images.
    """
    made = {kind: [png(spoil(x)) for x in images] for kind, spoil in corruptions(rng).items()}
    faulty = _looked_at(made, clean)
    truth = np.arange(len(clean) + len(images)) >= len(clean)
    weights = resampled(truth, rng)
    measure = recall_at(round(BUDGET * len(truth)))
    for kind, files in made.items():
        pool = joined(embedded, cells.embed(files))
        together = np.concatenate([pool[level] for level in LEVELS], axis=1).astype(np.float64)
        jobs: dict[str, Callable[[], Floats]] = {OURS: partial(_deviation, pool)}
        jobs |= {name: partial(rival, None, together) for name, rival in cells.rivals.items()}
        scores = {**at_once(jobs), "cleanvision": faulty[kind]}
        for method, values in scores.items():
            rows[kind].add(method, measure(values, truth, weights))


def _deviation(pool: Embedded) -> Floats:
    return ours(None, pool).deviation


def _looked_at(
    broken: Mapping[str, Sequence[bytes]], clean: Sequence[bytes]
) -> Mapping[str, Floats]:
    """cleanvision's scores of the clean images and then those of each kind."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, files in {"clean": clean, **broken}.items():
            for i, data in enumerate(files):
                (folder / f"{kind}-{i}.png").write_bytes(data)
        scores = cleanvision(folder)

    def of(kind: str, files: Sequence[bytes]) -> list[float]:
        return [scores[f"{kind}-{i}.png"] for i in range(len(files))]

    normal = of("clean", clean)
    return {kind: np.array([*normal, *of(kind, files)]) for kind, files in broken.items()}
