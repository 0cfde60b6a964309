"""Vectors in memory, every one of which is looked at: for what no index is kept of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index.sample_ids import SampleIds, encode
from index.search import Found
from index.segments import check_unit


class Exact:
    """The vectors of some samples, searched as `index.search.Snapshot` is, always exactly."""

    def __init__(self, sample_ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """sample_ids: n distinct ids. vectors: (n, d) float32 of unit norm; put in order here."""
        digests = encode(sample_ids)
        order = np.argsort(digests, kind="stable")
        self.sample_ids = SampleIds([digests[order]], [()])
        self.dimension: int = vectors.shape[1]
        self._vectors = vectors[order]

    @property
    def vectors(self) -> int:
        """How many samples can be found."""
        return len(self._vectors)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors (m, d) float32 of `rows` (m,)."""
        return self._vectors[rows]

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        only: NDArray[np.int64] | None = None,
        exact: bool = True,
    ) -> Found:
        """As `index.search.Snapshot.search`; `exact` or not is the same here."""
        check_unit(queries)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        distances = np.full((len(queries), k), np.inf, dtype=np.float32)
        chosen = np.arange(len(self._vectors)) if only is None else only
        if not len(chosen):
            return rows, distances
        for place, query in enumerate(queries):
            alike = (self._vectors if only is None else self._vectors[only]) @ query
            found = chosen[np.argpartition(-alike, min(k, len(alike)) - 1)[:k]]
            # Anew from the difference: an inner product leaves 1e-4 between equal vectors.
            gaps = np.linalg.norm(self._vectors[found] - query, axis=1)
            order = np.lexsort((found, gaps))
            rows[place, : len(found)], distances[place, : len(found)] = found[order], gaps[order]
        return rows, distances
