"""What else scores by neighbours or answers queries, each as its documentation shows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.index_data import Vectors
from index.search import Snapshot

Answer = Callable[[Vectors], list[int]]
"""Rows of the 10 nearest vectors to a query (1, d)."""


def bare_faiss(snapshot: Snapshot, root: Path) -> Any:
    """FAISS alone on an index of the same type and effort as `snapshot`, read into memory."""
    (segment, *rest) = snapshot.segments
    suffix = "vectors" if segment.kind == "Flat" else "cells"
    index = faiss.read_index(os.fspath(root / f"{segment.name}.{suffix}.faiss"))
    for other in rest:
        part = faiss.read_index(os.fspath(root / f"{other.name}.{suffix}.faiss"))
        index.merge_from(part, index.ntotal)
    if segment.kind != "Flat":
        index.nprobe = snapshot.choice.effort.probes
    return index


def brute_force_scores(vectors: Vectors, scored: Vectors) -> Vectors:
    """scikit-learn's exact neighbours, weighted as FiftyOne weighs the nearest 3: uniqueness.

    Its source: voxel51/fiftyone-brain, fiftyone/brain/internal/core/uniqueness.py,
    `_compute_uniqueness`: the mean of distances times 0.6, 0.3 and 0.1, over the largest.
    """
    from sklearn.neighbors import NearestNeighbors

    distances, _ = NearestNeighbors(algorithm="brute").fit(vectors).kneighbors(scored, 4)
    scores = np.mean(distances[:, 1:] * np.array([0.6, 0.3, 0.1]), axis=1)
    return np.asarray(scores / scores.max(), dtype=np.float32)


def pyod_scores(vectors: Vectors) -> Vectors:
    """PyOD's KNN detector: the mean distance to 5 neighbours of every vector."""
    from pyod.models.knn import KNN

    return np.asarray(KNN(n_neighbors=5, method="mean", n_jobs=-1).fit(vectors).decision_scores_)


def lancedb_index(vectors: Vectors, folder: Path) -> Answer:
    """A LanceDB table with its IVF-PQ index, 20 probes and a refine factor of 10."""
    import lancedb
    import pyarrow as pa

    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    rows = pa.table({"row": pa.array(range(len(vectors))), "vector": column})
    table = lancedb.connect(folder).create_table("vectors", rows)
    table.create_index(
        metric="l2", vector_column_name="vector", num_sub_vectors=vectors.shape[1] // 8
    )

    def answer(query: Vectors) -> list[int]:
        found = table.search(query[0]).nprobes(20).refine_factor(10).limit(10).to_arrow()
        return [int(row) for row in found["row"].to_pylist()]

    return answer


def hnswlib_index(vectors: Vectors, folder: Path) -> Answer:
    """hnswlib with M = 16, 200 candidates while building and 100 while searching."""
    import hnswlib

    index = hnswlib.Index("l2", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=200, random_seed=0)
    index.add_items(vectors)
    index.set_ef(100)
    return lambda query: [int(row) for row in index.knn_query(query, 10)[0][0]]


MAKERS: dict[str, Callable[[Vectors, Path], Answer]] = {
    "lancedb": lancedb_index,
    "hnswlib": hnswlib_index,
}
