"""A whole source that has moved: a new camera, a dirty lens, another product on the line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from detectors.baseline import Measures, rows_by_source
from detectors.scores import Floats
from schemas.records import LEVELS, Level

FEWEST = 30
"""Fewer samples are edge cases of their own, not a source that moved."""
FAR = 1.0
"""Half of the source lies beyond five sixths of the reference; less is everyday drift."""
SIGNIFICANT = 0.01


@dataclass(frozen=True, slots=True)
class Shift:
    """A source that lies further out than its reference, as one finding.

    level: where it moved most. deviations: how far its median lies from the reference's, in
    robust deviations. p_value: of the one-sided Mann-Whitney test, Bonferroni over sources and
    levels. samples: how many. since: when it began, None where times are unknown. ingested: whether
    by the time of ingestion, as captures are not dated.
    """

    source: str
    level: Level
    deviations: float
    p_value: float
    samples: int
    since: np.datetime64 | None = None
    ingested: bool = False

    def __str__(self) -> str:
        word = ", ingested since" if self.ingested else " since"
        since = "" if self.since is None else f"{word} {np.datetime_as_string(self.since, 's')}"
        return (
            f"source '{self.source}' has shifted: half of its {self.samples} samples lie "
            f"{self.deviations:.1f} robust deviations or more out at the {self.level} level"
            f"{since} (p {_p(self.p_value)})"
        )


def find_shifts(
    z: Measures,
    sources: Sequence[str],
    reference_z: Measures,
    reference_sources: Sequence[str],
    times: NDArray[np.datetime64] | None = None,
) -> list[Shift]:
    """Sources of a pool that lie further out than the reference's samples of the same source.

    z, reference_z: (n,) and (m,) per measure, on one scale. A source that the reference does not
    hold is compared with all of it; where both are the same samples, with all other sources.
    """
    known = rows_by_source(reference_sources)
    rows_of = {s: rows for s, rows in rows_by_source(sources).items() if len(rows) >= FEWEST}
    found = []
    for source, rows in rows_of.items():
        if z is reference_z:
            rest = np.setdiff1d(np.arange(len(sources)), rows)
        else:
            rest = known.get(source, np.arange(len(reference_sources)))
        if len(rest) < FEWEST:
            continue
        gaps = {lv: np.median(z[lv][rows]) - np.median(reference_z[lv][rest]) for lv in LEVELS}
        level = max(LEVELS, key=lambda each: float(gaps[each]))
        if gaps[level] < FAR:
            continue
        test = mannwhitneyu(z[level][rows], reference_z[level][rest], alternative="greater")
        p_value = min(1.0, float(test.pvalue) * len(rows_of) * len(LEVELS))
        if p_value <= SIGNIFICANT:
            since = _since(z[level][rows], times[rows]) if times is not None else None
            found.append(Shift(source, level, float(gaps[level]), p_value, len(rows), since))
    return sorted(found, key=lambda shift: -shift.deviations)


def _since(z: Floats, times: NDArray[np.datetime64]) -> np.datetime64 | None:
    """The first time after the lowest point of the cumulative sum about half the shift."""
    known = ~np.isnat(times)
    if not known.any():
        return None
    order = np.argsort(times[known], kind="stable")
    climb = np.cumsum(z[known][order] - np.median(z) / 2)
    start = 0 if climb.min() >= 0 else min(int(np.argmin(climb)) + 1, len(order) - 1)
    return np.datetime64(times[known][order][start])


def _p(p_value: float) -> str:
    return "< 1e-6" if p_value < 1e-6 else f"{p_value:.2g}"
