"""Runs a network on an NVIDIA GPU so that it waits for nothing but pixels.

Autocast and channels_last keep the tensor cores busy. Pixels travel as uint8, a quarter of the
bytes, from pinned memory on a stream of their own, so that a copy runs beside the batch before it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from encoders.backends import DTYPES, PixelsToVectors, building
from encoders.base import Pixels, Precision, Run, Vectors

_LARGEST_BATCH = 1024
_WORTH_DOUBLING = 1.05
"""A batch is doubled while that makes the GPU this much faster."""


def cuda(
    network: PixelsToVectors, size: int, device: str, precision: Precision, *, compile_: bool
) -> Run:
    """The network on one GPU. The size of its batches is found by trying.

    Out of memory halves the batch and goes on; a single image that does not fit raises
    torch.OutOfMemoryError.
    """
    torch.backends.cudnn.benchmark = True
    network = network.to(device).eval().requires_grad_(False)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward = torch.compile(network) if compile_ else network
    gpu = _Gpu(forward, device, precision, Batch(network.batch or 8, network.batch is not None))
    black = np.zeros((1, size, size, 3), np.uint8)
    with building() if compile_ else nullcontext():
        gpu.run(black)
        if not gpu.batch.exact:
            gpu.batch.size = best_batch(lambda n: gpu.run(np.repeat(black, n, axis=0)))
    return gpu.run


def best_batch(run: Callable[[int], object], largest: int = _LARGEST_BATCH) -> int:
    """The smallest power of two, from 8 to `largest`, beyond which images/s hardly grow.

    run: takes a number of images and returns when they are done; out of memory ends the search.
    """
    best, fastest = 8, 0.0
    batch = 8
    while batch <= largest:
        try:
            run(batch)  # the first call of a shape chooses its kernels
            begun = time.perf_counter()
            run(batch)
            speed = batch / (time.perf_counter() - begun)
        except torch.OutOfMemoryError:
            break
        if speed < fastest * _WORTH_DOUBLING:
            break
        best, fastest = batch, speed
        batch *= 2
    return best


@dataclass
class Batch:
    """How many images go at once: halved, for good, whenever memory runs out.

    exact: the network takes this number and no other.
    """

    size: int
    exact: bool = False

    def run(self, pixels: Tensor, work: Callable[[Sequence[Tensor]], Vectors]) -> Vectors:
        """`work` on `pixels` in parts, tried again with smaller ones."""
        while True:
            try:
                return work(pixels.split(self.size))
            except torch.OutOfMemoryError:
                if self.size == 1 or self.exact:
                    raise
                self.size = max(1, min(self.size, len(pixels)) // 2)
            torch.cuda.empty_cache()  # not in the handler: its traceback still holds the tensors


class _Gpu:
    """One device. Callers take turns to queue their work; none holds the turn while it waits."""

    def __init__(
        self,
        forward: Callable[[Tensor], tuple[Tensor, ...]],
        device: str,
        precision: Precision,
        batch: Batch,
    ) -> None:
        self.batch = batch
        self._forward = forward
        self._device = torch.device(device)
        self._dtype = DTYPES[precision]
        self._copies = torch.cuda.Stream(self._device)
        self._computes = torch.cuda.Stream(self._device)
        self._turn = threading.Lock()

    def run(self, pixels: Pixels) -> Vectors:
        pinned = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).pin_memory()
        vectors = self.batch.run(pinned, self._batches)
        return [level[: len(pixels)] for level in vectors]

    def _batches(self, chunks: Sequence[Tensor]) -> Vectors:
        arriving = self._copy(chunks[0])
        with self._turn:
            parts = []
            for following in [*chunks[1:], None]:
                arrived = arriving
                if following is not None:
                    arriving = self._copy(following)
                parts.append(self._compute(*arrived))
            done = torch.cuda.Event()
            done.record(self._computes)
        done.synchronize()
        return [torch.cat(level).numpy() for level in zip(*parts, strict=True)]

    def _copy(self, chunk: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        if self.batch.exact and len(chunk) < self.batch.size:
            missing = self.batch.size - len(chunk)
            chunk = torch.cat([chunk, chunk[-1:].expand(missing, -1, -1, -1)])
        ready = torch.cuda.Event()
        with torch.cuda.stream(self._copies):
            arrived = chunk.to(self._device, non_blocking=True)
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
