"""FAISS on GPUs, where the build and the machine have them; otherwise everything stays here."""

from __future__ import annotations

from typing import Any

import faiss


def devices() -> int:
    """How many GPUs FAISS can use; 0 with `faiss-cpu`, and with `faiss-gpu` without a device."""
    return int(faiss.get_num_gpus())


def on_gpus(index: Any) -> Any:
    """`index`, or a copy sharded over all GPUs."""
    if not devices():
        return index
    options = faiss.GpuMultipleClonerOptions()
    options.shard = devices() > 1
    return faiss.index_cpu_to_all_gpus(index, co=options)


def on_cpu(index: Any) -> Any:
    """The inverse of `on_gpus`."""
    return faiss.index_gpu_to_cpu(index) if devices() else index
