"""One query through the public API, on a workspace whose samples table is as large as its index."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.index_rivals import Vectors, seconds
from longtail import Workspace
from schemas import arrow

K = 10
ROWS_PER_FILE = 50_000


def publish(workspace: Workspace, ids: Sequence[str]) -> None:
    """A row for each id in the samples table, with a URI of usual length and little else."""
    blank: dict[Any, Any] = {
        pa.string(): "",
        pa.binary(): b"",
        pa.int32(): 0,
        pa.int64(): 0,
        pa.float32(): 0.0,
        pa.list_(pa.float32()): [],
        pa.timestamp("us", tz="UTC"): datetime(2026, 1, 1, tzinfo=UTC),
    }
    table, files = workspace.catalog.samples, []
    for start in range(0, len(ids), ROWS_PER_FILE):
        some = ids[start : start + ROWS_PER_FILE]
        known = {
            "encoder": pa.repeat(workspace.jobs.encoder.id, len(some)),
            "sample_id": pa.array(some, pa.string()),
            "uri": pa.array([f"s3://archive/line-3/{start + n:012}.jpg" for n in range(len(some))]),
        }
        columns = [
            known.get(field.name, pa.repeat(pa.scalar(blank[field.type], field.type), len(some)))
            for field in arrow.SAMPLES
        ]
        files.append(table.stage(pa.table(columns, schema=arrow.SAMPLES)))
    table.commit(files, transaction="benchmark")


def asking(workspace: Workspace, index: Any, ids: Sequence[str]) -> dict[str, float]:
    """`Workspace.query` by sample id beside FAISS alone with the same vectors, by turns.

    The first query of a process opens the index and scans the table for 10 URIs, the second reads
    all URIs; the median is of those after.
    """
    snapshot = workspace.jobs.index_store.open()
    assert snapshot is not None
    queries: Vectors = snapshot.read(snapshot.sample_ids.rows(ids))
    first, second = (seconds(lambda: workspace.query(sample_id=ids[0], k=K)) for _ in range(2))
    index.search(queries[:1], K)
    taken = [
        (
            seconds(lambda i=sample_id: workspace.query(sample_id=i, k=K)),
            seconds(lambda r=row: index.search(queries[r : r + 1], K)),
        )
        for row, sample_id in enumerate(ids)
    ]
    ours, theirs = (np.median(taken, axis=0) * 1e3).tolist()
    return {
        "workspace_first_s": first,
        "workspace_second_s": second,
        "workspace_ms": ours,
        "workspace_vs_faiss": ours / theirs,
    }
