"""What else scores by neighbours or answers queries, each as its documentation shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes, wall clock."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def median_ms(answer: Callable[[Vectors], object], queries: Vectors) -> float:
    """Median milliseconds of one query at a time, after one to warm up."""
    answer(queries[:1])
    taken = [seconds(lambda row=row: answer(queries[row : row + 1])) for row in range(len(queries))]
    return float(np.median(taken)) * 1e3


def brute_force_scores(vectors: Vectors, scored: Vectors) -> Vectors:
    """scikit-learn's exact neighbours, weighted as FiftyOne's uniqueness weighs the nearest 3."""
    from sklearn.neighbors import NearestNeighbors

    distances, _ = NearestNeighbors(algorithm="brute").fit(vectors).kneighbors(scored, 4)
    scores = distances[:, 1:] @ np.array([0.6, 0.3, 0.1])
    return np.asarray(scores / scores.max(), dtype=np.float32)


def pyod_scores(vectors: Vectors) -> Vectors:
    """PyOD's KNN detector: the mean distance to 5 neighbours of every vector."""
    from pyod.models.knn import KNN

    return np.asarray(KNN(n_neighbors=5, method="mean", n_jobs=-1).fit(vectors).decision_scores_)


def lancedb_table(folder: Path, vectors: Vectors) -> Callable[[Vectors], list[int]]:
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


def hnsw(vectors: Vectors) -> Callable[[Vectors], list[int]]:
    """hnswlib with M = 16, 200 candidates while building and 100 while searching."""
    import hnswlib

    index = hnswlib.Index("l2", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=200, random_seed=0)
    index.add_items(vectors)
    index.set_ef(100)
    return lambda query: [int(row) for row in index.knn_query(query, 10)[0][0]]
