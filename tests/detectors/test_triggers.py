import numpy as np
import pytest

from detectors import triggers
from detectors.triggers import Trigger, learn, learn_from_words

AXES = np.eye(3)


def near(axis, angle):
    """A unit vector at an angle from an axis towards the next."""
    return np.cos(angle) * AXES[axis] + np.sin(angle) * AXES[(axis + 1) % 3]


def test_the_reach_is_that_of_the_positives_and_negatives_narrow_it():
    positive = np.array([near(0, 0), near(0, 0.1), near(0, 0.3)])
    pool = np.array([near(0, -0.2), near(0, 0.5), near(0, 0.55), AXES[2]])
    far, close = np.array([near(0, 0.6)]), np.array([near(0, 0.3) + 0.12 * AXES[2]])
    none = np.zeros((0, 3))
    assert learn(positive, none, pool).reach == pytest.approx(2 * np.sin(0.1))
    assert learn(positive, far, pool).reach == pytest.approx(2 * np.sin(0.1))
    assert learn(positive, close, pool).reach == pytest.approx((2 * np.sin(0.05) + 0.12) / 2)


@pytest.fixture
def scattered(rng):
    """2,000 directions: nothing is like anything."""
    pool = rng.normal(size=(2000, 8))
    return pool / np.linalg.norm(pool, axis=1, keepdims=True)


@pytest.mark.parametrize("examples", [1, 2, 5])
def test_a_counter_example_never_widens_a_trigger(examples, scattered):
    before = learn(scattered[:examples], np.zeros((0, 8)), scattered).matches(scattered)
    for negative in (scattered[-1:], scattered[-9:], -scattered[:1], 9 * scattered[:1]):
        after = learn(scattered[:examples], negative, scattered).matches(scattered)
        assert not (after & ~before).any()


def test_unlike_examples_do_not_mean_all_that_lies_between(scattered):
    pair = np.stack([scattered[0], -scattered[0]])
    found = learn(pair, np.zeros((0, 8)), scattered).matches(scattered)
    assert found.sum() == 1 + 4  # an example, and a thousandth for each of the two
    assert learn(scattered[:200], np.zeros((0, 8)), scattered).matches(scattered).sum() > 400


def test_a_sample_nearer_to_a_negative_example_never_matches():
    trigger = learn(np.array([near(0, 0), near(0, 0.4)]), np.array([near(0, 0.2)]), AXES)
    assert not trigger.matches(np.array([near(0, 0.19)])).any()


def test_many_samples_are_asked_as_few_are(scattered, monkeypatch):
    trigger = Trigger(scattered[:3], scattered[3:9], np.inf)
    distance = trigger.distance(scattered)
    assert np.isinf(distance[3:9]).all()
    assert np.isfinite(distance).sum() > 100
    monkeypatch.setattr(triggers, "BLOCK", 7)
    np.testing.assert_array_equal(trigger.distance(scattered), distance)


def test_no_sample_but_the_examples_leaves_their_copies():
    assert learn(AXES[:2], np.zeros((0, 3)), AXES[:2]).reach == 0.0


def test_one_example_reaches_the_nearest_thousandth(rng):
    pool = rng.normal(size=(5000, 3))
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    assert learn(AXES[:1], np.zeros((0, 3)), pool).matches(pool).sum() == 5


def test_one_example_of_a_small_pool_reaches_the_next_sample():
    pool = np.array([near(0, 0), near(0, 0.5), near(0, 0.2)])
    assert learn(pool[:1], np.zeros((0, 3)), pool).matches(pool).tolist() == [True, False, True]


def test_a_trigger_without_examples_is_refused():
    with pytest.raises(ValueError, match="at least one positive"):
        learn(np.zeros((0, 3)), AXES, AXES)


def test_judged_matches_of_words_set_the_reach_and_are_no_examples(rng):
    words, none = AXES[:1], np.zeros((0, 3))
    yes, no = np.array([near(0, 0.5), near(0, 0.7)]), np.array([near(0, 0.9)])
    pool = rng.normal(size=(5000, 3))
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    alone = learn_from_words(words, none, none, pool)
    assert alone.matches(pool).sum() == 5
    confirmed = learn_from_words(words, yes, none, pool)
    assert confirmed.reach == pytest.approx(2 * np.sin(0.35))
    assert learn_from_words(words, yes, no, pool).reach == confirmed.reach
    nearer = learn_from_words(words, np.array([near(0, 0.9)]), yes, pool)
    assert nearer.matches(np.array([near(0, 0.45), near(0, 0.5)])).tolist() == [True, False]
    assert learn_from_words(words, none, no, pool).matches(pool).sum() == 5
    nearest = words + 1e-4 * AXES[1]  # confirming one match takes none of the others away
    assert learn_from_words(words, nearest, none, pool).reach == alone.reach
