"""What a mining run is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.measures import CROWD, NEIGHBOURS, Measures
from detectors.registry import DEFAULT
from detectors.scores import NOTABLE_Z, Floats, Ints, Mask
from detectors.shift import Shift
from schemas.errors import UsageError
from schemas.records import FlagKind, Level, VerdictLabel

OUTLIER: FlagKind = "outlier"
CAPTURE_FAULT: FlagKind = "capture_fault"


@dataclass(frozen=True, slots=True)
class Budget:
    """How many outliers a person can look at: a count, or a share of the pool in (0, 1]."""

    count: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """ "200" or "2%". Raises UsageError for anything else."""
        try:
            if text.endswith("%"):
                share = float(text[:-1]) / 100
                if 0 < share <= 1:
                    return cls(share=share)
            elif int(text) > 0:
                return cls(count=int(text))
        except ValueError:
            pass
        raise UsageError(f"budget '{text}' is neither a count like 200 nor a share like 2%")

    def of(self, samples: int) -> int:
        """The number of outliers allowed among `samples`; a share is rounded up."""
        if self.share is not None:
            return int(np.ceil(self.share * samples))
        return min(self.count or 0, samples)


@dataclass(frozen=True, slots=True)
class Policy:
    """How a pool is mined.

    budget: how many outliers. fdr: the false discovery rate to promise instead, where a
    reference allows it. detector: a name of `detectors.registry`. neighbours: k of the kNN
    distance. level: the one that is scored. fault_threshold: what `Baseline.broken` is asked for;
    what is broken and no outlier is a capture fault. nearest: how many normal samples to show
    beside a flag. apart: samples within this distance of each other count once, 0 for none; no rate
    is promised then.
    """

    budget: Budget = Budget(share=0.02)
    fdr: float | None = None
    detector: str = DEFAULT
    neighbours: int = NEIGHBOURS
    level: Level = "high"
    fault_threshold: float = NOTABLE_Z
    nearest: int = 3
    apart: float = 0.0

    @property
    def searched(self) -> int:
        """How many neighbours of its own a pool should have."""
        return max(self.neighbours, CROWD)

    @property
    def searched_in_reference(self) -> int:
        """How many of a reference: where one of its own samples is left out, the next is asked."""
        return self.neighbours + 1


@dataclass(frozen=True, slots=True)
class Reviews:
    """Earlier verdicts: sample_ids (v,), their vectors (v, d) on the scored level, and the label of
    each. Who was judged takes no place in the budget again."""

    sample_ids: Sequence[str]
    vectors: NDArray[np.floating]
    labels: Sequence[VerdictLabel]

    @property
    def is_edge_case(self) -> Mask:
        """Which of them (v,) were called edge cases."""
        return np.array([label == "edge_case" for label in self.labels], dtype=bool)

    @property
    def not_normal(self) -> list[str]:
        """The samples that nobody is to be shown as normal."""
        judged = zip(self.sample_ids, self.labels, strict=True)
        return [one for one, label in judged if label in ("edge_case", "junk")]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run says of each of the n samples, and of its f flags in the order of their ranks.

    score: (n,) robust deviations: 0 is ordinary, above 3.5 is strange, and the same in every
    run on one reference, but in a source that has shifted away from it. p_value: (n,) in (0, 1],
    None without a reference, NaN in a source that has shifted away from it. tail: (n,) share of the
    reference that is at least as strange, before any source is judged by itself; None without one.
    z: (n,) robust deviations by measure. level: (n,) the level with the largest. isolation: (n,)
    mean distance to the nearest neighbours. deviation: (n,) what capture faults raise, of
    `Baseline.deviation`. broken: (n,) of `Baseline.broken`.
    flagged: (f,) rows of the pool, the best first: outliers by score and verdicts, then capture
    faults by deviation; rank i + 1 is flagged[i]. kinds: (f,). reasons: (f,) tuples of strings.
    nearest: (f, m) rows of the closest normal samples, nearest first, -1 where there are fewer: of
    the reference where its samples were given, else of the pool. nearest_distances: (f, m), NaN
    there. confirmed: (f,) the review of the confirmed edge case that is nearer than those, -1 for
    none; confirmed_distances: (f,), NaN there. group: (f,) alike flags of one kind, numbered from
    0, -1 for none; group_distance: (f,) to the medoid of the group, NaN for none.
    shifts: sources that moved as a whole, or of late. notes: what else the run says, one line each.
    promised: whether the outliers are the discoveries at the policy's rate, and not a budget's.
    moved: how many outliers owe their place to verdicts. duplicate_of: (n,) the row of the outlier
    that an unflagged near-duplicate is counted with, -1 for none.
    """

    score: Floats
    p_value: Floats | None
    tail: Floats | None
    z: Measures
    level: list[Level]
    isolation: Floats
    deviation: Floats
    broken: Mask
    flagged: Ints
    kinds: list[FlagKind]
    reasons: list[tuple[str, ...]]
    nearest: Ints
    nearest_distances: Floats
    confirmed: Ints
    confirmed_distances: Floats
    group: Ints
    group_distance: Floats
    shifts: list[Shift]
    notes: list[str]
    promised: bool
    moved: int
    duplicate_of: Ints
