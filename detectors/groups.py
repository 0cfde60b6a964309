"""Flags that are alike, so that one look judges thirty images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist, pdist, squareform

from detectors.scores import LEAST, Floats, Ints

SMALLEST = 3
"""Two alike flags are judged as fast one by one."""
MOST = 5000
"""Flags that are compared with one another, the first of the list; they take 600 MB. Later ones
join the groups of these."""


def find_groups(
    vectors: NDArray[np.floating], to_normal: NDArray[np.floating]
) -> tuple[Ints, Floats]:
    """Groups among f flags, the best first, by average linkage (Sokal and Michener, 1958).

    Not HDBSCAN (Campello et al., 2013): flags have no density of their own. Among the flags of a
    pool of solar cells with 3 to 60 foreign photographs both find those as one pure group; HDBSCAN
    also makes one group of 98% of the unlike defects (of 60 to 90% by the distances used here),
    average linkage leaves 62 to 81% of them alone. What is normal gives the scale that is missing.

    vectors: (f, d) of the scored level. to_normal: (f,) the distance of each to its closest
    normal sample; where there is none (NaN) the usual distance of a flag to the next takes its
    place. Two flags are as far apart as their distance is in
    units of the way to what is normal, and a group ends where its members are on average no
    closer to one another than to that: odd in different ways is no group.

    Returns the group (f,) of each, numbered from 0 by their best flags, -1 for none; and the
    distance (f,) of each to the medoid of its group, the member nearest to all others, which is
    itself at 0; NaN for none.
    """
    group = np.full(len(vectors), -1, dtype=np.int64)
    to_medoid = np.full(len(vectors), np.nan)
    if len(vectors) < SMALLEST:
        return group, to_medoid
    gaps = squareform(pdist(np.asarray(vectors[:MOST], dtype=np.float64)))
    reach = _reach(gaps, to_normal)
    ratio = gaps / np.minimum.outer(reach[:MOST], reach[:MOST])
    found = fcluster(linkage(squareform(ratio, checks=False), "average"), 1.0, "distance")
    _, first, sizes = np.unique(found, return_index=True, return_counts=True)
    medoids: list[int] = []
    for number, start in enumerate(np.sort(first[sizes >= SMALLEST])):
        members = np.flatnonzero(found == found[start])
        among = gaps[np.ix_(members, members)]
        group[members] = number
        medoid = among.sum(axis=1).argmin()
        medoids.append(members[medoid])
        to_medoid[members] = among[medoid]
    if medoids:
        for start in range(MOST, len(vectors), MOST):
            late = slice(start, start + MOST)
            group[late], to_medoid[late] = _joined(vectors[late], reach[late], vectors[medoids])
    return group, to_medoid


def _reach(gaps: Floats, to_normal: NDArray[np.floating]) -> Floats:
    """How far (f,) each flag may be from the others of its group."""
    others = gaps + np.diag(np.full(len(gaps), np.inf))
    usual = float(np.median(others.min(axis=1)))
    return np.maximum(np.where(np.isnan(to_normal), usual, to_normal), LEAST)


def _joined(
    vectors: NDArray[np.floating], reach: Floats, medoids: NDArray[np.floating]
) -> tuple[Ints, Floats]:
    """The group (f,) of each flag whose nearest medoid is within its reach, and how far that is."""
    gaps = cdist(vectors, medoids)
    nearest, gap = gaps.argmin(axis=1), gaps.min(axis=1)
    return np.where(gap <= reach, nearest, -1), np.where(gap <= reach, gap, np.nan)
