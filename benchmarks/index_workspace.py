"""A samples table as large as an index, for queries through the public API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.index_data import BATCH, sample_ids
from longtail import Workspace
from schemas import arrow


def publish(workspace: Workspace, count: int) -> None:
    """A row for each of `sample_ids(count)`, with a URI of usual length and little else.

    brightness: drawn evenly from [0, 1), for filters.
    """
    random = np.random.default_rng(4)
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
    for start in range(0, count, BATCH):
        ids = sample_ids(min(BATCH, count - start), start)
        known = {
            "encoder": pa.repeat(workspace.jobs.encoder.id, len(ids)),
            "sample_id": pa.array(ids, pa.string()),
            "brightness": pa.array(random.random(len(ids), dtype=np.float32)),
            "uri": pa.array([f"s3://archive/line-3/{start + n:012}.jpg" for n in range(len(ids))]),
        }
        columns = [
            known.get(field.name, pa.repeat(pa.scalar(blank[field.type], field.type), len(ids)))
            for field in arrow.SAMPLES
        ]
        files.append(table.stage(pa.table(columns, schema=arrow.SAMPLES)))
    table.commit(files, transaction="benchmark")
