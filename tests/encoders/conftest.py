"""Photographs, networks small enough to build and save in a test, and the devices to try them on.

Where there is a GPU, each kind of model is tried on it too, and `test_on_gpu.py` with it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from encoders.base import Encoder

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]

collect_ignore = [] if "cuda" in DEVICES else ["test_on_gpu.py"]


@pytest.fixture(scope="session", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def cut(n: int, size: int) -> np.ndarray:
    """Uint8 (n, size, size, 3): squares cut from real photographs."""
    rng = np.random.default_rng(0)
    images = load_sample_images().images
    rows = [images[i % len(images)] for i in range(n)]
    corners = [(rng.integers(0, 427 - size), rng.integers(0, 640 - size)) for _ in range(n)]
    return np.stack(
        [r[y : y + size, x : x + size] for r, (y, x) in zip(rows, corners, strict=True)]
    )


@pytest.fixture(scope="session")
def photographs() -> Callable[[int, int], np.ndarray]:
    return cut


@pytest.fixture(scope="session")
def batches_agree() -> Callable[[Encoder], None]:
    """`batches_agree(encoder)`: 64 images at once and one by one agree to 1e-3 in cosine."""

    def check(encoder: Encoder) -> None:
        pixels = cut(64, encoder.info.preprocess.size)
        together = encoder.encode(pixels)
        singly = [encoder.encode(pixels[i : i + 1]) for i in range(64)]
        for level, vectors in together.items():
            alone = np.concatenate([one[level] for one in singly])
            assert (alone * vectors).sum(1).min() > 1 - 1e-3

    return check


class ThreeLevels(nn.Module):
    """Normalised (n, 3, 32, 32) -> a map (n, 4, 16, 16), tokens (n, 64, 8) and vectors (n, 12)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.low = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.mid = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.high = nn.Linear(8, 12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low = torch.relu(self.low(x))
        mid = torch.relu(self.mid(low)).flatten(2).transpose(1, 2)
        return low, mid, self.high(mid.mean(1))


@pytest.fixture
def small_model() -> nn.Module:
    return ThreeLevels().eval()


@pytest.fixture
def expected(small_model: nn.Module) -> dict[str, np.ndarray]:
    """What the small model gives for five photographs, computed by hand."""
    x = torch.from_numpy(cut(5, 32)).float() / 255
    x = (x - torch.tensor([0.5, 0.4, 0.3])) / 0.2
    with torch.inference_mode():
        low, mid, high = small_model(x.permute(0, 3, 1, 2))
    pooled = {"low": low.mean((2, 3)), "mid": mid.mean(1), "high": high}
    return {name: nn.functional.normalize(v).numpy() for name, v in pooled.items()}
