"""What staged data must fulfil before it is committed: Great Expectations suites, as code.

One suite for each table that a job publishes: `audit_samples`, `audit_scores`, `audit_dataset`.
Each reads a `pyarrow.RecordBatchReader` over what is staged, reduces it batch by batch to a narrow
frame (an embedding becomes its size and norm; an image, whether its digest is its name) and
validates that frame. Neither vectors nor pixels enter pandas, and a million rows take seconds.

A critical failure forbids the commit (`Audit.require`); a warning is kept for the report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from schemas.audit import Audit, great_expectations, validate
from schemas.records import FLAG_KINDS, LEVELS, QUALITY_STATISTICS, VERDICT_LABELS, Level

USUAL_REJECTED_SHARE = 0.1
"""A larger share of rejected inputs is worth a warning, where no limit was set."""

_SHA256 = r"^[0-9a-f]{64}$"
_UNIT_RANGE = ("brightness", "contrast", "saturation", "clipped")

_SAMPLES_REQUIRED = ("encoder", "sample_id", "uri", "run_id")
_SAMPLES_OF_IMAGES = ("format", "phash", "width", "height", "bytes", *QUALITY_STATISTICS)
_SAMPLES_COLUMNS = (*_SAMPLES_REQUIRED, *_SAMPLES_OF_IMAGES)
_SAMPLES_DERIVED = (
    *("missing", "thumbnail_is_jpeg"),
    *(f"embedding_{level}_{what}" for level in LEVELS for what in ("size", "norm")),
)
_PATCHES_REQUIRED = ("encoder", "sample_id", "run_id")
_PATCHES_COLUMNS = (*_PATCHES_REQUIRED, "score", "x", "y")
_SCORES_COLUMNS = (
    *("run_id", "encoder", "sample_id", "uri", "kind", "rank", "score", "p_value", "level"),
    *(f"z_{level}" for level in LEVELS),
)
_SCORES_REQUIRED = ("run_id", "encoder", "sample_id", "uri", "score", "level")
_SCORES_DERIVED = ("missing", "ranked_as_flag", "explained", "finite")
_DATASET_COLUMNS = (
    *("sample_id", "label", "uri", "width", "height", "encoder", "run_id"),
    *("reviewer", "reviewed_at", "added_at"),
)
_DATASET_REQUIRED = ("sample_id", "uri", "width", "height", "encoder", "added_at")
_DATASET_DERIVED = ("missing", "image_bytes", "image_is_sample", "is_new", "review_is_signed")


def audit_samples(
    staged: pa.RecordBatchReader,
    *,
    dimensions: Mapping[Level, int],
    of_images: bool = True,
    rejected: int = 0,
    max_rejected: float | None = None,
) -> Audit:
    """Audits rows about to join the samples table; see `samples_frame`.

    dimensions: of the encoder's embeddings, by level; a level it does not give must be null.
    of_images: whether images were decoded; else there is nothing that only an image tells.
    rejected: how many inputs of the run were refused, beside the staged ones.
    max_rejected: the share of refused inputs, in [0, 1], above which nothing is published. None
        warns above `USUAL_REJECTED_SHARE` and publishes.
    """
    required = [*_SAMPLES_REQUIRED, *(_SAMPLES_OF_IMAGES if of_images else ())]
    required += [f"embedding_{level}_{what}" for level in dimensions for what in ("size", "norm")]
    frame = samples_frame(staged, required=required)
    inputs = len(frame) + rejected
    totals = pd.DataFrame({"rejected_share": [rejected / inputs if inputs else 0.0]})
    gxe = great_expectations().expectations

    rows = [
        _columns(gxe, _SAMPLES_COLUMNS + _SAMPLES_DERIVED),
        _complete(gxe),
        gxe.ExpectColumnValuesToMatchRegex(column="sample_id", regex=_SHA256),
        gxe.ExpectColumnValuesToBeUnique(column="sample_id"),
        *(
            gxe.ExpectColumnValuesToBeBetween(column=name, min_value=1)
            for name in ("width", "height", "bytes")
        ),
        gxe.ExpectColumnValuesToBeInSet(column="thumbnail_is_jpeg", value_set=[of_images]),
        *(
            gxe.ExpectColumnValuesToBeBetween(column=name, min_value=0, max_value=1)
            for name in _UNIT_RANGE
        ),
        gxe.ExpectColumnValuesToBeBetween(column="sharpness", min_value=0),
        gxe.ExpectColumnValuesToBeBetween(column="entropy", min_value=0, max_value=8),
        gxe.ExpectColumnValuesToMatchRegex(column="phash", regex=r"^[0-9a-f]{16}$"),
    ]
    for level in LEVELS:
        size, norm = f"embedding_{level}_size", f"embedding_{level}_norm"
        if level not in dimensions:
            rows.append(gxe.ExpectColumnValuesToBeNull(column=size))
            continue
        rows += [
            gxe.ExpectColumnValuesToBeInSet(column=size, value_set=[dimensions[level]]),
            gxe.ExpectColumnValuesToBeBetween(column=norm, min_value=0.999, max_value=1.001),
        ]
    rejects = gxe.ExpectColumnMaxToBeBetween(
        column="rejected_share",
        max_value=USUAL_REJECTED_SHARE if max_rejected is None else max_rejected,
        severity="warning" if max_rejected is None else "critical",
    )
    return validate("samples", [(frame, rows), (totals, [rejects])])


def audit_patches(staged: pa.RecordBatchReader) -> Audit:
    """Audits patch scores: a distance in [0, 2] and a place in the image, or neither."""
    frame = _frame(staged, lambda batch: _present(batch, _PATCHES_COLUMNS), _PATCHES_REQUIRED)
    gxe = great_expectations().expectations
    rows = [
        _columns(gxe, (*_PATCHES_COLUMNS, "missing")),
        _complete(gxe),
        gxe.ExpectColumnValuesToMatchRegex(column="sample_id", regex=_SHA256),
        gxe.ExpectColumnValuesToBeUnique(column="sample_id"),
        *(
            gxe.ExpectColumnValuesToBeBetween(column=name, min_value=0, max_value=most)
            for name, most in (("score", 2), ("x", 1), ("y", 1))
        ),
    ]
    return validate("patches", [(frame, rows)])


def audit_scores(staged: pa.RecordBatchReader, *, run_id: str, samples: int) -> Audit:
    """Audits the scores of one mining run over `samples` samples; see `scores_frame`.

    Ranks must be exactly 1 to the number of flags, and be given to flags only.
    """
    frame = scores_frame(staged)
    flags = int(frame["rank"].count()) if "rank" in frame else 0
    gxe = great_expectations().expectations
    rows = [
        _columns(gxe, _SCORES_COLUMNS + _SCORES_DERIVED),
        gxe.ExpectTableRowCountToEqual(value=samples),
        _complete(gxe),
        gxe.ExpectColumnValuesToBeInSet(column="run_id", value_set=[run_id]),
        gxe.ExpectColumnValuesToMatchRegex(column="sample_id", regex=_SHA256),
        gxe.ExpectColumnValuesToBeUnique(column="sample_id"),
        gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=list(FLAG_KINDS)),
        gxe.ExpectColumnValuesToBeInSet(column="ranked_as_flag", value_set=[True]),
        gxe.ExpectColumnValuesToBeUnique(column="rank"),
        gxe.ExpectColumnValuesToBeBetween(column="rank", min_value=1, max_value=max(flags, 1)),
        gxe.ExpectColumnValuesToBeInSet(column="finite", value_set=[True]),
        gxe.ExpectColumnValuesToBeBetween(
            column="p_value", min_value=0, max_value=1, strict_min=True
        ),
        gxe.ExpectColumnValuesToBeInSet(column="level", value_set=list(LEVELS)),
        gxe.ExpectColumnValuesToBeInSet(column="explained", value_set=[True], severity="warning"),
    ]
    return validate("scores", [(frame, rows)])


def audit_dataset(staged: pa.RecordBatchReader, *, existing: Collection[str] = ()) -> Audit:
    """Audits rows about to join a dataset that holds the sample ids `existing` already.

    An image is taken for whole when its bytes hash to its sample id: those are the bytes that the
    curate job has just decoded. A sample that came as a vector is named by its URI instead. Rows
    without a verdict are a warning.
    """
    frame = dataset_frame(staged, existing=existing)
    gxe = great_expectations().expectations
    rows = [
        _columns(gxe, _DATASET_COLUMNS + _DATASET_DERIVED),
        _complete(gxe),
        gxe.ExpectColumnValuesToMatchRegex(column="sample_id", regex=_SHA256),
        gxe.ExpectColumnValuesToBeUnique(column="sample_id"),
        gxe.ExpectColumnValuesToBeInSet(column="is_new", value_set=[True]),
        gxe.ExpectColumnValuesToBeBetween(column="image_bytes", min_value=1),
        gxe.ExpectColumnValuesToBeInSet(column="image_is_sample", value_set=[True]),
        gxe.ExpectColumnValuesToBeBetween(column="width", min_value=1),
        gxe.ExpectColumnValuesToBeBetween(column="height", min_value=1),
        gxe.ExpectColumnValuesToBeInSet(column="label", value_set=list(VERDICT_LABELS)),
        gxe.ExpectColumnValuesToBeInSet(column="review_is_signed", value_set=[True]),
        gxe.ExpectColumnValuesToNotBeNull(column="label", severity="warning"),
    ]
    return validate("dataset", [(frame, rows)])


def samples_frame(
    staged: pa.RecordBatchReader, *, required: Sequence[str] = _SAMPLES_REQUIRED
) -> pd.DataFrame:
    """One row per staged sample: its scalar columns and, derived,

    missing: the first of the `required` columns that is null, or NaN;
    thumbnail_is_jpeg: bool, the thumbnail starts as a JPEG does;
    embedding_{level}_size: its length;
    embedding_{level}_norm: its Euclidean norm, NaN where a value is missing or not finite.
    """

    def derive(batch: pa.RecordBatch) -> dict[str, pa.Array]:
        columns = _present(batch, _SAMPLES_COLUMNS)
        if "thumbnail" in batch.schema.names:
            start = pc.binary_slice(batch.column("thumbnail"), 0, 3)
            columns["thumbnail_is_jpeg"] = pc.fill_null(pc.equal(start, b"\xff\xd8\xff"), False)
        for level in LEVELS:
            if (name := f"embedding_{level}") in batch.schema.names:
                columns[f"{name}_size"] = pc.list_value_length(batch.column(name))
                columns[f"{name}_norm"] = pa.array(_norms(batch.column(name)))
        return columns

    return _frame(staged, derive, required)


def scores_frame(staged: pa.RecordBatchReader) -> pd.DataFrame:
    """One row per score: its scalar columns and, derived,

    missing: the first column that is null and must not be;
    ranked_as_flag: bool, it has both a kind and a rank, or neither;
    explained: bool, it has a reason, or is no flag;
    finite: bool, its score and z values are numbers (z may be null).
    """

    def derive(batch: pa.RecordBatch) -> dict[str, pa.Array]:
        columns = _present(batch, _SCORES_COLUMNS)
        if {"kind", "rank"} <= columns.keys():
            unranked = pc.is_null(columns["rank"])
            columns["ranked_as_flag"] = pc.equal(pc.is_null(columns["kind"]), unranked)
            if "reasons" in batch.schema.names:
                reasons = pc.fill_null(pc.list_value_length(batch.column("reasons")), 0)
                columns["explained"] = pc.or_(unranked, pc.greater(reasons, 0))
        finite = pa.array(np.ones(batch.num_rows, dtype=bool))
        for name in ("score", *(f"z_{level}" for level in LEVELS)):
            if name in columns:
                finite = pc.and_(finite, pc.fill_null(pc.is_finite(columns[name]), True))
        return columns | {"finite": finite}

    return _frame(staged, derive, _SCORES_REQUIRED)


def dataset_frame(staged: pa.RecordBatchReader, *, existing: Collection[str] = ()) -> pd.DataFrame:
    """One row per staged row of a dataset: its scalar columns and, derived,

    missing: the first column that is null and must not be;
    image_bytes: how many there are, 0 for none;
    image_is_sample: bool, their SHA-256, or that of the URI, is the sample id;
    is_new: bool, the sample id is not in `existing`;
    review_is_signed: bool, a label has a reviewer and a time, and no label has neither.
    """
    known = pa.array(list(existing), type=pa.string())

    def derive(batch: pa.RecordBatch) -> dict[str, pa.Array]:
        columns = _present(batch, _DATASET_COLUMNS)
        if "sample_id" in columns:
            columns["is_new"] = pc.invert(pc.is_in(columns["sample_id"], value_set=known))
        if {"label", "reviewer", "reviewed_at"} <= columns.keys():
            label, *signature = (
                pc.is_null(columns[name]) for name in ("label", "reviewer", "reviewed_at")
            )
            columns["review_is_signed"] = pc.and_(*(pc.equal(label, part) for part in signature))
        if {"image", "sample_id", "uri"} <= set(batch.schema.names):
            images = pc.struct_field(batch.column("image"), "bytes")
            columns["image_bytes"] = pc.fill_null(pc.binary_length(images), 0)
            by_bytes, by_uri = (
                pc.equal(_digests(named), columns["sample_id"])
                for named in (images, columns["uri"])
            )
            columns["image_is_sample"] = pc.or_kleene(by_bytes, by_uri)
        return columns

    return _frame(staged, derive, _DATASET_REQUIRED)


def _frame(
    staged: pa.RecordBatchReader,
    derive: Callable[[pa.RecordBatch], dict[str, pa.Array]],
    required: Sequence[str],
) -> pd.DataFrame:
    def reduce(batch: pa.RecordBatch) -> pa.Table:
        columns = derive(batch)
        missing = pa.nulls(batch.num_rows, pa.string())
        for name in reversed(required):
            if name in columns:
                unknown = pc.is_null(columns[name], nan_is_null=True)
                missing = pc.if_else(unknown, name, missing)
        return pa.table(columns | {"missing": missing})

    # The empty batch in front gives an empty reader its columns.
    batches = [reduce(pa.RecordBatch.from_pylist([], schema=staged.schema))]
    batches += map(reduce, staged)
    frame: pd.DataFrame = pa.concat_tables(batches).to_pandas()
    return frame


def _present(batch: pa.RecordBatch, names: tuple[str, ...]) -> dict[str, pa.Array]:
    return {name: batch.column(name) for name in names if name in batch.schema.names}


def _norms(vectors: pa.ListArray) -> npt.NDArray[np.float64]:
    """(n,) norms of n lists of any lengths, without a loop; NaN for what is not finite."""
    values = vectors.flatten().to_numpy(zero_copy_only=False)
    squares = np.bincount(
        pc.list_parent_indices(vectors).to_numpy(),
        weights=np.square(values, dtype=np.float64),
        minlength=len(vectors),
    )
    return np.where(np.isfinite(squares), np.sqrt(squares), np.nan)


def _digests(values: pa.BinaryArray | pa.StringArray) -> pa.StringArray:
    buffers = (value.as_buffer() for value in values)
    return pa.array(
        [buffer and hashlib.sha256(buffer).hexdigest() for buffer in buffers], type=pa.string()
    )


def _columns(gxe: Any, names: tuple[str, ...]) -> Any:
    return gxe.ExpectTableColumnsToMatchSet(column_set=list(names), exact_match=False)


def _complete(gxe: Any) -> Any:
    """One expectation for all the columns that must not be null: each costs as much as a batch."""
    return gxe.ExpectColumnValuesToBeNull(column="missing")
