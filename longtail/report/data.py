"""What a report shows, gathered and counted: `longtail.report.render` only lays it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from schemas.audit import Audit
from schemas.records import Flag, Level, Neighbour

MOST_ALIKE = 30
"""Thumbnails of alike flags on one card."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the run. `seconds` of wall time; or of work, summed over parallel workers."""

    name: str
    images: int
    seconds: float
    parallel: bool = False

    @property
    def per_second(self) -> float:
        """Images a second; 0 where no time passed."""
        return self.images / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Rejected:
    """Inputs refused for one reason, and a few of their URIs."""

    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """Flags among the samples of a source."""

    name: str
    flags: int
    samples: int

    @property
    def of_samples(self) -> float:
        """The share of the source's samples that are flags, in [0, 1]."""
        return self.flags / self.samples


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts in bins of equal width from `low` to `high`.

    flagged: how many of each bin's count are flags. cut: where flags begin, if anywhere.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    flagged: tuple[int, ...]
    cut: float | None = None

    @classmethod
    def of(
        cls,
        values: NDArray[np.floating],
        flagged: NDArray[np.bool_],
        *,
        low: float,
        high: float,
        bins: int = 60,
        cut: float | None = None,
    ) -> Histogram:
        """Counts (n,) values, flags where the (n,) mask says so; the end bins take the rest."""
        edges = np.linspace(low, high, bins + 1)
        inside = np.clip(values, low, high)
        counts, _ = np.histogram(inside, edges)
        hits, _ = np.histogram(inside[flagged], edges)
        return cls(low, high, tuple(counts.tolist()), tuple(hits.tolist()), cut)


@dataclass(frozen=True, slots=True)
class LevelSpread:
    """How samples deviate at one level (robust z), and for how many flags it is the strangest."""

    level: Level
    flags: int
    deviation: Histogram


@dataclass(frozen=True, slots=True)
class Card:
    """What one look judges: a flag by itself, or the medoid of a group and all of its members.

    members: best first, the medoid among them; just the flag itself where it is in no group.
    confirmed: the edge case that is nearer to the flag than any normal sample.
    """

    flag: Flag
    members: tuple[Flag, ...]
    confirmed: Neighbour | None = None

    @classmethod
    def of(cls, members: Sequence[Flag], confirmed: Mapping[str, Neighbour]) -> Card:
        """The card of alike flags, best first; confirmed: by the id of a flag."""
        group = members[0].group
        medoid = next((flag for flag in members if group and flag.sample_id == group.medoid), None)
        flag = medoid or members[0]
        return cls(flag, tuple(members), confirmed.get(flag.sample_id))

    @property
    def others(self) -> tuple[Flag, ...]:
        """The members beside the one that the card shows."""
        return tuple(flag for flag in self.members if flag is not self.flag)


@dataclass(frozen=True, slots=True)
class Matched:
    """A sample that a trigger found."""

    sample_id: str
    uri: str
    flagged: bool


@dataclass(frozen=True, slots=True)
class Matches:
    """What a trigger found anew: how many samples, and the nearest of them, nearest first."""

    trigger: str
    count: int
    shown: tuple[Matched, ...]


@dataclass(frozen=True, slots=True)
class ReportData:
    """All that one report tells.

    seconds: how long the run took; None for one that was cut off after it had published.
    settings: what was mined and by which policy, as text. notes: what mining had to say, one line
    each. samples: the pool that was mined.
    cards, fault_cards: the best outliers and capture faults, by rank; of `outliers` and
    `capture_faults` in all. matches: of each trigger that found anything. thumbnails: JPEG bytes
    by sample id, of all these and the neighbours of flags.
    """

    run_id: str
    started_at: datetime
    seconds: float | None
    command: str
    inputs: tuple[str, ...]
    settings: Mapping[str, str]
    notes: tuple[str, ...]
    samples: int
    ingested: int
    skipped: int
    rejected: int
    outliers: int
    capture_faults: int
    stages: tuple[Stage, ...]
    rejects: tuple[Rejected, ...]
    audits: tuple[Audit, ...]
    scores: Histogram
    levels: tuple[LevelSpread, ...]
    sources: tuple[Share, ...]
    cards: tuple[Card, ...]
    fault_cards: tuple[Card, ...]
    matches: tuple[Matches, ...]
    thumbnails: Mapping[str, bytes]
