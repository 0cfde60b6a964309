"""The demo's count of hits, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from longtail import Workspace
from longtail.demo import Hits, judge


def test_hits_are_counted_by_file_name_and_chance_over_the_pool(mined: Workspace) -> None:
    """Of the 2,624 photographs 821 are more likely defective than not: 0001 is, 2624 is not."""
    pool = [f"/a/venv/that/moved/cell{number:04}.png" for number in range(1, 2625)]
    flag = mined.flags(kind="outlier")[0]
    flags = [replace(flag, uri=pool[0])] * 60 + [replace(flag, uri=pool[-1])] * 60
    flags.insert(0, replace(flag, uri=pool[0], kind="capture_fault"))

    assert judge(flags, pool) == Hits(100, 60, pytest.approx(100 * 821 / 2624))
    assert judge(flags, pool[:20]) == Hits(2, 2, pytest.approx(2 * 17 / 20))
    assert judge([], pool) == Hits(0, 0, 0)


def test_the_demo_leaves_other_workspaces_alone(longtail, workspace: Workspace) -> None:
    told = longtail("demo", workspace.root, "--limit", 10)
    assert told.code == 2
    assert "holds images of your own; give the demo a folder of its own" in told.err
    assert workspace.status()["samples"] == 90
