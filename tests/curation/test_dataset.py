"""Rows carry the image, the judgement and the lineage, and pass the audit of a dataset."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from curation.dataset import DATASET, CuratedImage, check_name, dataset_table
from schemas.errors import UsageError
from schemas.expectations import audit_dataset
from schemas.tables import Table

ADDED_AT = datetime(2026, 5, 6, tzinfo=UTC)


def test_rows_carry_image_judgement_and_lineage(images: list[CuratedImage]) -> None:
    table = dataset_table(images, added_at=ADDED_AT)
    assert table.schema == DATASET
    rows = table.to_pylist()
    chosen = images[5]
    assert rows[5] == {
        "sample_id": chosen.selection.sample_id,
        "image": {"bytes": chosen.data, "path": f"{chosen.selection.sample_id}.jpg"},
        "label": "edge_case",
        "tags": ["crack", 'a "b", <i>|c'],
        "note": "line one\nline two",
        "uri": "s3://bucket/Zürich/5.png",
        "source": "line-1|<script>",
        "captured_at": chosen.sample["captured_at"],
        "metadata": '{"lens": 3}',
        "width": 35,
        "height": 20,
        "encoder": "toy-0123456789ab",
        "run_id": "run-flag",
        "score": 0.55,
        "reviewer": "ada",
        "reviewed_at": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        "added_at": ADDED_AT,
    }


def test_what_nobody_judged_or_flagged_is_null(images: list[CuratedImage]) -> None:
    rows = dataset_table(images, added_at=ADDED_AT).to_pylist()
    unjudged, unflagged, neither = rows[9], rows[4], rows[0]
    assert [unjudged[name] for name in ("label", "note", "reviewer", "reviewed_at")] == [None] * 4
    assert (unjudged["tags"], unjudged["run_id"]) == ([], "run-flag")
    assert (unflagged["score"], unflagged["run_id"]) == (None, "run-verdict")
    assert (neither["score"], neither["run_id"], neither["label"]) == (None, None, None)


def test_rows_are_staged_audited_and_committed(images: list[CuratedImage], tmp_path: Path) -> None:
    table = Table(tmp_path / "cracks", DATASET)
    staged = [
        table.stage(dataset_table(images[:6], added_at=ADDED_AT)),
        table.stage(dataset_table(images[6:], added_at=ADDED_AT)),
    ]
    audit_dataset(table.stream(staged)).require()
    table.commit(staged, transaction="curate-1")
    assert (
        table.read().sort_by("uri").equals(dataset_table(images, added_at=ADDED_AT).sort_by("uri"))
    )


@pytest.mark.parametrize("name", ["cracks", "line-3.v2_b", "A" * 100])
def test_a_name_that_can_be_a_folder(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "ä", "cracks\n", "A" * 101])
def test_a_name_that_cannot_be_a_folder(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a dataset; take letters, digits"):
        check_name(name)
