"""The same questions of other images than solar cells, so that no default fits these alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial

import numpy as np

from benchmarks.detect_captures import BROKEN, recalls
from benchmarks.detect_cells import Cells, Embedded, Ints, at_once, every_score, joined
from benchmarks.detect_images import png
from benchmarks.detect_labels import worth
from benchmarks.detect_rows import Row, Rows, auroc, average_precision, mean_of, merged, resampled
from benchmarks.detect_sets import SETS, Images
from benchmarks.detect_tables import Size
from schemas.records import LEVELS


def others(cells: Cells, size: Size) -> Rows:
    """Of each set: edge cases in a pool and against a reference, broken captures, and labels."""
    rows: Rows = {}
    for name, make in SETS.items():
        images = make()
        files = [png(x) for x in images.pixels]
        embedded = cells.embed(files)
        jobs = [
            partial(_found, name, setting, seed, *pool, twice=size.twice)
            for seed in range(size.seeds)
            for setting, pool in _pools(images, embedded, seed).items()
        ]
        rows |= merged(at_once(jobs))
        if images.sought is not None:
            rows[f"{name}, labels"] = worth(
                [(embedded, images.sought(seed)) for seed in range(size.label_seeds)]
            )
        broken = []
        for seed in range(size.other_seeds):
            rng = np.random.default_rng(seed)
            whole = rng.permutation(np.flatnonzero(images.whole))
            some, rest = np.split(whole, [round(BROKEN * len(whole))])
            spoilt = [images.pixels[row] for row in some]
            clean = [files[row] for row in rest]
            broken.append(recalls(cells, rng, spoilt, clean, _of(embedded, rest)))
        rows[f"{name}, mean of 18 kinds"] = mean_of(merged(broken))
    return rows


def _pools(
    images: Images, embedded: Embedded, seed: int
) -> Mapping[str, tuple[Embedded | None, Embedded, Embedded]]:
    """A reference or None, and what is common and what is rare in a pool.

    Half of the normal images are the reference, or all are in a pool of its own. `one of each`: of
    kinds that are all different, in a pool of as many kinds.
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
    return {
        setting: (reference, _of(embedded, common), _of(embedded, rare))
        for setting, (reference, common, rare) in settings.items()
    }


def _found(
    name: str,
    setting: str,
    seed: int,
    reference: Embedded | None,
    common: Embedded,
    rare: Embedded,
    *,
    twice: bool,
) -> Rows:
    pool = joined(common, rare)
    truth = np.arange(len(pool["high"])) >= len(common["high"])
    weights = resampled(truth, np.random.default_rng(seed))
    rows: Rows = defaultdict(Row)
    for method, scores in every_score(reference, pool, twice=twice).items():
        rows[f"{name}, {setting} AUROC"].add(method, auroc(scores, truth, weights))
        rows[f"{name}, {setting} AP"].add(method, average_precision(scores, truth, weights))
    return rows


def _of(embedded: Embedded, rows: Ints) -> Embedded:
    return {level: embedded[level][rows] for level in LEVELS}
