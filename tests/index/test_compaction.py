"""Merging while others read and write, the index that is chosen, and its measured recall."""

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
from schemas.errors import CorruptionError, SettingsError

IN_CELLS = Policy(flat_rows=1000)


@pytest.fixture
def crowd():
    return clustered(4000)


def clustered(count, clusters=20, seed=0):
    """Clusters in 32 dimensions: (count, 32) float32 of unit norm."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((clusters, 32))
    raw = centres[random.integers(clusters, size=count)] + 0.5 * random.standard_normal((count, 32))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def large(tmp_path_factory, ids):
    """24,000 x 32 in cells: more than are looked at one by one."""
    vectors = clustered(24_000)
    return filled(tmp_path_factory.mktemp("large"), IN_CELLS, ids(24_000), vectors).compact()


def filled(root, policy, ids, vectors, parts=4):
    store = IndexStore(root, policy)
    for part in np.array_split(np.arange(len(vectors)), parts):
        store.commit([store.write_segment([ids[row] for row in part], vectors[part])])
    return store


def test_small_segments_become_one(tmp_path, ids, vectors):
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


def test_many_vectors_are_quantized_with_the_recall_asked_for(tmp_path, ids, crowd):
    store = filled(tmp_path, IN_CELLS, ids(4000), crowd)
    assert store.is_due()
    snapshot = store.compact()
    assert not store.is_due()
    assert snapshot.choice.factory == "IVF128,SQ8"
    assert snapshot.choice.queries > 20
    assert snapshot.choice.recall >= 0.93
    assert snapshot.choice.effort.probes < 64
    rows = snapshot.live_rows()
    truth, _ = snapshot.neighbours(rows, 10, exact=True)
    found, _ = snapshot.neighbours(rows, 10)
    shared = (found[:, :, None] == truth[:, None, :]).any(axis=2).mean()
    assert shared >= 0.94
    assert store.open().choice == snapshot.choice


def test_less_memory_chooses_product_quantization_and_distances_stay_exact(tmp_path, ids, crowd):
    policy = Policy(flat_rows=500, memory_bytes=500 * 12)
    snapshot = filled(tmp_path, policy, ids(500), crowd[:500]).compact()
    assert snapshot.choice.factory == "IVF64,PQ4x8"
    assert snapshot.choice.effort.overfetch > 1
    assert snapshot.choice.recall >= 0.93
    rows, distances = snapshot.search(crowd[:50], 10)
    told = np.linalg.norm(
        snapshot.read(rows.ravel()).reshape(50, 10, -1) - crowd[:50, None], axis=2
    )
    np.testing.assert_allclose(distances, told, atol=1e-6)
    assert (distances[:, 0] == 0.0).all()


def test_higher_recall_costs_more_effort(tmp_path, ids, crowd):
    efforts = [
        filled(tmp_path / str(recall), Policy(recall=recall, flat_rows=1000), ids(4000), crowd)
        .compact()
        .choice.effort.probes
        for recall in (0.5, 0.99)
    ]
    assert efforts[0] < efforts[1]


def recall(snapshot, queries, only=None):
    """The share of the true 10 nearest that is found, for each query."""
    rows, _ = snapshot.search(queries, 10, only=only)
    truth, _ = snapshot.search(queries, 10, only=only, exact=True)
    return (rows[:, :, None] == truth[:, None, :]).any(axis=2).mean(axis=1)


def test_another_recall_is_measured_without_rewriting(tmp_path, ids, crowd):
    low = filled(tmp_path, Policy(recall=0.5, flat_rows=1000), ids(4000), crowd).compact()
    store = IndexStore(tmp_path, Policy(recall=0.99, flat_rows=1000))
    assert store.is_due()
    high = store.compact()
    assert not store.is_due()
    assert high.segments == low.segments
    assert high.choice.effort.probes > low.choice.effort.probes
    assert recall(high, crowd[:300]).mean() >= 0.97
    assert store.compact().number == high.number


def test_a_recall_that_others_measured_stands_for_those_alone(tmp_path, ids, crowd):
    """What comes later lies elsewhere: where the quantizer has no cells."""
    store = filled(tmp_path, IN_CELLS, ids(4000), crowd)
    before = store.compact()
    assert before.measured == before.vectors == 4000
    strange = clustered(4000, seed=1)
    grown = store.commit([store.write_segment(ids(4000, start=4000), strange)])
    assert (grown.measured, grown.vectors) == (4000, 8000)
    assert recall(grown, strange[:300]).mean() < 0.9
    assert store.is_due()
    after = store.compact()
    assert not store.is_due()
    assert after.measured == after.vectors == 8000
    assert after.choice.recall >= 0.93
    assert recall(after, strange[:300]).mean() >= 0.93


def test_a_quantizer_that_what_came_since_wears_out_is_trained_anew(tmp_path, ids):
    """What came first lies elsewhere: cells and codes made for it cost 300 times the effort."""
    rows = np.concatenate([clustered(4000), clustered(8000, clusters=200, seed=1)])
    store = filled(tmp_path, Policy(factory="IVF128,SQ8", flat_rows=1000), ids(4000), rows[:4000])
    first = store.compact()
    store.commit([store.write_segment(ids(8000, start=4000), rows[4000:])])
    second = store.compact()
    assert second.trained != first.trained
    assert second.choice.recall >= 0.93
    assert second.choice.effort.cost <= first.choice.effort.cost


def test_later_segments_share_the_quantizer(tmp_path, ids, crowd):
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


def test_a_quantizer_that_was_outgrown_is_trained_anew(tmp_path, ids, crowd):
    policy = Policy(flat_rows=50)
    store = filled(tmp_path, policy, ids(100), crowd[:100])
    assert store.compact().choice.factory == "IVF32,SQ8"
    store.commit([store.write_segment(ids(3900, start=100), crowd[100:])])
    assert store.is_due()
    snapshot = store.compact()
    assert snapshot.choice.factory == "IVF128,SQ8"
    assert {segment.kind for segment in snapshot.segments} == {"IVF128,SQ8"}


def test_large_merges_are_split_by_memory(tmp_path, ids, crowd):
    policy = Policy(flat_rows=1000, segment_bytes=1500 * 32 * 4)
    store = filled(tmp_path, policy, ids(4000), crowd)
    snapshot = store.compact()
    assert [segment.vectors for segment in snapshot.segments] == [1334, 1333, 1333]
    rows = snapshot.sample_ids.rows(ids(4000))
    np.testing.assert_array_equal(snapshot.read(rows), crowd)
    assert store.compact().number == snapshot.number


def test_a_factory_of_ones_own_is_taken_however_few_there_are(tmp_path, ids, crowd):
    store = filled(tmp_path, Policy(factory="IVF16,SQfp16"), ids(12), crowd[:12])
    assert store.compact().choice.factory == "Flat"
    store.commit([store.write_segment(ids(88, start=12), crowd[12:100])])
    assert store.is_due()
    snapshot = store.compact()
    assert snapshot.choice.factory == "IVF16,SQfp16"
    assert [segment.kind for segment in snapshot.segments] == ["IVF16,SQfp16"]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("IVFmany", "does not suit 32 dimensions"),
        ("HNSW32", "is neither"),
        ("IVF0,SQ8", "has no cells"),
        ("IVF16,RQ2x8", "cannot be trained on 40 vectors"),
    ],
)
def test_a_wrong_factory_is_named(tmp_path, ids, crowd, wrong, why):
    store = filled(tmp_path, Policy(factory=wrong), ids(40), crowd[:40])
    with pytest.raises(SettingsError, match=f"'{wrong}' {why}"):
        store.compact()
    assert store.open().vectors == 40


@pytest.mark.parametrize(
    ("vectors", "dimension", "memory", "factory"),
    [
        (19_999, 320, 1 << 40, "Flat"),
        (100_000, 320, 1 << 40, "IVF1024,SQ8"),
        (1_000_000, 768, 1 << 30, "IVF2048,SQ8"),
        (5_000_000, 768, 1 << 30, "IVF4096,PQ192x8"),
        (5_000_000, 320, 240_000_000, "IVF4096,PQ40x8"),
        (5_000_000, 320, 239_000_000, "IVF4096,PQ32x8"),
        (5_000_000, 320, 1, "IVF4096,PQ20x8"),
        (100_000, 7, 1, "IVF1024,PQ1x8"),
    ],
)
def test_the_index_is_chosen_by_size_and_memory(vectors, dimension, memory, factory):
    assert Policy(memory_bytes=memory).choose(vectors, dimension) == factory


def test_what_exceeds_the_memory_is_told(tmp_path, ids, crowd, caplog):
    policy = Policy(flat_rows=1000, memory_bytes=9000)
    snapshot = filled(tmp_path, policy, ids(1000), crowd[:1000]).compact()
    assert snapshot.choice.factory == "IVF64,PQ2x8"
    assert "IVF64,PQ2x8 of 1,000 vectors takes" in caplog.text
    assert "index.memory_gb" in caplog.text


def test_less_memory_makes_smaller_segments():
    assert Policy(memory_bytes=1 << 40).merged_bytes == 2 << 30
    assert Policy(memory_bytes=1 << 30).merged_bytes == 256 << 20


def test_what_was_mostly_forgotten_is_due(tmp_path, ids, vectors):
    store = filled(tmp_path, Policy(), ids(100), vectors(100), parts=1)
    store.forget(ids(10))
    assert not store.is_due()
    store.forget(ids(30))
    assert store.is_due()
    assert [segment.vectors for segment in store.compact().segments] == [70]
    assert not store.is_due()


def test_no_cell_remembers_the_forgotten(tmp_path, ids, crowd):
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


def test_deleted_rows_leave_the_files_when_asked(tmp_path, ids, vectors):
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


def test_what_happens_during_a_compaction_is_kept(tmp_path, ids, crowd):
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


def test_of_two_compactions_at_once_one_counts(tmp_path, ids, vectors):
    store = filled(tmp_path, Policy(), ids(60), vectors(60), parts=6)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.compact(), range(4)))
    assert [segment.vectors for segment in store.open().segments] == [60]


def test_a_reader_all_through_compactions_and_sweeps_is_never_wrong(tmp_path, ids, crowd):
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


def test_rebuilding_mends_any_damage(tmp_path, ids, crowd):
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
def test_damaged_cells_are_named(tmp_path, ids, crowd, pattern):
    store = filled(tmp_path, IN_CELLS, ids(4000), crowd)
    store.compact()
    (path,) = tmp_path.glob(pattern)
    whole = path.read_bytes()
    for content in (whole[:-100], b"\0" * len(whole)):
        path.write_bytes(content)
        with pytest.raises(CorruptionError, match=rf"{path.name} .*longtail index rebuild"):
            store.open()


def test_a_damaged_quantizer_is_named(tmp_path, ids, crowd):
    store = filled(tmp_path, IN_CELLS, ids(4000), crowd)
    store.compact()
    (path,) = tmp_path.glob("quantizer-*")
    path.write_bytes(b"foreign")
    with pytest.raises(CorruptionError, match=rf"{path.name} .*longtail index rebuild"):
        store.write_segment(ids(1000, start=4000), crowd[:1000])


@pytest.mark.parametrize("harm", ["foreign", "missing"])
def test_a_wrong_quantizer_is_found_out_before_anything_is_published(tmp_path, ids, crowd, harm):
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


def test_what_cannot_be_opened_is_not_published(tmp_path, ids, vectors):
    store = filled(tmp_path, Policy(), ids(40), vectors(40), parts=1)
    segment = store.write_segment(ids(10, start=40), vectors(10))
    (tmp_path / f"{segment.name}.vectors.faiss").write_bytes(b"cut short")
    with pytest.raises(CorruptionError, match=segment.name):
        store.commit([segment])
    assert store.open().vectors == 40


def test_workers_of_a_first_build_put_their_vectors_into_cells(tmp_path, ids, crowd):
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


@pytest.mark.parametrize("clusters", [1, 5])
def test_filters_that_leave_nothing_near_a_query_find_what_is_far(tmp_path, ids, clusters):
    """All but the query's own cluster, and four others: 30,000 rows, none where it looks."""
    count = 40_000
    vectors = clustered(count)
    label = np.random.default_rng(0)
    label.standard_normal((20, 32))
    label = label.integers(20, size=count)
    snapshot = filled(tmp_path, IN_CELLS, ids(count), vectors, parts=1).compact()
    rows = snapshot.sample_ids.rows(ids(count))
    for query in range(20):
        gone = (label[query] + np.arange(clusters)) % 20
        only = np.sort(rows[~np.isin(label, gone)])
        assert recall(snapshot, vectors[query : query + 1], only=only)[0] >= 0.9


@pytest.mark.parametrize("share", [0.01, 0.85])
def test_filters_find_as_much_as_is_promised(large, crowd, share):
    """Few rows are looked at one by one; many are searched like all."""
    random = np.random.default_rng(1)
    only = np.sort(random.choice(large.vectors, int(share * large.vectors), replace=False))
    queries = crowd[random.choice(4000, 200)]
    rows, _ = large.search(queries, 10, only=only)
    assert np.isin(rows, only).all()
    truth, _ = large.search(queries, 10, only=only, exact=True)
    shared = (rows[:, :, None] == truth[:, None, :]).any(axis=2).mean()
    assert shared == 1.0 if share == 0.01 else 0.93 <= shared < 1.0


def test_a_rare_filter_is_answered_exactly_far_from_the_query(tmp_path, ids, crowd):
    """The chosen rows lie in no cell that the query would probe."""
    snapshot = filled(tmp_path, IN_CELLS, ids(4000), crowd).compact()
    farthest = np.argsort(crowd[:1] @ snapshot.read(np.arange(4000)).T)[0, :20]
    rows, _ = snapshot.search(crowd[:1], 20, only=farthest)
    assert set(rows[0]) == set(farthest)
    assert (snapshot.search_with(Effort(1), crowd[:1], 20)[0] != rows).all()
