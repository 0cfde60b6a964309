import numpy as np
import pytest

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


def test_without_normal_samples_only_copies_are_alike():
    vectors = on_a_line(0.0, 0.0, 0.0, 0.5, 0.6, 0.7)
    assert find_groups(vectors, np.full(6, np.nan))[0].tolist() == [0, 0, 0, -1, -1, -1]
