"""Sound staged data passes its audit; each way to spoil it fails the expectation meant for it."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas.arrow import SAMPLES, SCORES
from schemas.audit import Audit
from schemas.errors import AuditError
from schemas.expectations import audit_dataset, audit_samples, audit_scores, samples_frame
from schemas.records import Level

DIMENSIONS: dict[Level, int] = {"low": 4, "mid": 5, "high": 6}
NOW = datetime(2026, 1, 2, tzinfo=UTC)
Rows = list[dict[str, Any]]

DATASET = pa.schema(  # what the audit reads of `curation.dataset.DATASET`
    [(name, pa.string()) for name in ("sample_id", "label", "uri", "encoder", "run_id", "reviewer")]
    + [("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))]
    + [("width", pa.int32()), ("height", pa.int32())]
    + [(name, pa.timestamp("us", tz="UTC")) for name in ("reviewed_at", "added_at")]
)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sample_rows(count: int = 20) -> Rows:
    rng = np.random.default_rng(0)

    def unit(size: int) -> list[float]:
        vector = rng.standard_normal(size)
        return list(vector / np.linalg.norm(vector))

    return [
        {
            "encoder": "toy-000000000000",
            "sample_id": sha256(str(number).encode()),
            "uri": f"photos/{number}.png",
            "width": 300,
            "height": 200,
            "format": "png",
            "bytes": 12_345,
            "phash": "0123456789abcdef",
            "run_id": "run",
            "thumbnail": b"\xff\xd8\xff\xe0 and so on",
            "brightness": 0.5,
            "contrast": 0.2,
            "sharpness": 12.0,
            "saturation": 0.0,
            "entropy": 6.5,
            "clipped": 0.01,
            **{f"embedding_{level}": unit(size) for level, size in DIMENSIONS.items()},
        }
        for number in range(count)
    ]


def score_rows(count: int = 20, flags: int = 4) -> Rows:
    return [
        {
            "run_id": "run",
            "encoder": "toy-000000000000",
            "sample_id": sha256(str(number).encode()),
            "uri": f"photos/{number}.png",
            "source": "line-3",
            "kind": (["outlier"] * 3 + ["capture_fault"])[number] if number < flags else None,
            "rank": number + 1 if number < flags else None,
            "score": 0.99 - number / 100,
            "p_value": 0.05 if number < flags else None,
            "level": "high",
            "z_low": 0.1,
            "z_mid": -0.2,
            "z_high": 3.0,
            "reasons": ["far from its neighbours"] if number < flags else [],
        }
        for number in range(count)
    ]


def dataset_rows(count: int = 6) -> Rows:
    return [
        {
            "sample_id": sha256(bytes([number])),
            "image": {"bytes": bytes([number]), "path": f"{number}.png"},
            "label": "edge_case",
            "uri": f"photos/{number}.png",
            "width": 300,
            "height": 200,
            "encoder": "toy-000000000000",
            "run_id": "run",
            "reviewer": "ada",
            "reviewed_at": NOW,
            "added_at": NOW,
        }
        for number in range(count)
    ]


def reader(rows: Rows, schema: pa.Schema) -> pa.RecordBatchReader:
    """The columns that `rows` have, in three batches: what is derived per batch must add up."""
    schema = pa.schema([field for field in schema if field.name in rows[0]])
    table = pa.Table.from_pylist(rows, schema=schema)
    size = -(-len(rows) // 3)
    return pa.RecordBatchReader.from_batches(schema, table.to_batches(max_chunksize=size))


def samples(rows: Rows, dimensions: Mapping[Level, int] = DIMENSIONS, **context: Any) -> Audit:
    return audit_samples(reader(rows, SAMPLES), dimensions=dimensions, **context)


def scores(rows: Rows) -> Audit:
    return audit_scores(reader(rows, SCORES), run_id="run", samples=20)


def dataset(rows: Rows, **context: Any) -> Audit:
    return audit_dataset(reader(rows, DATASET), **context)


def failed(audit: Audit) -> set[tuple[str, str]]:
    return {(outcome.expectation, outcome.column) for outcome in audit.failures}


@pytest.mark.parametrize(
    "audit", [samples(sample_rows()), scores(score_rows()), dataset(dataset_rows())]
)
def test_sound_data_passes_and_its_audit_is_json(audit: Audit) -> None:
    audit.require()
    assert not audit.warnings
    assert json.loads(json.dumps(audit.to_json()))["success"] is True
    assert all(outcome.observed for outcome in audit.outcomes)


@pytest.mark.parametrize(
    ("column", "value", "expectation", "audited"),
    [
        ("sample_id", None, "expect_column_values_to_be_null", "missing"),
        ("sample_id", "ABC", "expect_column_values_to_match_regex", "sample_id"),
        ("sample_id", sha256(b"1"), "expect_column_values_to_be_unique", "sample_id"),
        ("uri", None, "expect_column_values_to_be_null", "missing"),
        ("width", 0, "expect_column_values_to_be_between", "width"),
        ("height", -1, "expect_column_values_to_be_between", "height"),
        ("bytes", 0, "expect_column_values_to_be_between", "bytes"),
        ("brightness", 1.5, "expect_column_values_to_be_between", "brightness"),
        ("contrast", float("nan"), "expect_column_values_to_be_null", "missing"),
        ("entropy", 8.5, "expect_column_values_to_be_between", "entropy"),
        ("phash", "xyz", "expect_column_values_to_match_regex", "phash"),
        ("thumbnail", b"", "expect_column_values_to_be_in_set", "thumbnail_is_jpeg"),
        ("thumbnail", None, "expect_column_values_to_be_in_set", "thumbnail_is_jpeg"),
        ("embedding_low", None, "expect_column_values_to_be_null", "missing"),
        ("embedding_low", [1.0], "expect_column_values_to_be_in_set", "embedding_low_size"),
        (
            *("embedding_mid", [float("nan"), 1.0, 0.0, 0.0, 0.0]),
            *("expect_column_values_to_be_null", "missing"),
        ),
        (
            *("embedding_mid", [float("inf"), 1.0, 0.0, 0.0, 0.0]),
            *("expect_column_values_to_be_null", "missing"),
        ),
        ("embedding_high", [0.5] * 6, "expect_column_values_to_be_between", "embedding_high_norm"),
        ("embedding_high", [0.0] * 6, "expect_column_values_to_be_between", "embedding_high_norm"),
    ],
)
def test_a_spoiled_sample_fails(column: str, value: object, expectation: str, audited: str) -> None:
    rows = sample_rows()
    rows[13][column] = value
    audit = samples(rows)
    assert (expectation, audited) in failed(audit)
    if audited == "missing":
        (observed,) = (each.observed for each in audit.failures if each.column == "missing")
        assert f"such as {column}" in observed
    with pytest.raises(AuditError, match="audit of samples failed, nothing was published"):
        audit.require()


def test_vectors_that_came_without_images_have_no_quality() -> None:
    rows = sample_rows()
    of_image = ("width", "height", "format", "bytes", "phash", "thumbnail", "brightness")
    of_image += ("contrast", "sharpness", "saturation", "entropy", "clipped")
    for row in rows:
        row |= dict.fromkeys(of_image)

    samples(rows, of_images=False).require()
    assert failed(samples(rows)) == {
        ("expect_column_values_to_be_null", "missing"),
        ("expect_column_values_to_be_in_set", "thumbnail_is_jpeg"),
    }


@pytest.mark.parametrize(
    ("change", "expectation", "audited"),
    [
        ({"run_id": "another"}, "expect_column_values_to_be_in_set", "run_id"),
        ({"kind": "odd"}, "expect_column_values_to_be_in_set", "kind"),
        ({"kind": None}, "expect_column_values_to_be_in_set", "ranked_as_flag"),
        ({"rank": 1}, "expect_column_values_to_be_unique", "rank"),
        ({"rank": 9}, "expect_column_values_to_be_between", "rank"),
        ({"score": None}, "expect_column_values_to_be_null", "missing"),
        ({"score": float("inf")}, "expect_column_values_to_be_in_set", "finite"),
        ({"score": float("nan")}, "expect_column_values_to_be_in_set", "finite"),
        ({"z_high": float("nan")}, "expect_column_values_to_be_in_set", "finite"),
        ({"p_value": 0.0}, "expect_column_values_to_be_between", "p_value"),
        ({"p_value": 1.1}, "expect_column_values_to_be_between", "p_value"),
        ({"level": "top"}, "expect_column_values_to_be_in_set", "level"),
        ({"sample_id": sha256(b"0")}, "expect_column_values_to_be_unique", "sample_id"),
    ],
)
def test_a_spoiled_score_fails(change: dict[str, object], expectation: str, audited: str) -> None:
    rows = score_rows()
    rows[2] |= change
    assert (expectation, audited) in failed(scores(rows))


def test_every_sample_needs_a_score() -> None:
    assert failed(scores(score_rows()[:-1])) == {("expect_table_row_count_to_equal", "")}


def test_a_run_without_flags_passes() -> None:
    scores(score_rows(flags=0)).require()


def test_a_flag_without_reasons_is_a_warning() -> None:
    rows = score_rows()
    rows[0]["reasons"] = []
    audit = scores(rows)
    audit.require()
    assert [outcome.column for outcome in audit.warnings] == ["explained"]


@pytest.mark.parametrize(
    ("change", "expectation", "audited"),
    [
        ({"image": {"bytes": b"other"}}, "expect_column_values_to_be_in_set", "image_is_sample"),
        ({"image": {"bytes": None}}, "expect_column_values_to_be_between", "image_bytes"),
        ({"image": None}, "expect_column_values_to_be_between", "image_bytes"),
        ({"label": "weird"}, "expect_column_values_to_be_in_set", "label"),
        ({"reviewer": None}, "expect_column_values_to_be_in_set", "review_is_signed"),
        ({"label": None}, "expect_column_values_to_be_in_set", "review_is_signed"),
        ({"width": 0}, "expect_column_values_to_be_between", "width"),
        ({"added_at": None}, "expect_column_values_to_be_null", "missing"),
        ({"sample_id": sha256(b"\0")}, "expect_column_values_to_be_unique", "sample_id"),
    ],
)
def test_a_spoiled_dataset_row_fails(
    change: dict[str, object], expectation: str, audited: str
) -> None:
    rows = dataset_rows()
    rows[3] |= change
    assert (expectation, audited) in failed(dataset(rows))


def test_a_row_that_the_dataset_holds_already_fails() -> None:
    rows = dataset_rows()
    audit = dataset(rows, existing={rows[4]["sample_id"]})
    assert failed(audit) == {("expect_column_values_to_be_in_set", "is_new")}


def test_rows_without_a_verdict_are_a_warning() -> None:
    rows = dataset_rows()
    rows[0] |= {"label": None, "reviewer": None, "reviewed_at": None}
    audit = dataset(rows)
    audit.require()
    assert [str(outcome) for outcome in audit.warnings] == [
        "expect_column_values_to_not_be_null of 'label': observed 1 of 6 values unexpected"
    ]


def test_many_rejects_warn_and_above_a_limit_forbid_the_commit() -> None:
    audit = samples(sample_rows(20), rejected=20)
    audit.require()
    assert [(o.column, o.observed) for o in audit.warnings] == [("rejected_share", "0.5")]
    samples(sample_rows(20), rejected=20, max_rejected=0.5).require()
    with pytest.raises(AuditError, match=r"rejected_share.*at most 0\.3.*observed 0\.5"):
        samples(sample_rows(20), rejected=20, max_rejected=0.3).require()


@pytest.mark.parametrize("rejected", [0, 3])
def test_a_batch_without_samples_passes(rejected: int) -> None:
    empty = pa.RecordBatchReader.from_batches(SAMPLES, [])
    audit = audit_samples(empty, dimensions=DIMENSIONS, rejected=rejected)
    audit.require()
    assert audit.rows == 0


def test_a_missing_column_is_named() -> None:
    rows = sample_rows()
    for row in rows:
        del row["phash"]
    with pytest.raises(AuditError, match="expect_table_columns_to_match_set: observed no phash"):
        samples(rows).require()


def test_the_error_is_one_line_with_the_expectation_and_what_was_observed() -> None:
    rows = sample_rows()
    for row in rows[:3]:
        row["embedding_high"] = [0.5] + 5 * [0.0]
    with pytest.raises(AuditError) as raised:
        samples(rows).require()
    assert str(raised.value) == (
        "audit of samples failed, nothing was published: expect_column_values_to_be_between of "
        "'embedding_high_norm' (at least 0.999, at most 1.001): "
        "observed 3 of 20 values unexpected, such as 0.5"
    )
    assert raised.value.exit_code == 3


def test_a_level_that_the_encoder_does_not_give_is_null_throughout() -> None:
    rows = sample_rows()
    for row in rows:
        row["embedding_low"] = None
    only: dict[Level, int] = {"mid": 5, "high": 6}
    samples(rows, only).require()
    assert failed(samples(sample_rows(), only)) == {
        ("expect_column_values_to_be_null", "embedding_low_size")
    }


def test_norms_follow_slices_nulls_and_ragged_lists() -> None:
    vectors = pa.array(
        [[9.0], [3.0, 4.0], None, [], [1.0, None], [2.0]], type=pa.list_(pa.float32())
    )
    batch = pa.RecordBatch.from_pydict({"embedding_low": vectors}).slice(1)
    frame = samples_frame(pa.RecordBatchReader.from_batches(batch.schema, [batch]))
    np.testing.assert_array_equal(frame["embedding_low_norm"], [5.0, 0.0, 0.0, np.nan, 2.0])
    np.testing.assert_array_equal(frame["embedding_low_size"], [2, np.nan, 0, 2, 1])


AUDIT_IN_A_FRESH_PROCESS = """
import sys
import schemas.expectations
assert "great_expectations" not in sys.modules, "imported before the first audit"
import pyarrow as pa
empty = pa.RecordBatchReader.from_batches(pa.schema([]), [])
schemas.expectations.audit_dataset(empty)
assert "great_expectations" in sys.modules
"""


def test_an_audit_is_imported_late_and_leaves_neither_output_nor_files(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", AUDIT_IN_A_FRESH_PROCESS],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_an_audit_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Callable[..., None]:
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    samples(sample_rows()).require()
