"""A pool held against what the model already knows: what is in that, and what is refused."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longtail import Workspace
from pipelines import notes
from schemas.arrow import matrix


def test_a_source_is_the_reference_and_only_the_rest_is_flagged(
    open_lines, ids_of_source, ids_of_reference
) -> None:
    workspace = open_lines(reference="source:line-3")
    run = workspace.mine()
    assert ids_of_reference(workspace, run.run_id) == ids_of_source(workspace, "line-3")
    flags = workspace.flags(kind="outlier")
    assert len(flags) == 5
    assert {flag.source for flag in flags} == {"line-4"}
    assert all(flag.p_value is not None and flag.p_value >= 1 / 61 for flag in flags)
    assert workspace.explain(next(iter(ids_of_source(workspace, "line-3")))).kind is None


def test_what_is_shown_as_normal_is_of_the_reference(open_lines, ids_of_source) -> None:
    workspace = open_lines(reference="source:line-3")
    workspace.mine()
    flag = workspace.flags(kind="outlier")[0]
    shown = [near.sample_id for near in flag.nearest]
    assert set(shown) < ids_of_source(workspace, "line-3")
    assert [near.sample_id for near in workspace.explain(flag.sample_id).nearest] == shown
    workspace.verdict(shown[:1], "junk")
    assert shown[0] not in {near.sample_id for near in workspace.explain(flag.sample_id).nearest}


def test_distances_are_to_the_reference_alone_each_of_its_samples_left_out(
    open_lines, scores_of
) -> None:
    workspace = open_lines(reference="source:line-3", detector="knn", neighbours=3)
    run = workspace.mine()
    table = workspace.catalog.samples.read(["sample_id", "source", "embedding_high"])
    vectors = matrix(table["embedding_high"])
    in_reference = np.array(table["source"].to_pylist()) == "line-3"
    gaps = np.linalg.norm(vectors[:, None] - vectors[None, in_reference], axis=2)
    gaps[np.flatnonzero(in_reference), np.arange(60)] = np.inf
    by_hand = np.log(np.sort(gaps, axis=1)[:, :3].mean(axis=1))
    centre = np.median(by_hand[in_reference])
    spread = 1.4826 * np.median(np.abs(by_hand[in_reference] - centre))
    scored = scores_of(workspace, run.run_id)
    scores = [scored[id_]["score"] for id_ in table["sample_id"].to_pylist()]
    np.testing.assert_allclose(scores, (by_hand - centre) / spread, atol=0.02)


@pytest.mark.parametrize("k", [3, 100])  # more than there are
def test_how_far_the_nearest_lie_is_relative_to_how_far_theirs_do(k, open_lines, scores_of) -> None:
    workspace = open_lines(reference="source:line-3", neighbours=k)
    run = workspace.mine()
    columns = ["sample_id", "source", "embedding_high"]
    table = workspace.catalog.samples.read(columns).sort_by("sample_id")
    vectors, ids = matrix(table["embedding_high"]), table["sample_id"].to_pylist()
    known = np.array(table["source"].to_pylist()) == "line-3"

    def relative(row: int) -> float:
        """Of a sample of either source to the others of line-3, by hand."""
        others = np.flatnonzero(known & (np.arange(90) != row))
        gaps = np.linalg.norm(vectors[others][:, None] - vectors[others], axis=2)
        theirs = np.sort(gaps, axis=1)[:, 1 : k + 1].mean(axis=1)
        mine = np.linalg.norm(vectors[others] - vectors[row], axis=1)
        nearest = np.argsort(mine)[:k]
        return float(np.log(mine[nearest].mean()) - np.log(theirs[nearest]).mean())

    by_hand = np.array([relative(row) for row in range(90)])
    centre = np.median(by_hand[known])
    spread = 1.4826 * np.median(np.abs(by_hand[known] - centre))
    scored = scores_of(workspace, run.run_id)
    z = [scored[id_]["z_local"] for id_ in ids]
    np.testing.assert_allclose(z, (by_hand - centre) / spread, atol=0.05)


def test_datasets_dates_and_verdicts_are_references(
    open_lines, ids_of_source, ids_of_reference
) -> None:
    workspace = open_lines()
    ids = sorted(ids_of_source(workspace, "line-4"))
    workspace.verdict(ids[:22], "normal")
    workspace.curate("good", verdicts=["normal"])
    workspace.verdict(ids[22:25], "normal")
    workspace.curate("good", verdicts=["normal"])
    for reference, expected in (
        ("dataset:good@0", ids[:25]),  # with the normal ones that were judged since
        ("dataset:good", ids[:25]),
        ("verdict:normal", ids[:25]),
        ("before:2100-01-01", {*ids, *ids_of_source(workspace, "line-3")}),
    ):
        mined = open_lines(reference=reference)
        run = mined.mine()
        assert ids_of_reference(mined, run.run_id) == set(expected)


def test_verdicts_clean_a_reference_and_start_a_new_run(
    open_lines, ids_of_source, ids_of_reference
) -> None:
    workspace = open_lines(reference="source:line-3")
    workspace.mine()
    own, others = (sorted(ids_of_source(workspace, name)) for name in ("line-3", "line-4"))
    workspace.verdict(own[:2], "edge_case")
    workspace.verdict(own[2:3], "junk")
    workspace.verdict(others[:2], "normal")
    run = workspace.mine()
    assert ids_of_reference(workspace, run.run_id) == {*own[3:], *others[:2]}
    assert workspace.mine().flagged == 0  # nothing has changed since


def test_what_the_reference_holds_is_neither_left_nor_suggested(
    longtail, open_lines, ids_of_source, lines_root: Path
) -> None:
    reference = ("--reference", "source:line-3", "--budget", 5)
    assert longtail("mine", "-w", lines_root, *reference).code == 0
    pool = ids_of_source(open_lines(), "line-4")
    edge_case, junk, *_ = (flag.sample_id for flag in open_lines().flags(kind="outlier"))
    longtail("verdict", "-w", lines_root, edge_case, "edge_case")
    longtail("verdict", "-w", lines_root, junk, "junk")

    left = longtail("flags", "-w", lines_root, "--left", "--kind", "outlier", "--json").json
    assert len(left) == 5
    assert {flag["sample_id"] for flag in left} <= pool - {edge_case, junk}
    suggested = longtail("suggest", "-w", lines_root, "-n", 90, "--json").json
    assert {one["sample_id"] for one in suggested} == pool - {edge_case, junk}

    assert "2 verdicts" in longtail("mine", "-w", lines_root, *reference).out
    flagged = longtail("flags", "-w", lines_root, "--kind", "outlier", "--json").json
    assert [flag["sample_id"] for flag in flagged] == [flag["sample_id"] for flag in left]


def test_verdicts_on_the_reference_teach_what_to_suggest(open_lines, ids_of_source) -> None:
    workspace = open_lines(reference="source:line-3")
    own, others = (sorted(ids_of_source(workspace, name)) for name in ("line-3", "line-4"))
    workspace.verdict(own[:10], "normal")
    workspace.verdict(others[:10], "edge_case")
    workspace.mine()
    suggested = workspace.suggest(90)
    assert {one.why for one in suggested} == {"uncertain"}
    assert {one.sample_id for one in suggested} == set(others[10:])


def test_a_sample_of_the_reference_is_explained_as_one(
    longtail, open_lines, ids_of_source, lines_root: Path
) -> None:
    workspace = open_lines(reference="source:line-3")
    workspace.mine()
    sample_id, new = (min(ids_of_source(workspace, source)) for source in ("line-3", "line-4"))
    told = longtail("explain", "-w", lines_root, sample_id).out
    assert re.search(r"^score .* place \d+ of 60 of the reference$", told, re.M)
    assert re.search(r"^flag +none, as a sample of the reference, in run ", told, re.M)
    assert re.search(r"^why .*% of the reference$", told, re.M)
    assert not workspace.explain(new).of_reference
    assert "of the reference" not in longtail("explain", "-w", lines_root, new).out


def test_a_reference_of_all_there_is_leaves_nothing_to_flag(
    longtail, open_lines, ids_of_source, ids_of_reference, lines_root: Path
) -> None:
    workspace = open_lines(reference="before:2100-01-01")
    workspace.verdict([min(ids_of_source(workspace, "line-3"))], "normal")
    run = workspace.mine(save_reference="all")
    assert run.flagged == 0
    assert len(ids_of_reference(workspace, run.run_id)) == 90
    assert workspace.notes() == [
        "by reference before:2100-01-01, no new images",
        "the reference holds every sample, so that nothing is left to flag",
    ]
    assert workspace.report() is not None
    assert longtail("flags", "-w", lines_root).out == f"run {run.run_id} has no such flags\n"
    told = longtail("flags", "-w", lines_root, "--left").out
    assert told == f"no such flags are left of run {run.run_id}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--reference", "source:line-9"],
            "holds 0 indexed samples, 20 is the least; there are sources line-3, line-4",
        ),
        (["--reference", "dataset:none"], "no dataset 'none'; there are: none"),
        (["--reference", "before:soon"], "'soon' is no date"),
        (["--reference", "before:1999-01-01"], "there are samples from 20"),
        (["--reference", "verdict:normal"], "edge_case 0, normal 0"),
        (["--reference", "verdict:nice"], "'nice' is no verdict"),
        (["--reference", "verdict:junk"], "'junk' is no verdict that makes a reference"),
        (["--reference", "line-3"], "'line-3' is no reference; write dataset:NAME@VERSION"),
        (["--reference", "dataset:a@new"], "a version is a number"),
        (["--reference", "saved:june"], "no reference 'june' is saved; there are: none"),
        (["--save-reference", "x"], "--save-reference x saves what --reference fits"),
        (["--reference", "source:line-3", "--save-reference", "a/b"], "'a/b' cannot name"),
        (["--reference", "source:line-3", "--set", "mining.detector=lof"], "'lof' compares a pool"),
        (["--fdr", "0.1"], "add --reference, one of dataset:NAME@VERSION"),
        (["--fdr", "2", "--reference", "source:line-3"], "mining.fdr is 2.0: input should be less"),
    ],
)
def test_mistakes_are_one_line(
    longtail, two_lines: Workspace, arguments: list[str], message
) -> None:
    told = longtail("mine", "-w", two_lines.root, *arguments)
    assert told.code == 2
    assert message in told.err
    assert told.err.count("\n") == 1


def test_images_without_a_source_are_no_reference_to_hint_at(
    longtail, open_lines, lines_root: Path, photograph, tmp_path: Path
) -> None:
    open_lines().ingest([str(photograph(tmp_path / "new.png", 1))])
    told = longtail("mine", "-w", lines_root, "--reference", "source:line-9")
    assert told.err.endswith("there are sources line-3, line-4\n")


def test_a_wrong_reference_is_told_before_anything_is_ingested(
    longtail, open_lines, lines_root: Path, photographs: Path
) -> None:
    told = longtail("run", "-w", lines_root, photographs, "--reference", "dataset:none")
    assert told.code == 2
    assert len(open_lines().catalog.rejects.files()) == 0
    assert not list(open_lines().catalog.runs.glob("*/validation.json")) or told.out == ""


def test_a_rate_without_enough_reference_says_so_and_ranks_to_the_budget(
    longtail, open_lines, lines_root: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    reference = ("--reference", "source:line-3", "--fdr", "0.1", "--budget", 4)
    done = longtail("run", "-w", lines_root, tmp_path / "noise.png", *reference)
    assert done.code == 0
    assert done.out.count("note: no rate is promised, ranked to the budget instead:") == 1
    assert len(open_lines().flags(kind="outlier")) == 4


def test_a_rate_flags_what_the_reference_proves(open_lines, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / f"{i}.png")
    workspace = open_lines(reference="source:line-3", fdr=0.5)
    workspace.run([f"{tmp_path}/*.png"], source="line-4")
    noise = {hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("*.png")}
    flagged = {flag.sample_id for flag in workspace.flags(kind="outlier")}
    assert noise <= flagged
    assert "at most 50% of the" in workspace.notes()[-1]
    judged = min(flagged)
    workspace.verdict([judged], "edge_case")
    left = {flag.sample_id for flag in workspace.flags(kind="outlier", left=True)}
    assert left == flagged - {judged}  # what is not proven takes no place


@pytest.mark.parametrize(
    ("mining", "said"),
    [
        ({"reference": "source:line-3"}, "has shifted"),
        (
            {"reference": "source:line-3", "detector": "module:contrasting:contrast"},
            "has shifted",
        ),
        ({}, "is unlike the others"),
    ],
)
def test_a_source_that_shifted_is_news_once(
    open_lines,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mining: dict[str, str],
    said: str,
) -> None:
    own = "def contrast(pool, baseline):\n    return pool.quality['contrast']\n"
    (tmp_path / "contrasting.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(0)
    for i, path in enumerate(sorted(photographs.iterdir())[:40]):  # a camera with a noisy sensor
        pixels = np.asarray(Image.open(path).convert("L")) + rng.normal(0, 40, (300, 300))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{i}.png")
    workspace = open_lines(**mining)
    first = workspace.run([f"{tmp_path}/*.png"], source="line-5")
    (news,) = [note for note in workspace.notes() if "line-5" in note]
    assert news.startswith(f"source 'line-5' {said}: half of its 40 samples lie")
    assert ", ingested since 20" in news
    again = open_lines(budget=6, **mining)
    again.mine()
    (known,) = [note for note in again.notes() if "line-5" in note]
    assert known.startswith("source 'line-5' still lies")
    assert known.endswith(f"as run {first.run_id} said")
    flags = again.flags()
    assert all(flag.p_value is None for flag in flags if flag.source == "line-5")


def test_verdicts_are_no_way_out_of_a_contaminated_dataset() -> None:
    told = notes.with_strange(notes.Notes(reference="dataset:roads"), "run", ["a" * 64])
    assert told.notes == (
        "strange in the reference: aaaaaaaaaaaa; verdicts leave a dataset as it is, so take "
        "another reference",
    )
