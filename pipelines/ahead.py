"""Reads what comes next while the present is worked on, so that a slow store stalls nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

from schemas.records import ImageRef

T = TypeVar("T")

BYTES_AHEAD = 64 * 2**20

READING_THREADS = 4
"""For each worker: enough to hide an object store's latency, too few to slow the decoding."""


class ReadAhead(Generic[T]):
    """`read(ref)` for each expected reference, taken in their order, in threads of `executor`.

    At most `bytes_ahead` are read before they are taken, or a single larger file. Every row of a
    Parquet file counts as the whole file, because that is about what reading it may hold.
    """

    def __init__(
        self, executor: Executor, read: Callable[[ImageRef], T], bytes_ahead: int = BYTES_AHEAD
    ) -> None:
        self._executor = executor
        self._read = read
        self._bytes_ahead = bytes_ahead
        self._expected: deque[ImageRef] = deque()
        self._started: deque[tuple[int, Future[T]]] = deque()
        self._bytes = 0

    def expect(self, refs: Iterable[ImageRef]) -> None:
        """Read these next, after those that are expected already."""
        self._expected.extend(refs)
        self._start()

    def take(self) -> T:
        """What reading the next reference gave, or raised."""
        size, future = self._started.popleft()
        self._bytes -= size
        try:
            return future.result()
        finally:
            self._start()

    def _start(self) -> None:
        while self._expected:
            size = max(self._expected[0].size, 0)
            if self._started and self._bytes + size > self._bytes_ahead:
                return
            self._started.append(
                (size, self._executor.submit(self._read, self._expected.popleft()))
            )
            self._bytes += size
