"""Small local defects: how far an image's patches lie from those of a reference.

A pooled vector averages a scratch away; a patch of it does not. The reference is kept as a few
thousand patches that cover all of them (PatchCore, Roth et al., 2106.08265).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

BANK_SIZE = 2_500
_PROJECTED = 96
_STRANGEST = 3
_ROWS_AT_ONCE = 4_096


def k_centre_bank(patches: Vectors, size: int = BANK_SIZE, seed: int = 0) -> Vectors:
    """The patches, float32 (n, d), that cover all n best: float32 (min(n, size), d).

    Greedy k-centre (Gonzalez, 1985): each next one is the farthest from those taken, which keeps
    rare but normal patches that a random sample would lose. Distances are taken in a random
    projection (Johnson & Lindenstrauss, 1984), which changes the choice little and the time a lot.
    """
    if len(patches) <= size:
        return patches.copy()
    rng = np.random.default_rng(seed)
    projected = patches
    if patches.shape[1] > _PROJECTED:
        directions = rng.standard_normal((patches.shape[1], _PROJECTED), dtype=np.float32)
        projected = patches @ (directions / np.float32(np.sqrt(_PROJECTED)))
    squares = np.einsum("nd,nd->n", projected, projected)
    taken = [int(rng.integers(len(patches)))]
    nearest = np.full(len(patches), np.inf, dtype=np.float32)
    while len(taken) < size:
        last = taken[-1]
        distance = squares - 2 * (projected @ projected[last]) + squares[last]
        np.minimum(nearest, distance, out=nearest)
        taken.append(int(nearest.argmax()))
    return patches[taken]


def patch_distances(patches: Vectors, bank: Vectors) -> Vectors:
    """Distance of each patch, float32 (..., d) of unit norm, to the nearest of the bank: (...).

    In [0, 2]. Laid out as the image, these are its heat map.
    """
    flat = patches.reshape(-1, patches.shape[-1])
    distances = np.empty(len(flat), dtype=np.float32)
    for start in range(0, len(flat), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        cosine = (flat[rows] @ bank.T).max(axis=1)
        distances[rows] = np.sqrt(np.maximum(2 - 2 * cosine, 0))
    return distances.reshape(patches.shape[:-1])


def patch_scores(distances: Vectors) -> Vectors:
    """The mean of the 3 largest distances of each image, float32 (n, h, w) -> (n,)."""
    flat = distances.reshape(len(distances), -1)
    strangest = min(_STRANGEST, flat.shape[1])
    scores: Vectors = np.partition(flat, -strangest, axis=1)[:, -strangest:].mean(axis=1)
    return scores
