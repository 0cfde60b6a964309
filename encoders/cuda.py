"""Runs a network on an NVIDIA GPU so that it waits for nothing but pixels.

Autocast and channels_last keep the tensor cores busy. Pixels travel as uint8, a quarter of the
bytes, from pinned memory on a stream of their own, so that a copy runs beside the batch before it.

cuDNN prepares each convolution for each number of images, which takes seconds for fifty, and
torch keeps what is prepared for one thread only. So one thread queues all passes on a GPU, and they
come in few sizes.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from encoders.backends import DTYPES, PixelsToVectors, building, moved
from encoders.base import Pixels, Precision, Vectors
from schemas.errors import EncoderError

BATCHES = (8, 64, 256)
"""The sizes tried. More at once hardly make a GPU faster, and every worker gathers as many."""

WAYS_OUT = "free some of it, take a smaller encoder, or set 'device: cpu'"

_WORTH_MORE = 1.05
"""The next size is taken where it makes the GPU this much faster."""
_CALLERS_AT_ONCE = 3
"""One whose batch computes, one whose pixels are there, one who copies."""


def cuda(
    network: PixelsToVectors, size: int, device: str, precision: Precision, *, compile_: bool
) -> Gpu:
    """The network on one GPU. The size of its batches is found by trying.

    Out of memory halves the batch and goes on. Raises EncoderError where torch cannot use the GPU,
    where the model or a single image does not fit, and for a model that holds on to another device.
    """
    check(device)
    if precision == "fp32":
        torch.backends.cudnn.allow_tf32 = False  # by default convolutions keep 10 bits of 23
    try:
        network = moved(network.eval().requires_grad_(False), device)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise EncoderError(f"the model does not fit the memory of {device}; {WAYS_OUT}") from error
    torch.cuda.synchronize(device)  # the stream that computes does not wait for this one
    forward = torch.compile(network) if compile_ else network
    batch = Batch(network.batch or BATCHES[0], network.batch is not None)
    gpu = Gpu(forward, device, precision, batch)
    black = np.zeros((1, size, size, 3), np.uint8)
    with building() if compile_ else nullcontext():
        try:
            gpu(black)
        except RuntimeError as error:
            if "same device" not in str(error):
                raise
            raise EncoderError(
                f"the model makes tensors on another device than {device}, as it was traced; make "
                "them buffers of the module (register_buffer), save it with torch.export and take "
                "it as export:PATH, or set 'device: cpu'"
            ) from error
        if not batch.exact:
            batch.probe(black, gpu.work)
    return gpu


def check(device: str) -> None:
    """See that torch can use the GPU `cuda:N`. Raises EncoderError."""
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (torch.device(device).index or 0) >= here:
        raise EncoderError(
            f"device {device!r}: torch {torch.__version__} can use {here} GPUs here; update the "
            "driver, install a torch that is built for it, or set 'device: cpu'"
        )


def best_batch(run: Callable[[int], object]) -> int:
    """The smallest of `BATCHES` beyond which images/s hardly grow.

    run: takes a number of images and returns when they are done; out of memory ends the search.
    """
    best, fastest = BATCHES[0], 0.0
    for batch in BATCHES:
        try:
            run(batch)  # the first call of a size prepares its kernels
            speed = batch / min(_seconds(run, batch) for _ in range(3))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            break
        if speed < fastest * _WORTH_MORE:
            break
        best, fastest = batch, speed
    torch.cuda.empty_cache()  # of what the largest batches took
    return best


def _seconds(run: Callable[[int], object], batch: int) -> float:
    begun = time.perf_counter()
    run(batch)
    return time.perf_counter() - begun


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory ran out; cuBLAS and cuDNN have words of their own for it."""
    words = r"out of memory|ALLOC\w*_FAILED|CUBLAS_STATUS_NOT_INITIALIZED"
    return isinstance(error, torch.OutOfMemoryError) or bool(re.search(words, str(error)))


@dataclass
class Batch:
    """How many images go at once: halved, for good, whenever memory runs out.

    exact: the network takes this number and no other. Otherwise what is left over goes by a smaller
    one of `BATCHES`. It is filled up.
    """

    size: int
    exact: bool = False

    def probe(self, image: Pixels, work: Callable[[Sequence[Pixels]], Vectors]) -> None:
        """Take the size at which `work` is fastest, tried on copies of one image."""
        self.size = best_batch(lambda n: work([np.broadcast_to(image, (n, *image.shape[1:]))]))

    def run(self, pixels: Pixels, work: Callable[[Sequence[Pixels]], Vectors]) -> Vectors:
        """`work` on `pixels` in parts, tried again with smaller ones.

        Raises EncoderError where no smaller ones are left to try.
        """
        while True:
            size = self.size
            parts = [pixels[at : at + size] for at in range(0, len(pixels), size)]
            parts[-1] = self._filled(parts[-1], size)
            tried = len(parts[0])
            try:
                return [level[: len(pixels)] for level in work(parts)]
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if tried == 1 or self.exact:
                    raise EncoderError(
                        f"{tried} of {pixels.shape[1]} px at once do not fit the GPU's memory; "
                        f"{WAYS_OUT}"
                    ) from error
            self.size = min(self.size, tried // 2)  # of two that fail together only one halves it
            torch.cuda.empty_cache()  # not in the handler: its traceback still holds the tensors

    def _filled(self, part: Pixels, size: int) -> Pixels:
        prepared = () if self.exact else (tried for tried in BATCHES if len(part) <= tried < size)
        missing = min(prepared, default=size) - len(part)
        return np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part


class Gpu:
    """One device. Its own thread queues what callers bring, and waits for none of it."""

    def __init__(
        self,
        forward: Callable[[Tensor], tuple[Tensor, ...]],
        device: str,
        precision: Precision,
        batch: Batch,
    ) -> None:
        self._batch = batch
        self._forward = forward
        self._device = torch.device(device)
        self._dtype = DTYPES[precision]
        self._copies = torch.cuda.Stream(self._device)
        self._computes = torch.cuda.Stream(self._device)
        self._room = threading.BoundedSemaphore(_CALLERS_AT_ONCE)
        self._queues = ThreadPoolExecutor(1, f"passes on {device}")

    @property
    def batch(self) -> int:
        """How many images at once suit it."""
        return self._batch.size

    def __call__(self, pixels: Pixels) -> Vectors:
        return self._batch.run(pixels, self.work)

    def work(self, parts: Sequence[Pixels]) -> Vectors:
        """The vectors of all parts, each of which goes through the network at once."""
        with self._room:
            first = self._copy(parts[0])
            given, done = self._queues.submit(self._queue, first, parts[1:]).result()
            done.synchronize()
        return [torch.cat(level).numpy() for level in zip(*given, strict=True)]

    def _queue(
        self, first: tuple[Tensor, torch.cuda.Event], others: Sequence[Pixels]
    ) -> tuple[list[tuple[Tensor, ...]], torch.cuda.Event]:
        """What will be there when the event is done."""
        given = [self._compute(*first)]
        for part in others:
            given.append(self._compute(*self._copy(part)))
        # A waiting thread that spins would take the core that decodes.
        done = torch.cuda.Event(blocking=True)
        done.record(self._computes)
        return given, done

    def _copy(self, part: Pixels) -> tuple[Tensor, torch.cuda.Event]:
        pinned = torch.empty(part.shape, dtype=torch.uint8, pin_memory=True)
        pinned.numpy()[:] = part
        ready = torch.cuda.Event()
        with torch.cuda.stream(self._copies):
            arrived = pinned.to(self._device, non_blocking=True)
            ready.record(self._copies)
        return arrived, ready

    def _compute(self, pixels: Tensor, ready: torch.cuda.Event) -> tuple[Tensor, ...]:
        with (
            torch.inference_mode(),
            torch.cuda.stream(self._computes),
            torch.autocast("cuda", self._dtype, enabled=self._dtype != torch.float32),
        ):
            ready.wait(self._computes)
            pixels.record_stream(self._computes)  # its memory is not reused before this is done
            return tuple(level.to("cpu", non_blocking=True) for level in self._forward(pixels))
