"""Seeded unit vectors and ids, as fixtures that give the function."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from index.store import IndexStore


@pytest.fixture(scope="session")
def vectors() -> Callable[..., NDArray[np.float32]]:
    def make(count: int, dimension: int = 16, seed: int = 0) -> NDArray[np.float32]:
        raw = np.random.default_rng(seed).standard_normal((count, dimension))
        return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def ids() -> Callable[..., list[str]]:
    def make(count: int, start: int = 0) -> list[str]:
        numbers = range(start, start + count)
        return [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]

    return make


@pytest.fixture
def store(tmp_path: Path) -> IndexStore:
    return IndexStore(tmp_path / "index" / "an-encoder")
