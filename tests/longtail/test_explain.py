"""`explain`: a sample's place in a run, with the figures that put it there."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longtail import Workspace
from schemas.arrow import matrix
from schemas.errors import NotFoundError

FIELDS = {
    *("sample_id", "uri", "source", "run_id", "samples", "position", "score", "p_value"),
    *("kind", "rank", "level", "z", "quality", "reasons", "group", "nearest", "confirmed"),
    *("verdicts", "of_reference"),
}


@pytest.fixture
def unflagged(workspace: Workspace) -> list[str]:
    flagged = {flag.sample_id for flag in workspace.flags()}
    ids = workspace.catalog.samples.read(["sample_id"])["sample_id"].to_pylist()
    return sorted(set(ids) - flagged)


def distances(workspace: Workspace, sample_id: str) -> dict[str, float]:
    """From one sample to each, by hand."""
    table = workspace.catalog.samples.read(["sample_id", "embedding_high"])
    vectors = dict(
        zip(table["sample_id"].to_pylist(), matrix(table["embedding_high"]), strict=True)
    )
    own = vectors[sample_id]
    return {other: float(np.linalg.norm(vector - own)) for other, vector in vectors.items()}


def test_a_flag_is_explained_as_its_run_did(workspace: Workspace) -> None:
    scores = workspace.catalog.scores.read(["score"])["score"].to_pylist()
    for flag in workspace.flags()[:3]:
        told = workspace.explain(flag.sample_id[:12])
        assert (told.sample_id, told.run_id, told.samples) == (flag.sample_id, flag.run_id, 90)
        assert (told.kind, told.rank, told.score) == (flag.kind, flag.rank, flag.score)
        assert told.reasons == flag.reasons
        assert told.position == 1 + sum(score > flag.score for score in scores)
        assert max(told.z, key=lambda level: told.z[level]) == flag.level


def test_what_was_not_flagged_is_explained_too(workspace: Workspace, unflagged: list[str]) -> None:
    scores = workspace.catalog.scores.read(["sample_id", "score", "z_mid"]).to_pylist()
    row = next(row for row in scores if row["sample_id"] == unflagged[0])
    told = workspace.explain(unflagged[0])
    assert (told.kind, told.rank, told.group) == (None, None, None)
    assert told.position == 1 + sum(other["score"] > row["score"] for other in scores)
    below = int(100 * sum(other["score"] < row["score"] for other in scores) / 90)
    assert told.reasons[0].startswith(f"score {row['score']:.1f}, stranger than {below}.")
    assert told.z["mid"] == pytest.approx(row["z_mid"])
    assert 0 <= told.quality["brightness"] <= 1


def test_neighbours_are_normal_ones_and_confirmed_ones(
    workspace: Workspace, unflagged: list[str]
) -> None:
    subject, *cases = [flag.sample_id for flag in workspace.flags()[:3]]
    gaps = distances(workspace, subject)
    normal = sorted(unflagged, key=lambda each: gaps[each])
    told = workspace.explain(subject)
    assert told.confirmed == ()
    assert [near.sample_id for near in told.nearest] == normal[:3]
    assert told.nearest[0].distance == pytest.approx(gaps[normal[0]], abs=1e-3)

    workspace.verdict([subject, *cases, normal[0]], "edge_case")
    told = workspace.explain(subject)
    confirmed = sorted([*cases, normal[0]], key=lambda each: gaps[each])
    assert [near.sample_id for near in told.confirmed] == confirmed
    assert [near.sample_id for near in told.nearest] == normal[1:4]


@pytest.mark.parametrize(
    ("neighbours", "there"),
    [
        (3, ["3 nearest images ", " of the pool, alone or with others like it"]),
        (1000, ["239 nearest images "]),
    ],
)
def test_an_unflagged_sample_has_the_reasons_of_a_flag(
    tmp_path: Path, neighbours: int, there: list[str]
) -> None:
    rng = np.random.default_rng(0)
    # Two kinds of texture, one of each kind with the other's light, a few alike, and one alone.
    for i in range(240):
        pixels = rng.integers(90, 200, (16, 16, 3)) // (1 + i % 2) // (1 + (i in (3, 239)))
        pixels[: 16 * (i == 239)] = (0, 255, 255)
        pixels[: 12 * (i in range(100, 106))] = (255, 0, 0)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{i}.png")
    mining = {"budget": 200, "neighbours": neighbours}
    workspace = Workspace.create(tmp_path / "w", overrides={"mining": mining})
    workspace.run([f"{tmp_path}/*.png"])
    flags = workspace.flags()
    workspace.verdict([flag.sample_id for flag in flags], "normal")
    Workspace(workspace.root, {"mining": {**mining, "budget": 1}}).mine()

    told = {flag.sample_id: workspace.explain(flag.sample_id) for flag in flags}

    assert {each.rank for each in told.values()} == {None}
    for flag in flags:
        place, *why = told[flag.sample_id].reasons
        assert place.startswith("score ")
        assert why == [one for one in flag.reasons if not one.startswith("score ")]
    said = " ".join(reason for flag in flags for reason in flag.reasons)
    for reason in (
        *there,
        "may be a capture fault",
        "out for its kind",
        "darker than",
    ):
        assert reason in said


def test_a_confirmed_edge_case_that_is_near_is_a_reason(
    workspace: Workspace, unflagged: list[str]
) -> None:
    gaps = distances(workspace, unflagged[0])
    near = min(unflagged[1:], key=lambda each: gaps[each])
    workspace.verdict([near], "edge_case")
    why = workspace.explain(unflagged[0]).reasons
    assert f"from confirmed edge case {near[:12]}, nearer than any normal image" in " ".join(why)

    subject = workspace.flags(kind="outlier")[0].sample_id
    gaps = distances(workspace, subject)
    near = min(set(gaps) - {subject}, key=lambda each: gaps[each])
    workspace.verdict([near], "edge_case")
    Workspace(workspace.root, {"mining": {"budget": 9}}).mine()
    flag = next(flag for flag in workspace.flags() if flag.sample_id == subject)
    assert f"{gaps[near]:.2f} from confirmed edge case {near[:12]}" in " ".join(flag.reasons)
    report = workspace.report()
    assert report is not None
    assert "nearer, a confirmed edge case" in report.read_text("utf-8")
    workspace.forget([near])
    stored = workspace.catalog.scores.read(["confirmed"])["confirmed"].to_pylist()
    assert near not in {one["sample_id"] for one in stored if one}


def test_what_was_judged_junk_is_not_shown_as_normal(workspace: Workspace) -> None:
    subject = workspace.flags()[0].sample_id
    junk = workspace.explain(subject).nearest[0].sample_id
    workspace.verdict([junk], "junk")
    assert junk not in {near.sample_id for near in workspace.explain(subject).nearest}


def test_unusual_quality_of_an_unflagged_sample_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(240):  # all of one kind, the first a shade darker than any, the last another
        pixels = (rng.integers(90, 200, (16, 16, 3)) - 9 * (i == 0)).astype(np.uint8)
        pixels[: 16 * (i == 239)] = (0, 255, 255)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    mining = {"budget": 1, "fault_threshold": 99}
    workspace = Workspace.create(tmp_path / "w", overrides={"mining": mining})
    workspace.run([f"{tmp_path}/*.png"], source="line-3")

    told = workspace.explain(hashlib.sha256((tmp_path / "0.png").read_bytes()).hexdigest())

    assert told.rank is None
    assert "darker than 99.5% of line-3" in told.reasons


def test_the_history_of_verdicts_is_shown(longtail, workspace: Workspace) -> None:
    w, subject = workspace.root, workspace.flags()[0].sample_id
    longtail("verdict", "-w", w, subject, "edge_case", "--tag", "crack", "--reviewer", "ada")
    longtail("verdict", "-w", w, subject, "junk", "--note", "only dust", "--reviewer", "bob")
    told = longtail("explain", "-w", w, subject[:10])
    assert told.code == 0
    lines = {line[:10].strip(): line[11:] for line in told.out.splitlines()}
    assert lines["sample"] == subject
    assert lines["flag"].startswith("outlier, rank 1 in run")
    assert "edge_case by ada" in told.out
    assert "crack" in told.out
    assert "junk by bob" in told.out
    assert "only dust" in told.out
    assert told.out.count("normal ") == 1
    assert told.out.index("ada") < told.out.index("bob")


def test_explain_as_json(longtail, mined: Workspace) -> None:
    flag = mined.flags()[1]
    told = longtail("explain", "-w", mined.root, flag.sample_id, "--json").json
    assert set(told) == FIELDS
    assert told["reasons"] == list(flag.reasons)
    assert set(told["z"]) == {"low", "mid", "high"}
    assert set(told["nearest"][0]) == {"sample_id", "uri", "distance"}


def test_another_run_is_explained_by_its_id(workspace: Workspace) -> None:
    first = workspace.flags()[0]
    Workspace(workspace.root, {"mining": {"detector": "lof"}}).mine()
    assert workspace.explain(first.sample_id, first.run_id).score == first.score
    assert workspace.explain(first.sample_id).score != first.score


def test_a_sample_of_a_run_whose_folder_is_gone_is_not_explained(
    longtail, workspace: Workspace, unflagged: list[str]
) -> None:
    shutil.rmtree(workspace.catalog.run(workspace.flags()[0].run_id))
    told = longtail("explain", "-w", workspace.root, unflagged[0])
    assert (told.code, told.out) == (2, "")
    assert "mine again: longtail mine" in told.err


def test_what_cannot_be_explained_is_said(
    longtail, workspace: Workspace, empty: Workspace, photographs: Path, tmp_path: Path
) -> None:
    known = workspace.flags()[0].sample_id
    for arguments, message in (
        (["012345abcdef"], "there is no sample whose id starts with '012345abcdef'"),
        ([known, "--run", "20200101"], "no mining run '20200101'; the newest is"),
    ):
        told = longtail("explain", "-w", workspace.root, *arguments)
        assert (told.code, told.out) == (2, "")
        assert message in told.err
    image = min(photographs.iterdir())
    empty.ingest([str(image)])
    (row,) = empty.catalog.samples.read(["sample_id"]).to_pylist()
    with pytest.raises(NotFoundError, match="has no mining run yet"):
        empty.explain(row["sample_id"])
    (tmp_path / "new.png").write_bytes(image.resolve().read_bytes() + b"\0")
    workspace.ingest([str(tmp_path / "new.png")])
    new = set(workspace.catalog.samples.read(["sample_id"])["sample_id"].to_pylist())
    mined = set(workspace.catalog.scores.read(["sample_id"])["sample_id"].to_pylist())
    with pytest.raises(NotFoundError, match="did not mine sample"):
        workspace.explain((new - mined).pop())
    assert json.loads(longtail("explain", "-w", workspace.root, known, "--json").out)
