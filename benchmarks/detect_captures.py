"""Broken captures among whole ones: 18 kinds at 1.5% of a pool, recall at a budget of 2%."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.detect_cells import Cells, Embedded, at_once, beside, joined, ours
from benchmarks.detect_images import Luma, corruptions, luma, png
from benchmarks.detect_rivals import cleanvision, rivals_scores
from benchmarks.detect_rows import OURS, Floats, Row, Rows, mean_of, merged, recall_at, resampled
from benchmarks.detect_tables import Size
from schemas.records import LEVELS

BROKEN = 0.015
BUDGET = 0.02


def captures(cells: Cells, size: Size) -> Rows:
    """Each of the 18 kinds among clean cells, and their mean."""
    parts = []
    for seed in range(size.seeds):
        rng, clean, _ = cells.split(seed)
        clean = clean[: size.in_captures]
        count = round(BROKEN * len(clean))
        broken, rest = clean[:count], clean[count:]
        images = [luma(cells.paths[row]) for row in broken]
        files = [cells.paths[row].read_bytes() for row in rest]
        parts.append(recalls(cells, rng, images, files, cells.of(rest)))
    rows = merged(parts)
    return {**rows, "mean of 18 kinds": mean_of(rows)}


def recalls(
    cells: Cells,
    rng: np.random.Generator,
    images: Sequence[Luma],
    clean: Sequence[bytes],
    embedded: Embedded,
) -> Rows:
    """What each method finds of `images`, broken in each way, among the `clean` files.

    cleanvision looks at the images, the others at their vectors.
    """
    made = {kind: [png(spoil(x)) for x in images] for kind, spoil in corruptions(rng).items()}
    pools = [joined(embedded, cells.embed(files)) for files in made.values()]
    looked_at = partial(_looked_at, made, clean)
    faulty, *deviations = at_once([looked_at, *(partial(_deviations, pool) for pool in pools)])
    truth = np.arange(len(clean) + len(images)) >= len(clean)
    weights = resampled(truth, rng)
    measure = recall_at(round(BUDGET * len(truth)))
    rows: Rows = defaultdict(Row)
    for kind, scores in zip(made, deviations, strict=True):
        for method, values in {**scores, "cleanvision": faulty[kind]}.items():
            rows[kind].add(method, measure(values, truth, weights))
    return rows


def _deviations(pool: Embedded) -> Mapping[str, Floats]:
    """Our alarm looks at three levels, so the rivals get all three side by side."""
    return {OURS: ours(None, pool).deviation, **rivals_scores(None, beside(pool, LEVELS))}


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
