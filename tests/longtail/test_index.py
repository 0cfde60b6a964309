"""The index of a workspace: what comes late, was forgotten half-way, or is wanted otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longtail import Workspace
from schemas import arrow
from schemas.errors import NotFoundError, SettingsError

Command = Callable[..., Any]


class Camera:
    """A workspace of vectors of one's own, to which more come in files of 500."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = Workspace.create(folder / "workspace").root
        self.taken = 0

    def workspace(self, workers: int = 1, **index: Any) -> Workspace:
        """The workspace, with these settings of its index from now on."""
        settings = {"encoder": "vectors:mine", "index": index, "workers": workers}
        (self.root / "longtail.yaml").write_text(json.dumps(settings))
        return Workspace(self.root)

    def take(self, count: int) -> None:
        random = np.random.default_rng(self.taken)
        batch = self.folder / f"batch-{self.taken}"
        batch.mkdir()
        for start in range(0, count, 500):
            rows = random.standard_normal((min(500, count - start), 16), dtype=np.float32)
            uris = [f"{self.taken + start + n}.png" for n in range(len(rows))]
            table = pa.table({"uri": uris, "embedding": arrow.vectors_array(rows)})
            pq.write_table(table, batch / f"{start}.parquet")
        Workspace(self.root, {"encoder": "vectors:mine"}).ingest([str(batch)])
        self.taken += count


@pytest.fixture
def camera(tmp_path: Path) -> Camera:
    return Camera(tmp_path)


def held(workspace: Workspace) -> set[str]:
    """The samples that the index finds."""
    snapshot = workspace.jobs.index_store.open()
    assert snapshot is not None
    return set(snapshot.sample_ids.take(snapshot.live_rows()))


def sample_ids(workspace: Workspace) -> list[str]:
    ids: list[str] = sorted(workspace.catalog.samples.read(["sample_id"])["sample_id"].to_pylist())
    return ids


def test_only_new_files_are_read(camera: Camera) -> None:
    workspace = camera.workspace()
    camera.take(60)
    workspace.index()
    (old,) = workspace.catalog.samples.files()
    camera.take(40)
    (workspace.catalog.samples.root / old.path).rename(camera.folder / "away.parquet")
    workspace.index()
    assert workspace.index_status()["vectors"] == 100


def test_an_index_of_the_same_size_but_of_others_is_put_right(camera: Camera) -> None:
    workspace = camera.workspace()
    camera.take(50)
    workspace.index()
    ids = sample_ids(workspace)
    store = workspace.jobs.index_store
    store.forget(ids[:5])
    strangers = [f"{n:064x}" for n in range(5)]
    store.commit([store.write_segment(strangers, np.eye(5, 16, dtype=np.float32))], covered=[])
    workspace.index()
    assert held(workspace) == set(ids)
    assert workspace.verify_index().ok
    number = workspace.index_status()["snapshot"]
    workspace.index()
    assert workspace.index_status()["snapshot"] == number


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("anew", [True, False])
def test_a_forgotten_sample_that_a_crash_left_in_the_table_is_not_found(
    camera: Camera, indexed: bool, anew: bool
) -> None:
    """It is refused already, and still in the table, and in the index or not."""
    workspace = camera.workspace()
    camera.take(50)
    workspace.index()
    gone = sample_ids(workspace)[0]
    forgotten = workspace.catalog.forgotten
    rows = pa.table([[gone], [datetime.now(UTC)]], schema=arrow.FORGOTTEN)
    forgotten.commit([forgotten.stage(rows)], transaction="forget")
    if not indexed:
        workspace.jobs.index_store.forget([gone])
    assert workspace.verify_index().ok
    if anew:
        workspace.rebuild_index()
    else:
        workspace.index()
    assert held(workspace) == set(sample_ids(workspace)) - {gone}
    assert workspace.verify_index().ok


def test_another_recall_is_measured_at_the_next_run(camera: Camera, longtail: Command) -> None:
    camera.take(1500)
    camera.workspace(factory="IVF32,SQ8", recall=0.5).index()
    workspace = camera.workspace(factory="IVF32,SQ8", recall=0.99)
    before = workspace.index_status()
    assert (before["factory"], before["measured"]) == ("IVF32,SQ8", 1500)
    assert "short of the 0.99" in longtail("status", "-w", camera.root).out
    workspace.index()
    after = workspace.index_status()
    assert after["recall"] >= 0.97 > before["recall"]
    assert "short of" not in longtail("status", "-w", camera.root).out
    workspace.index()
    assert workspace.index_status() == after


def test_several_workers_build_cells_that_share_a_quantizer(camera: Camera) -> None:
    camera.take(3000)
    workspace = camera.workspace(workers=2, factory="IVF32,SQ8")
    workspace.index()
    snapshot = workspace.jobs.index_store.open()
    assert snapshot is not None
    assert snapshot.vectors == snapshot.measured == 3000
    assert {segment.kind for segment in snapshot.segments} == {"IVF32,SQ8"}
    assert len(list(workspace.jobs.index_store.root.glob("quantizer-*"))) == 1
    assert workspace.verify_index().ok


def test_a_rebuild_gives_large_segments(camera: Camera) -> None:
    for _ in range(5):
        camera.take(20)
    workspace = camera.workspace()
    workspace.index()
    workspace.rebuild_index()
    state = workspace.index_status()
    assert (state["vectors"], state["segments"]) == (100, 1)
    assert workspace.verify_index().ok


@pytest.mark.parametrize("pattern", ["CURRENT", "snapshot-*.json", "segment-*.vectors.faiss"])
def test_a_rebuild_mends_what_is_damaged(camera: Camera, longtail: Command, pattern: str) -> None:
    camera.take(20)
    workspace = camera.workspace()
    workspace.index()
    (path,) = workspace.jobs.index_store.root.glob(pattern)
    path.write_bytes(b"harmed")
    assert "run 'longtail index rebuild'" in longtail("index", "compact", "-w", camera.root).err
    assert longtail("index", "rebuild", "-w", camera.root).code == 0
    assert workspace.verify_index().ok


def test_nothing_can_be_rebuilt_of_nothing(camera: Camera, longtail: Command) -> None:
    with pytest.raises(NotFoundError, match="has no samples; 'longtail run'"):
        camera.workspace().rebuild_index()
    told = longtail("index", "rebuild", "-w", camera.root)
    assert (told.code, told.err.count("\n")) == (2, 1)


def test_a_wrong_factory_is_refused_however_small_the_workspace(camera: Camera) -> None:
    camera.take(20)
    with pytest.raises(SettingsError, match="'nonsense' does not suit 16"):
        camera.workspace(factory="nonsense").index()


def test_a_wrong_factory_is_told_before_anything_is_ingested(
    camera: Camera, longtail: Command, photographs: Path, tmp_path: Path
) -> None:
    rows = pa.table({"uri": ["0.png"], "embedding": arrow.vectors_array(np.ones((1, 16), "f4"))})
    pq.write_table(rows, tmp_path / "vectors.parquet")
    wrong = ("-w", camera.root, "--set", "index.factory=nonsense")
    images = longtail("run", photographs, *wrong)
    brought = longtail("run", tmp_path / "vectors.parquet", *wrong, "--set", "encoder=vectors:mine")
    for told, dimension in ((images, 320), (brought, 16)):
        assert (told.code, told.err.count("\n")) == (2, 1)
        assert f"index.factory 'nonsense' does not suit {dimension} dimensions" in told.err
    assert not camera.workspace().catalog.samples.files()


def test_status_says_for_how_many_the_recall_stands(camera: Camera, longtail: Command) -> None:
    camera.take(1000)
    workspace = camera.workspace(factory="IVF32,SQ8")
    workspace.index()
    store = workspace.jobs.index_store
    snapshot = store.open()
    assert snapshot is not None
    rows = np.random.default_rng(9).standard_normal((500, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [f"{n:064x}" for n in range(500)]
    store.commit([store.write_segment(ids, rows, snapshot.trained)])
    told = longtail("status", "-w", camera.root)
    assert "(measured on 1,000 of them)" in told.out
