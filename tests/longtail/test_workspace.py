from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longtail import Workspace
from longtail.runs import start
from pipelines.progress import Progress
from pipelines.progress import of as progress_of
from schemas.arrow import matrix
from schemas.errors import (
    AuditError,
    NotFoundError,
    RejectReason,
    SettingsError,
    UsageError,
    WorkspaceError,
)


def versions(workspace: Workspace) -> list[int | None]:
    catalog = workspace.catalog
    tables = (catalog.samples, catalog.uris, catalog.rejects, catalog.scores)
    return [table.version() for table in tables]


def test_every_photograph_becomes_one_sample_with_three_levels(mined: Workspace) -> None:
    samples = mined.catalog.samples.read()
    assert samples.num_rows == len(set(samples["sample_id"].to_pylist())) == 90
    assert set(samples["source"].to_pylist()) == {"line-3"}
    assert set(samples["width"].to_pylist()) == {300}
    for level in ("low", "mid", "high"):
        vectors = matrix(samples[f"embedding_{level}"])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_a_second_run_commits_nothing_and_reads_nothing(
    mined: Workspace, workspace: Workspace, tmp_path: Path, photograph: Callable[[Path, int], Path]
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(30):
        photograph(folder / f"{i}.png", i)
    first = workspace.run([str(folder)])
    assert first.ingested == 30
    before = versions(workspace)
    for path in folder.iterdir():
        stat = path.stat()
        path.write_bytes(b"x" * stat.st_size)  # whoever reads it now rejects it
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    again = workspace.run([str(folder)])

    assert (again.ingested, again.skipped, again.rejected, again.flagged) == (0, 30, 0, 0)
    assert versions(workspace) == before
    assert workspace.status()["last_run"]["run_id"] == again.run_id


def test_only_what_is_new_is_done(
    workspace: Workspace, tmp_path: Path, photograph: Callable[[Path, int], Path]
) -> None:
    for i in range(10):
        photograph(tmp_path / f"{i}.png", i)
    images = [str(tmp_path / f"{i}.png") for i in range(10)]

    summary = workspace.run(images)

    assert (summary.ingested, summary.skipped, summary.rejected) == (10, 0, 0)
    assert workspace.status()["samples"] == 100
    index = workspace.status()["index"]
    assert (index["vectors"], index["segments"], index["snapshot"]) == (100, 2, 2)


def test_a_content_under_another_name_adds_its_uri(
    workspace: Workspace, photographs: Path, tmp_path: Path, photograph: Callable[[Path, int], Path]
) -> None:
    original = min(photographs.iterdir())
    shutil.copy(original, tmp_path / "copy.png")
    twice = [photograph(tmp_path / "a.png", 1), shutil.copy(tmp_path / "a.png", tmp_path / "b.png")]

    summary = workspace.ingest([str(tmp_path / "copy.png"), *map(str, twice)])

    assert (summary.ingested, summary.skipped) == (1, 2)
    state = workspace.status()
    assert (state["samples"], state["uris"]) == (91, 93)
    assert workspace.ingest([str(tmp_path / "copy.png"), *map(str, twice)]).skipped == 3
    assert workspace.status()["uris"] == 93


def test_a_file_that_changed_is_a_new_sample(
    workspace: Workspace, tmp_path: Path, photograph: Callable[[Path, int], Path]
) -> None:
    image = photograph(tmp_path / "a.png", 1)
    workspace.ingest([str(image)])
    photograph(image, 2)
    assert workspace.ingest([str(image)]).ingested == 1
    assert workspace.status()["samples"] == 92


def test_rejects_are_counted_kept_and_not_tried_again(
    empty: Workspace,
    make_broken: Callable[[Path], Mapping[str, RejectReason]],
    photographs: Path,
    tmp_path: Path,
) -> None:
    reasons = make_broken(tmp_path / "images")
    for path in photographs.iterdir():
        (tmp_path / "images" / path.name).symlink_to(path.resolve())

    summary = empty.run([str(tmp_path / "images")])

    assert (summary.ingested, summary.rejected) == (90, 20)
    found = empty.catalog.rejects.read(["uri", "reason"]).to_pylist()
    assert {Path(row["uri"]).name: row["reason"] for row in found} == reasons
    assert empty.run([str(tmp_path / "images")]).skipped == 110

    other_limits = {"limits": {"min_side": 1, "max_rejected_share": 1}}
    assert Workspace(empty.root, other_limits).ingest([str(tmp_path / "images")]).rejected > 0


def test_too_many_rejects_publish_nothing(
    empty: Workspace,
    make_broken: Callable[[Path], object],
    tmp_path: Path,
    photograph: Callable[[Path, int], Path],
) -> None:
    make_broken(tmp_path / "images")
    photograph(tmp_path / "images" / "good.png", 1)
    with pytest.raises(AuditError, match=r"rejected_share.*0\.95.*refused: 8 not_an_image \("):
        empty.run([str(tmp_path / "images")])
    assert versions(empty) == [None] * 4
    assert empty.status()["runs"] == 0


def test_what_is_missing_neither_piles_up_nor_holds_up_later_runs(
    workspace: Workspace, tmp_path: Path, photograph: Callable[[Path, int], Path]
) -> None:
    there = [photograph(tmp_path / f"{i}.png", i).name for i in range(30)]
    gone = [f"gone-{i}.png" for i in range(25)]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["uri", *there, *gone]))
    first = workspace.run([str(manifest)])
    assert (first.ingested, first.rejected) == (30, 25)
    before = versions(workspace)

    again = workspace.run([str(manifest)])
    assert (again.ingested, again.skipped, again.rejected) == (0, 55, 0)
    assert versions(workspace) == before

    photograph(tmp_path / "gone-3.png", 99)
    assert workspace.run([str(manifest)]).ingested == 1
    assert workspace.status()["rejects"] == 25


def test_one_broken_image_alone_is_no_reason_to_stop(empty: Workspace, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    summary = empty.run([str(tmp_path / "broken.png")])
    assert (summary.ingested, summary.rejected) == (0, 1)
    assert empty.flags() == []


def test_flags_are_ranked_explained_and_have_normal_neighbours(mined: Workspace) -> None:
    flags = mined.flags()
    outliers = [flag for flag in flags if flag.kind == "outlier"]
    assert [flag.rank for flag in flags] == list(range(1, len(flags) + 1))
    assert len(outliers) == 10
    assert sorted(outliers, key=lambda flag: -flag.score) == outliers
    flagged = {flag.sample_id for flag in flags}
    for flag in flags:
        assert flag.reasons
        assert flag.source == "line-3"
        assert Path(flag.uri).exists()
        assert len(flag.nearest) == 3
        assert not flagged & {near.sample_id for near in flag.nearest}
        distances = [near.distance for near in flag.nearest]
        assert sorted(distances) == distances
    assert mined.flags(top=3) == flags[:3]
    assert mined.flags(kind="outlier") == outliers


def test_another_version_mines_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert workspace.mine().flagged == 0  # nothing has changed since
    monkeypatch.setattr("longtail.__version__", "9.9.9")
    assert workspace.mine().flagged >= 10
    assert workspace.mine().flagged == 0


def test_another_policy_mines_again_and_old_runs_can_be_read(workspace: Workspace) -> None:
    first = workspace.flags()[0].run_id
    summary = Workspace(workspace.root, {"mining": {"budget": "5"}}).mine()
    assert summary.flagged == len(workspace.flags())
    assert len(workspace.flags(kind="outlier")) == 5
    assert len(workspace.flags(first, kind="outlier")) == 10
    with pytest.raises(NotFoundError, match="no mining run 'nonsense'; the newest is 20"):
        workspace.flags("nonsense")


def test_a_known_image_finds_itself_first(mined: Workspace, photographs: Path) -> None:
    for path in sorted(photographs.iterdir())[:3]:
        hits = mined.query(path, k=4).to_pylist()
        assert Path(hits[0]["uri"]).name == path.name
        assert hits[0]["distance"] == pytest.approx(0, abs=1e-4)
        assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
        assert hits == mined.query(sample_id=hits[0]["sample_id"][:12], k=4).to_pylist()


def test_a_changed_copy_finds_its_original(
    mined: Workspace, photographs: Path, tmp_path: Path
) -> None:
    for path in sorted(photographs.iterdir())[:5]:
        with Image.open(path) as image:
            image.convert("RGB").resize((280, 280)).save(tmp_path / "copy.jpg", quality=90)
        assert Path(mined.query(tmp_path / "copy.jpg", k=1)["uri"][0].as_py()).name == path.name


def test_queries_that_cannot_be_answered(
    mined: Workspace, empty: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(NotFoundError, match=r"gone\.jpg cannot be read: No such file"):
        mined.query(tmp_path / "gone.jpg")
    with pytest.raises(UsageError, match=r"notes\.txt is not an image to query by: not_an_image"):
        mined.query(tmp_path / "notes.txt")
    with pytest.raises(NotFoundError, match="no sample whose id starts with 'ffffffffffff'"):
        mined.query(sample_id="ffffffffffff")
    with pytest.raises(NotFoundError, match="'ab' is too short"):
        mined.query(sample_id="ab")
    with pytest.raises(UsageError, match="give an image file, a sample id, a vector or a text"):
        mined.query()
    with pytest.raises(NotFoundError, match="no indexed samples"):
        empty.query(sample_id="ffffffffffff")


def test_status_counts(mined: Workspace) -> None:
    state = mined.status()
    assert (state["samples"], state["uris"], state["rejects"], state["runs"]) == (90, 90, 0, 1)
    assert state["flags"] == len(mined.flags()) == state["last_run"]["flagged"]
    assert state["index"] == {
        **{"vectors": 90, "segments": 1, "snapshot": 1, "factory": "Flat"},
        **{"recall": 1.0, "recall_wanted": 0.95, "measured": 90},
    }


def test_the_last_run_is_one_that_looked_for_edge_cases(workspace: Workspace) -> None:
    last = workspace.status()["last_run"]
    workspace.curate("cracks", top=1)
    assert workspace.status()["last_run"] == last
    assert workspace.status()["runs"] == 2


def test_a_failure_is_shown_until_a_run_ends_well(workspace: Workspace) -> None:
    assert workspace.status()["last_failure"] is None
    with pytest.raises(ValueError, match="first"), start(workspace.catalog, command="mine") as run:
        raise ValueError("first line\nlast line")
    assert workspace.status()["last_failure"] == {
        **{"run_id": run.run_id, "command": "mine", "error": "ValueError: last line"}
    }
    time.sleep(1.1)  # ids of runs tell seconds apart
    workspace.mine()
    assert workspace.status()["last_failure"] is None


def test_a_workspace_that_cannot_be_written_is_no_longer_held(empty: Workspace) -> None:
    empty.catalog.runs.write_text("in the way of the folder")
    with pytest.raises(WorkspaceError, match=r"empty cannot be written \(Not a directory\); mend"):
        empty.index()
    empty.catalog.runs.unlink()
    empty.index()


def test_a_job_that_fails_leaves_no_progress_behind(workspace: Workspace) -> None:
    seen: list[Progress] = []

    def watch(name: str, progress: Progress) -> AbstractContextManager[None]:
        seen.append(progress)
        return nullcontext()

    with pytest.raises(SettingsError, match="Abacus"):
        Workspace(workspace.root, {"runner": "Abacus", "mining": {"budget": "7"}}, watch).mine()
    failed = workspace.status()["last_failure"]["run_id"]
    assert len(seen) == 1
    assert progress_of(failed) is not seen[0]


def test_flags_stand_without_the_folders_of_their_runs(workspace: Workspace) -> None:
    flags = workspace.flags()
    shutil.rmtree(workspace.catalog.runs)
    assert workspace.flags() == workspace.flags(flags[0].run_id) == flags
    assert workspace.status()["flags"] == len(flags)
    report = workspace.report()
    assert report is not None
    assert Path(flags[0].uri).name in report.read_text("utf-8")


def test_a_user_without_a_name_is_asked_for_one(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # as under `docker run --user`
    one = workspace.flags()[0].sample_id
    with pytest.raises(UsageError, match="pass --reviewer NAME"):
        workspace.verdict([one], "junk")
    assert workspace.verdict([one], "junk", reviewer="ada")[0].reviewer == "ada"


def test_no_workspace_and_two_of_them(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="make a workspace with 'longtail init"):
        Workspace(tmp_path / "nowhere")
    Workspace.create(tmp_path / "here")
    with pytest.raises(WorkspaceError, match="exists already"):
        Workspace.create(tmp_path / "here")
    with pytest.raises(WorkspaceError, match="not a folder on this machine"):
        Workspace.create("s3://bucket/prefix")


def test_an_input_that_is_not_there_is_told_before_anything_runs(empty: Workspace) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        empty.run(["nowhere/"])
    assert versions(empty) == [None] * 4


def test_a_source_with_control_characters_is_refused_until_it_is_mended(
    longtail, empty: Workspace, photographs: Path, tmp_path: Path
) -> None:
    paths = sorted(photographs.iterdir())[:4]
    manifest = tmp_path / "images.csv"

    def ingest(*sources: str) -> tuple[int, int]:
        rows = [f'{path},"{source}"\n' for path, source in zip(paths, sources, strict=True)]
        manifest.write_text("".join(["uri,source\n", *rows]))
        summary = empty.ingest([str(manifest)])
        return summary.ingested, summary.rejected

    assert ingest("Zürich 3", "line\n3", "\x1b[31mred", "line\u20283") == (1, 3)
    rejects = empty.catalog.rejects.read(["reason", "detail"]).to_pylist()
    assert {row["reason"] for row in rejects} == {"bad_source"}
    assert r"'line\n3' holds control characters" in {row["detail"] for row in rejects}
    assert ingest("Zürich 3", "line-3", "red", "line\u20283") == (2, 0)

    told = longtail("ingest", "-w", empty.root, photographs, "--source", "line\n3")
    assert told.code == 2
    assert told.err == (
        "longtail: source 'line\\n3' holds control characters; give it another name\n"
    )


def test_a_workspace_in_the_folder_of_its_images_is_none_of_them(
    tmp_path: Path, make_photographs: Callable[[Path, int], list[Path]], longtail
) -> None:
    make_photographs(tmp_path, 8)
    longtail("init", tmp_path)
    assert "8 ingested, 0 skipped, 0 rejected" in longtail("run", "-w", tmp_path, tmp_path).out
    sample = longtail("suggest", "-w", tmp_path, "-n", 1, "--json").json[0]["sample_id"]
    longtail("verdict", "-w", tmp_path, sample, "edge_case")
    longtail("curate", "-w", tmp_path, "odd")
    longtail("trigger", "add", "like-it", "-w", tmp_path, "--from", sample)
    assert "0 ingested, 8 skipped, 0 rejected" in longtail("run", "-w", tmp_path, tmp_path).out
