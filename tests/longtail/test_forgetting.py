"""Forgetting on request: whom a source and a time mean, what a crash leaves, what is damaged."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from longtail import Workspace
from longtail.filters import Filter
from schemas.errors import CorruptionError, NotFoundError
from schemas.tables import Table


@pytest.fixture
def some(workspace: Workspace) -> list[str]:
    return sorted(workspace.catalog.samples.read(["sample_id"])["sample_id"].to_pylist())


@pytest.fixture
def manifest(workspace: Workspace, some: list[str], tmp_path: Path) -> Path:
    """Two images of the workspace that were also seen elsewhere, one of them long ago."""
    table = workspace.catalog.uris.read(["sample_id", "uri"]).to_pylist()
    uris = {row["sample_id"]: Path(row["uri"]) for row in table}
    lines = ["uri,source,captured_at"]
    for name, sample_id, time in (("a", some[0], ""), ("b", some[1], "1999-03-01T00:00:00Z")):
        (tmp_path / f"{name}.png").write_bytes(uris[sample_id].read_bytes())
        lines.append(f"{tmp_path / name}.png,archive,{time}")
    path = tmp_path / "archive.csv"
    path.write_text("\n".join(lines))
    return path


def found(workspace: Workspace, **asked: Any) -> set[str]:
    sample_id = workspace.catalog.samples.read(["sample_id"])["sample_id"][0].as_py()
    hits = workspace.query(sample_id=sample_id, k=90, where=Filter(**asked))
    return set(hits["sample_id"].to_pylist())


def test_sources_and_times_are_those_of_any_sighting(
    workspace: Workspace, some: list[str], manifest: Path
) -> None:
    before, now = datetime(2000, 1, 1, tzinfo=UTC), datetime.now(UTC)
    workspace.ingest([str(manifest)])
    assert found(workspace, source="archive") == set(some[:2])
    assert found(workspace, until=before) == {some[1]}
    assert found(workspace, source="line-3", until=before) == set()
    assert found(workspace, since=now) == {some[0]}  # not captured at a known time: seen
    assert found(workspace, since=now - timedelta(days=1)) == set(some)
    assert found(workspace, until=now.replace(tzinfo=None)) == set(some)

    assert workspace.forget(before=before) == [some[1]]
    assert workspace.forget(source="archive") == [some[0]]
    assert found(workspace) == set(some[2:])


def test_a_reference_is_of_any_sighting_too(
    workspace: Workspace, some: list[str], manifest: Path
) -> None:
    with pytest.raises(NotFoundError, match="'source:archive' holds 0 indexed"):
        Workspace(workspace.root, {"mining": {"reference": "source:archive"}}).mine()
    workspace.ingest([str(manifest)])
    for reference, samples in (("source:archive", 2), ("before:2000-01-01", 1)):
        with pytest.raises(NotFoundError, match=f"'{reference}' holds {samples} indexed"):
            Workspace(workspace.root, {"mining": {"reference": reference}}).mine()


def test_undo_knows_what_was_forgotten(workspace: Workspace, some: list[str], longtail) -> None:
    w = workspace.root
    assert workspace.forget([some[0], some[0][:9], some[1]]) == some[:2]
    told = longtail("forget", "-w", w, "--undo", some[2])
    assert (told.code, "no forgotten sample whose id starts with" in told.err) == (2, True)
    told = longtail("forget", "-w", w, "--undo", some[0], "--source", "line-3")
    assert (told.code, "undo takes sample ids" in told.err) == (2, True)
    assert workspace.catalog.forgotten.count() == 2
    told = longtail("forget", "-w", w, "--undo", some[0][:9], some[0])
    assert told.out == "1 will be accepted again by the next ingest\n"
    assert workspace.catalog.forgotten.read()["sample_id"].to_pylist() == [some[1]]


def test_ids_come_from_a_file_or_stdin(
    workspace: Workspace, some: list[str], longtail, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "ids.txt").write_text(f"{some[0]}\n\n {some[1][:12]} \n")
    told = longtail("forget", "-w", workspace.root, "--ids", tmp_path / "ids.txt", some[2])
    assert told.out.startswith("3 forgotten")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{some[3]}\n".encode())))
    assert longtail("forget", "-w", workspace.root, "--ids", "-").out.startswith("1 forgotten")
    assert found(workspace) == set(some[4:])
    assert longtail("forget", "-w", workspace.root, "--ids", tmp_path / "no.txt").code == 2
    (tmp_path / "ids.txt").write_bytes(b"# Gr\xf6\xdfe\n")
    told = longtail("forget", "-w", workspace.root, "--ids", tmp_path / "ids.txt")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "ids.txt is not UTF-8" in told.err


def test_the_next_run_finishes_what_a_crash_left_of_forgetting(
    workspace: Workspace, some: list[str]
) -> None:
    """A folder in place of a report stops it after the index and before the tables."""
    report = workspace.report()
    assert report is not None
    report.unlink()
    (report / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="report"):
        workspace.forget(some[:2])
    assert workspace.status()["samples"] == 90
    (report / "in the way").rmdir()
    report.rmdir()

    workspace.index()

    assert workspace.status()["samples"] == 88
    assert found(workspace) == set(some[2:])
    assert some[0] not in workspace.catalog.uris.read(["sample_id"])["sample_id"].to_pylist()
    assert not workspace.catalog.forgetting.exists()
    assert workspace.verify_index().ok


def test_what_was_forgotten_is_refused_without_a_name(
    workspace: Workspace, some: list[str], manifest: Path
) -> None:
    """The next run that finds its file keeps no path, source or metadata, and reads it once."""
    manifest.write_text(manifest.read_text().replace("captured_at", "captured_at,person"))
    manifest.write_text(manifest.read_text().replace("archive,", "archive,JANE,"))
    workspace.forget(some[:2])

    first, again = (workspace.run([str(manifest)]) for _ in range(2))

    assert (first.rejected, again.rejected, again.skipped) == (2, 0, 2)
    kept = workspace.catalog.rejects.read()
    assert set(some[:2]) <= set(kept["detail"].to_pylist())
    for word in ("JANE", "archive", str(manifest.parent)):
        assert word not in str(kept.to_pylist())
    workspace.forget(some[:2], undo=True)
    assert workspace.run([str(manifest)]).ingested == 2


def test_an_undo_that_a_crash_ended_can_be_asked_for_again(
    workspace: Workspace, some: list[str], manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.forget(some[:1])
    workspace.ingest([str(manifest)])
    done: list[str] = []

    def once(table: Table, column: str, values: Sequence[str]) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(column)
        delete(table, column, values)

    delete = Table.delete
    with monkeypatch.context() as patched:
        patched.setattr(Table, "delete", once)
        with pytest.raises(KeyboardInterrupt):
            workspace.forget(some[:1], undo=True)

    workspace.forget(some[:1], undo=True)
    assert workspace.ingest([str(manifest)]).ingested == 1


def test_to_forget_nothing_leaves_the_reports(workspace: Workspace) -> None:
    report = workspace.report()
    assert report is not None
    assert workspace.forget(source="no-such") == []
    assert report.exists()


@pytest.mark.parametrize("asked", [(), ("--level", "low"), ("--since", "2000-01-01")])
def test_where_all_is_forgotten_there_is_nothing_to_search(
    workspace: Workspace, some: list[str], photographs: Path, longtail, asked: tuple[str, ...]
) -> None:
    workspace.forget(some)
    image = next(photographs.iterdir())
    told = longtail("query", "-w", workspace.root, image, *asked)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "has no indexed samples; 'longtail run' adds some" in told.err


def test_what_is_damaged_does_not_keep_the_rest_from_being_forgotten(
    workspace: Workspace, some: list[str], longtail
) -> None:
    other = workspace.catalog.index("an-old-encoder")
    other.mkdir()
    (other / "CURRENT").write_text("snapshot-1.json\n")
    (other / "snapshot-1.json").write_text("{}")
    with pytest.raises(CorruptionError, match=r"an-old-encoder.*delete these"):
        workspace.forget(some[:1])
    assert workspace.status()["samples"] == 89
    assert found(workspace) == set(some[1:])
    told = longtail("vacuum", "-w", workspace.root)
    assert (told.code, "an-old-encoder" in told.err) == (1, True)
    workspace.index()  # no other job minds
    shutil.rmtree(other)
    assert longtail("vacuum", "-w", workspace.root).code == 0
