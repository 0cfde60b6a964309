r"""What a run may promise: discoveries at a false discovery rate, source by source.

p-values --> of each source --> those spread as the reference's --> Benjamini-Hochberg
                           \--> too few to tell, or moved: no rate

A false alarm is a discovery that is as ordinary as the reference. Where ordinary samples look
otherwise than the reference's, a rate of it says nothing, so that is looked for first. Part of a
source that has moved shows where it leaves more moderately strange samples than edge cases do, or
more discoveries, or many that lie as near to each other as ordinary samples do.

What cannot be told, as the scores are the same: whether a tenth of one source is edge cases or has
moved far, or a fifth by some two deviations. It is told where that part is a source by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, cramervonmises_2samp, norm

from detectors.baseline import rows_by_source
from detectors.calibration import RARE, Calibration, benjamini_hochberg
from detectors.scores import STRANGE_Z, Floats, Ints, Mask
from detectors.shift import FEWEST

TESTABLE = 40
"""Fewer samples do not show whether they are of the reference's kind: moved by half a deviation, 30
are taken for it so often that a fifth of what is found is false."""
TOLERATED = 0.02
"""Share of a clean reference that may lie beyond `STRANGE_Z`: natural tails, no more."""
MOST_STRANGE = 0.25
"""A source of which more is strange, by Storey's estimate, or is discovered, holds more than edge
cases: a part of it comes from elsewhere than the reference."""
MOST_ALIKE = 0.1
"""Share of a source that may be discovered and alike; more is another kind of ordinary."""
UNPROVEN = 1.0
"""How many strange samples may stay unproven for each that is proven. Of edge cases about half are
proven; of ordinary samples that have moved a little, few."""
SIGNIFICANT = 0.01
DOUBTFUL = 0.05
"""The level of the test of the unproven: what may be wrong is better not promised."""

HARDLY = 2
"""So many samples of a small source for each that the reference holds; of more it says nothing."""
NAMED = 3
"""So many sources are named in one line."""
ROUNDING = 1e-9

Names = tuple[str, ...]
"""Sources that are told of together."""
Alike = Callable[[Ints], Mask]
"""Which of these rows (k,) of a pool lie as near to each other as the reference's samples do."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a run may promise.

    found: (n,) the discoveries, or None where no rate is promised. notes: one line each: the
    sources without a rate, and last what is promised, or why nothing is.
    """

    found: Mask | None
    notes: Sequence[str]

    @classmethod
    def none(cls, why: str) -> Promise:
        """No rate, for a reason that is a clause."""
        return cls(None, [f"no rate is promised, ranked to the budget instead: {why}"])


def promise(
    p_values: Floats,
    sources: Sequence[str],
    calibration: Calibration,
    rate: float,
    alike: Alike | None = None,
    aside: Mask | None = None,
) -> Promise:
    """Discoveries (n,) at a false discovery rate among the sources that nothing rules out.

    p_values: (n,) by the calibration, NaN in a source that is known to have shifted. A source
    without a rate takes no part in the Benjamini-Hochberg procedure, and has no discoveries; nor
    do samples that are set aside (n,), captures at fault and what was judged: they would lend a
    threshold to the others. That leaves these none too strange, as those of the reference stay.
    """
    contaminated = _contaminated(calibration.scores)
    if contaminated:
        return Promise.none(contaminated)
    floors = calibration.floors(sources)
    if len(floors) and floors.min() > rate * MOST_STRANGE:
        return Promise.none(_unproven(float(floors.min()), rate, RARE))
    parts, ruled_out = _parts(p_values, sources, calibration)
    kept = np.zeros(len(p_values), dtype=bool)
    for names, rows in parts.items():
        moved = _moved(p_values, floors, rows, rate, len(parts), alike)
        if moved:
            ruled_out[names] = f"{moved}: a shift voids any rate"
        kept[rows] = not moved
    if ruled_out and not kept.any():
        return Promise.none("; ".join(f"{_named(on)}: {why}" for on, why in ruled_out.items()))
    if aside is not None:
        kept &= ~aside
    proven = _proven(p_values, floors, kept, rate)
    if proven.found is None:
        return proven
    without = [
        f"no rate is promised for {_named(on)}, and nothing of that is flagged: {why}"
        for on, why in ruled_out.items()
    ]
    return Promise(proven.found, [*without, *proven.notes])


def contaminating(calibration: Floats) -> Ints:
    """The rows (k,) of a reference's scores that no natural tail explains, the strangest first."""
    strange, m = int(np.sum(calibration >= STRANGE_Z)), len(calibration)
    if m and binomtest(strange, m, TOLERATED, alternative="greater").pvalue < SIGNIFICANT:
        return np.argsort(-calibration, kind="stable")[:strange]
    return np.empty(0, dtype=np.int64)


def _contaminated(calibration: Floats) -> str:
    strange = len(contaminating(calibration))
    if not strange:
        return ""
    return (
        f"the reference is contaminated: {strange} of its {len(calibration)} samples deviate by "
        f"{STRANGE_Z} or more; review them and give a verdict"
    )


def _parts(
    p_values: Floats, sources: Sequence[str], calibration: Calibration
) -> tuple[dict[Names, Ints], dict[Names, str]]:
    """The rows of what is tested as one, and why other sources are not.

    Sources that the reference holds, one sample for two of the pool at least, are tested together
    where each has too few samples.
    """
    known = Counter(calibration.sources)
    parts: dict[Names, Ints] = {}
    small: dict[str, Ints] = {}
    shifted, unknown = [], []
    for source, rows in rows_by_source(sources).items():
        if np.isnan(p_values[rows]).any():
            shifted.append(source)
        elif len(rows) >= TESTABLE:
            parts[(source,)] = rows
        elif len(rows) <= HARDLY * known[source]:
            small[source] = rows
        else:
            unknown.append(source)
    together = np.concatenate([*small.values(), np.empty(0, dtype=np.int64)])
    if len(together) >= TESTABLE:
        parts[tuple(small)] = together
    why = {
        tuple(shifted): "shifted away from the reference",
        tuple(unknown): "unknown to the reference, or nearly, and fewer than "
        f"{TESTABLE} samples do not show that they are of its kind",
        tuple(small): f"fewer than {TESTABLE} samples do not show whether they have shifted",
    }
    return parts, {names: text for names, text in why.items() if names and names not in parts}


def _named(sources: Names) -> str:
    shown = ", ".join(f"'{source}'" for source in sources[:NAMED])
    more = f" and {len(sources) - NAMED:,} more" if len(sources) > NAMED else ""
    return f"source{'s' * (len(sources) > 1)} {shown}{more}"


def _moved(
    p_values: Floats, floors: Floats, rows: Ints, rate: float, parts: int, alike: Alike | None
) -> str:
    """What tells that ordinary samples among these rows are not as the reference's, if anything.

    Edge cases crowd the small p-values. Of the ordinary samples half lie above 0.5 (Storey, 2002)
    and are spread there as the reference's own (the two-sample Cramer-von Mises test; Anderson,
    1962); what is missing above is strange. parts: how many are tested beside each other.
    """
    p, n = p_values[rows], len(rows)
    m = round(1 / float(np.median(floors[rows]))) - 1
    own = np.arange(1, m + 1) / (m + 1)
    ordinary, usual = _between(p, floors[rows])[p > 0.5], own[own > 0.5]
    found = benjamini_hochberg(p, rate)
    strange, proven = n - 2 * len(ordinary), (1 - rate) * int(found.sum())
    deviation = np.sqrt(n * (1 + n / max(m, 1)))  # of `strange`: the reference is a sample, too
    surely, likely = (norm.isf(level / parts) * deviation for level in (SIGNIFICANT, DOUBTFUL))
    if strange - MOST_STRANGE * n > surely:
        return f"only {1 - strange / n:.0%} of {n:,} samples look like the reference"
    if proven > MOST_STRANGE * n:
        return f"{proven:,.0f} of {n:,} samples are strange, too many for edge cases"
    if proven and strange - (1 + UNPROVEN) * proven > likely:
        return f"some {strange:,} of {n:,} samples are strange, most too little to be edge cases"
    if (
        min(len(ordinary), len(usual)) > 1
        and cramervonmises_2samp(ordinary, usual).pvalue < SIGNIFICANT / parts
    ):
        return f"even the ordinary half of {n:,} samples lies otherwise than that of the reference"
    near = 0 if alike is None or not proven else int(alike(rows[found]).sum())
    if near >= max(FEWEST, MOST_ALIKE * n):
        return f"{near:,} of {n:,} samples are strange, and as near to each other as ordinary ones"
    return ""


def _between(p_values: Floats, floors: Floats) -> Floats:
    """The p-values (n,) untied: each between those two of the reference's own that it falls in.

    A test of two samples takes ties for a shift; which of those between two is first is nothing
    to it.
    """
    n = len(p_values)
    nth = np.empty(n)
    nth[np.argsort(p_values, kind="stable")] = np.arange(n)
    untied: Floats = p_values - floors * (nth + 0.5) / n
    return untied


def _proven(p_values: Floats, floors: Floats, kept: Mask, rate: float) -> Promise:
    """The discoveries among the kept samples, unless nothing could be one."""
    n = int(kept.sum())
    found = np.zeros(len(kept), dtype=bool)
    found[kept] = benjamini_hochberg(p_values[kept], rate)
    if found.any():
        expected = f"at most {rate:.0%} of the {int(found.sum())} outliers are expected to be"
        return Promise(found, [f"{expected} false alarms"])
    nothing = f"nothing in the pool is proven strange at a rate of {rate:g}"
    if not n:
        return Promise(found, [nothing])
    beyond = kept & (p_values <= floors)
    least, count = float(floors[kept].min()), int(beyond.sum())
    fewest = int(np.ceil(least * n / rate - ROUNDING))
    if fewest > MOST_STRANGE * n:
        return Promise.none(_unproven(least, rate, RARE))
    total = n + 1 / float(floors[kept].mean()) - 1
    drawn = np.arange(count)
    # The chance that the strangest `count` of pool and reference are all of the pool.
    if np.prod((n - drawn) / (total - drawn)) < SIGNIFICANT:
        return Promise.none(_unproven(float(floors[beyond].max()), rate, count / n))
    if fewest > 1:
        nothing += f"; {_references(least)} can prove no fewer than {fewest} at once"
    return Promise(found, [nothing])


def _references(floor: float) -> str:
    return f"{round(1 / floor) - 1:,} reference samples"


def _unproven(floor: float, rate: float, share: float) -> str:
    """That the least p-value is too large, and how many samples prove this share of a pool."""
    enough = int(np.ceil(1 / (rate * share)))
    return (
        f"{_references(floor)} cannot prove anything at a rate of {rate:g}: the least p-value is "
        f"{floor:.2g}; {enough:,} would do where {100 * share:.2g}% of a pool is strange"
    )
