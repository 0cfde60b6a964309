"""FAISS on GPUs, where the build and the machine have them; otherwise everything stays here.

A copy on one GPU is an index there; over several, each holds a shard. All copies of a process share
one set of resources (streams, and up to 1.5 GB of temporary memory on each GPU), which FAISS lets
one thread use at a time: work on copies waits its turn here. Answers differ from the CPU's by the
rounding of codes alone, and are re-ranked by the stored vectors as those are.

Where memory ends in the middle of its work FAISS may end the process, so nothing is copied to a GPU
that has not plenty left.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

BATCH = 1000
"""Queries at a time from which copying them to a GPU pays."""

MOST = 2048
"""The most neighbours, and the most cells probed, of a search on a GPU."""

SPARE = 2 << 30
"""Bytes that a GPU must have free beside a copy, most of which FAISS takes to work in."""

LEFT = 256 << 20
"""Bytes that it must have free beside all these, for cuBLAS and what more a search may need."""

_turn = threading.RLock()


def devices() -> int:
    """How many GPUs FAISS can use; 0 with `faiss-cpu`, and with `faiss-gpu` without a device."""
    return int(faiss.get_num_gpus())


def on_gpus(index: Any, more: int = 0) -> Any | None:
    """A copy of `index` on all GPUs, None where there are none or they cannot hold it.

    They know Flat, IVF-Flat, IVF-SQ and some sizes of IVF-PQ. more: how many vectors are to be
    added to it there.
    """
    if not devices():
        return None
    options = faiss.GpuMultipleClonerOptions()
    options.shard = devices() > 1
    with _turn:
        try:
            if not _have(SPARE + _bytes(index, more) / devices()):
                return None
            return faiss.index_cpu_to_gpu_multiple_py(_resources(), index, options)
        except RuntimeError:  # how FAISS says that it cannot
            return None


class Copy:
    """A copy of an index on the GPUs, made by the first search that finds room there.

    Searches of several threads wait their turn. It is freed in turn, too: FAISS keeps account of
    the memory for one thread at a time.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        self._copy: Any = None

    def search(
        self, queries: NDArray[np.float32], k: int, probes: int | None = None
    ) -> NDArray[np.int64] | None:
        """The k nearest rows (n, k) to `queries` (n, d), -1 padded; k and probes at most `MOST`.

        probes: cells to look into, None for a Flat index. None where the GPUs cannot, or are full.
        """
        rows = np.empty((len(queries), k), dtype=np.int64)
        at_once = LEFT // (32 * k)  # FAISS holds two sets of answers, of 12 bytes each
        with _turn:
            if self._copy is None:
                self._copy = on_gpus(self._index)
            if self._copy is None:
                return None
            try:
                if probes is not None:
                    faiss.GpuParameterSpace().set_index_parameter(self._copy, "nprobe", probes)
                for start in range(0, len(queries), at_once):
                    part = slice(start, start + at_once)
                    if not _have(LEFT):
                        raise RuntimeError("too little memory")
                    rows[part] = self._copy.search(queries[part], k)[1]
            except RuntimeError:
                self._copy = None  # its memory is better given back
                return None
        return rows

    def __del__(self, turn: threading.RLock = _turn) -> None:
        with turn:
            self._copy = None


def extended(index: Any, vectors: NDArray[np.float32], numbers: NDArray[np.int64]) -> Any:
    """An IVF `index` with `vectors` (n, d) added, by the GPUs where they can.

    numbers: what searches give for each, (n,).
    """
    copy = on_gpus(index, len(vectors))
    if copy is not None:
        with _turn:
            try:
                copy.add_with_ids(vectors, numbers)
                return faiss.index_gpu_to_cpu(copy)
            except RuntimeError:  # no room for them; `index` has none of them yet
                pass
            finally:
                del copy
    index.add_with_ids(vectors, numbers)
    return index


def train(index: Any, sample: NDArray[np.float32]) -> None:
    """Train an IVF index on `sample` (m, d), its k-means on the GPUs where they can.

    Raises RuntimeError where FAISS cannot train it at all.
    """
    copy = on_gpus(faiss.IndexFlatL2(index.d))
    if copy is not None:
        with _turn:
            index.clustering_index = copy
            try:
                index.train(sample)
                return
            except RuntimeError:  # no room, or a fault that the CPU will find too
                pass
            finally:
                index.clustering_index = None
                copy.thisown = True  # else nothing frees it: the attribute took it from Python
                del copy
    index.train(sample)


def _bytes(index: Any, more: int) -> int:
    """What a copy takes: codes and numbers, twice as its lists grow, and the middles of cells."""
    cells = getattr(index, "nlist", 0)
    return int(2 * (index.ntotal + more) * (index.code_size + 8) + 4 * cells * index.d)


def _have(free: float) -> bool:
    """Whether nobody has taken so many bytes of each GPU, as torch tells of those it can use."""
    import torch  # only here: most searches need neither it nor a GPU

    return torch.cuda.device_count() >= devices() and all(
        torch.cuda.mem_get_info(device)[0] >= free for device in range(devices())
    )


@cache
def _resources() -> list[Any]:
    made = [faiss.StandardGpuResources() for _ in range(devices())]
    for device, resources in enumerate(made):
        resources.getDefaultStream(device)  # takes all it needs, or raises and is not kept
    return made
