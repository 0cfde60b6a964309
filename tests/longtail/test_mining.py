"""Promises, groups, verdicts and reasons of mining runs, through the public API and the CLI."""

from __future__ import annotations

import json

from longtail import Workspace


def test_a_rate_that_cannot_be_promised_is_said_and_the_budget_taken(
    longtail, workspace: Workspace
) -> None:
    told = longtail("mine", "-w", workspace.root, "--fdr", 0.1)
    summary, note, report = told.out.splitlines()
    assert summary.startswith("run ")
    assert note.startswith("note: no rate is promised, ranked to the budget instead: ")
    assert report.startswith("report: ")
    assert told.err.count("note") == 0
    assert [f"note: {line}" for line in workspace.notes()] == [note]
    assert len(workspace.flags(kind="outlier")) == 10
    page = workspace.report()
    assert page is not None
    assert f'<p class="note">{note.removeprefix("note: ")}</p>' in page.read_text("utf-8")

    again = longtail("mine", "-w", workspace.root, "--fdr", 0.1)
    assert "note:" not in again.out
    as_json = longtail("mine", "-w", workspace.root, "--fdr", 0.2, "--json")
    assert set(json.loads(as_json.out)) >= {"run_id", "flagged"}


def test_another_detector_ranks_otherwise(workspace: Workspace) -> None:
    before = workspace.flags(kind="outlier")
    Workspace(workspace.root, {"mining": {"detector": "lof"}}).mine()
    after = workspace.flags(kind="outlier")
    assert len(after) == len(before) == 10
    assert [flag.sample_id for flag in after] != [flag.sample_id for flag in before]
