"""What labels are worth: suggested ones beside as many random ones, and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.detect_cells import Cells, Embedded, Ints, at_once, ours
from benchmarks.detect_rows import Floats, Mask, Row, Rows, average_precision
from benchmarks.detect_tables import Size
from detectors.suggest import suggest
from schemas.records import LEVELS

RANDOM = (50, 100, 150, 200, 300, 400)
SUGGESTED = 50
ROUNDS = "suggested in rounds"


def labels(cells: Cells, size: Size) -> Rows:
    """Cells, of which 5% or 32% are defects."""
    everything = np.concatenate([cells.clean, cells.defects])
    pools = {"5%": cells.with_few_defects, "32%": lambda seed: everything}
    rows: Rows = {}
    for name, pool_of in pools.items():
        pools_of_seeds = map(pool_of, range(size.label_seeds))
        rows[f"{name} defects"] = worth(
            [(cells.of(pool), cells.probability[pool] == 1) for pool in pools_of_seeds]
        )
    return rows


def worth(pools: Sequence[tuple[Embedded, Mask]]) -> Row:
    """Held-out average precision of each way to choose labels; of each pool and its truth."""
    row = Row()
    jobs = [partial(_precisions, seed, *pool) for seed, pool in enumerate(pools)]
    for methods in at_once(jobs):
        for method, precision in methods.items():
            row.add(method, precision)
    return row


def _precisions(seed: int, pool: Embedded, truth: Mask) -> Mapping[str, Floats]:
    """Average precision (1,) of a logistic regression on what was labelled, by method.

    Labels are of one half of the pool, the other half is held out. `suggested`: 50 at once.
    `suggested in rounds`: five times 10, with the verdicts in between.
    """
    rng = np.random.default_rng(seed)
    train, test = np.array_split(rng.permutation(len(truth)), 2)
    features = np.concatenate([pool["mid"], pool["high"]], axis=1)
    X, y = features[train], truth[train]
    scores = ours(None, {level: pool[level][train] for level in LEVELS}).score
    rounds: list[int] = []
    while len(rounds) < SUGGESTED:
        rounds += [each.row for each in suggest(10, X, scores, rounds, y[rounds])]
    chosen: dict[str, Sequence[int] | Ints] = {
        "suggested": [each.row for each in suggest(SUGGESTED, X, scores)],
        ROUNDS: rounds,
        "strangest": np.argsort(-scores, kind="stable")[:SUGGESTED],
        **{f"random {n}": rng.permutation(len(train))[:n] for n in RANDOM},
        "all": np.arange(len(train)),
    }
    held_out = features[test], truth[test]
    return {method: _precision(X, y, picked, held_out) for method, picked in chosen.items()}


def _precision(
    X: np.ndarray, y: Mask, rows: Sequence[int] | Ints, held_out: tuple[np.ndarray, Mask]
) -> Floats:
    """Average precision (1,) on the held-out samples; chance without labels of both kinds."""
    if y[rows].all() or not y[rows].any():
        return np.array([held_out[1].mean()])
    model = LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced").fit(X[rows], y[rows])
    scores = model.decision_function(held_out[0])
    return average_precision(scores, held_out[1], np.ones((1, len(scores))))


def label_gain(row: Row, method: str = "suggested") -> float:
    """How many random labels are worth one suggested label; at most the most that were tried, and
    1 where the least are worth more.

    Between two numbers of random labels the average precision is taken for linear.
    """
    curve = np.maximum.accumulate([row.mean(f"random {n}") for n in RANDOM])
    return float(np.interp(row.mean(method), curve, RANDOM)) / SUGGESTED


def label_gains(rows: Rows) -> dict[str, float]:
    """Of each row that compares labels, at once and in rounds."""
    return {
        f"{name}, {method}": round(label_gain(row, method), 1)
        for name, row in rows.items()
        for method in ("suggested", ROUNDS)
        if method in row.values
    }
