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
BLOCK = 1024
"""Samples held against their neighbours at a time: bounds the memory."""


def relative(values: Floats, neighbours: NDArray[np.integer]) -> Floats:
    """Each of (n,) distances over the geometric mean of its neighbours', above 1 for stranger.

    This is what makes an outlier factor local (Breunig et al., 2000): where all are far apart, to
    be far is nothing strange. neighbours: (n, k) rows, -1 for none; without any it is 1.
    """
    logs = np.log(np.maximum(values, LEAST))
    usual = logs.copy()
    for start in range(0, len(values), BLOCK):
        near = neighbours[start : start + BLOCK]
        exists = near >= 0
        some = exists.any(axis=1)
        total = np.where(exists, logs[near], 0.0).sum(axis=1)
        usual[start : start + BLOCK][some] = total[some] / exists.sum(axis=1)[some]
    return np.asarray(np.exp(logs - usual), dtype=np.float64)


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
