"""The same questions of other images than solar cells, so that no default fits these alone."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from benchmarks.detect_captures import BROKEN, add_recalls
from benchmarks.detect_cells import Cells, Embedded, Ints
from benchmarks.detect_images import png
from benchmarks.detect_labels import worth
from benchmarks.detect_rows import Row, auroc, average_precision, mean_of, resampled
from benchmarks.detect_sets import SETS, Images
from benchmarks.detect_tables import Rows, Size
from schemas.records import LEVELS


def others(cells: Cells, size: Size) -> Rows:
    """Of each set: edge cases in a pool and against a reference, broken captures, and labels."""
    rows: Rows = defaultdict(Row)
    for name, make in SETS.items():
        images = make()
        files = [png(x) for x in images.pixels]
        embedded = cells.embed(files)
        for seed in range(size.seeds):
            _edge_cases(rows, name, cells, images, embedded, seed, twice=size.twice)
        if images.sought is not None:
            rows[f"{name}, labels"] = worth(
                [(embedded, images.sought(seed)) for seed in range(size.label_seeds)]
            )
        broken: Rows = defaultdict(Row)
        for seed in range(size.other_seeds):
            rng = np.random.default_rng(seed)
            whole = rng.permutation(np.flatnonzero(images.whole))
            some, rest = np.split(whole, [round(BROKEN * len(whole))])
            spoilt = [images.pixels[row] for row in some]
            clean = [files[row] for row in rest]
            add_recalls(broken, cells, rng, spoilt, clean, _of(embedded, rest))
        rows[f"{name}, mean of 18 kinds"] = mean_of(broken)
    return rows


def _edge_cases(
    rows: Rows,
    name: str,
    cells: Cells,
    images: Images,
    embedded: Embedded,
    seed: int,
    *,
    twice: bool,
) -> None:
    """Half of the normal images are the reference, or all are in a pool of its own.

    `one of each`: of kinds that are all different, in a pool of as many kinds.
    """
    normal, strange = images.of(seed)
    known, fresh = np.array_split(normal, 2)
    settings: dict[str, tuple[Embedded | None, Ints, Ints]] = {
        "pool": (None, normal, strange[: round(images.rare * len(normal))]),
        "ref": (_of(embedded, known), fresh, strange[: round(images.rare * len(fresh))]),
    }
    kinds, one_of_each = images.one_of_each(seed)
    if len(kinds):
        settings["one of each"] = (None, kinds, one_of_each)
    for setting, (reference, common, rare) in settings.items():
        truth = np.arange(len(common) + len(rare)) >= len(common)
        weights = resampled(truth, np.random.default_rng(seed))
        pool = _of(embedded, np.concatenate([common, rare]))
        for method, scores in cells.every_score(reference, pool, twice=twice):
            rows[f"{name}, {setting} AUROC"].add(method, auroc(scores, truth, weights))
            rows[f"{name}, {setting} AP"].add(method, average_precision(scores, truth, weights))


def _of(embedded: Embedded, rows: Ints) -> Embedded:
    return {level: embedded[level][rows] for level in LEVELS}
