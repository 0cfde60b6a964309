"""Mining runs through the public API."""

from __future__ import annotations

from longtail import Workspace


def test_another_detector_ranks_otherwise(workspace: Workspace) -> None:
    before = workspace.flags(kind="outlier")
    Workspace(workspace.root, {"mining": {"detector": "lof"}}).mine()
    after = workspace.flags(kind="outlier")
    assert len(after) == len(before) == 10
    assert [flag.sample_id for flag in after] != [flag.sample_id for flag in before]
