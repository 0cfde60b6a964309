"""Reading: an open snapshot, searched as one index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.sample_ids import SampleIds
from index.segments import Effort, OpenSegment, Segment, check_unit
from index.snapshots import Choice, Manifest, Trained
from schemas.errors import EncoderError

SEARCH_BATCH = 4096
"""Queries searched at a time by `neighbours`: enough for FAISS's batched kernels, little memory."""

_NOT_HELD = -2
"""No row, nor the -1 of a missing neighbour."""

Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows (n, k), nearest first, -1 padded, and their distances (n, k)."""


class Snapshot:
    """One state of the index, for reading from any number of threads; later commits change nothing.

    Rows number the snapshot's vectors from 0, segment after segment; rows of forgotten samples are
    left out of every answer. Rows mean something only within this snapshot: keep sample ids.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        """Map every segment; `IndexStore.open` is the way to get one."""
        self.number: int = manifest.number
        self.dimension: int = manifest.dimension
        self.segments: tuple[Segment, ...] = manifest.segments
        self.choice: Choice = manifest.choice
        self.covered: tuple[str, ...] = manifest.covered
        self.trained: Trained | None = manifest.trained
        self.parts = [OpenSegment(root, segment) for segment in manifest.segments]
        self.sample_ids = SampleIds(
            [part.ids for part in self.parts], [segment.deleted for segment in self.segments]
        )
        self._starts = np.cumsum([0, *(segment.vectors for segment in self.segments)])

    @property
    def vectors(self) -> int:
        """How many samples can be found."""
        return sum(segment.live for segment in self.segments)

    @property
    def measured(self) -> int:
        """For how many of `vectors` the recall of `choice` stands; those scanned whole are sure."""
        there = self.choice.segments
        return sum(s.live for s in self.segments if s.kind == "Flat" or s.name in there)

    def live_rows(self) -> NDArray[np.int64]:
        """The rows that hold a sample, ascending."""
        parts = zip(self.parts, self._starts, strict=False)
        return np.concatenate([np.empty(0, np.int64), *(p.live_rows() + s for p, s in parts)])

    def scan_order(self) -> NDArray[np.int64]:
        """The rows that hold a sample, those of a cell side by side.

        Neighbours of rows in this order are found fastest: what one reads, the next has in cache.
        """
        parts = zip(self.parts, self._starts, strict=False)
        return np.concatenate([np.empty(0, np.int64), *(p.scan_order() + s for p, s in parts)])

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The stored vectors (m, d) float32 of `rows` (m,)."""
        if len(self.parts) == 1:
            return self.parts[0].read(rows)
        vectors = np.empty((len(rows), self.dimension), dtype=np.float32)
        segment_of = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(segment_of):
            inside = segment_of == number
            vectors[inside] = self.parts[number].read(rows[inside] - self._starts[number])
        return vectors

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        only: NDArray[np.int64] | None = None,
        exact: bool = False,
    ) -> Found:
        """The k nearest stored vectors of each query.

        queries: (n, d) float32 of unit norm. only: rows to choose from; few are looked at one by
        one, so that a rare filter loses nothing. exact: look at every vector, instead of what gives
        the recall of `choice`. Returns rows (n, k) int64, nearest first, and their Euclidean
        distances (n, k) float32 in [0, 2], exactly 0 for an identical vector; where fewer than k
        vectors are found, rows are -1 and distances infinite. Raises EncoderError for another
        dimension, ValueError for queries that are not of unit norm.
        """
        return self.search_with(None if exact else self.choice.effort, queries, k, only=only)

    def search_with(
        self,
        effort: Effort | None,
        queries: NDArray[np.float32],
        k: int,
        *,
        only: NDArray[np.int64] | None = None,
    ) -> Found:
        """As `search`, with an effort of one's own, None for an exact answer."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise EncoderError(
                f"the query has {queries.shape[-1]} dimensions, the index holds {self.dimension}; "
                "query with the encoder that made the index, or run 'longtail index rebuild'"
            )
        check_unit(queries)
        return self._search(queries, k, effort, only)

    def neighbours(self, rows: NDArray[np.int64], k: int, *, exact: bool = False) -> Found:
        """The k nearest of each stored vector, itself left out: as `search`, (len(rows), k)."""
        return self.neighbours_with(None if exact else self.choice.effort, rows, k)

    def neighbours_with(self, effort: Effort | None, rows: NDArray[np.int64], k: int) -> Found:
        """As `neighbours`, with an effort of one's own, None for an exact answer."""
        found = (np.empty((len(rows), k), np.int64), np.empty((len(rows), k), np.float32))
        for start in range(0, len(rows), SEARCH_BATCH):
            batch = slice(start, start + SEARCH_BATCH)
            nearest = self._search(self.read(rows[batch]), k + 1, effort)
            found[0][batch], found[1][batch] = _without_self(rows[batch], *nearest)
        return found

    def others(self, sample_ids: Sequence[str], vectors: NDArray[np.float32], k: int) -> Found:
        """Of n samples, held here or not, the rows (n, k) of the k nearest stored other ones, and
        how far they are.

        As `search` gives them: nearest first, -1 and infinite where there are fewer.
        """
        own = self.sample_ids.rows(sample_ids)
        found, distances = self.search(vectors, k + 1)
        return _without_self(np.where(own < 0, _NOT_HELD, own), found, distances)

    def _search(
        self,
        queries: NDArray[np.float32],
        k: int,
        effort: Effort | None,
        only: NDArray[np.int64] | None = None,
    ) -> Found:
        rows: list[NDArray[np.int64]] = []
        squared: list[NDArray[np.float32]] = []
        for part, start, end in zip(self.parts, self._starts, self._starts[1:], strict=False):
            chosen = None if only is None else only[(only >= start) & (only < end)] - start
            inside, distances = part.search(queries, k, effort, chosen)
            rows.append(np.where(inside < 0, -1, inside + start) if start else inside)
            squared.append(distances)
        if sum(inside.shape[1] for inside in rows) < k:
            rows.append(np.full((len(queries), k), -1, dtype=np.int64))
            squared.append(np.full((len(queries), k), np.inf, dtype=np.float32))
        return _nearest(np.concatenate(rows, axis=1), np.concatenate(squared, axis=1), k)


def _nearest(rows: NDArray[np.int64], squared: NDArray[np.float32], k: int) -> Found:
    """The first k of each query's candidates (n, m), by distance and then by row."""
    both = np.empty(rows.shape, np.complex128)  # which NumPy sorts so, faster than by two keys
    both.real, both.imag = squared, rows
    both.sort(axis=1)
    both = both[:, :k]
    return both.imag.astype(np.int64), np.sqrt(both.real.astype(np.float32))


def _without_self(
    own: NDArray[np.int64], rows: NDArray[np.int64], distances: NDArray[np.float32]
) -> Found:
    """Drop each row's own entry from (n, k + 1); where duplicates crowd it out, drop the last."""
    drop = rows == own[:, None]
    drop[~drop.any(axis=1), -1] = True
    shape = (len(rows), rows.shape[1] - 1)
    return rows[~drop].reshape(shape), distances[~drop].reshape(shape)
