"""Which samples to label next, for the labels to be worth the most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression

from detectors.scores import Floats, Ints, as_matrix

FEWEST_LABELS = 5
"""Of each class, before a classifier's doubt is worth more than the two halves."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A sample (row of the pool) to label, and why: outlier, representative or uncertain."""

    row: int
    why: str


def suggest(
    count: int,
    vectors: NDArray[np.floating],
    score: Floats,
    labelled: Sequence[int] | Ints = (),
    is_edge_case: Sequence[bool] | NDArray[np.bool_] = (),
) -> list[Suggestion]:
    """`count` unlabelled samples, or all there are.

    vectors: (n, d), mid and high side by side. score: (n,) of the run. labelled: rows with a
    verdict, is_edge_case: what it was. Half are the strangest, half the centres of k-means over
    the rest: either half alone is worse than chance on some data. From five labels of each kind
    on, the samples that a logistic regression doubts most (uncertainty sampling, Lewis and Gale,
    1994).
    """
    X = as_matrix(vectors)
    known = np.asarray(labelled, dtype=np.int64)
    label = np.asarray(is_edge_case, dtype=bool)
    left = np.setdiff1d(np.arange(len(X)), known)
    count = min(count, len(left))
    if count == 0:
        return []
    if min(label.sum(), (~label).sum()) >= FEWEST_LABELS:
        model = LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced")
        doubt = np.abs(model.fit(X[known], label).predict_proba(X[left])[:, 1] - 0.5)
        return [Suggestion(int(r), "uncertain") for r in left[np.argsort(doubt)[:count]]]
    strangest = left[np.argsort(-score[left], kind="stable")[: count - count // 2]]
    rest = np.setdiff1d(left, strangest)
    return [
        *(Suggestion(int(row), "outlier") for row in strangest),
        *(Suggestion(int(row), "representative") for row in representatives(X, rest, count // 2)),
    ]


def representatives(X: Floats, rows: Ints, count: int) -> Ints:
    """The rows nearest to the centres of `count` clusters of X[rows]; the same every time."""
    if count == 0 or len(rows) <= count:
        return rows[:count]
    means = MiniBatchKMeans(count, random_state=0, n_init=3, batch_size=4096).fit(X[rows])
    gaps = means.transform(X[rows])
    chosen: list[int] = []
    for cluster in range(count):
        order = np.argsort(gaps[:, cluster], kind="stable")
        chosen.append(next(int(i) for i in order if i not in chosen))
    return np.asarray(rows[chosen], dtype=np.int64)
