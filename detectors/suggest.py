"""Which samples to label next, for the labels to be worth the most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from detectors.scores import Floats, Ints, as_matrix

FEWEST_LABELS = 20
FEWEST_OF_A_KIND = 2
"""Before a classifier's doubt is worth more than the two halves."""
IN_DOUBT = 5
"""Of so many times as many as are asked for, those in doubt that differ most are taken."""
RIDGE = 0.03
"""Of the regression that representatives are chosen for, in mean squared norms."""
MOST_CANDIDATES = 20_000
"""Of more samples, so many drawn by chance stand for all: what represents these represents them."""


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
    verdict, is_edge_case: what it was. Half are the strangest, half represent the rest beside all
    that is labelled: either half alone is worse than chance on some data. From 20 labels on, two of
    each kind among them, the samples that a classifier doubts.
    """
    X = as_matrix(vectors)
    known = np.asarray(labelled, dtype=np.int64)
    label = np.asarray(is_edge_case, dtype=bool)
    left = np.setdiff1d(np.arange(len(X)), known)
    count = min(count, len(left))
    if count == 0:
        return []
    if len(known) >= FEWEST_LABELS and min(label.sum(), (~label).sum()) >= FEWEST_OF_A_KIND:
        return [Suggestion(int(row), "uncertain") for row in _doubted(X, known, label, left, count)]
    strangest = left[np.argsort(-score[left], kind="stable")[: count - count // 2]]
    rest = np.setdiff1d(left, strangest)
    chosen = representatives(X, rest, count // 2, np.concatenate([known, strangest]))
    return [
        *(Suggestion(int(row), "outlier") for row in strangest),
        *(Suggestion(int(row), "representative") for row in chosen),
    ]


def representatives(X: Floats, rows: Ints, count: int, labelled: Ints) -> Ints:
    """`count` of the rows of X, whose labels would tell most of all rows; the same every time.

    Greedily those that lessen the variance of a ridge regression's predictions most, given the
    `labelled` rows (transductive experimental design; Yu, Bi and Tresp, 2006).
    """
    if len(rows) > MOST_CANDIDATES:
        rows = np.random.default_rng(0).choice(rows, MOST_CANDIDATES, replace=False)
    centre = X[rows].mean(axis=0)
    Z, L = X[rows] - centre, X[labelled] - centre
    moments = Z.T @ Z
    ridge = max(RIDGE * float(np.trace(moments)) / max(len(Z), 1), 1e-12)
    # Y Z' is the covariance of the predictions, Y moments Y' the sum of its squares.
    Y = ridge * np.linalg.solve(L.T @ L + ridge * np.eye(Z.shape[1]), Z.T).T
    Y_moments = Y @ moments
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        variance = np.einsum("nd,nd->n", Y, Z) + ridge
        gain = np.einsum("nd,nd->n", Y, Y_moments) / variance
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        share = Y @ Z[best] / variance[best]
        Y_moments -= np.outer(share, Y_moments[best])
        Y -= np.outer(share, Y[best])
    return np.asarray(rows[chosen], dtype=np.int64)


def _doubted(X: Floats, known: Ints, label: NDArray[np.bool_], left: Ints, count: int) -> Ints:
    """Of the rows that a logistic regression doubts, the most doubted of each of `count` clusters.

    Uncertainty sampling (Lewis and Gale, 1994), among samples that differ (cluster-margin sampling;
    Citovsky et al., 2021): the most doubted alone are often of one kind.
    """
    model = LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced").fit(X[known], label)
    doubt = np.abs(model.predict_proba(X[left])[:, 1] - 0.5)
    most = left[np.argsort(doubt, kind="stable")[: IN_DOUBT * count]]
    clusters = KMeans(min(count, len(np.unique(X[most], axis=0))), random_state=0, n_init=3)
    of = clusters.fit_predict(X[most])
    first = np.unique(of, return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(most)), first)[: count - len(first)]
    return np.asarray(most[np.sort(np.concatenate([first, rest]))], dtype=np.int64)
