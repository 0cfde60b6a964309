"""Whether new samples are stranger than those before them, by one reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

QUANTILES = (0.95, 0.99)
SIGNIFICANT = 0.01


@dataclass(frozen=True, slots=True)
class Strangeness:
    """How many of `samples` lie above each of `QUANTILES` of a reference's own scores."""

    samples: int
    above: tuple[int, ...]

    @classmethod
    def of(cls, tail: NDArray[np.floating]) -> Strangeness:
        """tail: (n,) the share of the reference that is at least as strange as each sample."""
        return cls(len(tail), tuple(int(np.sum(tail <= 1 - q + 1e-12)) for q in QUANTILES))

    def stranger_than(self, before: Strangeness) -> float:
        """p-value of as many above the first quantile if both were of one kind (Fisher's exact)."""
        table = [
            [self.above[0], self.samples - self.above[0]],
            [before.above[0], before.samples - before.above[0]],
        ]
        return float(fisher_exact(table, alternative="greater").pvalue)

    def against(self, before: Strangeness | None) -> str:
        """One line for people, beside the samples of the run before where there is one."""
        if not self.samples:
            return "no new images"
        shares = " and ".join(
            f"{count / self.samples:.1%} above its {q:.0%} quantile"
            for count, q in zip(self.above, QUANTILES, strict=True)
        )
        said = f"of {self.samples:,} new images {shares}"
        if before is None or not before.samples:
            return said
        share = f"{before.above[0] / before.samples:.1%} of {before.samples:,} above the first"
        p_value = self.stranger_than(before)
        if p_value > SIGNIFICANT:
            return f"{said}; in the run before {share}"
        return f"{said}: stranger than in the run before, {share} (p {max(p_value, 1e-6):.1g})"
