"""Merging while others read and write, and what is damaged, forgotten or worn out meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

from index.factory import Policy
from index.segments import Effort
from index.store import IndexStore
from schemas.errors import CorruptionError

IN_CELLS = Policy(flat_rows=1000)


def test_small_segments_become_one(tmp_path, ids, vectors, filled):
    store = filled(tmp_path, Policy(), ids(40), vectors(40))
    snapshot = store.compact()
    assert [segment.vectors for segment in snapshot.segments] == [40]
    assert snapshot.choice.factory == "Flat"
    assert snapshot.choice.recall == 1.0
    assert store.compact().number == snapshot.number


def test_a_large_segment_is_left_alone_until_the_small_ones_are_worth_it(tmp_path, ids, vectors):
    store = IndexStore(tmp_path)
    large = store.write_segment(ids(100), vectors(100))
    small = [
        store.write_segment(ids(10, start=100 + n), vectors(10, seed=n)) for n in range(0, 20, 10)
    ]
    store.commit([large, *small])
    assert sorted(segment.vectors for segment in store.compact().segments) == [20, 100]
    store.commit([store.write_segment(ids(10, start=200), vectors(10))])
    assert [segment.vectors for segment in store.compact().segments] == [130]


def test_a_quantizer_that_what_came_since_wears_out_is_trained_anew(
    tmp_path, ids, filled, clustered
):
    """What came first lies elsewhere: cells and codes made for it cost 300 times the effort."""
    rows = np.concatenate([clustered(4000), clustered(8000, clusters=200, seed=1)])
    store = filled(tmp_path, Policy(factory="IVF128,SQ8", flat_rows=1000), ids(4000), rows[:4000])
    first = store.compact()
    store.commit([store.write_segment(ids(8000, start=4000), rows[4000:])])
    second = store.compact()
    assert second.trained != first.trained
    assert second.choice.recall >= 0.93
    assert second.choice.effort.cost <= first.choice.effort.cost


def test_later_segments_share_the_quantizer(tmp_path, ids, crowd, filled):
    store = filled(tmp_path, IN_CELLS, ids(4000), crowd)
    store.compact()
    segment = store.write_segment(ids(1000, start=4000), np.roll(crowd[:1000], 1, axis=1))
    assert segment.kind == "IVF128,SQ8"
    snapshot = store.commit([segment])
    assert store.write_segment(ids(10, start=9000), crowd[:10]).kind == "Flat"
    first, second = (
        faiss.read_index(str(store.root / f"{part.name}.cells.faiss")) for part in snapshot.segments
    )
    np.testing.assert_array_equal(
        first.quantizer.reconstruct_n(0, 128), second.quantizer.reconstruct_n(0, 128)
    )


def test_a_quantizer_that_was_outgrown_is_trained_anew(tmp_path, ids, crowd, filled):
    policy = Policy(flat_rows=50)
    store = filled(tmp_path, policy, ids(100), crowd[:100])
    assert store.compact().choice.factory == "IVF32,SQ8"
    store.commit([store.write_segment(ids(3900, start=100), crowd[100:])])
    assert store.is_due()
    snapshot = store.compact()
    assert snapshot.choice.factory == "IVF128,SQ8"
    assert {segment.kind for segment in snapshot.segments} == {"IVF128,SQ8"}


def test_large_merges_are_split_by_memory(tmp_path, ids, crowd, filled):
    policy = Policy(flat_rows=1000, segment_bytes=1500 * 32 * 4)
    store = filled(tmp_path, policy, ids(4000), crowd)
    snapshot = store.compact()
    assert [segment.vectors for segment in snapshot.segments] == [1334, 1333, 1333]
    rows = snapshot.sample_ids.rows(ids(4000))
    np.testing.assert_array_equal(snapshot.read(rows), crowd)
    assert store.compact().number == snapshot.number


def test_what_was_mostly_forgotten_is_due(tmp_path, ids, vectors, filled):
    store = filled(tmp_path, Policy(), ids(100), vectors(100), parts=1)
    store.forget(ids(10))
    assert not store.is_due()
    store.forget(ids(30))
    assert store.is_due()
    assert [segment.vectors for segment in store.compact().segments] == [70]
    assert not store.is_due()


def test_no_cell_remembers_the_forgotten(tmp_path, ids, crowd, filled):
    """A cell with one vector has it for a centroid."""
    policy = Policy(factory="IVF2000,Flat", flat_rows=1000)
    store = filled(tmp_path, policy, ids(2000), crowd[:2000])
    store.compact()
    store.sweep(grace_s=0)

    def remembered():
        files = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
        return [n for n in range(50) if any(crowd[n].tobytes() in file for file in files)]

    assert remembered() == list(range(50))
    store.forget(ids(20))
    store.compact(forgotten=True)
    store.sweep(grace_s=0)
    assert remembered() == list(range(20, 50))
    number = store.open().number
    assert store.compact(forgotten=True).number == number


def test_deleted_rows_leave_the_files_when_asked(tmp_path, ids, vectors, filled):
    store = filled(tmp_path, Policy(), ids(100), vectors(100), parts=1)
    gone = ids(5)
    store.forget(gone)
    assert store.compact().segments[0].deleted != ()
    snapshot = store.compact(forgotten=True)
    assert [segment.vectors for segment in snapshot.segments] == [95]
    store.sweep(grace_s=0)
    stored = b"".join(path.read_bytes() for path in store.root.glob("segment-*"))
    for sample_id, vector in zip(gone, vectors(100)[:5], strict=True):
        assert bytes.fromhex(sample_id) not in stored
        assert vector.tobytes() not in stored


def test_what_happens_during_a_compaction_is_kept(tmp_path, ids, crowd, filled):
    """A commit and a forgetting when the merged segment is written and its recall is measured."""
    store = filled(tmp_path, IN_CELLS, ids(4000), crowd)
    with ThreadPoolExecutor(1) as pool:
        compacted = pool.submit(store.compact)
        while not list(tmp_path.glob("*.cells.faiss")):
            time.sleep(0.001)
        store.forget(ids(3))
        store.commit([store.write_segment(ids(5, start=4000), np.roll(crowd[:5], 1, axis=1))])
        assert {segment.vectors for segment in compacted.result().segments} >= {4000}
    snapshot = store.open()
    live = snapshot.sample_ids.take(snapshot.live_rows())
    assert sorted(live) == sorted([*ids(3997, start=3), *ids(5, start=4000)])
    assert sorted(segment.vectors for segment in snapshot.segments) == [5, 4000]
    np.testing.assert_array_equal(snapshot.read(snapshot.sample_ids.rows(ids(9)[3:])), crowd[3:9])


def test_of_two_compactions_at_once_one_counts(tmp_path, ids, vectors, filled):
    store = filled(tmp_path, Policy(), ids(60), vectors(60), parts=6)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.compact(), range(4)))
    assert [segment.vectors for segment in store.open().segments] == [60]


def test_a_reader_all_through_compactions_and_sweeps_is_never_wrong(tmp_path, ids, crowd, filled):
    names, count = ids(2000), 2000
    store = filled(tmp_path, IN_CELLS, names, crowd[:count], parts=8)
    kept = store.open()
    before = kept.search(crowd[:5], 10, exact=True)
    stop, seen = threading.Event(), set()

    def read():
        while not stop.is_set():
            snapshot = store.open()
            rows, distances = snapshot.search(crowd[:5], 1)
            assert (distances == 0).all()
            assert snapshot.sample_ids.take(rows[:, 0]) == names[:5]
            assert snapshot.vectors >= count
            seen.add(snapshot.number)

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for step in range(8):
            more = ids(200, start=count + 200 * step)
            rolled = np.roll(crowd[:200], step + 1, axis=1)
            store.commit([store.write_segment(more, rolled)])
            store.compact(forgotten=True)
            store.sweep(grace_s=0)
        stop.set()
        reader.result()
    assert len(seen) > 1
    for then, now in zip(before, kept.search(crowd[:5], 10, exact=True), strict=True):
        np.testing.assert_array_equal(then, now)


def test_rebuilding_mends_any_damage(tmp_path, ids, crowd, filled):
    store = filled(tmp_path, IN_CELLS, ids(4000), crowd)
    store.compact()
    for path in tmp_path.glob("s*-*"):
        path.write_bytes(b"damaged")
    (tmp_path / "CURRENT").write_text("nonsense")
    with pytest.raises(CorruptionError):
        store.open()
    batches = [(ids(1000, start=n), crowd[n : n + 1000]) for n in range(0, 4000, 1000)]
    trained = store.train(crowd, 4000)
    segments = [store.write_segment(*batch, trained) for batch in batches]
    store.commit(segments, trained=trained, anew=True)
    snapshot = store.compact()
    assert (snapshot.vectors, snapshot.choice.factory) == (4000, "IVF128,SQ8")
    assert store.verify(batches).ok
    store.sweep(grace_s=0)
    assert store.open().number == snapshot.number


@pytest.mark.parametrize("pattern", ["*.cells.faiss"])
def test_damaged_cells_are_named(tmp_path, ids, crowd, pattern, filled):
    store = filled(tmp_path, IN_CELLS, ids(4000), crowd)
    store.compact()
    (path,) = tmp_path.glob(pattern)
    whole = path.read_bytes()
    for content in (whole[:-100], b"\0" * len(whole)):
        path.write_bytes(content)
        with pytest.raises(CorruptionError, match=rf"{path.name} .*longtail index rebuild"):
            store.open()


def test_cells_that_name_rows_that_there_are_none_of_are_found_out(
    tmp_path, ids, crowd, filled, monkeypatch
):
    """Between the stretches that opening looks at; FAISS would read beyond the file's end."""
    monkeypatch.setattr("index.durable.SPOT", 1)
    store = filled(tmp_path, IN_CELLS, ids(4000), crowd)
    store.compact()
    (path,) = tmp_path.glob("*.cells.faiss")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes([0x7F]) * 4000
    path.write_bytes(content)
    snapshot = store.open()
    for search in (
        lambda: snapshot.search(crowd, 10),
        lambda: [snapshot.search(one[None], 10) for one in crowd],
        snapshot.scan_order,
    ):
        with pytest.raises(CorruptionError, match=rf"{path.name} .*longtail index rebuild"):
            search()


@pytest.mark.parametrize("harm", ["missing", "changed"])
@pytest.mark.parametrize("pattern", ["*.ids.npy", "*.vectors.faiss"])
def test_what_is_damaged_is_not_merged(tmp_path, ids, vectors, filled, pattern, harm):
    store = filled(tmp_path, Policy(), ids(4000), vectors(4000, 32), parts=20)
    path = sorted(tmp_path.glob(pattern))[0]
    if harm == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(CorruptionError, match=rf"{path.name} .*longtail index rebuild"):
        store.compact()


@pytest.mark.parametrize("pattern", ["*.ids.npy", "*.vectors.faiss"])
def test_a_missing_file_is_named_whatever_is_done(tmp_path, ids, vectors, filled, pattern):
    store = filled(tmp_path, Policy(), ids(40), vectors(40), parts=1)
    segment = store.write_segment(ids(10, start=40), vectors(10))
    (path,) = set(tmp_path.glob(pattern)) - set(tmp_path.glob(f"{segment.name}*"))
    path.unlink()
    for work in (store.compact, lambda: store.forget(ids(3)), lambda: store.commit([segment])):
        with pytest.raises(CorruptionError, match=rf"{path.name} .*longtail index rebuild"):
            work()


def test_a_damaged_quantizer_is_named(tmp_path, ids, crowd, filled):
    store = filled(tmp_path, IN_CELLS, ids(4000), crowd)
    store.compact()
    (path,) = tmp_path.glob("quantizer-*")
    path.write_bytes(b"foreign")
    with pytest.raises(CorruptionError, match=rf"{path.name} .*longtail index rebuild"):
        store.write_segment(ids(1000, start=4000), crowd[:1000])


@pytest.mark.parametrize("harm", ["foreign", "missing"])
def test_a_wrong_quantizer_is_found_out_before_anything_is_published(
    tmp_path, ids, crowd, harm, filled
):
    store = filled(tmp_path, IN_CELLS, ids(4000), crowd)
    before = store.compact()
    (path,) = tmp_path.glob("quantizer-*")
    if harm == "missing":
        path.unlink()
    else:
        faiss.write_index(faiss.IndexFlatL2(32), str(path))
    assert store.verify([(ids(4000), crowd)]).damaged == (path.name,)
    with pytest.raises(CorruptionError, match=rf"{path.name} .*longtail index rebuild"):
        store.commit([store.write_segment(ids(1000, start=4000), crowd[:1000])])
    assert store.open().number == before.number


def test_what_cannot_be_opened_is_not_published(tmp_path, ids, vectors, filled):
    store = filled(tmp_path, Policy(), ids(40), vectors(40), parts=1)
    segment = store.write_segment(ids(10, start=40), vectors(10))
    (tmp_path / f"{segment.name}.vectors.faiss").write_bytes(b"cut short")
    with pytest.raises(CorruptionError, match=segment.name):
        store.commit([segment])
    assert store.open().vectors == 40


def test_workers_of_a_first_build_put_their_vectors_into_cells(tmp_path, ids, crowd, recall):
    store = IndexStore(tmp_path, IN_CELLS)
    trained = store.train(crowd, 4000)
    parts = [
        store.write_segment(ids(2000, start=start), crowd[start : start + 2000], trained)
        for start in (0, 2000)
    ]
    unmeasured = store.commit(parts, trained=trained)
    assert (unmeasured.measured, unmeasured.choice.recall) == (0, 0.0)
    assert recall(unmeasured, crowd[:300]).mean() >= 0.97
    assert store.is_due()
    snapshot = store.compact()
    assert [segment.kind for segment in snapshot.segments] == ["IVF128,SQ8"]
    assert snapshot.trained == trained
    assert snapshot.choice.recall >= 0.93
    assert not store.is_due()


def test_merged_cells_answer_as_cells_made_anew(tmp_path, ids, crowd):
    """Of segments in cells, with forgotten rows, and a small one that is in none."""
    store = IndexStore(tmp_path / "merged", IN_CELLS)
    trained = store.train(crowd, 4000)
    parts = [
        store.write_segment(ids(end - start, start=start), crowd[start:end], trained)
        for start, end in ((0, 1500), (1500, 3300), (3300, 4000))
    ]
    assert [part.kind for part in parts] == ["IVF128,SQ8", "IVF128,SQ8", "Flat"]
    store.commit(parts, trained=trained)
    store.forget(ids(10, start=1495))
    merged = store.compact()
    (segment,) = merged.segments
    assert (segment.vectors, segment.kind) == (3990, "IVF128,SQ8")
    kept = np.r_[0:1495, 1505:4000]
    other = IndexStore(tmp_path / "anew", IN_CELLS)
    whole = other.train(crowd, 4000)
    names = [ids(4000)[row] for row in kept]
    anew = other.commit([other.write_segment(names, crowd[kept], whole)], trained=whole)
    for effort in (Effort(1), Effort(8, 4)):
        for told, right in zip(
            merged.search_with(effort, crowd[:300], 10),
            anew.search_with(effort, crowd[:300], 10),
            strict=True,
        ):
            np.testing.assert_array_equal(told, right)
