import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from detectors.calibration import Calibration, benjamini_hochberg, conformal_p_values, enough


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


def test_a_source_is_calibrated_by_itself_where_that_could_prove_something():
    scores = np.r_[np.arange(300.0), np.arange(1000.0, 1300.0)]
    sources = ["near"] * 300 + ["far"] * 300
    own = Calibration(scores, sources).p_values(np.array([400.0, 1200.0]), ["near", "far"])
    np.testing.assert_allclose(own, [1 / 301, 101 / 301])
    strict = Calibration(scores, sources, enough(0.1))
    np.testing.assert_allclose(strict.floors(["near", "far"]), 1 / 601)
    loose = Calibration(scores, sources, enough(0.5))
    np.testing.assert_allclose(loose.floors(["near", "far"]), 1 / 301)
    np.testing.assert_allclose(loose.floors(["another"]), 1 / 601)
