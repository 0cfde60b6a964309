"""Sample ids by row: 32 bytes each, memory-mapped, sorted within a segment.

A million ids take 32 MB of file and no heap; an id is found by binary search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

ID_DTYPE = np.dtype("S32")
"""The digest's bytes. NumPy drops trailing zero bytes of single elements: go through `decode`."""


def encode(sample_ids: Sequence[str]) -> NDArray[np.bytes_]:
    """64 hex digits each -> (n,) of `ID_DTYPE`. Raises ValueError on anything else."""
    if set(map(len, sample_ids)) - {64}:
        wrong = next(sample_id for sample_id in sample_ids if len(sample_id) != 64)
        raise ValueError(f"sample_id {wrong!r} is not the 64 hex digits of a SHA-256")
    return np.frombuffer(bytes.fromhex("".join(sample_ids)), dtype=ID_DTYPE)


def decode(digests: NDArray[np.bytes_]) -> list[str]:
    """(n,) of `ID_DTYPE` -> 64 hex digits each."""
    text = np.ascontiguousarray(digests).tobytes().hex()
    return [text[start : start + 64] for start in range(0, len(text), 64)]


def find(digests: NDArray[np.bytes_], wanted: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Position of each of `wanted` (m,) in the sorted `digests` (n,), -1 where it is not there."""
    found = np.full(len(wanted), -1, dtype=np.int64)
    if not len(digests):
        return found
    order = np.argsort(wanted)  # so that the pages of `digests` are touched one after another
    ascending = wanted[order]
    at = np.minimum(np.searchsorted(digests, ascending), len(digests) - 1)
    found[order] = np.where(digests[at] == ascending, at, -1)
    return found


class SampleIds(Sequence[str]):
    """The ids of all rows of a snapshot, as a sequence: `ids[row] -> sample_id`."""

    def __init__(
        self, parts: Sequence[NDArray[np.bytes_]], deleted: Sequence[Sequence[int]]
    ) -> None:
        """parts: each segment's ascending ids. deleted: its rows that are never to be found."""
        self._parts = list(parts)
        self._deleted = [np.asarray(rows, dtype=np.int64) for rows in deleted]
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of an index of {len(self)} rows")
        return self.take(np.array([row % len(self)]))[0]

    def __iter__(self) -> Iterator[str]:
        for part in self._parts:
            yield from decode(part)

    def take(self, rows: NDArray[np.int64]) -> list[str]:
        """The ids at `rows` (m,), each in [0, len(self))."""
        return decode(self.digests(rows))

    def digests(self, rows: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """As `take`, undecoded: (m,) of `ID_DTYPE`."""
        if len(self._parts) == 1:
            return self._parts[0][rows]
        segment = np.searchsorted(self._starts, rows, side="right") - 1
        digests = np.empty(len(rows), dtype=ID_DTYPE)
        for number in np.unique(segment):
            inside = segment == number
            digests[inside] = self._parts[number][rows[inside] - self._starts[number]]
        return digests

    def rows(self, sample_ids: Sequence[str]) -> NDArray[np.int64]:
        """The row of each sample, (m,) int64, -1 where it is not held or was forgotten."""
        return self.rows_of(encode(sample_ids))

    def rows_of(self, wanted: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """As `rows`, of digests (m,) of `ID_DTYPE`."""
        rows = np.full(len(wanted), -1, dtype=np.int64)
        for part, deleted, start in zip(self._parts, self._deleted, self._starts, strict=False):
            at = find(part, wanted)
            live = at >= 0
            if len(deleted):
                live &= ~np.isin(at, deleted)
            rows[live] = at[live] + start
        return rows
