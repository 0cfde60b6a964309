import numpy as np
import pytest
from scipy.stats import hypergeom

from detectors.drift import Strangeness


def test_counts_above_the_quantiles_of_a_reference():
    tail = np.array([0.001, 0.01, 0.011, 0.05, 0.051, 1.0])
    assert Strangeness.of(tail) == Strangeness(6, (4, 2))


def test_a_worse_day_is_told_with_its_figures():
    today, before = Strangeness(50, (20, 9)), Strangeness(400, (18, 3))
    by_hand = hypergeom(450, 38, 50).sf(19)
    assert today.stranger_than(before) == pytest.approx(by_hand)
    assert today.against(before) == (
        "of 50 new images 40.0% above its 95% quantile and 18.0% above its 99% quantile: stranger "
        "than in the run before, 4.5% of 400 above the first (p 1e-06)"
    )


def test_a_usual_day_is_not_called_stranger():
    today = Strangeness(50, (3, 1))
    assert "stranger" not in today.against(Strangeness(400, (18, 3)))
    assert today.against(None) == (
        "of 50 new images 6.0% above its 95% quantile and 2.0% above its 99% quantile"
    )
    assert Strangeness(0, (0, 0)).against(today) == "no new images"
