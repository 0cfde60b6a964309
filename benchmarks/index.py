"""The index beside bare FAISS and others, in one run: seeded, on clustered and real embeddings.

    python -m benchmarks.index --quick      under a minute; ends in one JSON line
    python -m benchmarks.index              to 5,000,000 vectors, for benchmarks/results/index.json
    python -m benchmarks.index --size 1000000 --dimension 320 --part ours     a piece of it

Ratios are of times, ours over theirs, but `self_knn_vs_brute`, theirs over ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks import index_rivals as rivals
from benchmarks.index_data import clustered, repeated_photographs, sample_ids
from benchmarks.index_rivals import Vectors, median_ms, seconds
from benchmarks.index_workspace import asking, publish
from index.search import Snapshot
from index.store import IndexStore
from longtail import Workspace

RESULTS = Path(__file__).parent / "results" / "index.json"
K = 10
ADDED = 10_000
QUERIES = 200
BRUTE = 5_000
"""How many vectors brute force is timed with."""

BASE = 100_000
"""What the cost of adding to more is compared with."""

FULL = [("clustered", 320, n) for n in (10_000, 100_000, 1_000_000, 5_000_000)]
FULL += [("clustered", 768, n) for n in (10_000, 100_000, 1_000_000)]
FULL += [("photographs", 320, 100_000)]

OPENING = """
import json, sys, time
import numpy as np
from pathlib import Path
from index.store import IndexStore
query = np.load(sys.argv[2])
begun = time.perf_counter()
snapshot = IndexStore(Path(sys.argv[1])).open()
snapshot.search(query, 10)
seconds = time.perf_counter() - begun
resident = next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]
print(json.dumps({"open_s": seconds, "open_mb": int(resident) / 1024}))
"""


def build(store: IndexStore, vectors: Vectors) -> tuple[Snapshot, dict[str, float]]:
    """Index `vectors` as the index job does, in segments, and compact them."""
    ids = sample_ids(len(vectors))

    def write() -> None:
        batches = range(0, len(vectors), 50_000)
        store.commit(
            [store.write_segment(ids[a : a + 50_000], vectors[a : a + 50_000]) for a in batches]
        )

    took = {"write_s": seconds(write), "compact_s": seconds(store.compact)}
    store.sweep(grace_s=0)
    snapshot = store.open()
    assert snapshot is not None
    return snapshot, took


def bare(snapshot: Snapshot, root: Path) -> Any:
    """FAISS alone on an index of the same type, read into memory."""
    (segment, *rest) = snapshot.segments
    suffix = "vectors" if segment.kind == "Flat" else "cells"
    index = faiss.read_index(os.fspath(root / f"{segment.name}.{suffix}.faiss"))
    for other in rest:
        index.merge_from(
            faiss.read_index(os.fspath(root / f"{other.name}.{suffix}.faiss")), index.ntotal
        )
    if segment.kind != "Flat":
        index.nprobe = snapshot.choice.effort.probes
    return index


def scoring(snapshot: Snapshot, index: Any, rounds: int) -> dict[str, float]:
    """Neighbours of all vectors, ours and of FAISS alone by turns; brute force on a sample.

    brute_force_s: of all, as the time for each is the same.
    """
    rows = snapshot.live_rows()
    everything = snapshot.read(rows)
    taken = [
        (
            seconds(lambda: snapshot.neighbours(rows, K)),
            seconds(lambda: index.search(everything, K + 1)),
        )
        for _ in range(rounds)
    ]
    ours, theirs = np.min(taken, axis=0).tolist()  # other work on the machine falls on either
    sample = everything[:BRUTE]
    brute = seconds(lambda: rivals.brute_force_scores(everything, sample))
    brute *= len(everything) / len(sample)
    return {
        "ours_s": ours,
        "faiss_s": theirs,
        "brute_force_s": brute,
        "self_knn_vs_faiss": ours / theirs,
        "self_knn_vs_brute": brute / ours,
    }


def querying(snapshot: Snapshot, index: Any, queries: Vectors) -> dict[str, float]:
    """One query at a time, ours with sample ids; and the share of the true neighbours found."""

    def answer(query: Vectors) -> list[str]:
        rows, _ = snapshot.search(query, K)
        return snapshot.sample_ids.take(rows[0])

    ours, theirs = median_ms(answer, queries), median_ms(lambda q: index.search(q, K), queries)
    found, _ = snapshot.search(queries, K)
    truth, _ = snapshot.search(queries, K, exact=True)
    recall = float((found[:, :, None] == truth[:, None, :]).any(axis=2).mean())
    return {
        "ours_ms": ours,
        "faiss_ms": theirs,
        "query_vs_faiss": ours / theirs,
        "recall_at_10": recall,
    }


def adding(dimension: int, stores: dict[int, IndexStore]) -> dict[int, dict[str, float]]:
    """Median seconds to add 10,000 vectors to each store, and how many old files that rewrote.

    stores: by the number of vectors held. By turns, with nothing left to write back from before.
    """
    old = {held: _stats(store) for held, store in stores.items()}
    taken: dict[int, list[float]] = {held: [] for held in stores}
    for turn in range(7):
        vectors = clustered(ADDED, dimension, seed=100 + turn)
        for held, store in stores.items():
            ids = sample_ids(ADDED, start=held + turn * ADDED)
            os.sync()
            taken[held].append(
                seconds(lambda s=store, i=ids, v=vectors: s.commit([s.write_segment(i, v)]))
            )
    return {
        held: {
            "add_10k_s": float(np.median(taken[held])),
            "files_rewritten": len(old[held].items() - _stats(store).items()),
        }
        for held, store in stores.items()
    }


def _stats(store: IndexStore) -> dict[str, tuple[int, int]]:
    """Inode and time of change of each file that is to be written once."""
    files = {path.name: path.stat() for path in store.root.glob("s*-*")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in files.items()}


def opening(root: Path, query: Vectors) -> dict[str, float]:
    """Seconds to open and answer a first query in a new process, and its memory after."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, query)
        file.flush()
        told = subprocess.run(
            [sys.executable, "-c", OPENING, os.fspath(root), file.name],
            check=True,
            capture_output=True,
            text=True,
        )
    return dict(json.loads(told.stdout))


def quick(scratch: Path) -> dict[str, float]:
    """The figures of the issue at 100,000 x 320 (adding: beside 20,000), in under a minute."""
    small, large = IndexStore(scratch / "small"), IndexStore(scratch / "large")
    build(small, clustered(20_000, 320, seed=0))
    snapshot, _ = build(large, clustered(100_000, 320, seed=0))
    index = bare(snapshot, large.root)
    queries = clustered(QUERIES, 320, seed=1)
    scored, asked = scoring(snapshot, index, rounds=1), querying(snapshot, index, queries)
    opened = opening(large.root, queries[:1])
    added = adding(320, {20_000: small, 100_000: large})
    figures = {
        "self_knn_vs_faiss": scored["self_knn_vs_faiss"],
        "self_knn_vs_brute": scored["self_knn_vs_brute"],
        "query_vs_faiss": asked["query_vs_faiss"],
        "recall_at_10": asked["recall_at_10"],
        "add_cost_growth": added[100_000]["add_10k_s"] / added[20_000]["add_10k_s"],
        **opened,
    }
    return {name: round(value, 4) for name, value in figures.items()}


def ours(vectors: Vectors, queries: Vectors, scratch: Path) -> dict[str, Any]:
    """What the index of `vectors` takes and gives, beside FAISS alone and brute force."""
    size, dimension = vectors.shape
    workspace = Workspace.create(scratch / "workspace")
    store = workspace.jobs.index_store
    snapshot, built = build(store, vectors)
    choice = snapshot.choice
    told: dict[str, Any] = {
        "factory": choice.factory,
        "probes": choice.effort.probes,
        "measured_recall": choice.recall,
        "segments": len(snapshot.segments),
        "files_mb": sum(path.stat().st_size for path in store.root.iterdir()) / 1e6,
        **built,
        **opening(store.root, queries[:1]),
    }
    index = bare(snapshot, store.root)
    told |= querying(snapshot, index, queries)
    publish(workspace, sample_ids(size))
    told |= asking(workspace, index, sample_ids(QUERIES, start=size // 2))
    if size <= BASE:
        told |= scoring(snapshot, index, rounds=2)
    return told | growing(store, dimension, size, scratch)


def theirs(vectors: Vectors, queries: Vectors, scratch: Path) -> dict[str, Any]:
    """What others take on the same vectors."""
    if len(vectors) > BASE:
        return {}
    return {
        "pyod_s": seconds(lambda: rivals.pyod_scores(vectors)),
        **competitors(vectors, queries, scratch),
    }


def growing(store: IndexStore, dimension: int, size: int, scratch: Path) -> dict[str, float]:
    """Adding to `store`, which holds `size` vectors, beside adding to 100,000."""
    if size <= BASE:
        return adding(dimension, {size: store})[size]
    base = IndexStore(scratch / "base")
    build(base, clustered(BASE, dimension, seed=0))
    added = adding(dimension, {BASE: base, size: store})
    return added[size] | {"add_cost_growth": added[size]["add_10k_s"] / added[BASE]["add_10k_s"]}


def competitors(vectors: Vectors, queries: Vectors, scratch: Path) -> dict[str, float]:
    """LanceDB and hnswlib: build seconds, median milliseconds of a query, recall at 10."""
    flat = faiss.IndexFlatL2(vectors.shape[1])
    flat.add(vectors)
    _, truth = flat.search(queries, K)
    told = {}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        makers = {
            "lancedb": lambda: rivals.lancedb_table(Path(folder), vectors),
            "hnswlib": lambda: rivals.hnsw(vectors),
        }
        for name, make in makers.items():
            answers: list[Any] = []
            told[f"{name}_build_s"] = seconds(lambda make=make, a=answers: a.append(make()))
            told[f"{name}_ms"] = median_ms(answers[0], queries)
            found = np.array([answers[0](queries[row : row + 1]) for row in range(len(queries))])
            told[f"{name}_recall_at_10"] = float(
                (found[:, :, None] == truth[:, None, :]).any(axis=2).mean()
            )
    return told


def record(told: dict[str, Any]) -> None:
    """Put an entry into the results, over the same figures of the same size."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"entries": []}
    entries = {_key(entry): entry for entry in results["entries"]}
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in told.items()}
    entries[_key(told)] = entries.get(_key(told), {}) | rounded
    machine = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    results = {
        "machine": machine | {"faiss": faiss.__version__},
        "entries": [entries[key] for key in sorted(entries)],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def _key(entry: dict[str, Any]) -> tuple[str, int, int]:
    return entry["data"], entry["dimension"], entry["vectors"]


DATA: dict[str, Callable[[int, int, int], Vectors]] = {
    "clustered": clustered,
    "photographs": lambda count, _, seed: repeated_photographs(count, seed),
}
PARTS = {"ours": ours, "theirs": theirs}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--size", type=int, help="only this many vectors")
    parser.add_argument("--dimension", type=int, help="only this dimension")
    parser.add_argument("--data", choices=DATA, help="only these")
    parser.add_argument("--part", choices=PARTS, help="only the index, or only what others take")
    parser.add_argument("--scratch", type=Path, help="folder for the indexes; removed after")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        if given.quick:
            print(json.dumps(quick(Path(folder))))
            return
        for data, dimension, size in _wanted(given):
            vectors, queries = (DATA[data](n, dimension, s) for n, s in ((size, 0), (QUERIES, 1)))
            told = {"data": data, "dimension": dimension, "vectors": size}
            for name, measure in PARTS.items():
                if given.part in (None, name):
                    with tempfile.TemporaryDirectory(dir=folder) as scratch:
                        told |= measure(vectors, queries, Path(scratch))
            record(told)
            print(json.dumps(told), flush=True)
    from benchmarks.index_plot import plot

    plot(json.loads(RESULTS.read_text())["entries"], RESULTS.with_suffix(".png"))


def _wanted(given: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    for data, dimension, size in FULL:
        asked = zip((given.data, given.dimension, given.size), (data, dimension, size), strict=True)
        if all(want is None or want == have for want, have in asked):
            yield data, dimension, size


if __name__ == "__main__":
    main()
