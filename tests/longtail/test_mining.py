"""Mining runs through the public API."""

from __future__ import annotations

import numpy as np
import pyarrow.dataset as ds

from longtail import Workspace


def test_another_detector_ranks_otherwise(workspace: Workspace) -> None:
    before = workspace.flags(kind="outlier")
    Workspace(workspace.root, {"mining": {"detector": "lof"}}).mine()
    after = workspace.flags(kind="outlier")
    assert len(after) == len(before) == 10
    assert [flag.sample_id for flag in after] != [flag.sample_id for flag in before]


def test_near_duplicates_take_one_place_of_the_budget(workspace: Workspace) -> None:
    apart = 0.6
    Workspace(workspace.root, {"mining": {"apart": apart}}).mine()

    flags = workspace.flags(kind="outlier")
    named = [flag.sample_id for flag in flags]
    assert 1 < len(flags) <= 10
    table = workspace.catalog.samples.read(["sample_id", "embedding_high"]).to_pylist()
    vector = {row["sample_id"]: np.array(row["embedding_high"]) for row in table}
    gaps = [np.linalg.norm(vector[a] - vector[b]) for a in named for b in named if a < b]
    assert min(gaps) > apart

    of_run = (ds.field("run_id") == flags[0].run_id) & ds.field("duplicate_of").is_valid()
    copies = workspace.catalog.scores.read(["sample_id", "duplicate_of", "rank"], of_run)
    assert copies.num_rows > 0
    for copy in copies.to_pylist():
        assert copy["rank"] is None
        assert copy["duplicate_of"] in named
        gap = np.linalg.norm(vector[copy["sample_id"]] - vector[copy["duplicate_of"]])
        assert gap <= apart + 1e-6
    counts = [sum(c == name for c in copies["duplicate_of"].to_pylist()) for name in named]
    assert any("stands for" in why for flag in flags for why in flag.reasons)
    assert [bool(count) for count in counts] == [
        any("stands for" in why for why in flag.reasons) for flag in flags
    ]
