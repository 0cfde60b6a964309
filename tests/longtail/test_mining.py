"""Mining runs through the public API."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

from index.search import Snapshot
from longtail import Workspace, runs
from schemas.errors import UsageError

Photograph = Callable[[Path, int], Path]


def test_another_detector_ranks_otherwise(workspace: Workspace) -> None:
    before = workspace.flags(kind="outlier")
    Workspace(workspace.root, {"mining": {"detector": "lof"}}).mine()
    after = workspace.flags(kind="outlier")
    assert len(after) == len(before) == 10
    assert [flag.sample_id for flag in after] != [flag.sample_id for flag in before]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--budget", "0"), "budget '0' is neither a count like 200 nor a share like 2%"),
        (("--budget", "0%"), "budget '0%' is neither a count like 200 nor a share like 2%"),
        (
            ("--set", "mining.detector=patch"),
            "mining.detector is 'patch': it needs 'patches: true'",
        ),
    ],
)
def test_what_mining_refuses_is_told_before_anything_is_ingested(
    longtail, empty: Workspace, photographs: Path, flags: tuple[str, ...], message: str
) -> None:
    told = longtail("run", "-w", empty.root, photographs, *flags)
    assert told.code == 2
    assert message in told.err
    assert told.err.count("\n") == 1
    assert not empty.catalog.samples.files()


@pytest.mark.parametrize("reference", ["", "source:line-3"])
def test_scores_do_not_hang_on_the_order_of_the_search(
    workspace: Workspace, photograph: Photograph, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    new = [photograph(workspace.root / f"{n}.png", n) for n in range(5)]
    mining = Workspace(workspace.root, {"mining": {"reference": reference}})
    scores = []
    for order in (Snapshot.live_rows, lambda snapshot: snapshot.live_rows()[::-1]):
        monkeypatch.setattr("pipelines.mine._ROWS_PER_BLOCK", 11)
        monkeypatch.setattr(Snapshot, "scan_order", order)
        run = mining.run([*map(str, new)], source="line-4").run_id
        (workspace.catalog.run(run) / runs.MINE).unlink()  # what is unchanged is not mined again
        told = workspace.catalog.scores.read(where=ds.field("run_id") == run)
        scores.append(told.sort_by("sample_id").drop_columns(["run_id"]).to_pylist())
    assert len(scores[0]) == 95
    assert scores[0] == scores[1]


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


def test_verdicts_rerank_what_is_left_at_once_and_in_the_next_run(
    longtail, workspace: Workspace
) -> None:
    w, before = workspace.root, workspace.flags()
    assert workspace.flags(left=True) == before
    outliers = [flag for flag in before if flag.kind == "outlier"]
    edge_case, *junk = [flag.sample_id for flag in outliers[:4]]
    longtail("verdict", "-w", w, edge_case, "edge_case")
    longtail("verdict", "-w", w, *junk, "junk")

    left = longtail("flags", "-w", w, "--left", "--kind", "outlier", "--json").json

    found = [flag["sample_id"] for flag in left]
    assert [flag["rank"] for flag in left] == list(range(1, 11))
    assert not {edge_case, *junk} & set(found)
    known = {flag.sample_id for flag in before}
    new = [flag for flag in left if flag["sample_id"] not in known]
    assert len(new) >= 3  # places in the budget that four judged ones left, one may be a fault
    assert all(flag["reasons"][0].startswith("moved up by verdicts, from place") for flag in new)
    assert workspace.flags() == before

    told = longtail("mine", "-w", w)

    after = workspace.flags()
    assert [flag.sample_id for flag in after if flag.kind == "outlier"] == found
    assert not {edge_case, *junk} & {flag.sample_id for flag in after}
    assert edge_case not in {near.sample_id for flag in after for near in flag.nearest}
    note = re.search(r"^note: (\d+) of 10 outliers owe their place to 4 verdicts$", told.out, re.M)
    assert note is not None
    assert note[0].removeprefix("note: ") in workspace.report().read_text("utf-8")  # type: ignore[union-attr]
    assert workspace.mine().flagged == 0


def test_a_duplicate_leaves_its_place_and_moves_no_other(workspace: Workspace) -> None:
    first, *copies = [one.sample_id for one in workspace.flags(kind="outlier")[:4]]
    workspace.verdict([first], "edge_case")
    before = [one.sample_id for one in workspace.flags(kind="outlier", left=True)]
    workspace.verdict(copies, "duplicate")
    after = [one.sample_id for one in workspace.flags(kind="outlier", left=True)]
    stay = [one for one in before if one not in copies]
    assert (after[: len(stay)], len(after)) == (stay, len(before))
    workspace.mine()
    assert [one.sample_id for one in workspace.flags(kind="outlier")] == after


def test_what_is_like_confirmed_edge_cases_comes_up(workspace: Workspace) -> None:
    scores = workspace.catalog.scores.read(["sample_id", "score", "rank"]).to_pylist()
    low = [row for row in scores if row["rank"] is None and row["score"] > 0]
    hidden = min(low, key=lambda row: row["score"])["sample_id"]
    near = workspace.query(sample_id=hidden, k=13)["sample_id"].to_pylist()[1:]
    assert hidden not in {flag.sample_id for flag in workspace.flags(left=True)}
    workspace.verdict(near, "edge_case")
    assert hidden in {flag.sample_id for flag in workspace.flags(left=True)}


def test_the_doubt_of_ones_own_model_ranks(
    longtail, empty: Workspace, workspace: Workspace, photographs: Path, tmp_path: Path
) -> None:
    paths = sorted(photographs.iterdir())[:30]
    shares = [0.5 + i / 100 for i in range(30)]  # the first are the doubtful ones
    rows = [
        json.dumps({"uri": str(path), "prediction": [share, 1 - share]})
        for path, share in zip(paths, shares, strict=True)
    ]
    (tmp_path / "model.jsonl").write_text("\n".join(rows))
    by_doubt = Workspace(empty.root, {"mining": {"detector": "uncertainty", "budget": 5}})
    by_doubt.run([str(tmp_path / "model.jsonl")])
    uris = [flag.uri for flag in by_doubt.flags(kind="outlier")]
    assert uris == [str(path) for path in paths[:5]]
    reasons = [flag.reasons[0] for flag in by_doubt.flags(kind="outlier")]
    assert all(re.match(r"uncertainty score \d", reason) for reason in reasons), reasons
    by_margin = Workspace(empty.root, {"mining": {"detector": "margin", "budget": 5}})
    by_margin.mine()
    assert [flag.uri for flag in by_margin.flags(kind="outlier")] == uris
    of_all = ["--reference", "before:2100-01-01", "--set", "mining.detector=uncertainty"]
    told = longtail("mine", "-w", empty.root, *of_all)
    assert told.code == 0
    assert "the reference holds every sample" in told.out
    with pytest.raises(UsageError, match="no sample has a usable one"):
        Workspace(empty.root, {"mining": {"detector": "loss"}}).mine()
    told = longtail("mine", "-w", workspace.root, "--set", "mining.detector=uncertainty")
    assert told.code == 2
    assert "needs a number 'uncertainty' (detector 'uncertainty') or the class" in told.err
    assert told.err.count("\n") == 1


def test_a_mistake_in_ones_own_detector_takes_one_line(
    workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "theirs.py").write_text("def f(pool, baseline): return [1.0]")
    command = (sys.executable, "-m", "longtail", "mine")
    told = subprocess.run(
        [*command, "-w", workspace.root, "--set", "mining.detector=module:theirs:f"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2
    assert "'module:theirs:f' must give 90 finite scores" in told.stderr
    assert "Traceback" not in told.stderr
