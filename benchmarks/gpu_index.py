"""The index on a GPU beside the same on the CPU: `python -m benchmarks.gpu_index`, with faiss-gpu.

1,000,000 clustered vectors of 320 dimensions: the seconds of a compaction, which trains the cells,
fills and measures them; those of finding the 10 nearest neighbours of 100,000 vectors, as a mine
job does, with the recall; and those of FAISS alone, given all at once, for the same on the GPU. The
last line is one JSON object, also written to benchmarks/results/gpu_index.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import torch

from benchmarks.index_data import clustered, sample_ids
from encoders import hardware
from index import gpu
from index.search import Snapshot
from index.store import IndexStore

RESULTS = Path(__file__).parent / "results" / "gpu_index.json"
DIMENSION, SCORED, K = 320, 100_000, 10


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def written(root: Path, count: int) -> None:
    """The segments of an index job, which no compaction has seen."""
    store, start, segments = IndexStore(root), 0, []
    for vectors in clustered(count, DIMENSION, seed=0):
        segments.append(store.write_segment(sample_ids(len(vectors), start), vectors))
        start += len(vectors)
    store.commit(segments)


def measured(root: Path) -> tuple[dict[str, float], Snapshot]:
    """Compact the index in `root`, and score by neighbours."""
    store = IndexStore(root)
    compacted = seconds(store.compact)
    snapshot = store.open()
    assert snapshot is not None
    rows = snapshot.scan_order()[:SCORED]
    snapshot.neighbours(rows[: gpu.BATCH], K)  # copies the index to the GPU
    scored = seconds(lambda: snapshot.neighbours(rows, K))
    queries = next(clustered(2000, DIMENSION, seed=1))
    found, _ = snapshot.search(queries, K)
    nearest, _ = snapshot.search(queries, K, exact=True)
    recall = (found[:, :, None] == nearest[:, None, :]).any(axis=2).mean()
    return {"compact_s": compacted, "score_s": scored, "recall_at_10": float(recall)}, snapshot


def alone(snapshot: Snapshot) -> float:
    """Seconds of FAISS on the GPU for the same neighbours, before they are ranked again."""
    (part,), effort = snapshot.parts, snapshot.choice.effort
    copy = gpu.Copy(part.cells)
    queries = snapshot.read(snapshot.scan_order()[:SCORED])
    wanted = (K + 1) * effort.overfetch
    copy.search(queries[: gpu.BATCH], wanted, effort.probes)
    return seconds(lambda: copy.search(queries, wanted, effort.probes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    vectors = parser.parse_args().vectors
    if not gpu.devices():
        raise SystemExit(
            f"faiss {faiss.__version__} sees no GPU; install faiss-gpu on such a machine"
        )
    found = faiss.get_num_gpus
    with tempfile.TemporaryDirectory() as folder:
        there, here = Path(folder, "there"), Path(folder, "here")
        written(there, vectors)
        shutil.copytree(there, here)
        on_gpu, snapshot = measured(there)
        on_gpu["faiss_score_s"] = alone(snapshot)
        faiss.get_num_gpus = lambda: 0
        on_cpu, _ = measured(here)
        faiss.get_num_gpus = found
    results = {
        "gpu": torch.cuda.get_device_name(0),
        "cores": hardware.cores(),
        "faiss": faiss.__version__,
        "vectors": vectors,
        "dimension": DIMENSION,
        "scored": SCORED,
        "kind": snapshot.choice.factory,
        "on_gpu": {name: round(value, 3) for name, value in on_gpu.items()},
        "on_cpu": {name: round(value, 3) for name, value in on_cpu.items()},
        "score_speedup": round(on_cpu["score_s"] / on_gpu["score_s"], 2),
        "score_vs_faiss": round(on_gpu["score_s"] / on_gpu["faiss_score_s"], 2),
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
