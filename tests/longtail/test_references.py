"""A pool held against what the model already knows: what is in that, kept, and refused."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from detectors.baseline import Baseline
from longtail import Workspace
from pipelines import notes
from schemas.arrow import matrix
from schemas.errors import CorruptionError, EncoderError, NotFoundError, UsageError


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Workspace:
    """60 photographs of line-3 and 30 of line-4; not mined yet."""
    workspace = Workspace.create(tmp_path_factory.mktemp("lines") / "workspace")
    paths = sorted(map(str, photographs.iterdir()))
    workspace.ingest([path for i, path in enumerate(paths) if i % 3], source="line-3")
    workspace.ingest([path for i, path in enumerate(paths) if i % 3 == 0], source="line-4")
    workspace.index()
    return workspace


@pytest.fixture
def root(lines: Workspace, tmp_path: Path) -> Path:
    return shutil.copytree(lines.root, tmp_path / "workspace")


def opened(root: Path, **mining: Any) -> Workspace:
    return Workspace(root, {"mining": {"budget": 5, **mining}})


def rows(workspace: Workspace, run_id: str) -> dict[str, dict[str, Any]]:
    table = workspace.catalog.scores.read(where=ds.field("run_id") == run_id)
    return {row["sample_id"]: row for row in table.to_pylist()}


def known(workspace: Workspace, run_id: str) -> set[str]:
    return {id_ for id_, row in rows(workspace, run_id).items() if row["of_reference"]}


def of_source(workspace: Workspace, source: str) -> set[str]:
    where = ds.field("source") == source
    return set(workspace.catalog.samples.read(["sample_id"], where)["sample_id"].to_pylist())


def test_a_source_is_the_reference_and_only_the_rest_is_flagged(root: Path) -> None:
    workspace = opened(root, reference="source:line-3")
    run = workspace.mine()
    assert known(workspace, run.run_id) == of_source(workspace, "line-3")
    flags = workspace.flags(kind="outlier")
    assert len(flags) == 5
    assert {flag.source for flag in flags} == {"line-4"}
    assert all(flag.p_value is not None and flag.p_value >= 1 / 61 for flag in flags)
    assert workspace.explain(next(iter(of_source(workspace, "line-3")))).kind is None


def test_what_is_shown_as_normal_is_of_the_reference(root: Path) -> None:
    workspace = opened(root, reference="source:line-3")
    workspace.mine()
    flag = workspace.flags(kind="outlier")[0]
    shown = [near.sample_id for near in flag.nearest]
    assert set(shown) < of_source(workspace, "line-3")
    assert [near.sample_id for near in workspace.explain(flag.sample_id).nearest] == shown
    workspace.verdict(shown[:1], "junk")
    assert shown[0] not in {near.sample_id for near in workspace.explain(flag.sample_id).nearest}


def test_distances_are_to_the_reference_alone_each_of_its_samples_left_out(root: Path) -> None:
    workspace = opened(root, reference="source:line-3", detector="knn", neighbours=3)
    run = workspace.mine()
    table = workspace.catalog.samples.read(["sample_id", "source", "embedding_high"])
    vectors = matrix(table["embedding_high"])
    in_reference = np.array(table["source"].to_pylist()) == "line-3"
    gaps = np.linalg.norm(vectors[:, None] - vectors[None, in_reference], axis=2)
    gaps[np.flatnonzero(in_reference), np.arange(60)] = np.inf
    by_hand = np.log(np.sort(gaps, axis=1)[:, :3].mean(axis=1))
    centre = np.median(by_hand[in_reference])
    spread = 1.4826 * np.median(np.abs(by_hand[in_reference] - centre))
    scored = rows(workspace, run.run_id)
    scores = [scored[id_]["score"] for id_ in table["sample_id"].to_pylist()]
    np.testing.assert_allclose(scores, (by_hand - centre) / spread, atol=0.02)


def test_a_saved_reference_gives_a_sample_the_same_score_in_every_later_run(
    root: Path, photographs: Path, tmp_path: Path
) -> None:
    first = opened(root, reference="source:line-3").mine(save_reference="march")
    before = rows(opened(root), first.run_id)
    (about,) = opened(root).references()
    assert (about["name"], about["of"], about["samples"]) == ("march", "source:line-3", 60)

    for i, path in enumerate(sorted(photographs.iterdir())[:8]):  # new contents, also of line-3
        (tmp_path / f"{i}.png").write_bytes(path.resolve().read_bytes() + b"\0")
    later = opened(root, reference="saved:march")
    second = later.run([f"{tmp_path}/*.png"], source="line-3")
    after = rows(later, second.run_id)
    assert known(later, second.run_id) == known(later, first.run_id)
    assert len(after) == 98
    for id_, row in before.items():
        assert after[id_]["score"] == pytest.approx(row["score"], abs=1e-6)
        assert after[id_]["p_value"] == row["p_value"]
    said = later.notes()[0]
    assert said.startswith("by reference source:line-3, of 8 new images")
    assert "in the run before" in said
    later.forget([next(iter(known(later, first.run_id)))])
    later.mine()


def test_stranger_images_than_in_the_run_before_are_said(root: Path, tmp_path: Path) -> None:
    opened(root, reference="source:line-3").mine()
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / f"{i}.png")
    again = opened(root, reference="source:line-3", budget=4)
    again.mine()  # brings no image, and so hides no day before
    assert again.notes()[0] == "by reference source:line-3, no new images"
    workspace = opened(root, reference="source:line-3")
    workspace.run([f"{tmp_path}/*.png"], source="line-4")
    assert "100.0% above its 95% quantile" in workspace.notes()[0]
    assert "stranger than in the run before" in workspace.notes()[0]
    report = workspace.report()
    assert report is not None
    assert "stranger than in the run before" in report.read_text("utf-8")


@pytest.mark.parametrize("changed", ["samples", "detector"])
def test_another_fit_by_the_same_words_is_not_compared(
    root: Path, photographs: Path, tmp_path: Path, changed: str
) -> None:
    workspace = opened(root, reference="source:line-3")
    workspace.mine()
    if changed == "samples":
        workspace.verdict(sorted(of_source(workspace, "line-3"))[:9], "junk")
    else:
        workspace = opened(root, reference="source:line-3", detector="knn")
    for i, path in enumerate(sorted(photographs.iterdir())[:8]):
        (tmp_path / f"{i}.png").write_bytes(path.resolve().read_bytes() + b"\0")
    workspace.run([f"{tmp_path}/*.png"], source="line-4")
    said = workspace.notes()[0]
    assert said.startswith("by reference source:line-3, of ")
    assert "in the run before" not in said


def test_datasets_dates_and_verdicts_are_references(root: Path) -> None:
    workspace = opened(root)
    ids = sorted(of_source(workspace, "line-4"))
    workspace.verdict(ids[:22], "normal")
    workspace.curate("good", verdicts=["normal"])
    workspace.verdict(ids[22:25], "normal")
    workspace.curate("good", verdicts=["normal"])
    for reference, expected in (
        ("dataset:good@0", ids[:25]),  # with the normal ones that were judged since
        ("dataset:good", ids[:25]),
        ("verdict:normal", ids[:25]),
        ("before:2100-01-01", {*ids, *of_source(workspace, "line-3")}),
    ):
        mined = opened(root, reference=reference)
        run = mined.mine()
        assert known(mined, run.run_id) == set(expected)


def test_verdicts_clean_a_reference_and_start_a_new_run(root: Path) -> None:
    workspace = opened(root, reference="source:line-3")
    workspace.mine()
    own, others = (sorted(of_source(workspace, name)) for name in ("line-3", "line-4"))
    workspace.verdict(own[:2], "edge_case")
    workspace.verdict(own[2:3], "junk")
    workspace.verdict(others[:2], "normal")
    run = workspace.mine()
    assert known(workspace, run.run_id) == {*own[3:], *others[:2]}
    assert workspace.mine().flagged == 0  # nothing has changed since


def test_what_the_reference_holds_is_neither_left_nor_suggested(longtail, root: Path) -> None:
    reference = ("--reference", "source:line-3", "--budget", 5)
    assert longtail("mine", "-w", root, *reference).code == 0
    pool = of_source(opened(root), "line-4")
    edge_case, junk, *_ = (flag.sample_id for flag in opened(root).flags(kind="outlier"))
    longtail("verdict", "-w", root, edge_case, "edge_case")
    longtail("verdict", "-w", root, junk, "junk")

    left = longtail("flags", "-w", root, "--left", "--kind", "outlier", "--json").json
    assert len(left) == 5
    assert {flag["sample_id"] for flag in left} <= pool - {edge_case, junk}
    suggested = longtail("suggest", "-w", root, "-n", 90, "--json").json
    assert {one["sample_id"] for one in suggested} == pool - {edge_case, junk}

    assert "2 verdicts" in longtail("mine", "-w", root, *reference).out
    flagged = longtail("flags", "-w", root, "--kind", "outlier", "--json").json
    assert [flag["sample_id"] for flag in flagged] == [flag["sample_id"] for flag in left]


def test_verdicts_on_the_reference_teach_what_to_suggest(root: Path) -> None:
    workspace = opened(root, reference="source:line-3")
    own, others = (sorted(of_source(workspace, name)) for name in ("line-3", "line-4"))
    workspace.verdict(own[:10], "normal")
    workspace.verdict(others[:10], "edge_case")
    workspace.mine()
    suggested = workspace.suggest(90)
    assert {one.why for one in suggested} == {"uncertain"}
    assert {one.sample_id for one in suggested} == set(others[10:])


def test_a_sample_of_the_reference_is_explained_as_one(longtail, root: Path) -> None:
    workspace = opened(root, reference="source:line-3")
    workspace.mine()
    sample_id, new = (min(of_source(workspace, source)) for source in ("line-3", "line-4"))
    told = longtail("explain", "-w", root, sample_id).out
    assert re.search(r"^score .* place \d+ of 60 of the reference$", told, re.M)
    assert re.search(r"^flag +none, as a sample of the reference, in run ", told, re.M)
    assert re.search(r"^why .*% of the reference$", told, re.M)
    assert not workspace.explain(new).of_reference
    assert "of the reference" not in longtail("explain", "-w", root, new).out


def test_a_reference_of_all_there_is_leaves_nothing_to_flag(longtail, root: Path) -> None:
    workspace = opened(root, reference="before:2100-01-01")
    workspace.verdict([min(of_source(workspace, "line-3"))], "normal")
    run = workspace.mine(save_reference="all")
    assert run.flagged == 0
    assert len(known(workspace, run.run_id)) == 90
    assert workspace.notes() == [
        "by reference before:2100-01-01, no new images",
        "the reference holds every sample, so that nothing is left to flag",
    ]
    assert workspace.report() is not None
    assert longtail("flags", "-w", root).out == f"run {run.run_id} has no such flags\n"
    told = longtail("flags", "-w", root, "--left").out
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
def test_mistakes_are_one_line(longtail, lines: Workspace, arguments: list[str], message) -> None:
    told = longtail("mine", "-w", lines.root, *arguments)
    assert told.code == 2
    assert message in told.err
    assert told.err.count("\n") == 1


def test_images_without_a_source_are_no_reference_to_hint_at(
    longtail, root: Path, photograph, tmp_path: Path
) -> None:
    opened(root).ingest([str(photograph(tmp_path / "new.png", 1))])
    told = longtail("mine", "-w", root, "--reference", "source:line-9")
    assert told.err.endswith("there are sources line-3, line-4\n")


def test_a_wrong_reference_is_told_before_anything_is_ingested(
    longtail, root: Path, photographs: Path
) -> None:
    told = longtail("run", "-w", root, photographs, "--reference", "dataset:none")
    assert told.code == 2
    assert len(opened(root).catalog.rejects.files()) == 0
    assert not list(opened(root).catalog.runs.glob("*/validation.json")) or told.out == ""


def test_a_saved_reference_is_bound_to_its_encoder_and_its_name(longtail, root: Path) -> None:
    opened(root, reference="source:line-3").mine(save_reference="march")
    with pytest.raises(UsageError, match="'march' is there already"):
        opened(root, reference="source:line-4").mine(save_reference="march")
    other = Workspace(
        root, {"encoder": "efficientnet-lite2", "mining": {"reference": "saved:march"}}
    )
    with pytest.raises(
        EncoderError, match=r"'march' was fitted on vectors of efficientnet-lite0-\w+"
    ):
        other.mine()
    listed = longtail("references", "-w", root, "--json").json
    assert [(one["name"], one["samples"]) for one in listed] == [("march", 60)]
    assert "march" in longtail("references", "-w", root).out
    (root / "references" / "march" / "baseline.npz").write_bytes(b"half")
    with pytest.raises(CorruptionError, match="damaged"):
        opened(root, reference="saved:march").mine()


def test_a_saved_reference_can_be_removed(longtail, root: Path) -> None:
    opened(root, reference="source:line-3").mine(save_reference="march")
    assert "no saved references" in longtail("references", "-w", root, "--remove", "march").out
    assert longtail("references", "-w", root, "--remove", "march").code == 2
    with pytest.raises(NotFoundError, match="there are: none"):
        opened(root, reference="saved:march").mine()


def test_a_rate_without_enough_reference_says_so_and_ranks_to_the_budget(
    longtail, root: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    reference = ("--reference", "source:line-3", "--fdr", "0.1", "--budget", 4)
    done = longtail("run", "-w", root, tmp_path / "noise.png", *reference)
    assert done.code == 0
    assert done.out.count("note: no rate is promised, ranked to the budget instead:") == 1
    assert len(opened(root).flags(kind="outlier")) == 4


def test_a_rate_flags_what_the_reference_proves(root: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / f"{i}.png")
    workspace = opened(root, reference="source:line-3", fdr=0.5)
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
    root: Path,
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
    workspace = opened(root, **mining)
    first = workspace.run([f"{tmp_path}/*.png"], source="line-5")
    (news,) = [note for note in workspace.notes() if "line-5" in note]
    assert news.startswith(f"source 'line-5' {said}: half of its 40 samples lie")
    assert ", ingested since 20" in news
    again = opened(root, budget=6, **mining)
    again.mine()
    (known,) = [note for note in again.notes() if "line-5" in note]
    assert known.startswith("source 'line-5' still lies")
    assert known.endswith(f"as run {first.run_id} said")
    flags = again.flags()
    assert all(flag.p_value is None for flag in flags if flag.source == "line-5")


def test_what_was_judged_strange_leaves_a_saved_reference_until_the_verdict_changes(
    root: Path,
) -> None:
    workspace = opened(root, reference="source:line-3")
    first = workspace.mine(save_reference="march")
    everything = sorted(of_source(workspace, "line-3"))

    def floor(scored: dict[str, dict[str, Any]]) -> float:
        values = [row["p_value"] for row in scored.values() if row["p_value"] is not None]
        steps = np.diff(np.unique(np.append(values, 0)))
        return float(steps.min())

    saved = opened(root, reference="saved:march", fdr=0.1)
    for sample_id, label in zip(everything[:2], ("edge_case", "junk"), strict=True):
        workspace.verdict([sample_id], label)

    second = saved.mine()

    before, after = rows(saved, first.run_id), rows(saved, second.run_id)
    for id_, row in before.items():
        assert after[id_]["score"] == pytest.approx(row["score"], abs=1e-6)
    assert (floor(before), floor(after)) == (pytest.approx(1 / 61), pytest.approx(1 / 59))
    shown = {near.sample_id for flag in saved.flags() for near in flag.nearest}
    assert shown.isdisjoint(everything[:2])
    (about,) = saved.references()
    assert about["samples"] == 60
    workspace.verdict([everything[0]], "normal")
    assert floor(rows(saved, saved.mine().run_id)) == pytest.approx(1 / 60)
    workspace.verdict(everything[2:45], "edge_case")
    with pytest.raises(UsageError, match="'march' has 16 samples left, 20 is the least"):
        saved.mine()


def test_what_contaminates_a_reference_is_named_and_verdicts_clean_it_when_saved(
    tmp_path: Path,
) -> None:
    """24 of the 424 vectors of line-3 are odd, and none of the 300 of line-4."""

    def held(reference: str) -> Workspace:
        mining = {"reference": reference, "fdr": 0.1}
        return Workspace(root, {"encoder": "vectors:m", "mining": mining})

    root = Workspace.create(tmp_path / "workspace").root
    workspace = held("source:line-3")
    rng = np.random.default_rng(2)
    centre = 3 * rng.normal(size=64)
    for source, normal, odd in (("line-3", 400, 24), ("line-4", 300, 0)):
        made = rng.normal(size=(normal + odd, 64)) + centre
        made[normal:] += 1.5 * rng.normal(size=(odd, 64))
        uris = [f"{tmp_path}/{source}/{i}.png" for i in range(len(made))]
        table = pa.table({"uri": uris, "embedding": made.tolist()})
        pq.write_table(table, tmp_path / f"{source}.parquet")
        workspace.ingest([str(tmp_path / f"{source}.parquet")], source=source)
    workspace.index()

    run = workspace.mine(save_reference="march")

    assert "24 of its 424 samples" in next(n for n in workspace.notes() if "contaminated" in n)
    scored = rows(workspace, run.run_id)
    of_line = sorted(known(workspace, run.run_id), key=lambda id_: -scored[id_]["score"])
    strange, log = of_line[:24], f"runs/{run.run_id}/log.jsonl"
    shown = ", ".join(id_[:12] for id_ in strange[:5])
    assert workspace.notes()[-1] == (
        f"strange in the reference: {shown} and 19 more, all named in {log}; if it is so: "
        f"longtail verdict {strange[0][:12]} edge_case"
    )
    assert " ".join(strange) in (root / log).read_text()
    workspace.verdict(strange, "edge_case")
    held("saved:march").mine()
    assert not any("contaminated" in n or "in the reference" in n for n in workspace.notes())


def test_verdicts_are_no_way_out_of_a_contaminated_dataset() -> None:
    told = notes.with_strange(notes.Notes(reference="dataset:roads"), "run", ["a" * 64])
    assert told.notes == (
        "strange in the reference: aaaaaaaaaaaa; verdicts leave a dataset as it is, so take "
        "another reference",
    )


def test_a_saved_reference_forgets_and_says_when_too_little_is_left(root: Path) -> None:
    workspace = opened(root, reference="source:line-3")
    workspace.mine(save_reference="march")
    gone = sorted(of_source(workspace, "line-3"))
    (before,) = workspace.references()

    workspace.forget(gone[:2])

    (about,) = workspace.references()
    assert about["samples"] == 58
    assert about["digest"] != before["digest"]
    fit = Baseline.load(workspace.catalog.reference("march") / "baseline.npz")
    assert sorted(fit.sample_ids) == gone[2:]
    assert {len(values) for values in (fit.sources, *fit.z.values())} == {58}
    saved = opened(root, reference="saved:march")
    assert known(saved, saved.mine().run_id) == set(gone[2:])
    workspace.forget(gone[2:45])
    with pytest.raises(UsageError, match="'march' has 15 samples left, 20 is the least"):
        saved.mine()
