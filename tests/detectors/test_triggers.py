import numpy as np
import pytest

from detectors.triggers import learn, learn_from_words

AXES = np.eye(3)


def near(axis, angle):
    """A unit vector at an angle from an axis towards the next."""
    return np.cos(angle) * AXES[axis] + np.sin(angle) * AXES[(axis + 1) % 3]


def test_the_reach_lies_between_positive_and_negative_examples():
    positive = np.array([near(0, 0), near(0, 0.1), near(0, 0.2)])
    negative = np.array([near(0, 0.6)])
    trigger = learn(positive, negative, np.zeros((0, 3)))
    inside, outside = 2 * np.sin(0.05), 2 * np.sin(0.2)
    assert trigger.reach == pytest.approx((inside + outside) / 2)
    found = trigger.matches(np.array([near(0, -0.1), near(0, 0.3), near(0, 0.55), AXES[2]]))
    assert found.tolist() == [True, True, False, False]


def test_a_sample_nearer_to_a_negative_example_never_matches():
    trigger = learn(np.array([near(0, 0), near(0, 0.4)]), np.array([near(0, 0.2)]), AXES)
    assert not trigger.matches(np.array([near(0, 0.19)])).any()


def test_without_negatives_the_positives_tell_the_reach():
    trigger = learn(np.array([near(0, 0), near(0, 0.1), near(0, 0.4)]), np.zeros((0, 3)), AXES)
    assert trigger.reach == pytest.approx(2 * np.sin(0.15))


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
    assert learn_from_words(words, yes, none, AXES).reach == pytest.approx(2 * np.sin(0.35))
    both = learn_from_words(words, yes, no, AXES)
    assert both.reach == pytest.approx(np.sin(0.35) + np.sin(0.45))
    assert both.matches(np.array([near(0, 0.75), near(0, 0.9)])).tolist() == [True, False]
    nearer = learn_from_words(words, np.array([near(0, 0.9)]), yes, AXES)
    assert nearer.matches(np.array([near(0, 0.45), near(0, 0.5)])).tolist() == [True, False]
    pool = rng.normal(size=(5000, 3))
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    assert learn_from_words(words, none, no, pool).matches(pool).sum() == 5
