"""What a score is worth: p-values against known-normal samples, and a bound on false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, cramervonmises_2samp

from detectors.baseline import rows_by_source
from detectors.scores import STRANGE_Z, Floats, Mask

ENOUGH = 200
"""A source with as many calibration samples is calibrated by itself."""
TOLERATED = 0.02
"""Share of a clean reference that may lie beyond `STRANGE_Z`: natural tails, no more."""
LEAST_NORMAL = 0.75
"""A pool that is less normal than this, by Storey's estimate, holds more than edge cases: a part of
it comes from elsewhere than the reference."""
SIGNIFICANT = 0.01


def conformal_p_values(scores: NDArray[np.floating], calibration: NDArray[np.floating]) -> Floats:
    """Chance that a normal sample looks at least as strange, for each score (n,): in (0, 1].

    calibration: (m,) scores of normal samples that took no part in the fit. The p-value is
    (1 + how many of them are >= the score) / (m + 1), valid in finite samples whatever the
    score's distribution (Vovk et al., 2005; Bates et al., arXiv:2104.08279). None is below
    1 / (m + 1): with few calibration samples nothing can be significant.
    """
    ordered = np.sort(np.asarray(calibration, dtype=np.float64))
    not_below = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return np.asarray((1 + not_below) / (len(ordered) + 1), dtype=np.float64)


def benjamini_hochberg(p_values: NDArray[np.floating], rate: float) -> NDArray[np.bool_]:
    """Which of the hypotheses (n,) to reject so that the false discovery rate is <= `rate`.

    The step-up procedure of Benjamini and Hochberg (1995): the largest i with the i-th smallest
    p-value <= rate * i / n, and all that are no larger. Ties stand or fall together.
    """
    n = len(p_values)
    ordered = np.sort(np.asarray(p_values, dtype=np.float64))
    passing = np.flatnonzero(ordered <= rate * np.arange(1, n + 1) / max(n, 1))
    if len(passing) == 0:
        return np.zeros(n, dtype=bool)
    return np.asarray(p_values <= ordered[passing[-1]])


def p_values_by_source(
    scores: Floats, sources: Sequence[str], calibration: Floats, calibration_sources: Sequence[str]
) -> Floats:
    """`conformal_p_values`, each source by its own calibration samples where it has enough."""
    p_values = conformal_p_values(scores, calibration)
    own = rows_by_source(calibration_sources)
    for source, rows in rows_by_source(sources).items():
        if len(own.get(source, ())) >= ENOUGH:
            p_values[rows] = conformal_p_values(scores[rows], calibration[own[source]])
    return p_values


@dataclass(frozen=True, slots=True)
class Promise:
    """What a run may promise. found: (n,) the discoveries, or None where no rate is promised and
    `note` says why in one line."""

    found: Mask | None
    note: str


def promise(p_values: Floats, calibration: Floats, rate: float) -> Promise:
    """Discoveries (n,) at a false discovery rate, unless the data rule the promise out.

    calibration: (m,) scores of the reference in robust deviations, each against the others.
    A shift voids the rate, and is looked for before anything else. Strange samples among the
    reference do not: they make p-values larger, so they are named only where nothing is found.
    """
    n, m = len(p_values), len(calibration)
    shift = _shift(p_values, m)
    if shift:
        return Promise(None, f"{shift}: a shift voids any rate; take a reference of the same kind")
    found = benjamini_hochberg(p_values, rate)
    if found.any():
        return Promise(
            found, f"at most {rate:.0%} of the {int(found.sum())} outliers are false alarms"
        )
    strange = int(np.sum(calibration >= STRANGE_Z))
    if m and binomtest(strange, m, TOLERATED, alternative="greater").pvalue < SIGNIFICANT:
        return Promise(
            None,
            f"the reference is contaminated: {strange} of its {m} samples deviate by "
            f"{STRANGE_Z} or more; review them and give a verdict",
        )
    floor = 1 / (m + 1)
    at_floor = int(np.sum(p_values <= floor))
    if at_floor and floor * n > rate * at_floor:
        return Promise(
            None,
            f"{m} reference samples cannot prove anything at a rate of {rate:g}: the least "
            f"p-value is {floor:.2g}; {int(np.ceil(n / (rate * at_floor)))} would do",
        )
    return Promise(found, f"nothing in the pool is proven strange at a rate of {rate:g}")


def _shift(p_values: Floats, calibrating: int) -> str:
    """What tells that the ordinary samples of a pool are not those of the reference, if anything.

    Edge cases crowd the small p-values; whatever they are, the ordinary half must be spread as the
    reference's own is (the two-sample Cramér-von Mises test; Anderson, 1962), and be a half. What
    moves the strange half alone looks like more edge cases, and is taken for them.
    """
    n = len(p_values)
    own = np.arange(1, calibrating + 1) / (calibrating + 1)
    ordinary, usual = p_values[p_values > 0.5], own[own > 0.5]
    normal = min(1.0, 2 * len(ordinary) / max(n, 1))
    if n and binomtest(len(ordinary), n, LEAST_NORMAL / 2, "less").pvalue < SIGNIFICANT:
        return f"only {normal:.0%} of the pool look like the reference"
    if (
        min(len(ordinary), len(usual)) > 1
        and cramervonmises_2samp(ordinary, usual).pvalue < SIGNIFICANT
    ):
        return "even the ordinary half of the pool lies otherwise than that of the reference"
    return ""
