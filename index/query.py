"""Finding more like some examples and unlike others, each answer once."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.sample_ids import SampleIds
from index.search import Found


class Searchable(Protocol):
    """What can be asked so: a `Snapshot`, which says what each does, or an `Exact`."""

    sample_ids: SampleIds
    dimension: int

    @property
    def vectors(self) -> int: ...
    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]: ...
    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        only: NDArray[np.int64] | None = None,
        exact: bool = False,
    ) -> Found: ...


def query(
    searched: Searchable,
    positives: NDArray[np.float32],
    negatives: NDArray[np.float32] | None = None,
    *,
    k: int,
    within: float = np.inf,
    only: NDArray[np.int64] | None = None,
    apart: float = 0.0,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k samples nearest to any of the examples, nearest first.

    positives (p, d), p > 0, negatives (q, d): float32 of unit norm. A sample's distance is that to
    its nearest positive; one that lies nearer to a negative is left out (the nearest-neighbour
    rule). within: largest distance. only: rows to choose from. apart: leave out what lies within
    this distance of a better answer, so that near-duplicates come once. Returns rows (m,) int64 and
    distances (m,) float32, m <= k. Raises as `Snapshot.search`.
    """
    fetch, exact = k, False
    while True:
        rows, distances = _nearest_to_any(searched, positives, fetch, only, exact)
        keep = distances <= within
        if negatives is not None:
            keep &= _distances(searched.read(rows), negatives).min(axis=1) >= distances
        if apart > 0:
            keep[keep] = _first_of_each(searched.read(rows[keep]), apart)
        beyond = len(rows) > 0 and distances[-1] > within
        if np.count_nonzero(keep) >= k or beyond or (exact and len(rows) < fetch):
            return rows[keep][:k], distances[keep][:k]
        fetch, exact = fetch * 4, True  # the cells probed for the nearest hold few of the far ones


def query_each(
    searched: Searchable,
    queries: NDArray[np.float32],
    *,
    k: int,
    within: float = np.inf,
    only: NDArray[np.int64] | None = None,
) -> Found:
    """The k samples nearest to each of the queries by itself.

    queries: (n, d) float32 of unit norm. within, only: as for `query`. Returns rows (n, k) and
    distances (n, k), nearest first; where fewer are found, rows are -1 and distances infinite.
    Raises as `Snapshot.search`.
    """
    rows, distances = searched.search(queries, k, only=only)
    there = searched.vectors if only is None else len(only)
    thin = (rows >= 0).sum(axis=1) < min(k, there)  # the cells probed held too few
    if thin.any():
        rows[thin], distances[thin] = searched.search(queries[thin], k, only=only, exact=True)
    beyond = distances > within
    rows[beyond], distances[beyond] = -1, np.inf
    return rows, distances


def _nearest_to_any(
    searched: Searchable,
    positives: NDArray[np.float32],
    k: int,
    only: NDArray[np.int64] | None,
    exact: bool,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    found, told = searched.search(positives, k, only=only, exact=exact)
    if len(positives) == 1 and found[0, -1] >= 0:
        return found[0], told[0]
    rows, distances = found[found >= 0], told[found >= 0]
    if len(positives) == 1:
        return rows, distances
    order = np.argsort(distances, kind="stable")
    _, firsts = np.unique(rows[order], return_index=True)
    order = order[np.sort(firsts)][:k]
    return rows[order], distances[order]


def _first_of_each(vectors: NDArray[np.float32], apart: float) -> NDArray[np.bool_]:
    """Which vectors (m, d) to keep so that any two are more than `apart` from each other."""
    kept = np.zeros(len(vectors), dtype=bool)
    for row, vector in enumerate(vectors):
        kept[row] = not (_distances(vectors[kept], vector[None]) <= apart).any()
    return kept


def _distances(these: NDArray[np.float32], those: NDArray[np.float32]) -> NDArray[np.float32]:
    difference = these[:, None, :] - those[None, :, :]
    return np.asarray(np.linalg.norm(difference, axis=2))
