"""What a sample's own neighbours say of it: it may be strange for its kind and for nothing else.

A blurred photograph of a dog lies among photographs of dogs, not among blurred ones; held against
all samples it is ordinary, held against its neighbours it is not. These are contextual outliers
(Song et al., 2007); the neighbours of the scored level are the context.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.scores import LEAST, Floats, Mask, knn_distance

CONTEXT = 50
"""So many neighbours are the context of a sample."""
NEAREST = 7
"""To so many of its context a sample's distance is taken: fewer are hidden by alike faults. In a
small pool, which has fewer of these, it is one for each `A_POOL_OF`, `FEWEST` at least."""
A_POOL_OF = 150
FEWEST = 3
LIKE = 20
"""The mean of so many neighbours is what a sample's like look like."""
COPY = 0.2
"""Below this share of the median a distance is one between copies: a stuck camera's images are no
dense surroundings, beside which everything else is far."""
MOST_STUCK = 0.75
"""Of a source that repeats itself more than that, the rest is what is strange."""
BLOCK = 128
"""Samples held against their neighbours at a time: these stay in the processor's cache."""


def relative(values: Floats, neighbours: NDArray[np.integer], copied: Mask | None = None) -> Floats:
    """Each of (n,) distances over the geometric mean of its neighbours', above 1 for stranger.

    This is what makes an outlier factor local (Breunig et al., 2000): where all are far apart, to
    be far is nothing strange. Of a copy nothing can be said, it is NaN; as a neighbour it counts as
    the median. neighbours: (n, k) rows, -1 for none; without any it is 1. copied: (n,) copies that
    are known already, which have no part in the median.
    """
    ratio, middle = np.empty(len(values)), usual(values if copied is None else values[~copied])
    for start in range(0, len(values), BLOCK):
        rows = slice(start, start + BLOCK)
        ratio[rows] = over(values[rows], at(values, neighbours[rows]), middle)
    return ratio


def over(values: Floats, theirs: Floats, middle: float) -> Floats:
    """`relative` of (n,) distances to those of their neighbours (n, k), NaN for none.

    middle: the median, by which copies are known.
    """
    own = _log(values)
    known = _log(np.where(theirs < COPY * middle, middle, theirs))
    there = ~np.isnan(known)
    total, count = np.where(there, known, 0.0).sum(axis=1), there.sum(axis=1)
    mean = np.where(count > 0, total / np.maximum(count, 1), own)
    return np.where(values < COPY * middle, np.nan, np.exp(own - mean))


def usual(values: Floats) -> float:
    """The median, 0 of none."""
    return float(np.median(values)) if len(values) else 0.0


def _log(distances: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(distances, LEAST)), dtype=np.float64)


def at(values: Floats, rows: NDArray[np.integer]) -> Floats:
    """The values at rows (n, k), NaN for row -1."""
    if not len(values):
        return np.full(rows.shape, np.nan)
    return np.where(rows >= 0, values[rows], np.nan)


def theirs_without_it(
    distances: NDArray[np.floating], neighbours: NDArray[np.integer], k: int
) -> Floats:
    """The mean distances to their own k nearest of the k nearest neighbours of each of n samples.

    As if that sample were not there: it is among the nearest of its neighbours, which a new one
    that is held against them is not. distances: (n, m), NaN or infinite where there are fewer, and
    neighbours: (n, m) rows, nearest first; the k + 1st is asked, too. Returns (n, k), NaN for none.
    """
    theirs = np.empty((len(neighbours), min(k, neighbours.shape[1])))
    for start in range(0, len(neighbours), BLOCK):
        rows = slice(start, start + BLOCK)
        near = neighbours[rows, :k]
        itself = neighbours[near, : k + 1] == np.arange(len(neighbours))[rows, None, None]
        gaps = np.sort(np.where(itself, np.nan, distances[near, : k + 1]), axis=2)
        means = knn_distance(gaps.reshape(near.size, gaps.shape[2]), k).reshape(near.shape)
        some = np.isfinite(gaps).any(axis=2)
        theirs[rows] = np.where((near >= 0) & some, means, np.nan)
    return theirs


def beside_its_like(vectors: NDArray[np.floating], neighbours: NDArray[np.integer]) -> Floats:
    """What the mean of the 20 nearest neighbours leaves of each of (n, d) vectors: (n, d).

    In a pool of many kinds the distance to the mean of all says of what kind a sample is; this
    says how it differs from its own. neighbours: (n, k) rows, nearest first, -1 for none; without
    any nothing is left.
    """
    near = neighbours[:, :LIKE]
    left = np.zeros(vectors.shape)
    for start in range(0, len(vectors) if near.shape[1] else 0, BLOCK):
        rows = slice(start, start + BLOCK)
        exists = near[rows] >= 0
        total = np.einsum("nk,nkd->nd", exists, vectors[near[rows]], dtype=np.float64)
        count = exists.sum(axis=1, keepdims=True)
        left[rows] = np.where(count > 0, vectors[rows] - total / np.maximum(count, 1), 0.0)
    return left


def strange_for_its_kind(
    vectors: NDArray[np.floating], neighbours: NDArray[np.integer], copied: Mask | None = None
) -> Floats:
    """How far each of (n, d) vectors lies from its context, relative to what is usual there.

    vectors: of any level. neighbours: (n, k) rows, nearest first, of the level that tells kinds
    apart, -1 for none. The distance is the mean to the 7 of the first 50 that are nearest here, in
    pools of fewer than 1,050 to fewer, 3 at least. copied: as `relative`.
    """
    near = neighbours[:, :CONTEXT]
    if not near.shape[1]:
        return np.ones(len(vectors))
    nearest = min(max(len(vectors) // A_POOL_OF, FEWEST), NEAREST, near.shape[1])
    distance = np.zeros(len(vectors))
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        apart = vectors[near[rows]] - vectors[rows, None]
        gaps = np.sqrt(np.einsum("nkd,nkd->nk", apart, apart))
        gaps[near[rows] < 0] = np.inf
        closest = np.partition(gaps, nearest - 1, axis=1)[:, :nearest]
        exists = np.isfinite(closest)
        total = np.where(exists, closest, 0.0).sum(axis=1)
        distance[rows] = total / np.maximum(exists.sum(axis=1), 1)
    return relative(distance, near, copied)
