"""The index beside bare FAISS and others, in one run: seeded, on clustered and real embeddings.

    python -m benchmarks.index --quick      under a minute; ends in one JSON line
    python -m benchmarks.index              to 5,000,000 vectors, for benchmarks/results/index.json
    python -m benchmarks.index --size 1000000 --dimension 320 --scratch /tmp/indexes
    python -m benchmarks.index --plot       only draws what the results hold
    python -m benchmarks.index --flat       only how far scanning all is fastest; on one thread

Each piece of an entry is measured in a process of its own. `--piece` measures one of them, and
needs the scratch folder that `--piece build` filled. Ratios are of times, ours over theirs, but
`self_knn_vs_brute`, theirs over ours. `<piece>_load` is the machine's load average of the minute at
its end: above the number of cores seconds are inflated, while ratios taken by turns are not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks import index_measures as measures
from benchmarks import index_rivals as rivals
from benchmarks.index_data import SOURCES, Vectors, clustered
from benchmarks.index_measures import K, seconds
from benchmarks.index_workspace import publish
from index.factory import Policy
from index.search import Snapshot
from index.store import IndexStore
from longtail import Workspace

RESULTS = Path(__file__).parent / "results" / "index.json"
QUERIES = 1000
"""Enough that most touch pages that an earlier one has mapped, as in a process that serves many."""

BRUTE = 5_000
"""How many vectors brute force is timed with; its time for each is the same."""

BASE = 100_000
"""What the cost of adding to more is compared with."""

CASES = [("clustered", 320, n) for n in (10_000, 100_000, 1_000_000, 5_000_000)]
CASES += [("clustered", 768, n) for n in (10_000, 100_000, 1_000_000)]
CASES += [("photographs", 320, 100_000)]

FLAT_SIZES = (5_000, 10_000, 20_000, 30_000, 40_000)
FLAT_POLICIES = {"flat": Policy(factory="Flat"), "cells": Policy(flat_rows=1)}

LIMITS = {
    "brute_force": (100_000, "time grows with the square of the vectors: 100 times at 1,000,000"),
    "pyod": (10_000, "time grows with the square of the vectors: minutes at 100,000"),
    "lancedb": (100_000, "its index takes 10 times as long to build as ours"),
    "hnswlib": (100_000, "its index takes minutes to build, and must be held in memory"),
}
"""The most vectors that each of the others is measured with, and why; null stands for more."""


@dataclass(frozen=True)
class Case:
    """Vectors to index, and the folder that holds the index between pieces."""

    data: str
    dimension: int
    vectors: int
    folder: Path

    @property
    def key(self) -> dict[str, Any]:
        return {"data": self.data, "dimension": self.dimension, "vectors": self.vectors}

    @property
    def workspace(self) -> Workspace:
        root = self.folder / "workspace"
        return Workspace(root) if root.exists() else Workspace.create(root)

    def batches(self) -> Iterator[Vectors]:
        return SOURCES[self.data](self.vectors, self.dimension, 0)

    def queries(self) -> Vectors:
        """Not among the vectors."""
        (queries,) = SOURCES[self.data](QUERIES, self.dimension, 1)
        return queries

    def may(self, rival: str) -> bool:
        return self.vectors <= LIMITS[rival][0]


def build(case: Case) -> dict[str, Any]:
    """Time, memory and disk of making the index; and a samples table beside it."""
    workspace = case.workspace
    store = workspace.jobs.index_store
    took = measures.building(store, case.batches())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    snapshot = opened(store)
    publish(workspace, case.vectors)
    return took | {
        "build_peak_mb": peak,
        "files_mb": sum(path.stat().st_size for path in store.root.iterdir()) / 1e6,
        "factory": snapshot.choice.factory,
        "probes": snapshot.choice.effort.probes,
        "measured_recall": snapshot.choice.recall,
        "segments": len(snapshot.segments),
    }


def search(case: Case) -> dict[str, Any]:
    """Opening, one query, and the neighbours of all, beside FAISS alone and brute force."""
    workspace, queries = case.workspace, case.queries()
    store = workspace.jobs.index_store
    snapshot = opened(store)
    index = rivals.bare_faiss(snapshot, store.root)
    told = measures.opening(measures.OPENING, store.root, queries[:1])
    told |= measures.opening(measures.ASKING, workspace.root, queries[:1])
    told |= measures.querying(snapshot, index, queries)
    told |= measures.asking(workspace, index, queries)
    told |= measures.scoring(snapshot, index)
    if case.may("brute_force"):
        told |= brute_force(snapshot, told["score_s"])
    return told


def brute_force(snapshot: Snapshot, ours: float, timed: int = BRUTE) -> dict[str, float]:
    """Seconds for all vectors, in proportion to those timed; ours: what we take."""
    everything = snapshot.read(snapshot.live_rows())
    sample = everything[:timed]
    took = seconds(lambda: rivals.brute_force_scores(everything, sample))
    took *= len(everything) / len(sample)
    return {
        "brute_force_vectors": len(sample),
        "brute_force_score_s": took,
        "self_knn_vs_brute": took / ours,
    }


def add(case: Case) -> dict[str, Any]:
    """Adding 10,000 vectors, beside adding them to 100,000."""
    store = case.workspace.jobs.index_store
    if case.vectors <= BASE:
        return dict(measures.adding(case.dimension, {case.vectors: store})[case.vectors])
    base = IndexStore(case.folder / "base")
    measures.building(base, clustered(BASE, case.dimension, seed=0))
    added = measures.adding(case.dimension, {BASE: base, case.vectors: store})
    growth = added[case.vectors]["add_10k_s"] / added[BASE]["add_10k_s"]
    return added[case.vectors] | {"add_cost_growth": growth}


def others(case: Case) -> dict[str, Any]:
    """What PyOD, LanceDB and hnswlib take on the same vectors; null beyond their limits."""
    told: dict[str, Any] = {"pyod_score_s": None}
    for name in rivals.MAKERS:
        told |= dict.fromkeys((f"{name}_build_s", f"{name}_query_ms", f"{name}_recall_at_10"))
    if not any(map(case.may, ("pyod", *rivals.MAKERS))):
        return told
    vectors, queries = np.concatenate(list(case.batches())), case.queries()
    if case.may("pyod"):
        told["pyod_score_s"] = seconds(lambda: rivals.pyod_scores(vectors))
    flat = faiss.IndexFlatL2(case.dimension)
    flat.add(vectors)
    _, truth = flat.search(queries, K)
    for name, make in rivals.MAKERS.items():
        if not case.may(name):
            continue
        made: list[rivals.Answer] = []
        told[f"{name}_build_s"] = seconds(partial(_make, made, make, vectors, case.folder))
        (answer,) = made
        told[f"{name}_query_ms"] = measures.median_ms(answer, queries)
        found = np.array([answer(queries[row : row + 1]) for row in range(len(queries))])
        told[f"{name}_recall_at_10"] = measures.recall(found, truth)
    return told


def _make(
    made: list[rivals.Answer],
    make: Callable[[Vectors, Path], rivals.Answer],
    vectors: Vectors,
    folder: Path,
) -> None:
    made.append(make(vectors, folder))


PIECES: dict[str, Callable[[Case], dict[str, Any]]] = {
    "build": build,
    "search": search,
    "add": add,
    "others": others,
}


def quick(scratch: Path) -> dict[str, float]:
    """The issue's figures at 100,000 x 320 (adding: beside 20,000), in under a minute.

    Queries and opening are those of `Workspace`, from the vector asked to the table answered.
    """
    workspace, small = Workspace.create(scratch / "workspace"), IndexStore(scratch / "small")
    large = workspace.jobs.index_store
    measures.building(small, clustered(20_000, 320, seed=0))
    measures.building(large, clustered(BASE, 320, seed=0))
    publish(workspace, BASE)
    snapshot = opened(large)
    index = rivals.bare_faiss(snapshot, large.root)
    (queries,) = clustered(QUERIES, 320, seed=1)
    scored = measures.scoring(snapshot, index, most=50_000)
    brute = brute_force(snapshot, scored["score_s"], timed=2000)
    asked = measures.asking(workspace, index, queries)
    started = measures.opening(measures.ASKING, workspace.root, queries[:1])
    added = measures.adding(320, {20_000: small, BASE: large})
    figures = {
        "self_knn_vs_faiss": scored["self_knn_vs_faiss"],
        "self_knn_vs_brute": brute["self_knn_vs_brute"],
        "query_vs_faiss": asked["workspace_vs_faiss"],
        "recall_at_10": asked["workspace_recall_at_10"],
        "add_cost_growth": added[BASE]["add_10k_s"] / added[20_000]["add_10k_s"],
        "open_s": started["workspace_open_s"],
        "open_mb": started["workspace_mb"],
    }
    return {name: round(value, 4) for name, value in figures.items()}


def flat_limit(scratch: Path, dimension: int) -> Iterator[dict[str, float]]:
    """Scanning all beside cells, in growing sizes: for a run that mines, and for one query.

    Such a run makes the index and finds the neighbours of all, which are timed with a few. Times
    are the processor's, which other work on the machine changes little.
    """
    (queries,) = clustered(QUERIES, dimension, seed=1)
    for size in FLAT_SIZES:
        told: dict[str, float] = {"dimension": dimension, "vectors": size}
        for kind, policy in FLAT_POLICIES.items():
            store = IndexStore(scratch / f"{kind}-{dimension}-{size}", policy)
            begun = time.process_time()
            measures.building(store, clustered(size, dimension, seed=0))
            built = time.process_time()
            snapshot = opened(store)
            rows = snapshot.live_rows()[: measures.BLOCK]
            snapshot.neighbours(rows, K)
            scored = time.process_time()
            for row in range(QUERIES):
                snapshot.search(queries[row : row + 1], K)
            asked = time.process_time()
            told[f"{kind}_run_s"] = built - begun + (scored - built) * size / len(rows)
            told[f"{kind}_query_ms"] = (asked - scored) / QUERIES * 1e3
        yield {name: round(value, 4) for name, value in told.items()}


def opened(store: IndexStore) -> Snapshot:
    snapshot = store.open()
    assert snapshot is not None, f"{store.root} holds no index: measure the piece 'build' first"
    return snapshot


def record(key: dict[str, Any], told: dict[str, Any]) -> None:
    """Put figures into the entry of `key`, over those of the same name."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"entries": []}
    entries = {tuple(entry[name] for name in key): entry for entry in results["entries"]}
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in told.items()}
    place = tuple(key.values())
    entries[place] = entries.get(place, key) | rounded
    write({**results, "entries": [entries[place] for place in sorted(entries)]})


def write(results: dict[str, Any]) -> None:
    """Keep the results, and what they were measured with."""
    machine = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    results["machine"] = machine | {"faiss": faiss.__version__}
    results["null"] = {name: f"above {most:,}: {why}" for name, (most, why) in LIMITS.items()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def measure(case: Case, pieces: Sequence[str]) -> None:
    """Each piece in a process of its own, whose memory is then its own too."""
    here = ["--data", case.data, "--size", str(case.vectors), "--dimension", str(case.dimension)]
    for piece in pieces:
        command = [sys.executable, "-m", "benchmarks.index", *here, "--piece", piece]
        subprocess.run([*command, "--scratch", os.fspath(case.folder.parent)], check=True)
    shutil.rmtree(case.folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--size", type=int, help="only this many vectors")
    parser.add_argument("--dimension", type=int, help="only this dimension")
    parser.add_argument("--data", choices=SOURCES, help="only these")
    parser.add_argument("--piece", choices=PIECES, help="only this piece, here")
    parser.add_argument("--plot", action="store_true", help="only the plot")
    parser.add_argument("--flat", action="store_true", help="only how far to scan all")
    parser.add_argument("--scratch", type=Path, help="folder for the indexes")
    given = parser.parse_args(arguments)
    if given.scratch:
        given.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        if given.quick:
            print(json.dumps(quick(Path(folder))))
            return
        if given.flat:
            faiss.omp_set_num_threads(1)
            curves = [row for d in (320, 768) for row in flat_limit(Path(folder), d)]
            write(json.loads(RESULTS.read_text()) | {"flat_limit": curves})
            return
        for case in [] if given.plot else _wanted(given, given.scratch or Path(folder)):
            case.folder.mkdir(parents=True, exist_ok=True)
            if given.piece:
                told = PIECES[given.piece](case)
                told[f"{given.piece}_load"] = os.getloadavg()[0]
                record(case.key, told)
                print(json.dumps(case.key | told), flush=True)
            else:
                measure(case, list(PIECES))
    if not given.piece:
        from benchmarks.index_plot import plot

        plot(json.loads(RESULTS.read_text())["entries"], RESULTS.with_suffix(".png"))


def _wanted(given: argparse.Namespace, scratch: Path) -> Iterator[Case]:
    for data, dimension, size in CASES:
        asked = zip((given.data, given.dimension, given.size), (data, dimension, size), strict=True)
        if all(want is None or want == have for want, have in asked):
            yield Case(data, dimension, size, scratch / f"{data}-{dimension}-{size}")


if __name__ == "__main__":
    main()
