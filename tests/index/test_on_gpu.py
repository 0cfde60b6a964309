"""FAISS on a GPU, beside FAISS on the CPU; collected where `faiss-gpu` finds a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from index import gpu
from index.factory import Policy
from index.store import IndexStore

COUNT = 30_000

POLICIES = {
    "flat": Policy(factory="Flat"),
    "cells": Policy(),
    "product": Policy(memory_bytes=COUNT * 20),
    "float cells": Policy(factory="IVF128,Flat"),
}


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """`with on_cpu():` FAISS finds no device."""

    @contextmanager
    def without() -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(faiss, "get_num_gpus", lambda: 0)
            yield

    return without


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each batch that was given to the GPU was answered there."""
    return noted(monkeypatch, gpu.Copy, "search")


def noted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[bool]:
    """Whether each call of a function gave something."""
    given: list[bool] = []
    function = getattr(owner, name)

    def call(*arguments: object) -> object:
        result = function(*arguments)
        given.append(result is not None)
        return result

    monkeypatch.setattr(owner, name, call)
    return given


@pytest.fixture(scope="module")
def crowd(clustered) -> NDArray[np.float32]:
    """Vectors to fill an index with, twice, and queries like them."""
    crowd: NDArray[np.float32] = clustered(2 * COUNT + 4 * gpu.BATCH)
    return crowd


@pytest.fixture
def queries(crowd) -> list[NDArray[np.float32]]:
    """Four batches."""
    return np.split(crowd[2 * COUNT :], 4)


@pytest.fixture(params=POLICIES)
def store(request, tmp_path: Path, filled, ids, crowd) -> IndexStore:
    store: IndexStore = filled(
        tmp_path, POLICIES[request.param], ids(COUNT), crowd[:COUNT], parts=3
    )
    store.compact()
    return store


def agreement(rows: NDArray[np.int64], others: NDArray[np.int64]) -> float:
    """The share of the others that is among the rows, query by query."""
    return float((rows[:, :, None] == others[:, None, :]).any(axis=2).mean())


@pytest.mark.parametrize("forgotten", [0, 40, COUNT * 9 // 10], ids=["none", "few", "most"])
def test_a_batch_is_answered_there_as_here(store, forgotten, ids, queries, on_cpu, answered):
    if forgotten:
        store.forget(ids(forgotten))
    snapshot = store.open()
    rows, distances = snapshot.search(queries[0], 10)
    assert answered
    assert all(answered)
    assert snapshot.choice.recall >= 0.93
    with on_cpu():
        snapshot = store.open()
        here, _ = snapshot.search(queries[0], 10)
        nearest, exact = snapshot.search(queries[0], 10, exact=True)
    assert agreement(rows, nearest) > max(0.93, agreement(here, nearest) - 0.002)
    np.testing.assert_allclose(np.median(distances, 0), np.median(exact, 0), rtol=1e-2)


def test_cells_that_are_made_there_are_as_good_as_those_made_here(
    tmp_path, filled, ids, crowd, queries, on_cpu, recall, monkeypatch
):
    found = {}
    copied = noted(monkeypatch, gpu, "on_gpus")
    for where in ("there", "here"):
        with on_cpu() if where == "here" else nullcontext():
            store = filled(tmp_path / where, Policy(), ids(COUNT), crowd[:COUNT], parts=2)
            store.compact()
            assert copied == [where == "there"] * 2, "to train and to add"
            copied.clear()
            store.commit([store.write_segment(ids(COUNT, COUNT), crowd[COUNT : 2 * COUNT])])
            snapshot = store.open()
            assert [segment.kind[-3:] for segment in snapshot.segments] == ["SQ8", "SQ8"]
            found[where] = recall(snapshot, queries[0]).mean()
            copied.clear()
    assert found["there"] > 0.93
    assert found["there"] > found["here"] - 0.02


def test_searches_of_several_threads_wait_their_turn(store, queries, answered):
    snapshot = store.open()
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda batch: snapshot.search(batch, 10)[0], queries * 3))
    alone = [snapshot.search(batch, 10)[0] for batch in queries]
    for rows, expected in zip(together, alone * 3, strict=True):
        assert agreement(rows, expected) > 0.995
    assert all(answered)


def test_what_the_gpu_cannot_hold_is_searched_here(store, queries, on_cpu, answered):
    with on_cpu():
        expected = store.open().search(queries[0], 10)[0]
    gpu._resources.cache_clear()
    with full():
        rows = store.open().search(queries[0], 10)[0]
    gpu._resources.cache_clear()
    assert answered == [False]
    np.testing.assert_array_equal(np.sort(rows), np.sort(expected))


@contextmanager
def full() -> Iterator[None]:
    """Take all the memory of the GPU but 64 MB."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(free - (64 << 20), dtype=torch.uint8, device="cuda")
    yield
    del held
    torch.cuda.empty_cache()
