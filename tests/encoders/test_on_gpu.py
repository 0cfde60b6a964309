"""What a GPU computes, beside the CPU; collected where there is one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encoders.backends import PixelsToVectors
from encoders.base import Encoder, Precision, Preprocess
from encoders.cuda import BATCHES, Batch, Gpu, cuda
from encoders.registry import load, share
from schemas.errors import EncoderError
from schemas.records import LEVELS

Photographs = Callable[[int, int], np.ndarray]

GIGABYTE = 1 << 30


class Hungry(nn.Module):
    """The brightest value of each image (n, 1), for which it takes a gigabyte for every eight."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        held = torch.ones(len(x), GIGABYTE // 8 // 4, device=x.device)
        return (x.amax((1, 2, 3))[:, None] * held.amax(1, keepdim=True),)


def hungry() -> PixelsToVectors:
    return PixelsToVectors(Hungry(), Preprocess(32, mean=(0.0,) * 3, std=(1.0,) * 3))


@pytest.fixture
def memory() -> Iterator[Callable[[float], None]]:
    """`memory(gigabytes)`: so much more is all that this process may take of the GPU."""
    whole = torch.cuda.get_device_properties(0).total_memory

    def allow(gigabytes: float) -> None:
        torch.cuda.empty_cache()
        taken = torch.cuda.memory_reserved(0)
        torch.cuda.set_per_process_memory_fraction((taken + gigabytes * GIGABYTE) / whole, 0)

    yield allow
    torch.cuda.set_per_process_memory_fraction(1.0, 0)
    torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def exact(photographs: Photographs) -> dict[str, np.ndarray]:
    """What the default encoder gives for 64 photographs on the CPU."""
    return dict(load(device="cpu", precision="fp32").encode(photographs(64, 224)))


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-3), ("bf16", 3e-2)]
)
def test_a_gpu_agrees_with_the_cpu(
    precision: Precision,
    tolerance: float,
    exact: dict[str, np.ndarray],
    photographs: Photographs,
) -> None:
    there = load(device="cuda", precision=precision).encode(photographs(64, 224))
    for level in LEVELS:
        assert (exact[level] * there[level]).sum(1).min() > 1 - tolerance


def test_by_itself_it_takes_the_gpu_and_its_best_precision() -> None:
    encoder = load()
    assert encoder.info.backend == "cuda"
    assert encoder.info.precision == ("bf16" if torch.cuda.is_bf16_supported() else "fp16")
    assert share() is share(device="cuda:0")


def test_callers_at_once_each_get_their_own(photographs: Photographs) -> None:
    encoder: Encoder = load(device="cuda", precision="fp32")
    pixels = photographs(96, 224)
    alone = encoder.encode(pixels)["high"]
    parts = [(start, start + size) for size in (1, 5, 16, 48) for start in range(0, 96, size)] * 3
    with ThreadPoolExecutor(6) as callers:
        given = list(callers.map(lambda at: encoder.encode(pixels[slice(*at)])["high"], parts))
    for (start, stop), high in zip(parts, given, strict=True):
        assert (high * alone[start:stop]).sum(1).min() > 1 - 1e-5


class Threads(nn.Module):
    """Notes in which threads it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def forward(self, x: Tensor) -> tuple[Tensor]:
        self.seen.add(threading.get_ident())
        return (x.mean((2, 3)),)


def test_all_passes_are_queued_by_one_thread() -> None:
    """Others would prepare the convolutions once more, each for itself."""
    body = Threads()
    gpu = cuda(
        PixelsToVectors(body, Preprocess(32, (0.0,) * 3, (1.0,) * 3)),
        32,
        "cuda:0",
        "fp32",
        compile_=False,
    )
    with ThreadPoolExecutor(4) as callers:
        list(callers.map(gpu, [np.zeros((20, 32, 32, 3), np.uint8)] * 16))
    assert len(body.seen) == 1


def test_a_batch_that_fits_is_found_by_trying(memory: Callable[[float], None]) -> None:
    memory(6)
    assert cuda(hungry(), 32, "cuda:0", "fp32", compile_=False).batch == 8


def test_what_does_not_fit_any_more_goes_in_smaller_batches(
    memory: Callable[[float], None],
) -> None:
    memory(6)
    gpu = Gpu(hungry().to("cuda:0"), "cuda:0", "fp32", Batch(BATCHES[-1]))
    images = np.zeros((200, 32, 32, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(200)
    for _ in range(2):
        (brightest,) = gpu(images)
        np.testing.assert_allclose(brightest[:, 0] * 255, np.arange(200), atol=1e-3)
        assert gpu.batch == 32


def test_an_image_or_a_model_that_does_not_fit_is_told_with_the_way_out(
    memory: Callable[[float], None],
) -> None:
    large = PixelsToVectors(nn.Linear(GIGABYTE // 16, 1), Preprocess(32, (0.0,) * 3, (1.0,) * 3))
    memory(1 / 16)
    for network, told in ((hungry(), "1 of 32 px at once do"), (large, "the model does")):
        with pytest.raises(EncoderError, match=rf"{told} not fit.*'device: cpu'"):
            cuda(network, 32, "cuda:0", "fp32", compile_=False)
