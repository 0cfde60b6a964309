"""Why a sample was flagged, in short plain strings with their figures; σ is a robust deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from detectors.baseline import rows_by_source
from detectors.measures import (
    APART,
    CROWDED,
    GROUPS,
    LOCAL,
    PARTS,
    REMOTE,
    crowd_of,
    groups_heard,
    kind,
    like,
)
from detectors.pool import Patches, Pool
from detectors.scores import NOTABLE_Z, Floats, Ints, Mask
from schemas.records import LEVELS, Level

MEANING: Mapping[Level, str] = {
    "low": "texture and exposure",
    "mid": "parts",
    "high": "whole object",
}
BESIDE_LEVELS: Mapping[str, str] = {
    LOCAL: "its nearest images {:.1f}σ farther than theirs",
    PARTS: "the other levels {:.1f}σ out for what the scored one shows",
}
COMPARATIVES: Mapping[str, tuple[str, str]] = {
    "brightness": ("darker", "brighter"),
    "contrast": ("flatter", "more contrasty"),
    "sharpness": ("blurrier", "sharper or noisier"),
    "saturation": ("less colourful", "more colourful"),
    "entropy": ("plainer", "busier"),
    "clipped": ("less clipped", "more clipped"),
}
"""How to say that a quality statistic is below or above most of a source."""

USUAL_SHARE = 0.99
"""The usual range of a quality statistic holds this share of a source, centred."""
STRANGE_SPOT = 0.95
"""From this share of the pool on, a flag is told where its strangest spot is."""
ENOUGH = 100
"""With fewer samples of a source its usual range is not known, and the whole pool's is used."""


def level_reasons(z: Mapping[str, Floats], row: int) -> list[str]:
    """The levels at which a sample deviates, the furthest first.

    z: (n,) robust deviations per level, for its kind, of `LOCAL` and of `PARTS`. A string reads
    "whole object (high level) 7.1σ out" or, where that says more, "texture and exposure (low level)
    4.2σ out for its kind"; also "its nearest images 3.8σ farther than theirs", and against a
    reference "the other levels 5.0σ out for what the scored one shows".
    """
    found = []
    for level in LEVELS:
        among_all = float(z[level][row])
        held = [float(z[name][row]) for name in (kind(level), like(level)) if name in z]
        for_its_kind = max(held, default=among_all)
        words = " for its kind" if for_its_kind > among_all else ""
        told = f"{MEANING[level]} ({level} level) {{:.1f}}σ out{words}"
        found.append((max(among_all, for_its_kind), told))
    found += [(float(z[name][row]), told) for name, told in BESIDE_LEVELS.items() if name in z]
    return [told.format(z) for z, told in sorted(found, reverse=True) if z >= NOTABLE_Z]


def group_reasons(
    z: Mapping[str, Floats], score: Floats, row: int, k: int, level: Level = "high"
) -> list[str]:
    """What tells a group of alike oddities, where that decided a sample's default score.

    z: (n,) robust deviations by measure. score: (n,). k: of the distance score. level: the scored
    one. A string reads "8.2σ from the bulk of the pool, alone or with others like it" or "its 29
    nearest images reach 5.2σ farther than theirs, alone or with others like it".
    """
    crowd = min(crowd_of(len(score), k), len(score) - 1)
    means = {
        APART: "{:.1f}σ from the bulk of the pool",
        REMOTE: "{:.1f}σ from the middle of the pool",
        CROWDED: f"its {crowd:,} nearest images reach {{:.1f}}σ farther than theirs",
    }
    own = {name: z[name][[row]] for name in (*GROUPS, level) if name in z}
    heard = groups_heard(own, level).items()
    decided = next((names for names, values in heard if values[0] >= score[row]), ())
    words = [means[name].format(own[name][0]) for name in decided if name in means]
    return [f"{which}, alone or with others like it" for which in words]


def score_reason(score: Floats, row: int, of: str = "pool", by: str = "") -> str:
    """What can always be said of an outlier: "score 2.7, stranger than 98.2% of the pool".

    by: the detector whose score it is, where that is not the default: "loss score 2.7, ...".
    """
    share = float(np.mean(score < score[row]))
    return f"{by} score {score[row]:.1f}, stranger than {_percent(share)} of the {of}".strip()


def isolation_reasons(isolation: Floats, row: int, k: int) -> list[str]:
    """Says a mean distance to the k nearest samples that few others reach.

    isolation: (n,) those means. k: no more than there are. A string reads "5 nearest images 0.61
    away, farther than for 99.8% of the pool".
    """
    share = float(np.mean(isolation < isolation[row]))
    if share < (1 + USUAL_SHARE) / 2:
        return []
    return [
        f"{k} nearest images {isolation[row]:.2f} away, "
        f"farther than for {_percent(share)} of the pool"
    ]


def patch_reasons(patches: Patches, row: int) -> list[str]:
    """Says where the strangest spot of an image is, if few others have one so strange.

    A string reads "spot at 62% across, 31% down is 0.83 from every ordinary patch, farther than
    for 99.8% of the pool".
    """
    known = patches.score[~np.isnan(patches.score)]
    share = float(np.mean(known < patches.score[row])) if len(known) else 0.0
    if share < STRANGE_SPOT:
        return []
    return [
        f"spot at {patches.x[row]:.0%} across, {patches.y[row]:.0%} down is "
        f"{patches.score[row]:.2f} from every ordinary patch, farther than for "
        f"{_percent(share)} of the pool"
    ]


def fault_reasons(broken: Mask, deviation: Floats, row: int) -> list[str]:
    """Says that the image as captured may be broken: noise, blur, exposure, dead pixels.

    broken, deviation: (n,) of `Baseline.broken` and `Baseline.deviation`.
    """
    if not broken[row]:
        return []
    return [f"may be a capture fault: {deviation[row]:.1f}σ out on average"]


def confirmed_reason(sample_id: str, distance: float) -> str:
    """Says which confirmed edge case is nearer than any normal image."""
    return f"{distance:.2f} from confirmed edge case {sample_id[:12]}, nearer than any normal image"


def copies_reasons(copies: int) -> tuple[str, ...]:
    """Says how many near-duplicates are counted with a flag; none for none."""
    if not copies:
        return ()
    return (f"stands for {copies:,} near-duplicate{'s' if copies > 1 else ''} too",)


class UsualRange:
    """Where each sample's quality lies among what is usual for its source.

    sources: (n,) names. quality: statistics (n,) by name, those of `schemas.records.Quality`;
    NaN where unknown, which is never unusual. known: (n,) which samples are of a reference; where
    a source has enough of these they alone say what is usual, so that a camera that went dark as
    a whole is darker than it was. Else all samples of the source do.
    """

    def __init__(
        self,
        sources: Sequence[str],
        quality: Mapping[str, NDArray[np.floating]],
        known: Mask | None = None,
    ) -> None:
        vouched = np.zeros(len(sources), dtype=bool) if known is None else known
        self._among = np.full(len(sources), "all images", dtype=object)
        everyone = np.arange(len(sources))
        crowds = [(everyone, everyone)]
        for source, rows in rows_by_source(sources).items():
            if len(rows) >= ENOUGH:
                crowds.append((rows, _usual(rows, vouched)))
                self._among[rows] = source or "all images"
        self._shares = {
            statistic: _shares_beyond(np.asarray(values, dtype=np.float64), crowds)
            for statistic, values in quality.items()
            if statistic in COMPARATIVES
        }

    @classmethod
    def of(cls, pool: Pool, reference: Pool | None = None) -> UsualRange:
        """Of a pool's samples, in their order, and after them a reference's."""
        if reference is None:
            return cls(pool.sources, pool.quality)
        quality = {
            name: np.concatenate([values, reference.quality[name]])
            for name, values in pool.quality.items()
        }
        known = np.arange(len(pool) + len(reference)) >= len(pool)
        return cls([*pool.sources, *reference.sources], quality, known)

    def reasons(self, row: int) -> list[str]:
        """Such as "darker than 99.7% of line-3", the most unusual statistic first."""
        found = []
        for statistic, (below, above) in self._shares.items():
            less, more = COMPARATIVES[statistic]
            found.append((above[row], less) if above[row] > below[row] else (below[row], more))
        return [
            f"{word} than {_percent(share)} of {self._among[row]}"
            for share, word in sorted(found, reverse=True)
            if share >= (1 + USUAL_SHARE) / 2
        ]


def _usual(rows: Ints, known: Mask) -> Ints:
    """Of these rows the ones that say what is usual."""
    vouched = rows[known[rows]]
    return vouched if len(vouched) >= ENOUGH else rows


def _shares_beyond(values: Floats, crowds: Sequence[tuple[Ints, Ints]]) -> tuple[Floats, Floats]:
    """Share (n,) strictly below and strictly above each value, in the last crowd it belongs to.

    crowds: rows, and the rows that they are held against.
    """
    below, above = np.zeros(len(values)), np.zeros(len(values))
    for rows, usual in crowds:
        below[rows], above[rows] = _strict_shares(values[rows], values[usual])
    return below, above


def _strict_shares(values: Floats, among: Floats) -> tuple[Floats, Floats]:
    known = np.sort(among[~np.isnan(among)])
    count = max(len(known), 1)
    below = np.searchsorted(known, values, side="left") / count
    above = (len(known) - np.searchsorted(known, values, side="right")) / count
    unknown = np.isnan(values)
    below[unknown] = above[unknown] = 0.0
    return below, above


def _percent(share: float) -> str:
    """Rounded down, so that only a share of 1 reads 100%."""
    return f"{np.floor(1000 * share) / 10:.1f}%".replace(".0%", "%")
