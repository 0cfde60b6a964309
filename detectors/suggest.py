"""Which samples to label next, for the labels to be worth the most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from detectors.scores import Floats, Ints, as_matrix

FEWEST_LABELS = 20
"""Before a classifier's doubt is worth more than the two halves."""
RIDGE = 0.03
"""Of the regression that representatives are chosen for, in mean squared norms."""
WEAK_PRIOR = 50.0
"""scikit-learn's C of the classifier that doubts: the variance of its weights before any label."""
LEAST_SLOPE = 1e-6
"""A probability of 0 or 1 is taken for one this far from it."""
MOST_CANDIDATES = 20_000
"""Of more samples, so many stand for all: those drawn by chance while they are to be represented,
the most doubted once there is a classifier."""


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
    """`count` unlabelled samples, or all there are; 20,000 at most.

    vectors: (n, d), mid and high side by side. score: (n,) of the run. labelled: rows with a
    verdict, is_edge_case: what it was. Half are the strangest, half represent the rest beside all
    that is labelled: either half alone is worse than chance on some data. From 20 labels on, if
    there are some of each kind, the samples that a classifier of them knows the least about.
    """
    X = as_matrix(vectors)
    known = np.asarray(labelled, dtype=np.int64)
    label = np.asarray(is_edge_case, dtype=bool)
    left = np.setdiff1d(np.arange(len(X)), known)
    count = min(count, len(left), MOST_CANDIDATES)
    if count <= 0:
        return []
    if len(known) >= FEWEST_LABELS and label.any() and not label.all():
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
    if not len(rows):
        return rows
    if len(rows) > MOST_CANDIDATES:
        rows = np.random.default_rng(0).choice(rows, MOST_CANDIDATES, replace=False)
    centre = X[rows].mean(axis=0)
    Z, L = X[rows] - centre, X[labelled] - centre
    moments = Z.T @ Z
    ridge = max(RIDGE * float(np.trace(moments)) / max(len(Z), 1), 1e-12)
    covariance = ridge * np.linalg.inv(L.T @ L + ridge * np.eye(Z.shape[1]))
    # Of each prediction: its variance, and the squares of its covariances with all of them.
    of_weights = Z @ covariance
    variance = np.einsum("nd,nd->n", of_weights, Z)
    shared = np.einsum("nd,nd->n", of_weights @ moments, of_weights)
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        gain = shared / (variance + ridge)
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        told = covariance @ Z[best] / np.sqrt(variance[best] + ridge)
        along, across = Z @ told, Z @ (covariance @ (moments @ told))
        shared += along**2 * (told @ moments @ told) - 2 * along * across
        variance -= along**2
        covariance -= np.outer(told, told)
    return np.asarray(rows[chosen], dtype=np.int64)


def _doubted(X: Floats, known: Ints, label: NDArray[np.bool_], left: Ints, count: int) -> Ints:
    """`count` of the rows `left`, whose probability a logistic regression can tell the least.

    Greedily the one with the largest standard deviation of its predicted probability, as if those
    before it had been labelled: near the boundary, unlike what is labelled, and unlike each other.
    The weights vary as in the Laplace approximation (MacKay, 1992), the intercept as any of them,
    and each label counts once.
    """
    model = LogisticRegression(C=WEAK_PRIOR, max_iter=1000, class_weight="balanced")
    probability = model.fit(X[known], label).predict_proba(X)[:, 1]
    # Of the logistic function: what a label tells of the log odds.
    slope = np.maximum(probability * (1 - probability), LEAST_SLOPE)
    rows = left[np.argsort(-slope[left], kind="stable")[:MOST_CANDIDATES]]
    centre = X[rows].mean(axis=0)
    Z, L = (np.column_stack([X[some] - centre, np.ones(len(some))]) for some in (rows, known))
    covariance = np.linalg.inv(L.T @ (L * slope[known][:, None]) + np.eye(Z.shape[1]) / WEAK_PRIOR)
    variance = np.einsum("nd,nd->n", Z @ covariance, Z)
    chosen: list[int] = []
    for _ in range(count):
        deviation = slope[rows] * np.sqrt(np.maximum(variance, 0))
        deviation[chosen] = -np.inf
        best = int(np.argmax(deviation))
        chosen.append(best)
        told = covariance @ Z[best] / np.sqrt(variance[best] + 1 / slope[rows[best]])
        covariance -= np.outer(told, told)
        variance -= (Z @ told) ** 2
    return np.asarray(rows[chosen], dtype=np.int64)
