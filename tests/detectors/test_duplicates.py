import numpy as np

from detectors.duplicates import beyond
from detectors.findings import Budget, Policy, Reviews
from detectors.mining import mine


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


def test_copies_of_what_was_judged_are_not_flagged_again(levels, rng, pool_of, unit):
    """Two scenes of 20 frames; the frame that was judged stands for its scene."""
    scenes = [level.copy() for level in levels]
    for X in scenes[1:]:
        for first in (0, 20):
            X[first : first + 20] = rng.normal(size=X.shape[1]) + 0.01 * rng.normal(
                size=(20, X.shape[1])
            )
    pool = pool_of(*map(unit, scenes))
    policy = Policy(Budget(count=4), apart=0.1)
    flagged = mine(pool, policy).flagged[:4]
    assert sorted(flagged[flagged < 40] // 20) == [0, 1]
    judged = flagged[flagged < 20]
    reviews = Reviews([pool.sample_ids[judged[0]]], pool.embeddings["high"][judged], ["edge_case"])
    after = mine(pool, policy, reviews=reviews).flagged
    assert not (after < 20).any()
    assert ((after >= 20) & (after < 40)).sum() == 1
