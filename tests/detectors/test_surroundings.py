import numpy as np
import pytest
from scipy.spatial.distance import cdist

from detectors import surroundings
from detectors.surroundings import (
    beside_its_like,
    relative,
    strange_for_its_kind,
    theirs_without_it,
)


def test_a_distance_is_relative_to_those_of_the_neighbours():
    values = np.array([1.0, 2.0, 4.0, 32.0])
    neighbours = np.array([[1, 2], [0, 2], [1, -1], [-1, -1]])
    np.testing.assert_allclose(relative(values, neighbours), [1 / np.sqrt(8), 1, 2, 1])


def test_where_all_are_far_apart_a_far_one_is_ordinary():
    values, neighbours = np.r_[np.full(5, 0.1), np.full(5, 0.9)], np.arange(10)[:, None] // 5 * 5
    np.testing.assert_allclose(relative(values, neighbours + 1), 1)


@pytest.mark.parametrize("block", [1024, 2])
def test_copies_are_no_dense_surroundings(block, monkeypatch):
    monkeypatch.setattr(surroundings, "BLOCK", block)
    values = np.array([1.0, 1.1, 0.9, 1e-4, 1e-4])
    neighbours = np.array([[3, 4], [0, 2], [1, 0], [4, 0], [3, 0]])
    np.testing.assert_allclose(relative(values, neighbours)[[0, 3]], [1 / 0.9, np.nan])


@pytest.mark.parametrize(("spare", "block"), [(1, 1024), (0, 1024), (1, 16)])
def test_what_is_left_out_is_no_neighbour_of_its_neighbours(spare, block, rng, monkeypatch):
    monkeypatch.setattr(surroundings, "BLOCK", block)
    X, k = rng.normal(size=(40, 3)), 4
    gaps = cdist(X, X)
    np.fill_diagonal(gaps, np.inf)
    near = np.argsort(gaps, axis=1)[:, : k + spare]
    found = theirs_without_it(np.take_along_axis(gaps, near, axis=1), near, k)
    for row in range(40):
        alone = np.delete(gaps, row, axis=1)
        nearest = np.sort(alone[near[row, :k]], axis=1)
        asked = np.where((near[near[row, :k]] == row).any(axis=1), k - 1 + spare, k)
        by_hand = [gap[:m].mean() for gap, m in zip(nearest, asked, strict=True)]
        np.testing.assert_allclose(found[row], by_hand)


def test_without_neighbours_nothing_is_known_of_theirs():
    distances = np.array([[1.0, 2.0], [1.0, 3.0], [2.0, np.inf]])
    neighbours = np.array([[1, 2], [0, 2], [0, -1]])
    found = theirs_without_it(distances, neighbours, 2)
    np.testing.assert_array_equal(found, [[3.0, np.nan], [2.0, 2.0], [1.0, np.nan]])


@pytest.fixture
def kinds(rng):
    """Two kinds of 60 samples, far apart, and each one's 59 others of its kind."""
    vectors = 0.1 * rng.normal(size=(120, 8))
    vectors[60:, 0] += 5
    others = np.array([[i for i in range(60) if i != row] for row in range(60)])
    return vectors, np.concatenate([others, others + 60])


def test_a_sample_like_another_kind_is_strange_for_its_own(kinds):
    vectors, neighbours = kinds
    vectors[7] = vectors[70]
    strange = strange_for_its_kind(vectors, neighbours)
    assert np.argmax(strange) == 7
    assert strange[7] > 10
    assert 0.7 < np.median(strange) < 1.3


@pytest.mark.parametrize(("samples", "nearest"), [(120, 3), (749, 4), (1050, 7), (3000, 7)])
def test_the_distance_is_the_mean_to_the_nearest_of_the_first_fifty(samples, nearest, rng):
    vectors = rng.normal(size=(samples, 4))
    neighbours = rng.integers(0, samples, (samples, 60))
    first = neighbours[:, :50]
    gaps = np.linalg.norm(vectors[first] - vectors[:, None], axis=2)
    mean = np.sort(gaps, axis=1)[:, :nearest].mean(axis=1)
    np.testing.assert_allclose(strange_for_its_kind(vectors, neighbours), relative(mean, first))


def test_the_mean_of_the_twenty_nearest_is_taken_away(kinds):
    vectors, neighbours = kinds
    left = beside_its_like(vectors, neighbours)
    np.testing.assert_allclose(left[3], vectors[3] - vectors[neighbours[3, :20]].mean(axis=0))
    neighbours[3, 1:] = -1
    neighbours[4] = -1
    left = beside_its_like(vectors, neighbours)
    np.testing.assert_allclose(left[3], vectors[3] - vectors[neighbours[3, 0]])
    assert not left[4].any()
    assert not beside_its_like(vectors, neighbours[:, :0]).any()


@pytest.mark.parametrize("k", [0, 1, 3])
def test_few_or_missing_neighbours_are_no_reason(k, rng):
    neighbours = np.full((4, k), -1)
    np.testing.assert_array_equal(strange_for_its_kind(rng.normal(size=(4, 3)), neighbours), 1)
