"""Flags that are alike, so that one look judges thirty images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform

from detectors.scores import LEAST, Floats, Ints

SMALLEST = 3
"""Two alike flags are judged as fast one by one."""
MOST = 5000
"""Flags that are compared with one another, the first of the list; they take 600 MB."""


def find_groups(
    vectors: NDArray[np.floating], to_normal: NDArray[np.floating]
) -> tuple[Ints, Floats]:
    """Groups among f flags, the best first, by average linkage (Sokal and Michener, 1958).

    vectors: (f, d) of the scored level. to_normal: (f,) the distance of each to its closest
    unflagged sample, NaN where there is none. Two flags are as far apart as their distance is in
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
    reach = np.maximum(np.nan_to_num(to_normal[:MOST]), LEAST)
    ratio = gaps / np.minimum.outer(reach, reach)
    found = fcluster(linkage(squareform(ratio, checks=False), "average"), 1.0, "distance")
    _, first, sizes = np.unique(found, return_index=True, return_counts=True)
    for number, start in enumerate(np.sort(first[sizes >= SMALLEST])):
        members = np.flatnonzero(found == found[start])
        among = gaps[np.ix_(members, members)]
        group[members] = number
        to_medoid[members] = among[among.sum(axis=1).argmin()]
    return group, to_medoid
