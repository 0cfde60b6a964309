"""What labels are worth: suggested ones beside as many random ones, and more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.detect_cells import Cells, Embedded, Ints, ours
from benchmarks.detect_rows import Floats, Mask, Row, average_precision
from benchmarks.detect_tables import Rows, Size
from detectors.suggest import suggest
from schemas.records import LEVELS

RANDOM = (50, 100, 150, 200, 300, 400)
SUGGESTED = 50
ROUNDS = "suggested in rounds"


def labels(cells: Cells, size: Size) -> Rows:
    """Cells, of which 5% or 32% are defects."""
    rows: Rows = defaultdict(Row)
    everything = np.concatenate([cells.clean, cells.defects])
    for seed in range(size.label_seeds):
        rng = np.random.default_rng(seed)
        for name, pool in (("5%", cells.with_few_defects(seed)), ("32%", everything)):
            truth = cells.probability[pool] == 1
            add_precisions(rows[f"{name} defects"], rng, cells.of(pool), truth)
    return rows


def add_precisions(row: Row, rng: np.random.Generator, pool: Embedded, truth: Mask) -> None:
    """Held-out average precision of a logistic regression on what was labelled.

    Labels are of one half of the pool, the other half is held out. `suggested`: 50 at once.
    `suggested in rounds`: five times 10, with the verdicts in between.
    """
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
    for method, picked in chosen.items():
        row.add(method, _worth(X, y, picked, (features[test], truth[test])))


def _worth(
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
