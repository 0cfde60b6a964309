"""What to judge next, through the command and the public API."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.suggest import suggest
from longtail import Workspace
from schemas.arrow import matrix
from schemas.errors import NotFoundError


def test_half_are_the_strangest_and_half_stand_for_the_rest(longtail, mined: Workspace) -> None:
    told = longtail("suggest", "-w", mined.root, "-n", 12, "--json").json
    assert [one["why"] for one in told] == ["outlier"] * 6 + ["representative"] * 6
    scores = mined.catalog.scores.read(["sample_id", "score"]).to_pylist()
    strangest = sorted(scores, key=lambda row: -row["score"])[:6]
    assert [one["score"] for one in told[:6]] == [row["score"] for row in strangest]
    assert len({one["sample_id"] for one in told}) == 12
    assert all(one["source"] == "line-3" and one["uri"].endswith(".png") for one in told)

    shown = longtail("suggest", "-w", mined.root).out
    assert len(shown.splitlines()) == 52
    assert told[0]["sample_id"][:12] in shown


def test_verdicts_of_both_kinds_bring_up_what_they_leave_in_doubt(workspace: Workspace) -> None:
    table = workspace.catalog.samples.read(["sample_id", "embedding_mid", "embedding_high"])
    vectors = {
        row: np.r_[mid, high]
        for row, mid, high in zip(
            table["sample_id"].to_pylist(),
            matrix(table["embedding_mid"]),
            matrix(table["embedding_high"]),
            strict=True,
        )
    }
    edge_cases, normal = np.array_split(sorted(vectors)[:20], 2)
    workspace.verdict(list(edge_cases), "edge_case")
    workspace.verdict(list(normal), "normal")

    found = workspace.suggest(3)

    assert {one.why for one in found} == {"uncertain"}
    rows, ids = np.array([vectors[one] for one in sorted(vectors)]), sorted(vectors)
    doubted = suggest(3, rows, np.zeros(len(ids)), np.arange(20), np.arange(20) < 10)
    assert [one.sample_id for one in found] == [ids[one.row] for one in doubted]


def test_what_was_judged_is_not_suggested_again(longtail, workspace: Workspace) -> None:
    first = [one.sample_id for one in workspace.suggest(4)]
    workspace.verdict(first, "junk")
    assert not set(first) & {one.sample_id for one in workspace.suggest(90)}
    assert len(workspace.suggest(90)) == 86
    workspace.verdict([one.sample_id for one in workspace.suggest(90)], "normal")
    assert "nothing is left to judge" in longtail("suggest", "-w", workspace.root).out


def test_before_the_first_run_there_is_nothing_to_suggest(longtail, empty: Workspace) -> None:
    with pytest.raises(NotFoundError, match="has no mining run yet"):
        empty.suggest()
    assert longtail("suggest", "-w", empty.root).code == 2
    assert longtail("suggest", "-w", empty.root, "-n", 0).code == 2


def test_a_duplicate_is_no_label_of_a_classifier(workspace: Workspace) -> None:
    ids = sorted(workspace.catalog.samples.read(["sample_id"])["sample_id"].to_pylist())
    workspace.verdict(ids[:10], "edge_case")
    workspace.verdict(ids[10:20], "duplicate")
    found = workspace.suggest(90)
    assert {one.why for one in found} == {"outlier", "representative"}
    assert {one.sample_id for one in found} == {*ids[20:]}
