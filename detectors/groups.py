"""Flags that are alike, so that one look judges thirty images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.cluster import HDBSCAN

from detectors.scores import Ints

SMALLEST = 3
"""Two alike flags are judged as fast one by one."""


@dataclass(frozen=True, slots=True)
class Group:
    """Alike flags. medoid: the position, among the flags, of the one nearest to all others.
    spread: mean distance to it."""

    medoid: int
    size: int
    spread: float


def find_groups(
    vectors: NDArray[np.floating], to_normal: NDArray[np.floating]
) -> tuple[Ints, list[Group]]:
    """Dense groups among f flags, by HDBSCAN (Campello et al., 2013; scikit-learn's).

    vectors: (f, d) of the scored level. to_normal: (f,) the distance of each to its closest
    unflagged sample, NaN where there is none. A member lies closer to its medoid than to
    what is normal: odd in different ways is no group. Returns the group (f,) of each, -1 for
    none, numbered by their first flag, and the groups in that order.
    """
    f = len(vectors)
    none = np.full(f, -1, dtype=np.int64)
    if f < 2 * SMALLEST:
        return none, []
    X = np.asarray(vectors, dtype=np.float64)
    found = HDBSCAN(min_cluster_size=SMALLEST, allow_single_cluster=True, copy=True).fit(X).labels_
    labels = none
    groups: list[Group] = []
    for label in sorted(set(found[found >= 0]), key=lambda each: int(np.argmax(found == each))):
        members = np.flatnonzero(found == label)
        gaps = cdist(X[members], X[members])
        medoid = int(np.argmin(gaps.sum(axis=1)))
        alike = ~(gaps[medoid] >= to_normal[members])
        size = int(alike.sum())
        if size < SMALLEST:
            continue
        labels[members[alike]] = len(groups)
        groups.append(
            Group(int(members[medoid]), size, float(gaps[medoid][alike].sum() / (size - 1)))
        )
    return labels, groups
