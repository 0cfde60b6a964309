"""What jobs that encode images have in common: a worker's device, the run's encoder, batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from encoders import hardware
from encoders.base import Encoder, EncoderInfo, PatchEncoder
from encoders.registry import LoadOptions, Options
from pipelines.ahead import READING_THREADS
from schemas.errors import EncoderError

T = TypeVar("T")
R = TypeVar("R")
E = TypeVar("E", Encoder, PatchEncoder)


def of_worker(options: Options, info: EncoderInfo, workers: int) -> LoadOptions:
    """The options of one more worker: of several GPUs the next, of precisions the run's."""
    device = hardware.next_device(options.get("device", "auto"))
    return {**options, "device": device, "precision": info.precision, "workers": workers}


class Threads:
    """What a worker has beside its own thread: some that read ahead, and one that encodes."""

    def __init__(self) -> None:
        self.readers = ThreadPoolExecutor(READING_THREADS, "read")
        self.encoder = ThreadPoolExecutor(1, "encode")

    def close(self) -> None:
        """Start nothing more, and wait for what runs."""
        self.readers.shutdown(cancel_futures=True)
        self.encoder.shutdown(cancel_futures=True)


def same(encoder: E, info: EncoderInfo) -> E:
    """The encoder, if it is the one that the run began with. Raises EncoderError."""
    if encoder.info.id != info.id:
        raise EncoderError(
            f"the run began with encoder {info.id}, this worker has {encoder.info.id}: "
            f"{encoder.info.difference(info)}; install the same on all workers, or set 'device' "
            "and 'precision' to what all of them have"
        )
    return encoder


class Gather(Generic[T, R]):
    """Calls `work` on batches of what is added.

    size: how many make a batch, asked when there is something. So many are gathered, and `executor`
    works on them while the next are: two batches are held at most. None: whatever is added is
    worked on at once, by the thread that adds it.
    """

    def __init__(
        self, executor: Executor, work: Callable[[Sequence[T]], R], size: Callable[[], int | None]
    ) -> None:
        self._executor = executor
        self._work = work
        self._size = size
        self._items: list[T] = []
        self._running: Future[R] | None = None

    def add(self, items: Sequence[T]) -> list[R]:
        """Take items; gives what is done. Raises what `work` raised, on these or those before."""
        if not items:
            return []
        size = self._size()
        if size is None:
            return [self._work(items)]
        self._items.extend(items)
        whole = len(self._items) - len(self._items) % size
        batch, self._items = self._items[:whole], self._items[whole:]
        return self._start(batch) if batch else []

    def finish(self) -> list[R]:
        """Work on what is left, and give all that was not given."""
        batch, self._items = self._items, []
        before = self._start(batch) if batch else []
        return before + self._wait()

    def _start(self, batch: Sequence[T]) -> list[R]:
        before = self._wait()
        self._running = self._executor.submit(self._work, batch)
        return before

    def _wait(self) -> list[R]:
        running, self._running = self._running, None
        return [] if running is None else [running.result()]
