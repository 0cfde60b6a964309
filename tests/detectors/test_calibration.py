import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from detectors.calibration import benjamini_hochberg, conformal_p_values, promise


def test_p_values_of_a_hand_computed_case():
    p = conformal_p_values(np.array([0.5, 2.0, 9.0]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(p, [1.0, 0.75, 0.25])


def test_without_calibration_nothing_is_significant():
    assert conformal_p_values(np.array([1.0, 100.0]), np.array([])).tolist() == [1.0, 1.0]


def test_p_values_of_normal_samples_are_not_too_small(rng):
    p = conformal_p_values(rng.normal(size=20_000), rng.normal(size=2_000))
    for level in (0.01, 0.1, 0.5):
        assert np.mean(p <= level) < 1.25 * level


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.sampled_from([0.01, 0.05, 0.1, 0.3]))
def test_benjamini_hochberg_agrees_with_scipys_adjusted_p_values(p_values, rate):
    p = np.array(p_values)
    adjusted = false_discovery_control(p, method="bh")
    clear = np.abs(adjusted - rate) > 1e-12
    np.testing.assert_array_equal(benjamini_hochberg(p, rate)[clear], (adjusted <= rate)[clear])


def test_no_hypotheses_no_rejections():
    assert len(benjamini_hochberg(np.array([]), 0.1)) == 0


def test_the_realised_false_discovery_rate_keeps_its_bound(rng):
    realised = []
    for _ in range(200):
        calibration = rng.normal(size=1_000)
        scores = np.r_[rng.normal(size=450), rng.normal(loc=4, size=50)]
        found = benjamini_hochberg(conformal_p_values(scores, calibration), 0.1)
        realised.append(found[:450].sum() / max(found.sum(), 1))
    assert np.mean(realised) <= 0.1


def promised(rng, normal, odd=0, reference=400, strange=0):
    """A promise at 10% over `normal` scores and `odd` high ones."""
    calibration = np.r_[rng.normal(size=reference - strange), np.full(strange, 5.0)]
    scores = np.r_[normal, np.full(odd, 8.0)]
    return promise(conformal_p_values(scores, calibration), calibration, 0.1)


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_a_promise_stands_where_normal_samples_are_those_of_the_reference(rng, share):
    kept = [
        promised(rng, rng.normal(size=400), int(400 * share / (1 - share))).found is not None
        for _ in range(100)
    ]
    assert np.mean(kept) > 0.95


@pytest.mark.parametrize(
    ("centre", "spread", "moved"), [(1.0, 1.0, 400), (0.0, 1.6, 400), (0.7, 1.0, 400), (4, 1, 200)]
)
def test_a_shift_of_all_or_of_half_of_the_pool_is_said(rng, centre, spread, moved):
    told = [
        promised(
            rng, np.r_[rng.normal(size=400 - moved), rng.normal(centre, spread, size=moved)], odd=20
        )
        for _ in range(100)
    ]
    assert np.mean([each.found is None for each in told]) > 0.9
    assert "a shift voids any rate" in next(each.note for each in told if each.found is None)


def test_a_strange_reference_is_named_only_where_it_hides_everything(rng):
    assert promised(rng, rng.normal(size=200), odd=40, strange=4).found is not None
    told = promised(rng, rng.normal(size=200), odd=3, strange=30)
    assert told.found is None
    assert "contaminated: 30 of its 400" in told.note


def test_nothing_strange_is_no_failure_of_the_reference(rng):
    told = promised(rng, rng.uniform(-0.5, 0.5, size=5), reference=4000)
    assert told.found is not None
    assert not told.found.any()
    assert "nothing in the pool is proven strange" in told.note
