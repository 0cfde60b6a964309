from dataclasses import replace

import numpy as np
import pytest

from detectors.baseline import fit_pool
from detectors.findings import Budget, Policy
from detectors.measures import APART, REMOTE
from detectors.mining import mine


@pytest.fixture
def of_two_kinds(rng, pool_of, unit):
    """Makes 600 samples: the first `size` of another kind, the last 20 odd each in its own way.

    The other kind lies `near` to 1.5 radians off, where 1.57 is at a right angle; at the low level,
    too, if it has another texture.
    """

    def make(size, near, texture=True):
        angle = np.linspace(near, 1.5, size)
        levels = []
        for d in (6, 12, 24):
            X = np.eye(d)[0] + 0.05 * rng.normal(size=(600, d))
            if d > 6 or texture:
                X[:size, 0] += np.cos(angle) - 1
                X[:size, 3] += np.sin(angle)
            if d > 6:
                X[580:] += 0.8 * unit(rng.normal(size=(20, d)))
            levels.append(unit(X))
        return pool_of(*levels)

    return make


@pytest.mark.parametrize("size", [30, 60, 70])
def test_up_to_an_eighth_of_the_pool_that_is_something_else_is_a_group(of_two_kinds, size):
    baseline = fit_pool(of_two_kinds(size, near=1.5))
    assert (baseline.z[APART][:size] >= 7).mean() > 0.9
    first = np.argsort(-baseline.score(baseline.z))[:20]
    assert np.mean(first < size) >= 0.9


@pytest.mark.parametrize(
    ("size", "near", "texture"), [(90, 1.5, True), (70, 0.7, True), (60, 1.5, False)]
)
def test_an_ordinary_minority_hides_no_oddity(of_two_kinds, size, near, texture):
    """A seventh of the pool, an eighth that runs on from the rest, a tenth of the same texture."""
    baseline = fit_pool(of_two_kinds(size, near, texture))
    first = np.argsort(-baseline.score(baseline.z))[:20]
    assert np.mean(first >= 580) >= 0.9


def test_copies_are_no_minority(of_two_kinds):
    """However many, and a camera that is stuck on something strange is told."""
    pool = of_two_kinds(90, near=1.5)
    for X in pool.embeddings.values():
        X[:90] = X[0]
    pool.distances[:90, :89] = 0
    baseline = fit_pool(pool)
    assert (baseline.z[APART][:90] >= 7).all()


def test_a_group_is_told_where_the_encoder_has_one_level(of_two_kinds, pool_of):
    high = of_two_kinds(60, near=1.5).embeddings["high"]
    absent = np.zeros((600, 1), np.float32)
    assert (fit_pool(pool_of(absent, absent, high)).z[APART][:60] >= 7).mean() > 0.9


@pytest.mark.parametrize(("kinds", "told"), [(1, True), (3, False)])
def test_a_rare_kind_is_ordinary_among_kinds_as_far_apart(rng, pool_of, unit, kinds, told):
    """And something else beside a single one."""
    kind = np.r_[np.full(80, kinds), np.arange(820) % kinds]
    pool = pool_of(*(unit(np.eye(d)[kind] + 0.04 * rng.normal(size=(900, d))) for d in (6, 12, 24)))
    assert (fit_pool(pool).z[APART][:80] >= 7).mean() == told


def test_a_group_that_bends_every_fit_is_far_from_the_median(rng, pool_of, unit):
    """In many dimensions 30 of 600 make a direction of their own an ordinary one."""
    levels = []
    for d in (6, 40, 60):
        X = np.eye(d)[0] + 0.1 * rng.normal(size=(600, d))
        X[:30] = np.eye(d)[0] + 0.03 * rng.normal(size=(30, d))
        X[:30, 3:6] += 0.7
        levels.append(unit(X))
    baseline = fit_pool(pool_of(*levels))
    assert baseline.z[APART][:30].max() < 0
    first = np.argsort(-baseline.score(baseline.z))[:30]
    assert np.mean(first < 30) >= 0.9


def test_how_remote_is_what_two_levels_say_together(ordinary):
    pool = ordinary(300, odd=5)
    by_hand = []
    for level in ("mid", "high"):
        X = pool.embeddings[level].astype(float)
        distance = np.log(np.linalg.norm(X - np.median(X, axis=0), axis=1))
        deviation = distance - np.median(distance)
        by_hand.append(deviation / (1.4826 * np.median(np.abs(deviation))))
    np.testing.assert_allclose(fit_pool(pool).z[REMOTE], sum(by_hand) / 2**0.5, rtol=1e-5)


def test_an_ordinary_minority_is_not_remote(of_two_kinds):
    remote = fit_pool(of_two_kinds(90, near=1.5)).z[REMOTE]
    assert (remote[:90] == 0).all()
    assert (remote[90:580] != 0).all()


def test_the_end_of_a_tail_is_no_group(rng, pool_of, unit):
    """A tenth of another kind, of which a few are just far enough to be one, hides no oddity."""
    levels = []
    for d in (6, 60, 100):
        X = np.eye(d)[0] + 0.08 * rng.normal(size=(1000, d))
        X[:110, 3] += 0.65
        if d > 6:
            X[980:] += 0.9 * unit(rng.normal(size=(20, d)))
        levels.append(unit(X))
    baseline = fit_pool(pool_of(*levels))
    assert (baseline.z[REMOTE][:110] < 3.5).all()
    assert np.mean(np.argsort(-baseline.score(baseline.z))[:20] >= 980) >= 0.9


def test_sources_that_moved_lie_apart_as_a_whole(of_two_kinds):
    pool = of_two_kinds(60, near=1.5)
    pool = replace(pool, sources=["new"] * 60 + ["old"] * 540)
    z = fit_pool(pool, moved=["new"]).z
    assert (z[APART][:60] == 0).all()
    assert (z[REMOTE][:60] == 0).all()
    without = fit_pool(replace(pool, sources=["old"] * 600)).z
    assert z[REMOTE][60:].std() > without[REMOTE][60:].std()  # by the scale of those that stayed


def test_of_one_level_how_remote_is_its_own_deviation(ordinary):
    z = fit_pool(ordinary(300), "mid").z[REMOTE]
    assert 1.4826 * np.median(np.abs(z - np.median(z))) == pytest.approx(1)


def test_a_group_beside_nothing_but_copies_is_told(rng, pool_of, unit):
    """As another source moved, all that stayed is a stuck camera and what the group shows."""
    kind = np.r_[np.zeros(180, int), np.full(20, 4), np.full(180, 2)]
    levels = []
    for d in (6, 12, 24):
        X = unit(np.eye(d)[kind] + 0.1 * rng.normal(size=(380, d)))
        X[:180] = X[0]
        levels.append(X)
    pool = replace(pool_of(*levels), sources=["a"] * 180 + ["c"] * 20 + ["b"] * 180)
    assert set(range(180, 200)) <= set(mine(pool, Policy(Budget(count=40))).flagged)
