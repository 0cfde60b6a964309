"""Small local defects: how far an image's patches lie from those of a reference.

A pooled vector averages a scratch away; a patch of it does not. The reference is kept as a few
thousand patches that cover all of them (PatchCore, Roth et al., 2106.08265).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.errors import CorruptionError

Vectors = NDArray[np.float32]
Places = NDArray[np.int64]

BANK_SIZE = 2_500
_PROJECTED = 96
_STRANGEST = 3
_ROWS_AT_ONCE = 4_096


@dataclass(frozen=True, slots=True)
class Bank:
    """The reference, fixed once, so that a score means the same in every later run.

    patches: float32 (m, d) of unit norm. owners: (m,) the id of the sample that each is of.
    usual: what 99% of the reference's own patches are nearer than, each held against those of
        other samples.
    """

    patches: Vectors
    owners: NDArray[np.str_]
    usual: float

    def distances(self, patches: Vectors, sample_ids: Sequence[str]) -> Vectors:
        """Distance of each patch (n, h, w, d) to the nearest of the bank that is not its own."""
        distances = patch_distances(patches, self.patches)
        ids = np.asarray(sample_ids, dtype=str)
        for row in np.flatnonzero(np.isin(ids, self.owners)):
            others = self.patches[self.owners != ids[row]]
            if len(others):
                distances[row] = patch_distances(patches[row], others)
        return distances

    def holds(self, sample_ids: Collection[str]) -> bool:
        """Whether a patch is of one of these samples."""
        return bool(np.isin(self.owners, list(sample_ids)).any())

    def without(self, sample_ids: Collection[str]) -> Bank:
        """The bank less what it holds of these samples."""
        kept = ~np.isin(self.owners, list(sample_ids))
        return Bank(self.patches[kept], self.owners[kept], self.usual)

    def save(self, path: Path) -> None:
        """Write a NumPy archive without pickles, whole or not at all."""
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, patches=self.patches, owners=self.owners, usual=self.usual)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Bank:
        """What `save` wrote. Raises CorruptionError for anything else."""
        with path.open("rb") as file:
            try:
                archive = np.load(file, allow_pickle=False)
                return cls(archive["patches"], archive["owners"], float(archive["usual"]))
            except Exception as error:  # of damaged bytes zipfile and NumPy raise many kinds
                raise CorruptionError(
                    f"the bank of patches '{path}' is damaged ({error}); restore it, or make a "
                    "new workspace: without it patch scores mean nothing"
                ) from error


def fit_bank(patches: Vectors, sample_ids: Sequence[str], size: int = BANK_SIZE) -> Bank:
    """The bank of a reference: patches float32 (n, h, w, d) of n samples."""
    flat = patches.reshape(-1, patches.shape[-1])
    rows = k_centre(flat, size)
    owners = np.repeat(np.asarray(sample_ids, dtype=str), patches.shape[1] * patches.shape[2])
    bank = Bank(flat[rows], owners[rows], usual=0.0)
    return replace(bank, usual=float(np.quantile(bank.distances(patches, sample_ids), 0.99)))


def ordinary_half(vectors: Vectors, neighbours: int = 5) -> Places:
    """Rows of the half of the vectors (n, d) of unit norm that lie nearest to others, in order.

    A bank that covers everything covers the defects too: k-centre takes the strangest first. What
    their pooled vectors show as strange is therefore left out of a reference that nobody vetted.
    """
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.partition(cosines, -min(neighbours, len(vectors) - 1), axis=1)
    isolation = -nearest[:, -neighbours:].mean(axis=1)
    return np.sort(np.argsort(isolation, kind="stable")[: (len(vectors) + 1) // 2])


def k_centre(patches: Vectors, size: int = BANK_SIZE, seed: int = 0) -> Places:
    """Rows of the patches, float32 (n, d), that cover all n best: (min(n, size),).

    Greedy k-centre (Gonzalez, 1985): each next one is the farthest from those taken, which keeps
    rare but normal patches that a random sample would lose. Distances are taken in a random
    projection (Johnson & Lindenstrauss, 1984), which changes the choice little and the time a lot.
    """
    if len(patches) <= size:
        return np.arange(len(patches))
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
    return np.array(taken)


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


def strangest_places(distances: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the farthest patch of each image is: x and y (n,), shares of a map (n, h, w)."""
    n, height, width = distances.shape
    rows, columns = np.divmod(distances.reshape(n, -1).argmax(axis=1), width)
    return (columns + 0.5) / width, (rows + 0.5) / height
