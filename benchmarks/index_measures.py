"""What is measured of an index; beside FAISS alone by turns, so that busy machines tell it too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.index_data import Vectors, clustered, sample_ids
from index.search import SEARCH_BATCH, Snapshot
from index.store import IndexStore
from longtail import Workspace
from longtail.filters import Filter

K = 10
ADDED = 10_000
BLOCK = SEARCH_BATCH
"""How many vectors are scored at a turn: as many as are searched at a time."""

MOST_SCORED = 100_000
"""Of more vectors so many are scored, and the time of all is taken to be in proportion."""

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


ASKING = """
import json, sys, time
import faiss
import numpy as np
from longtail import Workspace
query = np.load(sys.argv[2])
begun = time.perf_counter()
workspace = Workspace(sys.argv[1])
workspace.query(vector=query, k=10)
seconds = time.perf_counter() - begun
workspace.query(vector=query, k=10)
resident = next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]
print(json.dumps({"workspace_open_s": seconds, "workspace_mb": int(resident) / 1024}))
"""
"""As `OPENING` through `Workspace`; its memory after the second query, which reads all URIs."""


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes, wall clock."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def in_turns(ours: Callable[[int], object], theirs: Callable[[int], object], turns: int) -> Any:
    """Seconds (turns, 2) of both on each turn, who comes first changing; after one to warm up."""
    ours(0), theirs(0)
    taken = np.empty((turns, 2))
    for turn in range(turns):
        for who in ((0, 1), (1, 0))[turn % 2]:
            taken[turn, who] = seconds(partial((ours, theirs)[who], turn))
    return taken


def building(store: IndexStore, batches: Iterable[Vectors]) -> dict[str, float]:
    """Index `batches` as the index job does, in segments, compact them and drop the old files."""
    segments, written, count = [], 0.0, 0
    for vectors in batches:
        begun = time.perf_counter()
        segments.append(store.write_segment(sample_ids(len(vectors), count), vectors))
        written += time.perf_counter() - begun
        count += len(vectors)
    written += seconds(lambda: store.commit(segments))
    compacted = seconds(store.compact)
    store.sweep(grace_s=0)
    return {"write_s": written, "compact_s": compacted}


def opening(script: str, root: Path, query: Vectors) -> dict[str, float]:
    """Seconds to open and answer a first query in a new process, and its memory after.

    script: `OPENING` for an index in the folder `root`, `ASKING` for a workspace.
    """
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, query)
        file.flush()
        told = subprocess.run(
            [sys.executable, "-c", script, os.fspath(root), file.name],
            check=True,
            capture_output=True,
            text=True,
        )
    return dict(json.loads(told.stdout))


def scoring(snapshot: Snapshot, index: Any, most: int = MOST_SCORED) -> dict[str, float]:
    """Seconds to find the neighbours of all vectors, in proportion to those of about `most`.

    Both are asked for the same ones: ours in `scan_order`, as the mine job asks, FAISS by row.
    """
    rows = snapshot.scan_order()
    blocks = np.split(rows, range(BLOCK, len(rows), BLOCK))[:: max(1, len(rows) // most)]
    scored = np.sort(np.concatenate(blocks))
    vectors = np.split(snapshot.read(scored), range(BLOCK, len(scored), BLOCK))
    taken = in_turns(
        lambda turn: snapshot.neighbours(blocks[turn], K),
        lambda turn: index.search(vectors[turn], K + 1),
        len(blocks),
    )
    ours, theirs = (taken.sum(axis=0) * len(rows) / len(scored)).tolist()
    return {
        "scored_vectors": len(scored),
        "score_s": ours,
        "faiss_score_s": theirs,
        "self_knn_vs_faiss": ours / theirs,
    }


def querying(snapshot: Snapshot, index: Any, queries: Vectors) -> dict[str, float]:
    """Milliseconds of one query of the index, with sample ids, and the recall of all queries."""

    def answer(turn: int) -> list[str]:
        rows, _ = snapshot.search(queries[turn : turn + 1], K)
        return snapshot.sample_ids.take(rows[0])

    taken = in_turns(answer, lambda t: index.search(queries[t : t + 1], K), len(queries))
    ours, theirs = (np.median(taken, axis=0) * 1e3).tolist()
    found, _ = snapshot.search(queries, K)
    truth, _ = snapshot.search(queries, K, exact=True)
    return {
        "query_ms": ours,
        "faiss_query_ms": theirs,
        "query_vs_faiss": ours / theirs,
        "recall_at_10": recall(found, truth),
    }


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """The share of `truth` (n, k) that is in `found` (n, k), row by row."""
    return float((found[:, :, None] == truth[:, None, :]).any(axis=2).mean())


def asking(workspace: Workspace, index: Any, queries: Vectors) -> dict[str, float]:
    """Milliseconds of `Workspace.query` by vector, the recall of its answers, and what else.

    The first query of a process opens the index and scans the table for 10 URIs, the second reads
    all URIs; the medians are of those after. by_id: by a sample that is held. filtered: half of the
    samples pass; the first such query reads the table, those after have what passes in memory.
    """
    snapshot = workspace.jobs.index_store.open()
    assert snapshot is not None
    found: dict[int, Any] = {}

    def ask(turn: int) -> None:
        found[turn] = workspace.query(vector=queries[turn], k=K)

    first, second = (seconds(lambda: ask(0)) for _ in range(2))
    taken = in_turns(ask, lambda turn: index.search(queries[turn : turn + 1], K), len(queries))
    ours, theirs = (np.median(taken, axis=0) * 1e3).tolist()
    answers = (found[turn]["sample_id"].to_pylist() for turn in sorted(found))
    rows = np.array([snapshot.sample_ids.rows(ids) for ids in answers])
    truth, _ = snapshot.search(queries, K, exact=True)
    held = snapshot.sample_ids.take(snapshot.live_rows()[: len(queries)])
    by_id = [seconds(partial(workspace.query, sample_id=one, k=K)) for one in held]
    half = partial(workspace.query, where=Filter(quality=("brightness<0.5",)), k=K)
    filtered = [seconds(partial(half, vector=query)) for query in queries]
    return {
        "workspace_first_s": first,
        "workspace_second_s": second,
        "workspace_ms": ours,
        "workspace_vs_faiss": ours / theirs,
        "workspace_recall_at_10": recall(rows, truth),
        "workspace_by_id_ms": float(np.median(by_id)) * 1e3,
        "filtered_first_s": filtered[0],
        "filtered_ms": float(np.median(filtered[1:])) * 1e3,
    }


def adding(dimension: int, stores: dict[int, IndexStore]) -> dict[int, dict[str, float]]:
    """Median seconds to add 10,000 vectors to each store, and how many old files that rewrote.

    stores: by the number of vectors held. By turns, with nothing left to write back from before.
    """
    old = {held: _stats(store) for held, store in stores.items()}
    taken: dict[int, list[float]] = {held: [] for held in stores}
    for turn in range(7):
        (vectors,) = clustered(ADDED, dimension, seed=100 + turn)
        for held, store in stores.items():
            ids = sample_ids(ADDED, start=held + turn * ADDED)
            os.sync()
            taken[held].append(seconds(partial(_add, store, ids, vectors)))
    return {
        held: {
            "add_10k_s": float(np.median(taken[held])),
            "files_rewritten": len(old[held].items() - _stats(store).items()),
        }
        for held, store in stores.items()
    }


def _add(store: IndexStore, ids: Sequence[str], vectors: Vectors) -> None:
    store.commit([store.write_segment(ids, vectors)])


def _stats(store: IndexStore) -> dict[str, tuple[int, int]]:
    """Inode and time of change of each file that is to be written once."""
    files = {path.name: path.stat() for path in store.root.glob("s*-*")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in files.items()}


def median_ms(answer: Callable[[Vectors], object], queries: Vectors) -> float:
    """Median milliseconds of one query at a time, after one to warm up."""
    answer(queries[:1])
    taken = [seconds(partial(answer, queries[row : row + 1])) for row in range(len(queries))]
    return float(np.median(taken)) * 1e3
