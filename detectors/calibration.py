"""What a score is worth: p-values against known-normal samples, and a bound on false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.baseline import rows_by_source
from detectors.scores import Floats

ENOUGH = 200
"""A source with as many calibration samples is calibrated by itself."""
RARE = 0.02
"""Share of a pool that a rate must be able to prove; a source's own samples must allow that."""


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


def enough(rate: float | None) -> int:
    """How many samples a source needs to be calibrated by itself.

    With fewer its least p-value could prove nothing at this rate unless more than `RARE` of a
    pool is strange, where that of all sources together could.
    """
    return ENOUGH if not rate else max(ENOUGH, int(np.ceil(1 / (rate * RARE))) - 1)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores (m,) of normal samples that took no part in the fit, and their sources (m,).

    enough: so many samples of a source calibrate it by themselves; else all do.
    """

    scores: Floats
    sources: Sequence[str]
    enough: int = ENOUGH

    def p_values(self, scores: Floats, sources: Sequence[str]) -> Floats:
        """`conformal_p_values` (n,) of samples of these sources."""
        p_values = conformal_p_values(scores, self.scores)
        own = rows_by_source(self.sources)
        for source, rows in rows_by_source(sources).items():
            if len(own.get(source, ())) >= self.enough:
                p_values[rows] = conformal_p_values(scores[rows], self.scores[own[source]])
        return p_values

    def floors(self, sources: Sequence[str]) -> Floats:
        """The least p-value (n,) that a sample of each of these sources can have."""
        return self.p_values(np.full(len(sources), np.inf), sources)
