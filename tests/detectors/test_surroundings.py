import numpy as np
import pytest

from detectors.baseline import fit_pool
from detectors.scores import fit_trimmed
from detectors.surroundings import copies, one_of_copies, relative, strange_for_its_kind


def test_a_distance_is_relative_to_those_of_the_neighbours():
    values = np.array([1.0, 2.0, 4.0, 32.0])
    neighbours = np.array([[1, 2], [0, 2], [1, -1], [-1, -1]])
    np.testing.assert_allclose(relative(values, neighbours), [1 / np.sqrt(8), 1, 2, 1])


def test_where_all_are_far_apart_a_far_one_is_ordinary():
    values, neighbours = np.r_[np.full(5, 0.1), np.full(5, 0.9)], np.arange(10)[:, None] // 5 * 5
    np.testing.assert_allclose(relative(values, neighbours + 1), 1)


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


def test_the_distance_is_the_mean_to_the_nearest_five_of_the_first_fifty(kinds):
    vectors, neighbours = kinds
    first = neighbours[:, :50]
    gaps = np.linalg.norm(vectors[first] - vectors[:, None], axis=2)
    mean = np.sort(gaps, axis=1)[:, :5].mean(axis=1)
    np.testing.assert_allclose(strange_for_its_kind(vectors, neighbours), relative(mean, first))


@pytest.mark.parametrize("k", [0, 1, 3])
def test_few_or_missing_neighbours_are_no_reason(k, rng):
    neighbours = np.full((4, k), -1)
    np.testing.assert_array_equal(strange_for_its_kind(rng.normal(size=(4, 3)), neighbours), 1)


def test_copies_are_much_nearer_than_neighbours_usually_are():
    distances = np.array([[0.1, 0.2, 1.0], [0.1, 1.0, 1.1], [1.0, 1.1, 1.2], [0.9, 1.0, 1.2]])
    distances = np.concatenate([distances, np.full((4, 3), 1.0)])
    assert copies(distances).tolist() == [2, 1, 0, 0, 0, 0, 0, 0]
    assert copies(np.zeros((3, 2))).tolist() == [2, 2, 2]
    assert copies(np.full((3, 2), np.inf)).tolist() == [0, 0, 0]
    assert copies(np.empty((1, 0))).tolist() == [0]


def test_about_one_of_each_set_of_copies_is_taken_and_all_others():
    taken = one_of_copies(np.r_[np.zeros(100, int), np.full(5_000, 49)])
    assert taken[:100].all()
    assert 60 < taken[100:].sum() < 140


def test_many_copies_do_not_bend_the_fit_towards_themselves(ordinary, rng):
    """A tenth of the pool: neither their neighbours nor a trimmed fit tell them."""
    pool = ordinary(600, odd=66)
    high = pool.embeddings["high"]
    high[:66] = high[0] + 1e-3 * rng.normal(size=(66, high.shape[1])).astype(np.float32)
    pool.distances[:66, :65] = 1e-3
    assert (np.argsort(-fit_trimmed(high)[1])[:66] < 66).mean() < 0.9
    baseline = fit_pool(pool)
    assert (np.argsort(-baseline.score(baseline.z))[:66] < 66).all()
