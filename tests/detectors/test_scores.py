import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from detectors import scores


def test_knn_distance_is_the_mean_over_the_nearest(rng):
    X = rng.normal(size=(60, 4))
    distances, _ = NearestNeighbors(n_neighbors=9).fit(X).kneighbors()
    expected, _ = NearestNeighbors(n_neighbors=5).fit(X).kneighbors()
    np.testing.assert_allclose(scores.knn_distance(distances, 5), expected.mean(axis=1))


def test_knn_distance_leaves_missing_neighbours_out():
    distances = np.array([[0.2, 0.4, np.nan], [0.3, -1.0, np.inf], [-1.0, -1.0, -1.0]])
    np.testing.assert_allclose(scores.knn_distance(distances, 5), [0.3, 0.3, 0.0])


def test_mahalanobis_agrees_with_scikit_learn(rng):
    X = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6))
    expected = np.sqrt(LedoitWolf().fit(X).mahalanobis(X))
    np.testing.assert_allclose(scores.fit_gaussian(X).distance(X), expected, rtol=1e-8)


def test_trimming_unmasks_a_group_of_alike_outliers(rng):
    normal, group = rng.normal(size=(500, 20)), rng.normal(size=(25, 20))
    group[:, :3] += 5
    X = np.concatenate([normal, group])
    plain = scores.fit_gaussian(X).distance(X)
    trimmed = scores.fit_trimmed(X)[1]
    assert (np.argsort(-plain)[:25] >= 500).mean() < 0.8
    assert (np.argsort(-trimmed)[:25] >= 500).all()


def test_a_single_different_vector_among_equal_ones_is_the_strangest():
    X = np.tile([0.6, 0.8], (30, 1))
    X[7] = [0.8, 0.6]
    distance = scores.fit_trimmed(X)[1]
    assert np.isfinite(distance).all()
    assert np.argmax(distance) == 7


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("fit", [scores.fit_trimmed, scores.fit_bulk])
def test_fewer_samples_than_dimensions_give_finite_distances(n, fit, rng):
    X = rng.normal(size=(n, 8))
    gaussian, distance = fit(X)
    assert np.isfinite(distance).all()
    assert np.isfinite(gaussian.distance(X)).all()


def test_vectors_that_are_not_finite_are_named():
    X = np.ones((4, 2))
    X[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 4 vectors .* row 2"):
        scores.fit_trimmed(X)


def test_a_scale_counts_deviations_of_the_logarithm(rng):
    distances = np.exp(2 + 0.5 * rng.normal(size=20_001))
    z = scores.fit_scale(distances).z([np.exp(2.0), np.exp(3.5)])
    np.testing.assert_allclose(z, [0, 3], atol=0.05)


def test_a_scale_of_mostly_equal_distances_still_tells_the_odd_one():
    z = scores.fit_scale(np.r_[np.ones(50), 4.0]).z(np.array([1.0, 4.0]))
    assert z[0] == 0
    assert z[1] > 3
    assert not scores.fit_scale(np.ones(50)).z(np.ones(3)).any()


def test_share_below_counts_ties_half():
    np.testing.assert_allclose(scores.share_below(np.array([3, 1, 3, 9])), [0.5, 0.125, 0.5, 0.875])


@given(st.lists(st.floats(0, 10), max_size=30))
def test_share_below_is_strictly_between_0_and_1(values):
    shares = scores.share_below(np.array(values))
    assert ((shares > 0) & (shares < 1)).all()
    assert len(shares) == 0 or np.isclose(shares.mean(), 0.5)


@pytest.mark.parametrize("given", [0, 4])
def test_a_left_out_distance_is_that_to_a_fit_of_the_others(given, rng):
    X = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6))
    shrinkage = LedoitWolf().fit(X).shrinkage_
    target = X.var(axis=0).mean()
    expected = []
    for i in range(len(X)):
        others = np.delete(X, i, axis=0)
        covariance = (1 - shrinkage) * np.cov(others.T, bias=True)
        covariance += shrinkage * target * np.eye(6)
        gap = X[i] - others.mean(axis=0)
        whole, known = (gap[:d] @ np.linalg.solve(covariance[:d, :d], gap[:d]) for d in (6, given))
        expected.append(np.sqrt(whole - known))
    np.testing.assert_allclose(scores.fit_left_out(X, given=given)[1], expected, rtol=1e-4)


def test_what_is_given_explains_the_rest(rng):
    """The distance of the rest is that to their regression on what is given."""
    shown = rng.normal(size=(300, 2))
    rest = shown @ [[2.0, 0.0, 1.0], [0.0, -1.0, 1.0]] + 0.1 * rng.normal(size=(300, 3))
    X = np.concatenate([shown, rest], axis=1)
    gaussian, left_out = scores.fit_left_out(X, given=2)
    covariance = gaussian.factor @ gaussian.factor.T
    slope = np.linalg.solve(covariance[:2, :2], covariance[:2, 2:])
    residual = rest - gaussian.mean[2:] - (shown - gaussian.mean[:2]) @ slope
    spread = covariance[2:, 2:] - covariance[2:, :2] @ slope
    expected = np.einsum("ij,ij->i", residual, np.linalg.solve(spread, residual.T).T) ** 0.5
    np.testing.assert_allclose(gaussian.distance(X, given=2), expected, rtol=1e-8)
    np.testing.assert_allclose(left_out, expected, rtol=0.1)
    far = np.array([[3.0, 3.0, 6.0, -3.0, 6.0], [0.0, 0.0, 6.0, -3.0, 6.0]])
    as_expected, not_so = gaussian.distance(far, given=2)
    assert as_expected < np.median(expected) * 2 < 0.1 * not_so


def test_left_out_distances_are_distributed_as_those_of_new_samples(rng):
    spectrum = np.arange(1, 151) ** -1.0
    X, new = spectrum * rng.normal(size=(2, 400, 150))
    gaussian, left_out = scores.fit_left_out(X)
    assert abs(np.median(left_out) / np.median(gaussian.distance(new)) - 1) < 0.02
    assert np.median(gaussian.distance(X)) < 0.95 * np.median(left_out)


def test_single_oddities_are_averaged_and_the_most_that_a_group_says_counts():
    two, four = np.full(3, 2.0), np.full(3, 4.0)
    crowd, apart = np.array([-np.inf, 8.0, 5.0]), np.array([-np.inf, 7.0, -np.inf])
    np.testing.assert_allclose(scores.combined([two, four], [crowd, apart]), [3, 8, 5])
    np.testing.assert_allclose(scores.combined([two, two, np.full(3, 5.0)], []), 3)


def test_no_judge_has_a_veto():
    judges = [np.array([-3.5, -1e3]), np.array([9.5, 9.5])]
    np.testing.assert_allclose(scores.consensus(judges), [3, 3])


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_the_fit_of_the_bulk_is_not_bent_by_a_fifth_of_alike_samples(spread, rng):
    X = rng.normal(size=(500, 60))
    X[:100] = 3 + spread * rng.normal(size=(100, 60))
    bulk = scores.fit_bulk(X)[1]
    assert bulk[:100].min() > 1.5 * bulk[100:].max()
    assert scores.fit_trimmed(X)[1][:100].min() < scores.fit_trimmed(X)[1][100:].max()


def test_a_trimmed_fit_measures_nobody_by_a_fit_that_they_took_part_in(rng):
    spectrum = np.arange(1, 151) ** -1.0
    X, new = spectrum * rng.normal(size=(200, 150)), spectrum * rng.normal(size=(2_000, 150))
    gaussian, distance = scores.fit_trimmed(X)
    assert abs(np.median(distance) / np.median(gaussian.distance(new)) - 1) < 0.05
    assert np.median(gaussian.distance(X)) < 0.85 * np.median(distance)


def test_linear_z_is_scaled_to_a_normal_law(rng):
    z = scores.linear_z(-7 + 3 * rng.normal(size=20_001))
    assert abs(z.std() - 1) < 0.03
    assert not scores.linear_z(np.full(5, 2.0)).any()
