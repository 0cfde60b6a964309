import numpy as np
import pytest

from detectors import groups
from detectors.groups import find_groups


def on_a_line(*positions):
    return np.array([[x, 0.0] for x in positions])


def test_flags_closer_to_one_another_than_to_what_is_normal_are_a_group():
    vectors = on_a_line(5.0, 0.0, 0.2, 5.3, 0.5, 5.1, 9.0)
    group, to_medoid = find_groups(vectors, np.full(7, 1.0))
    assert group.tolist() == [0, 1, 1, 0, 1, 0, -1]  # numbered by their best flags
    np.testing.assert_allclose(to_medoid, [0.1, 0.2, 0, 0.2, 0.3, 0, np.nan])


def test_the_same_flags_among_closer_normal_samples_are_none():
    vectors = on_a_line(0.0, 0.2, 0.4, 5.0)
    assert find_groups(vectors, np.full(4, 1.0))[0].tolist() == [0, 0, 0, -1]
    assert find_groups(vectors, np.full(4, 0.1))[0].tolist() == [-1] * 4


def test_a_chain_of_alike_neighbours_is_not_one_group():
    chain = on_a_line(*np.arange(0, 20, 0.5))
    group, to_medoid = find_groups(chain, np.full(40, 1.0))
    assert len(set(group[group >= 0])) > 3
    assert np.nanmax(to_medoid) <= 1.5


def test_copies_are_a_group_even_with_a_copy_that_is_normal():
    vectors = np.ones((4, 3))
    group, to_medoid = find_groups(vectors, np.zeros(4))
    assert group.tolist() == [0] * 4
    assert to_medoid.tolist() == [0.0] * 4


@pytest.mark.parametrize("n", [0, 1, 2])
def test_one_or_two_are_judged_by_themselves(n):
    group, to_medoid = find_groups(np.ones((n, 3)), np.ones(n))
    assert group.tolist() == [-1] * n
    assert np.isnan(to_medoid).all()


def test_without_normal_samples_the_usual_distance_to_the_next_is_the_scale():
    vectors = on_a_line(0.0, 0.1, 0.15, 5.0, 6.0, 7.0, 9.0)
    assert find_groups(vectors, np.full(7, np.nan))[0].tolist() == [0, 0, 0, -1, -1, -1, -1]
    copies = on_a_line(0.0, 0.0, 0.0, 0.5, 0.6, 0.7)
    assert find_groups(copies, np.full(6, np.nan))[0].tolist() == [0, 0, 0, -1, -1, -1]


def test_flags_past_the_most_join_the_group_of_a_medoid(monkeypatch):
    monkeypatch.setattr(groups, "MOST", 4)
    vectors = on_a_line(0.0, 0.2, 0.4, 5.0, 0.3, 5.1, 0.9, 9.0, -0.5)
    group, to_medoid = find_groups(vectors, np.r_[np.full(8, 0.6), 0.1])
    assert group.tolist() == [0, 0, 0, -1, 0, -1, -1, -1, -1]
    np.testing.assert_allclose(to_medoid, [0.2, 0, 0.2, np.nan, 0.1, *[np.nan] * 4])
