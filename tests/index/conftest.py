"""Seeded unit vectors, ids and filled stores, mostly as fixtures that give the function."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from index import gpu
from index.factory import Policy
from index.search import Snapshot
from index.store import IndexStore

collect_ignore = [] if gpu.devices() else ["test_on_gpu.py"]


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


@pytest.fixture(scope="session")
def clustered() -> Callable[..., NDArray[np.float32]]:
    """Makes clusters in 32 dimensions: (count, 32) float32 of unit norm."""

    def make(count: int, clusters: int = 20, seed: int = 0) -> NDArray[np.float32]:
        random = np.random.default_rng(seed)
        centres = random.standard_normal((clusters, 32))
        raw = centres[random.integers(clusters, size=count)]
        raw = raw + 0.5 * random.standard_normal((count, 32))
        return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)

    return make


@pytest.fixture
def crowd(clustered: Callable[..., NDArray[np.float32]]) -> NDArray[np.float32]:
    return clustered(4000)


@pytest.fixture(scope="session")
def filled() -> Callable[..., IndexStore]:
    """Makes a store of some segments, each committed by itself."""

    def fill(
        root: Path,
        policy: Policy,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        parts: int = 4,
    ) -> IndexStore:
        store = IndexStore(root, policy)
        for part in np.array_split(np.arange(len(vectors)), parts):
            store.commit([store.write_segment([ids[row] for row in part], vectors[part])])
        return store

    return fill


@pytest.fixture(scope="session")
def recall() -> Callable[..., NDArray[np.float64]]:
    """The share of the true 10 nearest that is found, for each query."""

    def share(
        snapshot: Snapshot, queries: NDArray[np.float32], only: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        rows, _ = snapshot.search(queries, 10, only=only)
        truth, _ = snapshot.search(queries, 10, only=only, exact=True)
        found: NDArray[np.bool_] = (rows[:, :, None] == truth[:, None, :]).any(axis=2)
        return np.asarray(found.mean(axis=1), dtype=np.float64)

    return share
