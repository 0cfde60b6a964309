"""What is on the disk: commits, readers, crashes, sweeping and damage."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from index.store import IndexStore
from schemas.errors import CorruptionError, EncoderError


def test_nothing_is_open_before_the_first_commit(store, ids, vectors):
    assert store.open() is None
    store.write_segment(ids(3), vectors(3))
    assert store.open() is None


def test_a_reader_keeps_what_it_opened(store, ids, vectors):
    store.commit([store.write_segment(ids(3), vectors(3))])
    reader = store.open()
    newer = store.commit([store.write_segment(ids(2, start=3), vectors(2, seed=1))])
    assert (reader.number, reader.vectors) == (1, 3)
    assert (newer.number, newer.vectors, len(newer.segments)) == (2, 5, 2)
    assert reader.search(vectors(2, seed=1), 5)[0].max() < 3


def test_old_files_are_never_rewritten(store, ids, vectors):
    store.commit([store.write_segment(ids(3), vectors(3))])
    before = {path: path.stat() for path in store.root.glob("s*-*")}
    store.commit([store.write_segment(ids(2, start=3), vectors(2))])
    for path, stat in before.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)


def test_committing_the_same_segment_again_changes_nothing(store, ids, vectors):
    segment = store.write_segment(ids(3), vectors(3))
    assert store.commit([segment]).number == store.commit([segment]).number == 1
    assert store.open().vectors == 3


def test_of_a_sample_in_several_new_segments_the_last_counts(store, ids, vectors):
    store.commit([store.write_segment(ids(4), vectors(4))])
    parts = [store.write_segment(ids(3, start=n), vectors(3, seed=n + 1)) for n in (2, 3, 4)]
    snapshot = store.commit(parts)
    assert snapshot.vectors == 7
    found = snapshot.read(snapshot.sample_ids.rows(ids(7)))
    wanted = [vectors(4)[0], vectors(4)[1], vectors(3, seed=3)[0], vectors(3, seed=4)[0]]
    np.testing.assert_array_equal(found[:4], wanted)
    np.testing.assert_array_equal(found[4:], vectors(3, seed=5))


def test_a_crash_before_current_is_replaced_leaves_the_old_snapshot(store, ids, vectors):
    first = store.commit([store.write_segment(ids(3), vectors(3))])
    current = (store.root / "CURRENT").read_bytes()
    store.commit([store.write_segment(ids(2, start=3), vectors(2))])
    (store.root / "CURRENT").write_bytes(current)
    assert store.open().number == first.number
    after = store.commit([store.write_segment(ids(4, start=9), vectors(4))])
    assert (after.number, after.vectors) == (2, 7)


def test_threads_write_and_commit_at_once(store, ids, vectors):
    def work(worker):
        segment = store.write_segment(ids(5, start=5 * worker), vectors(5, seed=worker))
        return store.commit([segment]).number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(work, range(12))) == list(range(1, 13))
    snapshot = store.open()
    assert sorted(snapshot.sample_ids) == sorted(ids(60))


def test_sweeping_takes_orphans_and_superseded_files_after_the_grace_period(store, ids, vectors):
    store.commit([store.write_segment(ids(3), vectors(3))])
    orphan = store.write_segment(ids(3), vectors(3))
    newest = store.commit([store.write_segment(ids(2, start=3), vectors(2))])
    assert store.sweep(grace_s=60) == []
    assert store.sweep(grace_s=0) == sorted([*orphan.files, "snapshot-1.json"])
    assert store.open().number == newest.number


def test_sweeping_counts_the_grace_from_when_a_snapshot_was_superseded(store, ids, vectors):
    store.commit([store.write_segment(ids(3), vectors(3))])
    store.commit([store.write_segment(ids(2, start=3), vectors(2))])
    hour_ago = time.time() - 3600
    os.utime(store.root / "snapshot-1.json", (hour_ago, hour_ago))
    assert store.sweep(grace_s=600) == []


def test_vectors_of_another_dimension_are_refused(store, ids, vectors):
    store.commit([store.write_segment(ids(3), vectors(3, 320))])
    with pytest.raises(EncoderError, match="have 384 dimensions, the index holds 320"):
        store.commit([store.write_segment(ids(3, start=3), vectors(3, 384))])
    assert store.open().number == 1


@pytest.mark.parametrize(
    ("count", "shape", "reason"),
    [
        (0, (0, 4), "0 sample ids"),
        (3, (2, 4), "3 sample ids do not go with"),
        (2, (8,), "2 sample"),
    ],
)
def test_ids_and_vectors_must_go_together(store, ids, vectors, count, shape, reason):
    with pytest.raises(ValueError, match=reason):
        store.write_segment(ids(count), np.zeros(shape, np.float32))


def test_ids_are_distinct_digests(store, ids, vectors):
    with pytest.raises(ValueError, match="twice"):
        store.write_segment(ids(1) * 2, vectors(2))
    with pytest.raises(ValueError, match=r"'cat\.jpg' is not the 64 hex digits"):
        store.write_segment(["cat.jpg"], vectors(1))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    path.write_bytes((b"not one of ours " * path.stat().st_size)[: path.stat().st_size])


def binary(path: Path) -> None:
    path.write_bytes(bytes([255]) * path.stat().st_size)


def missing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [truncated, emptied, foreign, binary, missing])
@pytest.mark.parametrize("pattern", ["*.vectors.faiss", "*.ids.npy", "snapshot-*.json", "CURRENT"])
def test_damage_names_the_file_and_the_remedy(store, ids, vectors, pattern, harm):
    store.commit([store.write_segment(ids(3), vectors(3))])
    (path,) = store.root.glob(pattern)
    harm(path)
    if (pattern, harm) == ("CURRENT", missing):
        assert store.open() is None
        return
    with pytest.raises(CorruptionError, match=rf"{path.name} .*run 'longtail index rebuild'"):
        IndexStore(store.root).open()


@pytest.mark.parametrize("harm", [truncated, foreign, binary, missing])
@pytest.mark.parametrize("pattern", ["snapshot-*.json", "CURRENT"])
def test_an_index_is_made_anew_whatever_state_it_is_in(store, ids, vectors, pattern, harm):
    store.commit([store.write_segment(ids(3), vectors(3))])
    (path,) = store.root.glob(pattern)
    harm(path)
    store.commit([store.write_segment(ids(4), vectors(4), anew=True)], anew=True)
    assert store.open().vectors == 4


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("pattern", ["*.vectors.faiss", "*.ids.npy"])
def test_a_file_of_another_segment_is_found_out(store, ids, vectors, pattern, count):
    store.commit([store.write_segment(ids(3), vectors(3))])
    (path,) = store.root.glob(pattern)
    other = IndexStore(store.root.parent / "other")
    other.commit([other.write_segment(ids(count, start=5), vectors(count, seed=1))])
    size = path.stat().st_size
    (stranger,) = other.root.glob(pattern)
    path.write_bytes(stranger.read_bytes()[:size])
    with pytest.raises(CorruptionError, match=path.name):
        store.open()
