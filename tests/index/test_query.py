"""Examples, near-duplicates and verification, in a plane where one can see what is near."""

from __future__ import annotations

import numpy as np
import pytest

from index.duplicates import near_duplicates
from index.query import query
from index.store import IndexStore


def at(*degrees: float) -> np.ndarray:
    """Unit vectors at these angles, (n, 2); a degree apart is 0.01745 in distance."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


@pytest.fixture
def circle(store: IndexStore, ids):
    """Samples at 0, 1, ... 359 degrees, and the inverse of their rows."""
    snapshot = store.commit([store.write_segment(ids(360), at(*range(360)))])
    degree_of = np.empty(360, int)
    degree_of[snapshot.sample_ids.rows(ids(360))] = np.arange(360)
    return snapshot, degree_of


def test_one_example_gives_its_neighbours(circle):
    snapshot, degree_of = circle
    rows, distances = query(snapshot, at(90), k=3)
    assert degree_of[rows[0]] == 90
    assert set(degree_of[rows]) == {89, 90, 91}
    assert distances[0] == 0.0


def test_several_examples_give_what_is_near_any(circle):
    snapshot, degree_of = circle
    rows, distances = query(snapshot, at(10, 200), k=6)
    assert set(degree_of[rows]) == {9, 10, 11, 199, 200, 201}
    assert (np.diff(distances) >= 0).all()


def test_alike_examples_give_each_sample_once(circle):
    snapshot, degree_of = circle
    rows, _ = query(snapshot, at(10, 10.2, 11), k=5)
    assert len(set(rows)) == 5
    assert set(degree_of[rows]) <= set(range(7, 15))


def test_what_is_nearer_to_a_negative_is_left_out(circle):
    snapshot, degree_of = circle
    rows, _ = query(snapshot, at(90), at(92), k=5)
    assert degree_of[rows[0]] == 90
    assert set(degree_of[rows]) == {91, 90, 89, 88, 87}


def test_a_distance_bounds_the_answer(circle):
    snapshot, degree_of = circle
    rows, distances = query(snapshot, at(45), k=50, within=0.06)
    assert set(degree_of[rows]) == set(range(42, 49))
    assert distances.max() <= 0.06


def test_near_duplicates_of_better_answers_are_left_out(circle):
    snapshot, degree_of = circle
    rows, _ = query(snapshot, at(0), k=3, apart=0.05)
    assert set(degree_of[rows]) == {0, 3, 357}


def test_only_some_rows_may_answer(circle, ids):
    snapshot, degree_of = circle
    only = snapshot.sample_ids.rows([ids(360)[degree] for degree in (5, 100, 300)])
    rows, _ = query(snapshot, at(90), k=10, only=only)
    assert degree_of[rows].tolist() == [100, 5, 300]


def test_more_than_there_are_gives_all(circle):
    snapshot, _ = circle
    assert len(query(snapshot, at(90), k=1000)[0]) == 360


def groups(store, ids, *degrees, within):
    """The groups as sets of angles, with the angle of each representative."""
    names = dict(zip(ids(len(degrees)), degrees, strict=True))
    snapshot = store.commit([store.write_segment(list(names), at(*degrees))])
    return [
        [names[name] for name in snapshot.sample_ids.take(group.rows)]
        for group in near_duplicates(snapshot, within)
    ]


def test_groups_are_found_and_single_samples_are_in_none(store, ids):
    found = groups(store, ids, 0, 0.1, 90, 90.1, 90.2, 180, within=0.01)
    assert [set(group) for group in found] == [{90, 90.1, 90.2}, {0, 0.1}]
    assert found[0][0] == 90.1


def test_a_chain_of_unlike_samples_is_cut(store, ids):
    found = groups(store, ids, *range(0, 30), within=0.018)
    assert all(abs(member - group[0]) <= 1 for group in found for member in group)
    assert len(found) >= 10


def test_hundreds_of_equal_vectors_are_one_group(store, ids):
    found = groups(store, ids, *[10.0] * 300, 50, 51, within=0.001)
    assert [len(group) for group in found] == [300]


def test_hundreds_of_frames_of_a_parked_camera_are_one_group(store, ids):
    """Each has links to few of them; its group is what these lead to within reach."""
    frames = np.linspace(0, 0.5, 400)
    found = groups(store, ids, *frames.tolist(), 90, within=0.01)
    assert [set(group) for group in found] == [set(frames)]


def test_groups_of_a_long_chain_share_no_sample(store, ids):
    degrees = np.cumsum(np.random.default_rng(0).uniform(0, 0.2, 600)).tolist()
    found = groups(store, ids, *degrees, within=0.02)
    members = [member for group in found for member in group]
    assert len(set(members)) == len(members) > 500
    for group in found:
        assert all(abs(member - group[0]) <= np.degrees(0.02) + 1e-3 for member in group)


def test_mutual_neighbours_only(store, ids):
    """One sample beside a crowd: the crowd's own neighbours are nearer."""
    crowd = np.linspace(0, 0.4, 60).tolist()
    found = groups(store, ids, *crowd, 1.0, within=0.017)
    assert all(1.0 not in group for group in found)


def test_no_samples_have_no_duplicates(store, ids):
    assert groups(store, ids, 0, within=0.1) == []


def test_verification_tells_what_differs(store, ids, vectors):
    stored = vectors(20)
    store.commit([store.write_segment(ids(20), stored)])
    assert store.verify([(ids(10), stored[:10]), (ids(10, start=10), stored[10:])]).ok
    changed = stored.copy()
    changed[3] = stored[4]
    told = store.verify([(ids(25)[1:], np.concatenate([changed[1:], vectors(5, seed=9)]))])
    assert not told.ok
    assert told.missing == tuple(ids(5, start=20))
    assert told.extra == tuple(ids(1))
    assert told.different == (ids(20)[3],)
    assert told.damaged == ()


def test_verification_finds_a_flipped_bit(store, ids, vectors):
    store.commit([store.write_segment(ids(2000), vectors(2000))])
    (path,) = store.root.glob("*.vectors.faiss")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    told = store.verify([(ids(2000), vectors(2000))])
    assert told.damaged == (path.name,)
    assert len(told.different) == 1


def test_forgotten_samples_are_neither_missing_nor_extra(store, ids, vectors):
    store.commit([store.write_segment(ids(20), vectors(20))])
    store.forget(ids(5))
    assert store.verify([(ids(15, start=5), vectors(20)[5:])]).ok
