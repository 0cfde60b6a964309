"""Arrow schemas of the tables, and the only conversion between records and tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.records import (
    LEVELS,
    QUALITY_STATISTICS,
    Flag,
    Group,
    ImageRef,
    Level,
    Neighbour,
    Reject,
)

_TIMESTAMP = pa.timestamp("us", tz="UTC")
_VECTOR = pa.list_(pa.float32())

_INPUT = [
    pa.field("uri", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("captured_at", _TIMESTAMP),
    pa.field("metadata", pa.string(), nullable=False),
]
_STAMP = [
    pa.field("size", pa.int64(), nullable=False),
    pa.field("modified_at", pa.float64(), nullable=False),
]

SAMPLES = pa.schema(
    [
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        *_INPUT,
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),
        pa.field("bytes", pa.int64()),
        *(pa.field(name, pa.float32()) for name in QUALITY_STATISTICS),
        pa.field("phash", pa.string()),
        pa.field("thumbnail", pa.binary()),
        pa.field("embedding_low", _VECTOR),
        pa.field("embedding_mid", _VECTOR),
        pa.field("embedding_high", _VECTOR, nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("ingested_at", _TIMESTAMP, nullable=False),
    ]
)
"""One row per sample and encoder, partitioned by encoder; the first URI seen stands in the row.

What only an image tells (width to thumbnail) is null where the vector came without one.
"""

URIS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        *_INPUT,
        *_STAMP,
        pa.field("run_id", pa.string(), nullable=False),
    ]
)
"""Every URI that held a sample, with the stamp (size, modified_at) that it had then."""

REJECTS = pa.schema(
    [
        *_INPUT,
        *_STAMP,
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("limits", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
    ]
)
"""Refused inputs; `limits` is what the decoding limits were."""

PATCHES = pa.schema(
    [
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("x", pa.float32()),
        pa.field("y", pa.float32()),
        pa.field("run_id", pa.string(), nullable=False),
    ]
)
"""One row per sample whose patches were scored, partitioned by encoder.

score: mean distance of its 3 strangest patches to the nearest of the bank, in [0, 2]. x, y: where
the strangest is, as shares of the upright image's width and height. All are null where the image
could not be read again.
"""

FORGOTTEN = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("forgotten_at", _TIMESTAMP, nullable=False),
    ]
)
"""Contents that were deleted on request, and are refused."""

NEIGHBOUR = pa.struct(
    [
        pa.field("sample_id", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("distance", pa.float32()),
    ]
)

SCORES = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("of_reference", pa.bool_(), nullable=False),
        pa.field("kind", pa.string()),
        pa.field("rank", pa.int64()),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("p_value", pa.float64()),
        pa.field("level", pa.string(), nullable=False),
        pa.field("z_low", pa.float64(), nullable=False),
        pa.field("z_mid", pa.float64(), nullable=False),
        pa.field("z_high", pa.float64(), nullable=False),
        *(pa.field(f"z_{level}_for_its_kind", pa.float32()) for level in LEVELS),
        *(pa.field(f"z_{level}_among_its_like", pa.float32()) for level in LEVELS),
        pa.field("z_local", pa.float32()),
        pa.field("z_parts", pa.float32()),
        pa.field("z_crowd", pa.float64()),
        pa.field("z_apart", pa.float64()),
        pa.field("z_remote", pa.float64()),
        pa.field("isolation", pa.float32()),
        pa.field("deviation", pa.float32()),
        pa.field("broken", pa.bool_()),
        pa.field("group", pa.int64()),
        pa.field("group_distance", pa.float32()),
        pa.field("reasons", pa.list_(pa.string())),
        pa.field("nearest", pa.list_(NEIGHBOUR)),
        pa.field("confirmed", NEIGHBOUR),
        pa.field("duplicate_of", pa.string()),
    ]
)
"""One row per sample and mining run, partitioned by run; kind and rank are null without a flag.

z_LEVEL: robust deviations; for_its_kind, among_its_like: the same against a sample's own
neighbours, null against a reference; z_local: of the distance to the nearest samples relative to
theirs; z_parts: of the other levels given the scored one, null without a reference; z_crowd,
z_apart, z_remote: what tells one of a group, null against a reference.
isolation: mean distance to the nearest neighbours. deviation, broken: what capture faults raise,
and whether this may be one. nearest: normal samples; confirmed: the confirmed edge case that is
nearer.
group: alike flags of a run, numbered from 1. group_distance: to the group's medoid, 0 for itself.
Samples of the reference are held against the others of it, and never flagged.
duplicate_of: the flagged sample that an unflagged near-duplicate is counted with.
"""


def z_column(measure: str) -> str:
    """Name of the scores column of a measure of `detectors.baseline`, if it has one."""
    return f"z_{measure.replace(' ', '_')}"


def embedding_column(level: Level) -> str:
    """Name of the samples column that holds the embeddings of `level`."""
    return f"embedding_{level}"


def vectors_array(vectors: NDArray[np.float32]) -> pa.ListArray:
    """(n, d) float32 as an Arrow list array, without a copy or a loop."""
    n, d = vectors.shape
    values = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    return pa.ListArray.from_arrays(np.arange(0, (n + 1) * d, d, dtype=np.int32), values)


def matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """A list column as an (n, d) float32 matrix; chunk by chunk, so no 2 GB offset limit.

    Raises ValueError when the lists differ in length.
    """
    blocks = []
    for chunk in column.chunks:
        if len(chunk) == 0:
            continue
        values = chunk.flatten().to_numpy(zero_copy_only=False)
        if values.size % len(chunk):
            raise ValueError("the vectors of a column differ in length")
        blocks.append(values.reshape(len(chunk), -1))
    if not blocks:
        return np.empty((0, 0), dtype=np.float32)
    return np.concatenate(blocks).astype(np.float32, copy=False)


def input_columns(refs: Sequence[ImageRef]) -> dict[str, pa.Array]:
    """The provenance columns that samples, URIs and rejects share."""
    return {
        "uri": pa.array([ref.uri for ref in refs], pa.string()),
        "source": pa.array([ref.source for ref in refs], pa.string()),
        "captured_at": pa.array([ref.captured_at for ref in refs], _TIMESTAMP),
        "metadata": pa.array(
            [
                json.dumps(dict(ref.metadata), sort_keys=True) if ref.metadata else "{}"
                for ref in refs
            ],
            pa.string(),
        ),
    }


def _stamp_columns(refs: Sequence[ImageRef]) -> dict[str, pa.Array]:
    return {
        "size": pa.array([ref.size for ref in refs], pa.int64()),
        "modified_at": pa.array([ref.modified_at for ref in refs], pa.float64()),
    }


def constant(value: str | datetime, rows: int, type_: pa.DataType | None = None) -> pa.Array:
    """An array of one repeated value."""
    return pa.repeat(pa.scalar(value, type_), rows)


def uris_table(sightings: Iterable[tuple[ImageRef, str]], run_id: str) -> pa.Table:
    """Rows of the URIs table from (where it lay, sample id)."""
    pairs = list(sightings)
    refs = [ref for ref, _ in pairs]
    columns = {
        "sample_id": pa.array([sample_id for _, sample_id in pairs], pa.string()),
        **input_columns(refs),
        **_stamp_columns(refs),
        "run_id": constant(run_id, len(refs)),
    }
    return pa.table(columns, schema=URIS)


def rejects_table(rejects: Sequence[Reject], limits: str, run_id: str) -> pa.Table:
    """Rows of the rejects table."""
    refs = [reject.ref for reject in rejects]
    columns = {
        **input_columns(refs),
        **_stamp_columns(refs),
        "reason": pa.array([reject.reason for reject in rejects], pa.string()),
        "detail": pa.array([reject.detail for reject in rejects], pa.string()),
        "limits": constant(limits, len(refs)),
        "run_id": constant(run_id, len(refs)),
    }
    return pa.table(columns, schema=REJECTS)


def flag_from_row(row: dict[str, Any], group: Group | None = None) -> Flag:
    """A row of the scores table, as Arrow gives it, with kind and rank set, and its group."""
    return Flag(
        rank=row["rank"],
        kind=row["kind"],
        sample_id=row["sample_id"],
        uri=row["uri"],
        source=row["source"],
        score=row["score"],
        p_value=row["p_value"],
        level=row["level"],
        group=group,
        reasons=tuple(row["reasons"] or ()),
        nearest=tuple(Neighbour(**near) for near in row["nearest"] or ()),
        run_id=row["run_id"],
    )
