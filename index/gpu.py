"""FAISS on GPUs, where the build and the machine have them; otherwise everything stays here.

A copy on one GPU is an index there; over several, each holds a shard. All copies of a process share
one set of resources (streams, and up to 1.5 GB of temporary memory on each GPU), which FAISS lets
one thread use at a time: work on copies waits its turn here. Answers differ from the CPU's by the
rounding of codes alone, and are re-ranked by the stored vectors as those are.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

BATCH = 1000
"""Queries at a time from which copying them to a GPU pays."""

MOST = 2048
"""The most neighbours, and the most cells probed, of a search on a GPU."""

_turn = threading.RLock()


def devices() -> int:
    """How many GPUs FAISS can use; 0 with `faiss-cpu`, and with `faiss-gpu` without a device."""
    return int(faiss.get_num_gpus())


def on_gpus(index: Any) -> Any | None:
    """A copy of `index` on all GPUs, None where there are none or they cannot hold it.

    They know Flat, IVF-Flat, IVF-SQ and some sizes of IVF-PQ, and only so much fits their memory.
    """
    if not devices():
        return None
    options = faiss.GpuMultipleClonerOptions()
    options.shard = devices() > 1
    with _turn:
        try:
            return faiss.index_cpu_to_gpu_multiple_py(_resources(), index, options)
        except RuntimeError:  # how FAISS says either
            return None


def search(
    copy: Any, queries: NDArray[np.float32], k: int, probes: int | None = None
) -> NDArray[np.int64]:
    """The k nearest rows (n, k) to `queries` (n, d), -1 padded; k and probes at most `MOST`.

    probes: cells to look into, None for a Flat index.
    """
    with _turn:
        if probes is not None:
            faiss.GpuParameterSpace().set_index_parameter(copy, "nprobe", probes)
        _, rows = copy.search(queries, k)
    return np.asarray(rows)


def extended(index: Any, vectors: NDArray[np.float32]) -> Any:
    """`index` with `vectors` (n, d) added, by the GPUs where they can."""
    copy = on_gpus(index)
    if copy is None:
        index.add(vectors)
        return index
    with _turn:
        copy.add(vectors)
        return faiss.index_gpu_to_cpu(copy)


@contextmanager
def clustering(index: Any) -> Iterator[None]:
    """While entered, the k-means of an IVF index runs on the GPUs where there are any."""
    copy = on_gpus(faiss.IndexFlatL2(index.d))
    if copy is None:
        yield
        return
    with _turn:
        index.clustering_index = copy
        try:
            yield
        finally:
            index.clustering_index = None
            copy.thisown = True  # else nothing frees it: the attribute has taken it from Python


@cache
def _resources() -> list[Any]:
    return [faiss.StandardGpuResources() for _ in range(devices())]
