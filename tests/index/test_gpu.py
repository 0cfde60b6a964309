"""Batches on a GPU: a pretended one, which computes here and whose memory may be full."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch

from index import gpu
from index.factory import Policy
from index.store import IndexStore

IN_CELLS = Policy(factory="IVF16,SQ8", flat_rows=1000)


class OnDevice:
    """A copy of an index on the device, which knows no selectors."""

    def __init__(self, device, index):
        self.device, self.index = device, faiss.clone_index(index)

    def add_with_ids(self, vectors, numbers):
        self.device.work("add")
        self.index.add_with_ids(vectors, numbers)

    def search(self, queries, k):
        self.device.work("search")
        return self.index.search(queries, k)


class Device:
    """What FAISS offers of a GPU; `full` names the work that its memory has no room for."""

    def __init__(self):
        self.done, self.full = [], set()
        self.free = 64 << 30

    def work(self, what):
        self.done.append(what)
        if what in self.full:
            raise RuntimeError("Error: out of memory")

    def copy(self, resources, index, options):
        self.work("copy")
        if index.ntotal or isinstance(index, faiss.IndexIVF):
            return OnDevice(self, index)
        # For k-means, which FAISS itself asks: of a wrong dimension it fails as without memory.
        return faiss.IndexFlatL2(index.d + ("k-means" in self.full))

    def set_index_parameter(self, copy, name, value):
        setattr(copy.index, name, value)


@pytest.fixture
def device(monkeypatch):
    device = Device()
    pretended = {
        "get_num_gpus": lambda: 1,
        "StandardGpuResources": lambda: SimpleNamespace(getDefaultStream=lambda gpu: None),
        "GpuMultipleClonerOptions": SimpleNamespace,
        "GpuParameterSpace": lambda: device,
        "index_cpu_to_gpu_multiple_py": device.copy,
        "index_gpu_to_cpu": lambda copy: copy.index,
    }
    for name, value in pretended.items():
        monkeypatch.setattr(faiss, name, value, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (device.free, 80 << 30))
    gpu._resources.cache_clear()
    yield device
    gpu._resources.cache_clear()


@pytest.fixture(params=[Policy(), IN_CELLS], ids=["flat", "cells"])
def store(request, tmp_path, ids, vectors):
    """2,000 x 16 in one segment."""
    store = IndexStore(tmp_path, request.param)
    store.commit([store.write_segment(ids(2000), vectors(2000))])
    store.compact()
    return store


def found(store, queries):
    """The rows of the 10 nearest, by an index opened anew."""
    return store.open().search(queries, 10)[0]


@pytest.mark.parametrize("forgotten", [0, 3, 1900], ids=["none", "few", "most"])
def test_a_batch_is_answered_on_the_device_as_here(store, device, ids, vectors, forgotten):
    """Forgotten rows included, which a device cannot leave out."""
    if forgotten:
        store.forget(ids(forgotten))
    queries = vectors(gpu.BATCH, seed=1)
    queries[:forgotten] = vectors(2000)[: min(forgotten, len(queries))]
    here = np.concatenate([found(store, half) for half in np.split(queries, 2)])
    assert device.done == []
    np.testing.assert_array_equal(found(store, queries), here)
    assert device.done == ["copy", "search"]


@pytest.mark.parametrize("full", ["copy", "search"])
def test_what_the_device_cannot_hold_is_searched_here(store, device, vectors, full):
    queries = vectors(gpu.BATCH, seed=1)
    right = found(store, queries)
    device.full, device.done = {full}, []
    snapshot = store.open()
    for _ in range(2):
        np.testing.assert_array_equal(snapshot.search(queries, 10)[0], right)
    assert device.done.count(full) == 2, "there may be room by then"


def test_threads_share_one_copy(store, device, vectors):
    """Of several only the first might find room, and the last would say that there is none."""
    batches = [vectors(gpu.BATCH, seed=seed) for seed in range(8)]
    snapshot = store.open()
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda each: snapshot.search(each, 10)[0], batches))
    assert device.done.count("copy") == 1
    for rows, batch in zip(together, batches, strict=True):
        np.testing.assert_array_equal(rows, found(store, batch))


def test_a_copy_is_freed_when_nobody_else_is_at_work(store, device, vectors):
    snapshot = store.open()
    snapshot.search(vectors(gpu.BATCH), 10)
    dropped = threading.Event()

    def drop():
        nonlocal snapshot
        snapshot = None
        dropped.set()

    with gpu._turn:
        threading.Thread(target=drop).start()
        assert not dropped.wait(0.2)
    assert dropped.wait(10)


def test_many_answers_are_asked_for_in_parts(device, vectors, monkeypatch):
    """FAISS holds all of them on the device."""
    monkeypatch.setattr(gpu, "LEFT", 32 * 10 * 300)
    index, queries = faiss.IndexFlatL2(16), vectors(1000, seed=1)
    index.add(vectors(2000))
    np.testing.assert_array_equal(gpu.Copy(index).search(queries, 10), index.search(queries, 10)[1])
    assert device.done == ["copy", *["search"] * 4]


def test_a_device_with_little_memory_left_is_not_touched(store, device, ids, vectors):
    """FAISS would end the process rather than raise."""
    queries = vectors(gpu.BATCH, seed=1)
    device.free = gpu.SPARE - 1
    snapshot = store.open()
    snapshot.search(queries, 10)
    store.commit([store.write_segment(ids(2000, 2000), vectors(2000, seed=2))])
    store.compact()
    assert device.done == []
    device.free += 1 << 20
    snapshot = store.open()
    found, _ = snapshot.search(queries, 10)
    device.free = gpu.LEFT - 1
    np.testing.assert_array_equal(snapshot.search(queries, 10)[0], found)
    assert device.done == ["copy", "search"]


@pytest.mark.parametrize("full", ["none", "copy", "add", "k-means"])
def test_cells_are_made_on_the_device_and_here_where_it_is_full(
    tmp_path, device, ids, vectors, full
):
    device.full = {full}
    store = IndexStore(tmp_path, IN_CELLS)
    store.commit([store.write_segment(ids(2000), vectors(2000))])
    snapshot = store.compact()
    assert snapshot.segments[0].kind == "IVF16,SQ8"
    assert snapshot.choice.recall >= 0.93
    assert ("add" in device.done) == (full != "copy")
