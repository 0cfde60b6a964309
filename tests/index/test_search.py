"""Answers, against exact neighbours computed here in float64."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from index.factory import Policy
from index.search import Snapshot
from index.store import IndexStore
from schemas.errors import EncoderError


def exact(stored: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.float64]:
    """Distances of every query to every stored vector, (n, m)."""
    difference = queries[:, None, :].astype(float) - stored[None].astype(float)
    return np.sqrt((difference**2).sum(axis=2))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    dimension=st.integers(1, 24),
    k=st.integers(1, 30),
    queries=st.integers(1, 40),
    distinct=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
)
def test_search_gives_the_exact_neighbours(
    sizes: list[int], dimension: int, k: int, queries: int, distinct: int, seed: int
) -> None:
    """Few distinct vectors make ties common: distances must agree, tied rows may differ."""
    random = np.random.default_rng(seed)
    choices = random.standard_normal((distinct, dimension)) + 1e-3
    choices /= np.linalg.norm(choices, axis=1, keepdims=True)
    stored = choices[random.integers(distinct, size=sum(sizes))].astype(np.float32)
    asked = choices[random.integers(distinct, size=queries)].astype(np.float32)
    names = [hashlib.sha256(random.bytes(8)).hexdigest() for _ in range(len(stored))]
    vector_of = dict(zip(names, stored, strict=True))

    with tempfile.TemporaryDirectory() as folder:
        store = IndexStore(Path(folder))
        for end, size in zip(np.cumsum(sizes), sizes, strict=True):
            part = slice(end - size, end)
            store.commit([store.write_segment(names[part], stored[part])])
        snapshot = store.open()
        assert snapshot is not None
        rows, distances = snapshot.search(asked, k)

        assert rows.shape == distances.shape == (queries, k)
        assert rows.dtype == np.int64
        assert distances.dtype == np.float32
        truth = exact(stored, asked)
        reachable = min(k, len(stored))
        np.testing.assert_allclose(
            distances[:, :reachable], np.sort(truth, axis=1)[:, :reachable], atol=1e-6
        )
        assert (rows[:, reachable:] == -1).all()
        assert np.isinf(distances[:, reachable:]).all()
        for query, row, distance in zip(asked, rows, distances, strict=True):
            found = snapshot.sample_ids.take(row[:reachable])
            assert len(set(found)) == reachable
            told = np.linalg.norm([vector_of[name] - query for name in found], axis=1)
            np.testing.assert_allclose(told, distance[:reachable], atol=1e-6)


@pytest.mark.parametrize("queries", [1, 100], ids=["single", "batch"])
def test_a_stored_vector_is_at_distance_zero(store, ids, vectors, queries):
    stored = vectors(500, 320)
    snapshot = store.commit([store.write_segment(ids(500), stored)])
    rows, distances = snapshot.search(stored[:queries], 3)
    assert (distances[:, 0] == 0.0).all()
    assert snapshot.sample_ids.take(rows[:, 0]) == ids(queries)


def test_neighbours_leave_out_only_the_sample_itself(store, ids, vectors):
    stored = np.concatenate([vectors(30), vectors(30)[:10], vectors(1, seed=1).repeat(5, axis=0)])
    snapshot = store.commit([store.write_segment(ids(45), stored)])
    rows = snapshot.live_rows()
    found, distances = snapshot.neighbours(rows, 3)
    assert not (found == rows[:, None]).any()
    truth = exact(snapshot.read(rows), snapshot.read(rows))
    np.fill_diagonal(truth, np.inf)
    np.testing.assert_allclose(distances, np.sort(truth, axis=1)[:, :3], atol=1e-6)


def test_equal_distances_are_ordered_by_row(store, ids, vectors):
    same = vectors(1).repeat(20, axis=0)
    snapshot = store.commit([store.write_segment(ids(20, start=start), same) for start in (0, 20)])
    rows, distances = snapshot.search(np.concatenate([same, vectors(3, seed=1)]), 40)
    np.testing.assert_array_equal(rows, np.tile(np.arange(40), (23, 1)))
    assert (distances[:20] == 0).all()


@pytest.fixture
def mixed(tmp_path: Path, ids, vectors) -> Snapshot:
    """Segments of every kind: in cells, some of it forgotten, more in these cells, and Flat."""
    store = IndexStore(tmp_path, Policy(factory="IVF16,SQ8"))
    store.commit([store.write_segment(ids(900), vectors(900))])
    trained = store.compact().trained
    late = store.write_segment(ids(300, start=900), vectors(300, seed=1), trained)
    few = store.write_segment(ids(12, start=1200), vectors(12)[::-1])
    store.commit([late, few])
    snapshot = store.forget(ids(1203)[::7])
    assert [segment.kind for segment in snapshot.segments] == ["IVF16,SQ8"] * 2 + ["Flat"]
    return snapshot


def test_the_order_of_a_scan_keeps_the_rows_of_a_cell_together(mixed):
    order = mixed.scan_order()
    np.testing.assert_array_equal(np.sort(order), mixed.live_rows())
    (cells, *_) = (part.cells for part in mixed.parts)
    first = order[order < mixed.segments[0].vectors]
    cell = cells.quantizer.search(mixed.read(first), 1)[1][:, 0]
    assert np.count_nonzero(np.diff(cell)) == len(np.unique(cell)) - 1 > 0


def test_neighbours_are_the_same_in_any_order(mixed, monkeypatch):
    monkeypatch.setattr("index.search.SEARCH_BATCH", 100)
    live, order = mixed.live_rows(), mixed.scan_order()
    rows, distances = mixed.neighbours(live, 10)
    found = mixed.neighbours(order, 10)
    back = np.argsort(order)
    np.testing.assert_array_equal(found[0][back], rows)
    np.testing.assert_array_equal(found[1][back], distances)


def test_read_and_ids_agree_across_segments(store, ids, vectors):
    parts = [(ids(7), vectors(7)), (ids(5, start=7), vectors(5, seed=1))]
    snapshot = store.commit([store.write_segment(*part) for part in parts])
    rows = snapshot.sample_ids.rows([*ids(12)[::-1], *ids(1, start=99)])
    assert rows[-1] == -1
    np.testing.assert_array_equal(
        snapshot.read(rows[:-1]), np.concatenate([vectors(7), vectors(5, seed=1)])[::-1]
    )
    assert snapshot.sample_ids.take(rows[:-1]) == ids(12)[::-1]
    assert list(snapshot.sample_ids) == snapshot.sample_ids[:]
    assert snapshot.sample_ids[-1] == snapshot.sample_ids[11]


def test_an_id_may_end_in_zero_bytes(store, vectors):
    names = ["ab" * 20 + "00" * 12, "00" * 32, "ab" * 32]
    snapshot = store.commit([store.write_segment(names, vectors(3))])
    assert sorted(snapshot.sample_ids) == sorted(names)
    assert snapshot.sample_ids.take(snapshot.sample_ids.rows(names)) == names


def test_a_query_of_another_dimension_says_what_to_do(store, ids, vectors):
    snapshot = store.commit([store.write_segment(ids(3), vectors(3, 320))])
    with pytest.raises(EncoderError, match=r"has 384 dimensions, the index holds 320; .*encoder"):
        snapshot.search(vectors(1, 384), 1)


@pytest.mark.parametrize("broken", [0.0, 2.0, np.nan], ids=["zero", "long", "nan"])
def test_vectors_that_are_not_of_unit_norm_are_refused(store, ids, vectors, broken):
    wrong = vectors(4) * np.array([[1], [1], [broken], [1]], dtype=np.float32)
    with pytest.raises(ValueError, match="vector 2 has norm"):
        store.write_segment(ids(4), wrong)
    snapshot = store.commit([store.write_segment(ids(4), vectors(4))])
    with pytest.raises(ValueError, match="vector 2 has norm"):
        snapshot.search(wrong, 1)


def test_others_leaves_out_the_sample_itself_where_it_is_held(tmp_path: Path) -> None:
    vectors = np.eye(4, dtype=np.float32)
    ids = [hashlib.sha256(bytes([i])).hexdigest() for i in range(6)]
    store = IndexStore(tmp_path)
    snapshot = store.commit([store.write_segment(ids[:4], vectors)])
    asked = np.concatenate([vectors[:1], vectors[:1]])  # held, and another of the same content
    _, distances = snapshot.others([ids[0], ids[5]], asked, 5)
    root = np.sqrt(2)
    np.testing.assert_allclose(distances[0], [root, root, root, np.inf, np.inf], rtol=1e-6)
    np.testing.assert_allclose(distances[1], [0, root, root, root, np.inf], rtol=1e-6)
