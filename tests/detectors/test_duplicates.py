import numpy as np

from detectors.duplicates import beyond


def test_who_comes_after_the_copies_takes_their_place(rng, unit, pool_of):
    X = unit(rng.normal(size=(12, 24)))
    X[1:4] = X[0]  # each of these has three copies
    pool = pool_of(X, X, X, k=5)
    left = beyond(pool, 0.1)
    np.testing.assert_array_equal(left.neighbours[0, :2], pool.neighbours[0, 3:])
    np.testing.assert_array_equal(left.distances[0, :2], pool.distances[0, 3:])
    assert (left.neighbours[:4, 2:] == -1).all()
    assert np.isnan(left.distances[:4, 2:]).all()
    np.testing.assert_array_equal(left.neighbours[4:], pool.neighbours[4:])
