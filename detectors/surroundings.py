"""What a sample's own neighbours say of it: it may be strange for its kind and for nothing else.

A blurred photograph of a dog lies among photographs of dogs, not among blurred ones; held against
all samples it is ordinary, held against its neighbours it is not. These are contextual outliers
(Song et al., 2007); the neighbours of the scored level are the context.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.scores import LEAST, Floats

CONTEXT = 50
"""So many neighbours are the context of a sample."""
NEAREST = 7
"""To so many of its context a sample's distance is taken."""
LIKE = 20
"""The mean of so many neighbours is what a sample's like look like."""
COPY = 0.2
"""Below this share of the median a distance is one between copies: a stuck camera's images are no
dense surroundings, beside which everything else is far."""
BLOCK = 1024
"""Samples held against their neighbours at a time: bounds the memory."""


def relative(values: Floats, neighbours: NDArray[np.integer]) -> Floats:
    """Each of (n,) distances over the geometric mean of its neighbours', above 1 for stranger.

    This is what makes an outlier factor local (Breunig et al., 2000): where all are far apart, to
    be far is nothing strange. Copies count as far from each other as the median. neighbours: (n, k)
    rows, -1 for none; without any it is 1.
    """
    middle = np.median(values) if len(values) else 0.0
    logs = np.log(np.maximum(np.where(values < COPY * middle, middle, values), LEAST))
    usual = logs.copy()
    for start in range(0, len(values), BLOCK):
        near = neighbours[start : start + BLOCK]
        exists = near >= 0
        some = exists.any(axis=1)
        total = np.where(exists, logs[near], 0.0).sum(axis=1)
        usual[start : start + BLOCK][some] = total[some] / exists.sum(axis=1)[some]
    return np.asarray(np.exp(logs - usual), dtype=np.float64)


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


def strange_for_its_kind(vectors: NDArray[np.floating], neighbours: NDArray[np.integer]) -> Floats:
    """How far each of (n, d) vectors lies from its context, relative to what is usual there.

    vectors: of any level. neighbours: (n, k) rows, nearest first, of the level that tells kinds
    apart, -1 for none. The distance is the mean to the 7 of the first 50 that are nearest here.
    """
    near = neighbours[:, :CONTEXT]
    if not near.shape[1]:
        return np.ones(len(vectors))
    nearest = min(NEAREST, near.shape[1])
    distance = np.zeros(len(vectors))
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        gaps = np.linalg.norm(vectors[near[rows]] - vectors[rows, None], axis=2)
        gaps[near[rows] < 0] = np.inf
        closest = np.partition(gaps, nearest - 1, axis=1)[:, :nearest]
        exists = np.isfinite(closest)
        total = np.where(exists, closest, 0.0).sum(axis=1)
        distance[rows] = total / np.maximum(exists.sum(axis=1), 1)
    return relative(distance, near)
