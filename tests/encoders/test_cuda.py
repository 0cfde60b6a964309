"""What of the GPU path needs no GPU: the size of a batch, what is done when memory ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encoders.backends import PixelsToVectors, moved
from encoders.base import Pixels, Preprocess, Vectors
from encoders.cuda import Batch, best_batch, cuda
from schemas.errors import EncoderError

PREPROCESS = Preprocess(32, mean=(0.5,) * 3, std=(0.2,) * 3)


class Memory:
    """A GPU that holds so many images at once, and the number of images in each part it was given.

    Gives the brightest value of each image, (n, 1).
    """

    def __init__(self, images: int, error: str = "") -> None:
        self.images = images
        self.error = RuntimeError(error) if error else torch.OutOfMemoryError()
        self.given: list[int] = []

    def __call__(self, parts: Sequence[Pixels]) -> Vectors:
        self.given += [len(part) for part in parts]
        if max(map(len, parts)) > self.images:
            raise self.error
        return [np.concatenate(parts).max((1, 2, 3))[:, None].astype(np.float32)]


def numbered(n: int) -> Pixels:
    """Images of which each has its number in it."""
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 2, 2, 3))


OUT_OF_MEMORY = [
    "",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA error: out of memory",
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_is_halved_for_good(error: str) -> None:
    gpu, batch = Memory(20, error), Batch(size=256)
    for _ in range(2):
        (out,) = batch.run(numbered(100), gpu)
        assert out[:, 0].tolist() == list(range(100))
    assert gpu.given[:2] == [256, 128]
    assert batch.size == 16
    assert gpu.given[-7:] == [16, 16, 16, 16, 16, 16, 8]


def test_two_that_fail_together_halve_it_once() -> None:
    batch, inner = Batch(size=64), Memory(32)

    def work(parts: Sequence[Pixels]) -> Vectors:
        if len(parts[0]) == 64 and batch.size == 64:
            batch.run(numbered(64), inner)  # another caller, meanwhile
        return inner(parts)

    batch.run(numbered(64), work)
    assert batch.size == 32


@pytest.mark.parametrize("batch", [Batch(size=1), Batch(size=64, exact=True)])
def test_what_cannot_be_halved_is_told_with_the_way_out(batch: Batch) -> None:
    with pytest.raises(EncoderError, match=r"do not fit the GPU's memory.*'device: cpu'"):
        batch.run(numbered(64), Memory(0))


def test_another_failure_is_not_taken_for_one_of_memory() -> None:
    gpu = Memory(0, "an illegal memory access was encountered")
    for run in (lambda: Batch(64).run(numbered(64), gpu), lambda: Batch(8).probe(numbered(1), gpu)):
        with pytest.raises(RuntimeError, match="illegal"):
            run()
    assert gpu.given == [64, 8]


@pytest.mark.parametrize(
    ("images", "batch", "parts"),
    [
        (16, Batch(64), [64]),
        (9, Batch(256), [64]),
        (65, Batch(256), [256]),
        (5, Batch(256), [8]),
        (5, Batch(4), [4, 4]),
        (262, Batch(256), [256, 8]),
        (300, Batch(256), [256, 64]),
        (6, Batch(4, exact=True), [4, 4]),
        (5, Batch(12, exact=True), [12]),
    ],
)
def test_what_is_left_over_is_filled_up(images: int, batch: Batch, parts: list[int]) -> None:
    gpu = Memory(1000)
    (out,) = batch.run(numbered(images), gpu)
    assert gpu.given == parts
    assert out.shape == (images, 1)


def test_probing_gives_the_network_each_size_at_once_until_memory_ends() -> None:
    gpu, batch = Memory(100), Batch(8)
    batch.probe(numbered(1), gpu)
    assert gpu.given[:5] == [8, 8, 8, 8, 64], "one to prepare the kernels, the best of three"
    assert set(gpu.given) <= {8, 64, 256}
    assert batch.size <= 64


def test_probing_goes_on_while_larger_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def run(images: int) -> None:
        now[0] += 1.0 + images / 64 if images <= 64 else images / 32

    assert best_batch(run) == 64


def test_a_gpu_that_torch_cannot_use_is_told_with_the_way_out(small_model: nn.Module) -> None:
    network = PixelsToVectors(small_model, PREPROCESS)
    with pytest.raises(EncoderError, match=r"'cuda:97'.*GPUs here;.*'device: cpu'"):
        cuda(network, 32, "cuda:97", "fp32", compile_=False)


class Positions(nn.Module):
    """A model that makes a tensor on the device of its input, holds one, and checks a type."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 3, 1)
        self.held = torch.ones(3)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.arange(3, device=x.device).to(x.device)
        seen = self.body(x).to(torch.float32).mean((2, 3))
        return seen + made + self.held + torch.tensor([1.0, 2.0, 3.0])


@pytest.fixture
def exported() -> PixelsToVectors:
    program = torch.export.export(Positions().eval(), (torch.zeros(2, 3, 32, 32),))
    return PixelsToVectors(program.module(), PREPROCESS)


def test_an_exported_graph_is_moved_with_its_constants(exported: PixelsToVectors) -> None:
    body = moved(exported, "meta").body  # a device that is always here
    assert body(torch.zeros(2, 3, 32, 32, device="meta")).device.type == "meta"


def test_an_exported_graph_computes_in_another_precision(exported: PixelsToVectors) -> None:
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        exact = exported.body(images)
        body = moved(exported, "cpu").body
        with torch.autocast("cpu", torch.bfloat16):
            rounded = body(images)
    assert 0 < (rounded - exact).abs().max() < 0.02
