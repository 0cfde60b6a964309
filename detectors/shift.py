"""A whole source that has moved: a new camera, a dirty lens, another product on the line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import mannwhitneyu

from detectors.baseline import copies, rows_by_source
from detectors.measures import NEIGHBOURS, Measures
from detectors.pool import Pool
from detectors.scores import STRANGE_Z, Floats, Ints, fit_bulk, fit_scale, knn_distance
from schemas.records import LEVELS, Level

FEWEST = 30
"""Fewer samples are edge cases of their own, not a source that moved."""
FAR = 1.0
"""Half of the source lies beyond five sixths of the reference; less is everyday drift."""
SIGNIFICANT = 0.01
ENOUGH = 5_000
"""So many of the others say what is usual among them."""
PARTS = 10
"""Without a reference, so many fits are enough for any number of sources."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A source that lies further out than its reference, or the newest part of one, as one finding.

    level: where it moved most. deviations: how far its median lies from the reference's, in
    robust deviations. p_value: of the one-sided Mann-Whitney test, Bonferroni over sources and
    levels. samples: how many. since: when it began, None where times are unknown. ingested: whether
    that is a time of ingestion, as the capture is not dated. others: whether the pool's other
    sources stood for a reference. of: where it is a part, how many samples the source has.
    """

    source: str
    level: Level
    deviations: float
    p_value: float
    samples: int
    since: np.datetime64 | None = None
    ingested: bool = False
    others: bool = False
    of: int = 0

    def __str__(self) -> str:
        word = ", ingested since" if self.ingested else " since"
        since = "" if self.since is None else f"{word} {np.datetime_as_string(self.since, 's')}"
        what = "is unlike the others" if self.others else "has shifted"
        which = f"the newest {self.samples} of its {self.of}" if self.of else f"its {self.samples}"
        return (
            f"source '{self.source}' {what}: half of {which} samples lie "
            f"{self.deviations:.1f} robust deviations or more out at the {self.level} level"
            f"{since} (p {_p(self.p_value)})"
        )


def find_shifts(
    z: Measures, pool: Pool, reference_z: Measures, reference_sources: Sequence[str]
) -> list[Shift]:
    """Sources of a pool that lie further out than the reference's samples of the same source.

    z, reference_z: (n,) of the pool and (m,) per measure, on one scale. A source of which the
    reference holds fewer than `FEWEST` is compared with all of it.
    """
    known = rows_by_source(reference_sources)
    rows_of = _large(pool.sources)
    found = []
    for source, rows in rows_of.items():
        usual = known.get(source, rows[:0])
        if len(usual) < FEWEST:
            usual = np.arange(len(reference_sources))
        if len(usual) < FEWEST:
            continue
        gaps = {lv: np.median(z[lv][rows]) - np.median(reference_z[lv][usual]) for lv in LEVELS}
        level = max(LEVELS, key=lambda each: float(gaps[each]))
        if gaps[level] < FAR:
            own: Measures = {each: z[each][rows] for each in LEVELS}
            theirs: Measures = {each: reference_z[each][usual] for each in LEVELS}
            found += _newest(source, own, theirs, pool, rows, len(rows_of))
            continue
        p_value = _further(z[level][rows], reference_z[level][usual], len(rows_of))
        if p_value <= SIGNIFICANT:
            since = _since(z[level][rows], pool, rows)
            found.append(Shift(source, level, float(gaps[level]), p_value, len(rows), *since))
    return _furthest_first(found)


def find_unlike(pool: Pool) -> list[Shift]:
    """Sources of a pool that lie further from the others than the others mostly do.

    For want of a reference each source is held against what most samples of the others are
    (`fit_bulk`): a fit that it took part in has made room for it. What the sources differ by
    anyway is no news; one is told when it lies twice as far out as the median sample of the others
    does. At most half of the pool can be unlike the rest.
    """
    rows_of = _held(pool)
    outside = _outside(pool, rows_of)
    out = {level: np.zeros(len(pool)) for level in LEVELS}
    for source, (z, _) in outside.items():
        for level in LEVELS:
            out[level][rows_of[source]] = np.median(z[level])
    found = []
    for source, (z, others_z) in outside.items():
        rows = rows_of[source]
        far = {level: float(out[level][rows[0]]) for level in LEVELS}
        excess: dict[Level, float] = {}
        for level in LEVELS:
            if far[level] >= FAR:  # else there is no need of a median of the pool
                usual = float(np.median(np.delete(out[level], rows)))
                excess[level] = far[level] - usual - max(FAR, usual)
        if max(excess.values(), default=-1.0) < 0:
            for shift in _newest(source, z, others_z, pool, rows, len(outside)):
                usual = float(np.median(np.delete(out[shift.level], rows)))
                if shift.deviations >= usual + max(FAR, usual):
                    found.append(replace(shift, others=True))
            continue
        level = max(excess, key=excess.__getitem__)
        p_value = _further(z[level], others_z[level], len(outside))
        if p_value <= SIGNIFICANT:
            since = _since(z[level], pool, rows)
            found.append(Shift(source, level, far[level], p_value, len(rows), *since, others=True))
    return _furthest_first(found)


def _newest(
    source: str, z: Measures, usual: Measures, pool: Pool, rows: Ints, sources: int
) -> list[Shift]:
    """The newest part of a source, if that has moved: a lens that became dirty after a long time.

    It is told and no more, as alike edge cases may come one after the other as well. z: of the
    rows. usual: of what they are held against.
    """
    found = []
    for level in LEVELS:
        out = z[level] - np.median(usual[level])
        part = _after_the_turn(out, pool, rows)
        if not FEWEST <= len(part) <= len(rows) - FEWEST or np.median(out[part]) < FAR:
            continue
        # It may begin at any of the samples.
        p_value = min(1.0, _further(z[level][part], usual[level], sources) * len(rows))
        if p_value <= SIGNIFICANT:
            gap, since = float(np.median(out[part])), _since(out[part], pool, rows[part])
            found.append(Shift(source, level, gap, p_value, len(part), *since, of=len(rows)))
    return _furthest_first(found)[:1]


def _after_the_turn(z: Floats, pool: Pool, rows: Ints) -> Ints:
    """Which of a source's rows come after the time from which on they lie out, in order of time.

    That is the lowest point of the cumulative sum (Page, 1954), of which no sample has a large
    share. None where times are unknown.
    """
    if pool.times is None:
        return np.empty(0, dtype=np.int64)
    known = np.flatnonzero(~np.isnat(pool.times[rows]))
    order = known[np.argsort(pool.times[rows[known]], kind="stable")]
    climb = np.cumsum(np.clip(z[order], -STRANGE_Z, STRANGE_Z) - FAR / 2)
    turn = int(np.argmin(climb)) + 1 if len(climb) and climb.min() < 0 else 0
    return order[turn:]


def _held(pool: Pool) -> dict[str, Ints]:
    """The large sources; of two that are nearly all of the pool, only the one that may be news.

    Nothing says what two usually differ by. It is the smaller, or of equal ones the one that began
    later, or else comes later by its name.
    """
    rows_of = _large(pool.sources)

    def precedence(source: str) -> tuple[int, int, str]:
        rows, began = rows_of[source], 0
        if pool.times is not None:  # NaT is the least integer
            began = int(np.fmin.reduce(pool.times[rows]).astype("M8[us]").astype(np.int64))
        return -len(rows), began, source

    if len(rows_of) == 2 and sum(map(len, rows_of.values())) > len(pool) - FEWEST:
        del rows_of[min(rows_of, key=precedence)]
    return rows_of


def _outside(pool: Pool, rows_of: Mapping[str, Ints]) -> dict[str, tuple[Measures, Measures]]:
    """Robust z of each source's samples at every level by a fit of the others, and the others' own.

    Sources that are larger than all others together are left out.
    """
    z: dict[str, tuple[Measures, Measures]] = {}
    copied = copies(knn_distance(pool.distances, NEIGHBOURS), pool.sources)
    for part in _parts(rows_of):
        rows = np.concatenate([rows_of[source] for source in part])
        others = np.setdiff1d(np.arange(len(pool)), rows)
        if len(others) < max(FEWEST, len(rows)):
            continue
        seen_once = others[~copied[others]]  # a stuck camera does not say what is usual
        others = seen_once if len(seen_once) >= FEWEST else others
        if len(others) > ENOUGH:
            others = np.random.default_rng(0).choice(others, ENOUGH, replace=False)
        fits = {level: fit_bulk(pool.embeddings[level][others]) for level in LEVELS}
        scales = {level: fit_scale(distance) for level, (_, distance) in fits.items()}
        usual: Measures = {
            level: scales[level].z(distance) for level, (_, distance) in fits.items()
        }
        for source in part:
            out = {
                level: gaussian.distance(pool.embeddings[level][rows_of[source]])
                for level, (gaussian, _) in fits.items()
            }
            z[source] = {level: scales[level].z(out[level]) for level in LEVELS}, usual
    return z


def _parts(rows_of: Mapping[str, Ints]) -> list[list[str]]:
    """The sources in at most `PARTS` parts of about the same size, so that many cost no more."""
    parts: list[list[str]] = [[] for _ in range(min(PARTS, len(rows_of)))]
    sizes = np.zeros(len(parts), dtype=np.int64)
    for source in sorted(rows_of, key=lambda each: -len(rows_of[each])):
        least = int(sizes.argmin())
        parts[least].append(source)
        sizes[least] += len(rows_of[source])
    return parts


def _large(sources: Sequence[str]) -> dict[str, Ints]:
    return {s: rows for s, rows in rows_by_source(sources).items() if len(rows) >= FEWEST}


def _further(z: Floats, usual: Floats, sources: int) -> float:
    test = mannwhitneyu(z, usual, alternative="greater")
    return min(1.0, float(test.pvalue) * sources * len(LEVELS))


def _furthest_first(found: Iterable[Shift]) -> list[Shift]:
    return sorted(found, key=lambda shift: -shift.deviations)


def _since(z: Floats, pool: Pool, rows: Ints) -> tuple[np.datetime64 | None, bool]:
    """The first time after the lowest point of the cumulative sum about half the shift.

    Also whether it is the time of an ingestion. z: of the rows.
    """
    if pool.times is None or np.isnat(pool.times[rows]).all():
        return None, False
    known = np.flatnonzero(~np.isnat(pool.times[rows]))
    order = known[np.argsort(pool.times[rows[known]], kind="stable")]
    climb = np.cumsum(z[order] - np.median(z) / 2)
    start = 0 if climb.min() >= 0 else min(int(np.argmin(climb)) + 1, len(order) - 1)
    first = rows[order[start]]
    undated = pool.undated is not None and bool(pool.undated[first])
    return np.datetime64(pool.times[first]), undated


def _p(p_value: float) -> str:
    return "< 1e-6" if p_value < 1e-6 else f"{p_value:.2g}"
