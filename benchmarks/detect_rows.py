"""Rows of a comparison: a measure of every method on the same pools, with its interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Measure = Callable[[Floats, Mask, Floats], Floats]
"""scores (n,), larger for stranger; truth (n,); weights (r, n): r values in [0, 1]. Equal scores
count as if their order were drawn by lot."""

OURS = "longtail"
RESAMPLES = 100
ROUNDING = 1e-9
FEW_SEEDS = 5
"""With fewer seeds than this an interval is that of resampled samples, not of seeds."""


def auroc(scores: Floats, truth: Mask, weights: Floats) -> Floats:
    """Area under the receiver operating characteristic."""
    positive, negative = _by_score(scores, truth, weights)
    beaten = negative.sum(axis=1, keepdims=True) - negative.cumsum(axis=1) + negative / 2
    return _share((positive * beaten).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def average_precision(scores: Floats, truth: Mask, weights: Floats) -> Floats:
    """Mean of the precision at each positive (scikit-learn's definition)."""
    positive, negative = _by_score(scores, truth, weights)
    found = positive.cumsum(axis=1)
    precision = _share(found, found + negative.cumsum(axis=1))
    return _share((positive * precision).sum(axis=1), positive.sum(axis=1))


def recall_at(budget: int) -> Measure:
    """Share of the positives among the `budget` best, of as many as could be there."""

    def recall(scores: Floats, truth: Mask, weights: Floats) -> Floats:
        positive, negative = _by_score(scores, truth, weights)
        both = positive + negative
        taken = _share(np.clip(budget - (both.cumsum(axis=1) - both), 0, both), both)
        return _share((positive * taken).sum(axis=1), np.minimum(positive.sum(axis=1), budget))

    return recall


def _by_score(scores: Floats, truth: Mask, weights: Floats) -> tuple[Floats, Floats]:
    """Weight of the positives and of the negatives at each distinct score, the largest first."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    positive = np.add.reduceat(weights[:, order] * truth[order], starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * ~truth[order], starts, axis=1)
    return positive, negative


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def resampled(truth: Mask, rng: np.random.Generator) -> Floats:
    """Weights (1 + RESAMPLES, n): the samples as they are, and drawn again within each class."""
    weights = np.ones((1 + RESAMPLES, len(truth)))
    for rows in (np.flatnonzero(truth), np.flatnonzero(~truth)):
        if len(rows):
            even = np.full(len(rows), 1 / len(rows))
            weights[1:, rows] = rng.multinomial(len(rows), even, size=RESAMPLES)
    return weights


@dataclass
class Row:
    """Percent of each method, per seed: (1 + resamples,), the first of the samples as they are."""

    values: dict[str, list[Floats]] = field(default_factory=dict)

    def add(self, method: str, shares: Floats | float) -> None:
        self.values.setdefault(method, []).append(100 * np.atleast_1d(shares))

    def mean(self, method: str) -> float:
        return float(np.mean([each[0] for each in self.values[method]]))

    def interval(self, method: str) -> float:
        """Half the width of the 95% interval of the mean."""
        return half_width(self.values[method])

    def lost_to(self) -> list[str]:
        """Rivals whose mean lies above ours and its interval."""
        if OURS not in self.values:
            return []
        reached = self.mean(OURS) + self.interval(OURS) + ROUNDING
        return [m for m in self.values if m != OURS and self.mean(m) > reached]

    def behind(self) -> list[str]:
        """The stricter reading: rivals that are better, pool by pool, by more than the 95% interval
        of the difference."""
        found = []
        for method, theirs in self.values.items():
            gaps = [b - a for a, b in zip(self.values.get(OURS, []), theirs, strict=False)]
            mean = float(np.mean([each[0] for each in gaps])) if gaps else 0.0
            if mean > ROUNDING and mean > half_width(gaps):
                found.append(method)
        return found

    def plain(self) -> dict[str, Any]:
        """As it stands in the results."""
        methods = {
            method: {
                "mean": round(self.mean(method), 2),
                "interval": round(self.interval(method), 2),
                "seeds": [round(float(each[0]), 2) for each in values],
            }
            for method, values in self.values.items()
        }
        return {"methods": methods, "lost_to": self.lost_to(), "behind": self.behind()}


Rows = dict[str, Row]


def merged(parts: Iterable[Rows]) -> Rows:
    """The rows of several pools, the seeds of each in the order of the pools."""
    rows: Rows = defaultdict(Row)
    for part in parts:
        for name, row in part.items():
            for method, seeds in row.values.items():
                rows[name].values.setdefault(method, []).extend(seeds)
    return rows


def half_width(seeds: Sequence[Floats]) -> float:
    """Half the width of the 95% interval of the mean of `seeds`, each (1 + resamples,)."""
    n = len(seeds)
    if n >= FEW_SEEDS:
        error = float(np.std([each[0] for each in seeds], ddof=1)) / math.sqrt(n)
        return float(t.ppf(0.975, n - 1)) * error
    if len(seeds[0]) == 1:
        return 0.0
    return 1.96 * float(np.std(np.mean([each[1:] for each in seeds], axis=0)))


def mean_of(rows: Mapping[str, Row]) -> Row:
    """One row of the means over `rows`, seed by seed, of the methods that all of them have."""
    first, *others = rows.values()
    methods = [m for m in first.values if all(m in row.values for row in others)]
    return Row(
        {
            method: [
                np.mean(each, axis=0)
                for each in zip(*(row.values[method] for row in rows.values()), strict=True)
            ]
            for method in methods
        }
    )
