"""A reference that later runs are held against, and what is said of the run before."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from detectors.baseline import Baseline
from longtail import Workspace
from schemas.arrow import matrix
from schemas.errors import CorruptionError, EncoderError, NotFoundError, UsageError


def test_a_saved_reference_gives_a_sample_the_same_score_in_every_later_run(
    open_lines, ids_of_reference, scores_of, photographs: Path, tmp_path: Path
) -> None:
    first = open_lines(reference="source:line-3").mine(save_reference="march")
    before = scores_of(open_lines(), first.run_id)
    (about,) = open_lines().references()
    assert (about["name"], about["of"], about["samples"]) == ("march", "source:line-3", 60)

    for i, path in enumerate(sorted(photographs.iterdir())[:8]):  # new contents, also of line-3
        (tmp_path / f"{i}.png").write_bytes(path.resolve().read_bytes() + b"\0")
    later = open_lines(reference="saved:march")
    second = later.run([f"{tmp_path}/*.png"], source="line-3")
    after = scores_of(later, second.run_id)
    assert ids_of_reference(later, second.run_id) == ids_of_reference(later, first.run_id)
    assert len(after) == 98
    for id_, row in before.items():
        assert after[id_]["score"] == pytest.approx(row["score"], abs=1e-6)
        assert after[id_]["p_value"] == row["p_value"]
    said = later.notes()[0]
    assert said.startswith("by reference source:line-3, of 8 new images")
    assert "in the run before" in said
    later.forget([next(iter(ids_of_reference(later, first.run_id)))])
    later.mine()


def test_stranger_images_than_in_the_run_before_are_said(open_lines, tmp_path: Path) -> None:
    open_lines(reference="source:line-3").mine()
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / f"{i}.png")
    again = open_lines(reference="source:line-3", budget=4)
    again.mine()  # brings no image, and so hides no day before
    assert again.notes()[0] == "by reference source:line-3, no new images"
    workspace = open_lines(reference="source:line-3")
    workspace.run([f"{tmp_path}/*.png"], source="line-4")
    assert "100.0% above its 95% quantile" in workspace.notes()[0]
    assert "stranger than in the run before" in workspace.notes()[0]
    report = workspace.report()
    assert report is not None
    assert "stranger than in the run before" in report.read_text("utf-8")


@pytest.mark.parametrize("changed", ["samples", "detector"])
def test_another_fit_by_the_same_words_is_not_compared(
    open_lines, ids_of_source, photographs: Path, tmp_path: Path, changed: str
) -> None:
    workspace = open_lines(reference="source:line-3")
    workspace.mine()
    if changed == "samples":
        workspace.verdict(sorted(ids_of_source(workspace, "line-3"))[:9], "junk")
    else:
        workspace = open_lines(reference="source:line-3", detector="knn")
    for i, path in enumerate(sorted(photographs.iterdir())[:8]):
        (tmp_path / f"{i}.png").write_bytes(path.resolve().read_bytes() + b"\0")
    workspace.run([f"{tmp_path}/*.png"], source="line-4")
    said = workspace.notes()[0]
    assert said.startswith("by reference source:line-3, of ")
    assert "in the run before" not in said


def test_a_saved_reference_is_bound_to_its_encoder_and_its_name(
    longtail, open_lines, lines_root: Path
) -> None:
    open_lines(reference="source:line-3").mine(save_reference="march")
    with pytest.raises(UsageError, match="'march' is there already"):
        open_lines(reference="source:line-4").mine(save_reference="march")
    other = Workspace(
        lines_root, {"encoder": "efficientnet-lite2", "mining": {"reference": "saved:march"}}
    )
    with pytest.raises(
        EncoderError, match=r"'march' was fitted on vectors of efficientnet-lite0-\w+"
    ):
        other.mine()
    listed = longtail("references", "-w", lines_root, "--json").json
    assert [(one["name"], one["samples"]) for one in listed] == [("march", 60)]
    assert "march" in longtail("references", "-w", lines_root).out


def test_a_damaged_reference_stands_in_no_others_way(
    longtail, open_lines, lines_root: Path
) -> None:
    open_lines(reference="source:line-3").mine(save_reference="march")
    open_lines(reference="source:line-4").mine(save_reference="april")
    (lines_root / "references" / "march" / "baseline.npz").write_bytes(b"half")
    with pytest.raises(
        CorruptionError, match=r"is damaged .*; 'longtail references --remove march', and fit"
    ):
        open_lines(reference="saved:march").mine()
    assert open_lines(reference="saved:april").mine().flagged
    listed = longtail("references", "-w", lines_root, "--json").json
    assert [(one["name"], one["samples"]) for one in listed] == [("april", 30), ("march", 0)]
    assert "march   damaged; remove it" in longtail("references", "-w", lines_root).out
    assert longtail("references", "-w", lines_root, "--remove", "march").code == 0
    assert [one["name"] for one in open_lines().references()] == ["april"]


def test_a_saved_reference_can_be_removed(longtail, open_lines, lines_root: Path) -> None:
    open_lines(reference="source:line-3").mine(save_reference="march")
    removed = longtail("references", "-w", lines_root, "--remove", "march")
    assert "no saved references" in removed.out
    assert longtail("references", "-w", lines_root, "--remove", "march").code == 2
    with pytest.raises(NotFoundError, match="there are: none"):
        open_lines(reference="saved:march").mine()


def test_what_was_judged_strange_leaves_a_saved_reference_until_the_verdict_changes(
    open_lines, ids_of_source, scores_of
) -> None:
    workspace = open_lines(reference="source:line-3")
    first = workspace.mine(save_reference="march")
    everything = sorted(ids_of_source(workspace, "line-3"))

    def floor(scored: dict[str, dict[str, Any]]) -> float:
        values = [row["p_value"] for row in scored.values() if row["p_value"] is not None]
        steps = np.diff(np.unique(np.append(values, 0)))
        return float(steps.min())

    saved = open_lines(reference="saved:march", fdr=0.1)
    for sample_id, label in zip(everything[:2], ("edge_case", "junk"), strict=True):
        workspace.verdict([sample_id], label)

    second = saved.mine()

    before, after = scores_of(saved, first.run_id), scores_of(saved, second.run_id)
    for id_, row in before.items():
        assert after[id_]["score"] == pytest.approx(row["score"], abs=1e-6)
    assert (floor(before), floor(after)) == (pytest.approx(1 / 61), pytest.approx(1 / 59))
    shown = {near.sample_id for flag in saved.flags() for near in flag.nearest}
    assert shown.isdisjoint(everything[:2])
    (about,) = saved.references()
    assert about["samples"] == 60
    workspace.verdict([everything[0]], "normal")
    assert floor(scores_of(saved, saved.mine().run_id)) == pytest.approx(1 / 60)
    workspace.verdict(everything[2:45], "edge_case")
    with pytest.raises(UsageError, match="'march' has 16 samples left, 20 is the least"):
        saved.mine()


def test_what_contaminates_a_reference_is_named_and_verdicts_clean_it_when_saved(
    ids_of_reference, scores_of, tmp_path: Path
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
    scored = scores_of(workspace, run.run_id)
    of_line = sorted(ids_of_reference(workspace, run.run_id), key=lambda id_: -scored[id_]["score"])
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


def test_a_saved_reference_forgets_and_says_when_too_little_is_left(
    open_lines, ids_of_source, ids_of_reference
) -> None:
    workspace = open_lines(reference="source:line-3")
    workspace.mine(save_reference="march")
    gone = sorted(ids_of_source(workspace, "line-3"))
    (before,) = workspace.references()

    workspace.forget(gone[:2])

    (about,) = workspace.references()
    assert about["samples"] == 58
    assert about["digest"] != before["digest"]
    fit = Baseline.load(workspace.catalog.reference("march") / "baseline.npz")
    assert sorted(fit.sample_ids) == gone[2:]
    assert {len(values) for values in (fit.sources, *fit.z.values())} == {58}
    saved = open_lines(reference="saved:march")
    assert ids_of_reference(saved, saved.mine().run_id) == set(gone[2:])
    workspace.forget(gone[2:45])
    with pytest.raises(UsageError, match="'march' has 15 samples left, 20 is the least"):
        saved.mine()


def test_a_saved_reference_that_forgot_a_kind_promises_no_rate(
    open_lines, ids_of_source, tmp_path: Path
) -> None:
    """Five pictures that are like each other and like nothing else."""
    workspace = open_lines(reference="source:line-3")
    for i in range(5):
        pixels = np.full((64, 64, 3), (0, 200 + i, 255), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    before = ids_of_source(workspace, "line-3")
    workspace.run([f"{tmp_path}/*.png"], source="line-3", save_reference="march")
    gone = ids_of_source(workspace, "line-3") - before
    assert len(gone) == 5

    workspace.forget(sorted(gone))

    saved = open_lines(reference="saved:march", fdr=0.1)
    saved.mine()
    (note,) = [note for note in saved.notes() if "forgotten" in note]
    assert "5 of the 65 samples" in note
    assert "with all that was like them" in note


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_saved_reference_forgets_though_its_index_is_damaged(
    damage: str, open_lines, ids_of_source
) -> None:
    workspace = open_lines(reference="source:line-3")
    workspace.mine(save_reference="march")
    folder = workspace.catalog.reference("march")
    if damage == "gone":
        shutil.rmtree(folder / "index")
    else:
        for file in (folder / "index").rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[:10])
    gone = min(ids_of_source(workspace, "line-3"))

    with contextlib.suppress(CorruptionError):
        workspace.forget([gone])

    fit = Baseline.load(folder / "baseline.npz")
    assert gone not in fit.sample_ids
    assert "forgotten with all that was like them" in fit.thinned
    assert gone not in ids_of_source(workspace, "line-3")
    assert not workspace.catalog.forgetting.exists()


def test_what_a_saved_reference_forgot_leaves_the_others_surroundings(
    open_lines, ids_of_source, scores_of
) -> None:
    workspace = open_lines(reference="source:line-3", neighbours=3)
    before = scores_of(workspace, workspace.mine(save_reference="march").run_id)
    columns = ["sample_id", "source", "embedding_high"]
    table = workspace.catalog.samples.read(columns).sort_by("sample_id")
    ids, vectors = np.array(table["sample_id"].to_pylist()), matrix(table["embedding_high"])
    of_reference = np.array(table["source"].to_pylist()) == "line-3"
    gone = ids[of_reference][:5]
    workspace.forget(gone.tolist())

    saved = open_lines(reference="saved:march")
    after = scores_of(saved, saved.mine().run_id)

    gaps = np.linalg.norm(vectors[~of_reference][:, None] - vectors[of_reference], axis=2)
    nearest = ids[of_reference][np.argsort(gaps, axis=1)[:, :3]]
    untouched = ids[~of_reference][~np.isin(nearest, gone).any(axis=1)]
    assert len(untouched) > 5
    for id_ in untouched:
        assert after[id_]["z_local"] == pytest.approx(before[id_]["z_local"], abs=1e-5)
