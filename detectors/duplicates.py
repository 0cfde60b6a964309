"""Near-duplicates counted once: a video of one scene is one thing to look at, not thirty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detectors.pool import Pool
from detectors.scores import Ints, Mask

BLOCK = 1024
"""Samples compared with all representatives at a time."""


def beyond(pool: Pool, apart: float) -> Pool:
    """The pool with no neighbour within `apart`; who comes after them takes their place.

    Copies of an oddity are each other's neighbours, and would hide it.
    """
    k = pool.distances.shape[1]
    columns = np.arange(k) + (pool.distances <= apart).sum(axis=1)[:, None]
    there = columns < k
    columns = np.minimum(columns, k - 1)
    distances = np.where(there, np.take_along_axis(pool.distances, columns, axis=1), np.nan)
    neighbours = np.where(there, np.take_along_axis(pool.neighbours, columns, axis=1), -1)
    return replace(pool, distances=distances.astype(np.float32), neighbours=neighbours)


def copies_of(vectors: NDArray[np.floating], shown: NDArray[np.floating], apart: float) -> Mask:
    """Which of the vectors (n, d) of unit norm lie within `apart` of one of those shown (s, d)."""
    near = np.zeros(len(vectors), dtype=bool)
    for start in range(0, len(vectors) if len(shown) else 0, BLOCK):
        block = slice(start, start + BLOCK)
        near[block] = (vectors[block] @ shown.T).max(axis=1) >= _cosine(apart)
    return near


def one_of_each(
    vectors: NDArray[np.floating], candidates: Ints, count: int, apart: float
) -> tuple[Ints, Ints]:
    """The first `count` candidates of which no two lie within `apart` of each other.

    vectors: (n, d) of unit norm. candidates: rows, the best first. Returns these representatives
    (m,), m <= count, and of every candidate (c,) the representative within `apart` that is
    nearest to it, -1 for none and for a representative.
    """
    cosine = _cosine(apart)
    chosen = np.empty((min(count, len(candidates)), vectors.shape[1]), dtype=np.float32)
    taken: list[int] = []
    for row in candidates:
        if len(taken) == len(chosen):
            break
        if not (chosen[: len(taken)] @ vectors[row] >= cosine).any():
            chosen[len(taken)] = vectors[row]
            taken.append(int(row))
    rows = np.array(taken, dtype=np.int64)
    stands_for = np.full(len(candidates), -1, dtype=np.int64)
    for start in range(0, len(candidates) if taken else 0, BLOCK):
        block = slice(start, start + BLOCK)
        alike = vectors[candidates[block]] @ chosen[: len(rows)].T
        near = alike.max(axis=1) >= cosine
        stands_for[block][near] = rows[alike.argmax(axis=1)[near]]
    stands_for[np.isin(candidates, rows)] = -1
    return rows, stands_for


def _cosine(apart: float) -> float:
    """Of unit vectors whose Euclidean distance is that."""
    return 1 - apart**2 / 2
