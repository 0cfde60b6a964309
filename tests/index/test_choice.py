"""The index that is chosen, its measured recall, and filters over its cells."""

from __future__ import annotations

import numpy as np
import pytest

from index.factory import Policy
from index.segments import Effort
from index.store import IndexStore
from schemas.errors import SettingsError

IN_CELLS = Policy(flat_rows=1000)


@pytest.fixture(scope="module")
def large(tmp_path_factory, ids, clustered, filled):
    """24,000 x 32 in cells: more than are looked at one by one."""
    vectors = clustered(24_000)
    return filled(tmp_path_factory.mktemp("large"), IN_CELLS, ids(24_000), vectors).compact()


def test_many_vectors_are_quantized_with_the_recall_asked_for(tmp_path, ids, crowd, filled):
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


def test_less_memory_chooses_product_quantization_and_distances_stay_exact(
    tmp_path, ids, crowd, filled
):
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


def test_higher_recall_costs_more_effort(tmp_path, ids, crowd, filled):
    efforts = [
        filled(tmp_path / str(recall), Policy(recall=recall, flat_rows=1000), ids(4000), crowd)
        .compact()
        .choice.effort.probes
        for recall in (0.5, 0.99)
    ]
    assert efforts[0] < efforts[1]


def test_another_recall_is_measured_without_rewriting(tmp_path, ids, crowd, filled, recall):
    low = filled(tmp_path, Policy(recall=0.5, flat_rows=1000), ids(4000), crowd).compact()
    store = IndexStore(tmp_path, Policy(recall=0.99, flat_rows=1000))
    assert store.is_due()
    high = store.compact()
    assert not store.is_due()
    assert high.segments == low.segments
    assert high.choice.effort.probes > low.choice.effort.probes
    assert recall(high, crowd[:300]).mean() >= 0.97
    assert store.compact().number == high.number


def test_a_recall_that_others_measured_stands_for_those_alone(
    tmp_path, ids, crowd, filled, clustered, recall
):
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


def test_a_factory_of_ones_own_is_taken_however_few_there_are(tmp_path, ids, crowd, filled):
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
def test_a_wrong_factory_is_named(tmp_path, ids, crowd, wrong, why, filled):
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


def test_what_exceeds_the_memory_is_told(tmp_path, ids, crowd, caplog, filled):
    policy = Policy(flat_rows=1000, memory_bytes=9000)
    snapshot = filled(tmp_path, policy, ids(1000), crowd[:1000]).compact()
    assert snapshot.choice.factory == "IVF64,PQ2x8"
    assert "IVF64,PQ2x8 of 1,000 vectors takes" in caplog.text
    assert "index.memory_gb" in caplog.text


def test_less_memory_makes_smaller_segments():
    assert Policy(memory_bytes=1 << 40).merged_bytes == 2 << 30
    assert Policy(memory_bytes=1 << 30).merged_bytes == 256 << 20


@pytest.mark.parametrize("clusters", [1, 5])
def test_filters_that_leave_nothing_near_a_query_find_what_is_far(
    tmp_path, ids, clusters, filled, clustered, recall
):
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


def test_a_rare_filter_is_answered_exactly_far_from_the_query(tmp_path, ids, crowd, filled):
    """The chosen rows lie in no cell that the query would probe."""
    snapshot = filled(tmp_path, IN_CELLS, ids(4000), crowd).compact()
    farthest = np.argsort(crowd[:1] @ snapshot.read(np.arange(4000)).T)[0, :20]
    rows, _ = snapshot.search(crowd[:1], 20, only=farthest)
    assert set(rows[0]) == set(farthest)
    assert (snapshot.search_with(Effort(1), crowd[:1], 20)[0] != rows).all()
