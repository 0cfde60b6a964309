r"""One mining run over one pool: embeddings and neighbours in, findings out.

pool --> robust z of each measure, per source --> score --> budget or rate --> outliers
                                              \-> mean over the levels --> capture faults
outliers and faults --> groups, reasons, nearest normal samples
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import repeat

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from detectors import reasons
from detectors.baseline import Baseline, fit_pool
from detectors.calibration import Calibration, conformal_p_values, enough
from detectors.disagreement import DOUBTS
from detectors.duplicates import beyond, copies_of, one_of_each
from detectors.feedback import rerank
from detectors.findings import CAPTURE_FAULT, OUTLIER, Findings, Policy, Reviews
from detectors.groups import find_groups
from detectors.measures import ISOLATION, Measures, kind
from detectors.pool import Pool
from detectors.promise import Promise, promise
from detectors.registry import AGAINST_REFERENCE, DEFAULT, Yardstick, detector, yardstick
from detectors.scores import NOTABLE_Z, Floats, Ints, Mask, knn_distance, linear_z, share_below
from detectors.shift import Shift, find_shifts, find_unlike
from schemas.records import LEVELS, Level

ORDINARY_Z = 2.0
"""Of ordinary samples one in forty lies further out than so many robust deviations."""
CLEAR_Z = 2 * NOTABLE_Z
"""What is out so far at the lowest level is so whatever the image shows."""
FOREIGN = 2.0
"""So many times as far from the centre as usual no image of the kind lies, however spoilt."""
ANOTHER_Z = 10.0
"""So far out at the highest level an image shows something else, whatever its texture: among many
kinds none lies twice as far from the centre."""
BLOCK = 2**24
"""Distances from flags to other samples that are held at a time: 200 MB."""


def mine(
    pool: Pool,
    policy: Policy,
    baseline: Baseline | None = None,
    reviews: Reviews | None = None,
    reference: Pool | None = None,
) -> Findings:
    """Scores a pool and flags what is strange in it.

    baseline: what is ordinary; fitted on the pool itself if there is none. reference: the samples
    that it was fitted on, or those that are left, to show beside flags; of these only sources,
    quality and the vectors of the scored level are asked. A capture that is clearly at fault is
    never an outlier; one that may be is an outlier within the budget, and its reasons say the
    rest. Only samples stranger than the ordinary are flagged, so that a pool of equal images, or
    of one, has no flags. Raises ValueError if an embedding is not finite, UsageError for an
    unknown detector.
    """
    of_reference = baseline is not None
    if policy.apart and not of_reference:
        pool = beyond(pool, policy.apart)
    if baseline is None:
        shifts = find_unlike(pool)
        moved = _as_a_whole(shifts)
        baseline = fit_pool(pool, policy.level, policy.neighbours, moved)
        z = baseline.z
    else:
        raw = baseline.measure(pool)
        z, shifts = _settle_sources(pool, raw, baseline)
    isolation = knn_distance(pool.distances, baseline.neighbours)
    measure = yardstick(policy.detector) if of_reference else None
    score = _score(pool, z, baseline, policy, measure)
    p_value = tail = calibration = None
    if measure is not None:
        known = measure(baseline.z, baseline)
        calibration = Calibration(known, baseline.sources, enough(policy.fdr))
        p_value = calibration.p_values(score, pool.sources)
        p_value[np.isin(pool.sources, _as_a_whole(shifts))] = np.nan
        unsettled = baseline.scales.z(raw, pool.sources)
        tail = conformal_p_values(measure(unsettled, baseline), known)
    deviation = baseline.deviation(z)
    broken = baseline.broken(z, policy.fault_threshold)
    at_fault = broken & _shows_in_capture(pool, z, baseline, reference)
    judged = np.isin(pool.sample_ids, [] if reviews is None else list(reviews.sample_ids))
    if reviews is not None and policy.apart:
        judged |= copies_of(pool.embeddings[policy.level], reviews.vectors, policy.apart)
    promised = _promised(p_value, calibration, pool, policy, baseline, at_fault | judged)
    found = promised.found

    prior = share_below(score)
    merit = prior if reviews is None else _merit(score, pool, policy, reviews)
    candidates = np.flatnonzero((score > 0) & ~judged & ~at_fault if found is None else found)
    count = policy.budget.of(len(pool)) if found is None else len(candidates)
    outliers, duplicate_of = _taken(pool, candidates, merit, count, policy)
    unmoved = outliers
    if reviews is not None:
        unmoved, _ = _taken(pool, candidates, prior, count, policy)
    copies = np.flatnonzero(duplicate_of >= 0)

    faults = np.setdiff1d(np.flatnonzero(broken & ~judged), np.concatenate([outliers, copies]))
    faults = faults[np.argsort(-deviation[faults], kind="stable")]
    flagged = np.concatenate([outliers, faults])
    flags = pool.embeddings[policy.level][flagged]
    among, normal = _normal(pool, score, np.concatenate([flagged, copies]), reviews, reference)
    nearest, nearest_distances = nearest_of(among.embeddings[policy.level], normal, flags, policy)
    closest = nearest_distances[:, 0] if policy.nearest else np.full(len(flagged), np.nan)
    to_normal = np.where(np.isnan(closest), _usual_gap(pool), closest)
    confirmed, confirmed_distances = _confirmed(pool, flagged, policy, closest, reviews)
    group, group_distance = _groups(flags, to_normal, len(outliers))

    usual = reasons.UsualRange.of(pool, reference)
    by_default = policy.detector == DEFAULT
    # A fault is flagged by its deviation, whatever the detector says of it.
    named = [not by_default] * len(outliers) + [False] * len(faults)
    measured = np.isfinite(pool.distances[:, : baseline.neighbours]).sum(axis=1)
    why = [
        (
            (
                *(
                    reasons.group_reasons(z, score, row, policy.neighbours, policy.level)
                    if by_default
                    else ()
                ),
                *([reasons.score_reason(score, row, by=policy.detector)] if by_name else ()),
                *reasons.level_reasons(z, row),
                *near_case,
                *reasons.isolation_reasons(isolation, row, int(measured[row])),
                *(reasons.patch_reasons(pool.patches, row) if pool.patches else ()),
                *reasons.fault_reasons(broken, deviation, row),
                *usual.reasons(row),
            )
            or (reasons.score_reason(score, row),)
        )
        + reasons.copies_reasons(int((duplicate_of == row).sum()))
        for row, near_case, by_name in zip(
            flagged, _told(reviews, confirmed, confirmed_distances), named, strict=True
        )
    ]
    return Findings(
        score=score,
        p_value=p_value,
        tail=tail,
        z=z,
        level=strangest_level(z, baseline),
        isolation=isolation,
        deviation=deviation,
        broken=broken,
        flagged=flagged,
        kinds=[*repeat(OUTLIER, len(outliers)), *repeat(CAPTURE_FAULT, len(faults))],
        reasons=why,
        nearest=nearest,
        nearest_distances=nearest_distances,
        confirmed=confirmed,
        confirmed_distances=confirmed_distances,
        group=group,
        group_distance=group_distance,
        shifts=shifts,
        notes=[*promised.notes, *_unscored(pool, policy)],
        promised=found is not None,
        moved=len(np.setdiff1d(outliers, unmoved)),
        duplicate_of=duplicate_of,
    )


def strangest_level(z: Measures, baseline: Baseline) -> list[Level]:
    """At which level each of n samples deviates most; one that the encoder lacks is none."""
    scales = baseline.scales.pooled
    there = [level for level in LEVELS if scales[level].spread] or [baseline.level]
    return [there[i] for i in np.argmax([z[level] for level in there], axis=0)]


def _unscored(pool: Pool, policy: Policy) -> list[str]:
    """How many samples lack what they are scored by."""
    said = []
    unknown = 0 if pool.patches is None else int(np.isnan(pool.patches.score).sum())
    if unknown:
        said.append(f"{unknown:,} of {len(pool):,} samples have no patch score")
    if policy.detector in DOUBTS and pool.uncertainty is not None:
        silent = int(np.isnan(pool.uncertainty).sum())
        if silent:
            said.append(
                f"{silent:,} of {len(pool):,} samples say nothing usable of a model's doubt, and "
                "count as sure"
            )
    return said


def _settle_sources(pool: Pool, raw: Measures, baseline: Baseline) -> tuple[Measures, list[Shift]]:
    """Robust z of every measure, with a source that moved as a whole judged by itself."""
    z = baseline.scales.z(raw, pool.sources)
    shifts = find_shifts(z, pool, baseline.z, baseline.sources)
    moved = _as_a_whole(shifts)
    scales = baseline.scales.learned(raw, pool.sources, moved)
    return (scales.z(raw, pool.sources) if moved else z), shifts


def _as_a_whole(shifts: Sequence[Shift]) -> list[str]:
    """The sources that are judged by themselves; a part of one is told of and no more."""
    return [shift.source for shift in shifts if not shift.of]


def _score(
    pool: Pool, z: Measures, baseline: Baseline, policy: Policy, measure: Yardstick | None
) -> Floats:
    if measure is not None:
        return measure(z, baseline)
    if policy.detector == DEFAULT:
        return baseline.score(z)
    values = detector(policy.detector)(pool, baseline)
    return linear_z(values)


def _promised(
    p_value: Floats | None,
    calibration: Calibration | None,
    pool: Pool,
    policy: Policy,
    baseline: Baseline,
    aside: Mask,
) -> Promise:
    """The discoveries at the policy's rate, if it asks for one and one can be promised."""
    if policy.fdr is None:
        return Promise(None, [baseline.thinned] if baseline.thinned else [])
    if baseline.thinned:
        return Promise.none(baseline.thinned)
    if policy.apart:
        return Promise.none(
            "with 'apart' near-duplicates count once, and a rate of all samples says nothing "
            "of what is left"
        )
    if calibration is not None and p_value is not None:
        alike = partial(_alike, pool, baseline)
        return promise(p_value, pool.sources, calibration, policy.fdr, alike, aside)
    if policy.detector in AGAINST_REFERENCE:
        return Promise.none("there is no clean reference")
    return Promise.none(f"detector '{policy.detector}' has no p-values")


def _alike(pool: Pool, baseline: Baseline, rows: Ints) -> Mask:
    """Which of the rows (k,) lie as near to each other as ordinary samples of the reference do."""
    if len(rows) <= baseline.neighbours:
        return np.zeros(len(rows), dtype=bool)
    near = NearestNeighbors(n_neighbors=baseline.neighbours)
    distances, _ = near.fit(pool.embeddings[baseline.level][rows]).kneighbors()
    usual = baseline.scales.pooled[ISOLATION]
    alike: Mask = usual.z(knn_distance(distances, baseline.neighbours)) < ORDINARY_Z
    return alike


def _shows_in_capture(pool: Pool, z: Measures, baseline: Baseline, reference: Pool | None) -> Mask:
    """Who (n,) is clearly out at the lowest level, no farther at the highest, and no foreign image.

    Noise, dead pixels and exposure change the texture most and leave a picture what it is. Blur and
    vignetting look like strange content to an encoder, and a foreign photograph is strange at every
    level: what is in doubt stays an edge case, and its reasons say that it may be a fault.
    """
    low, high = (
        np.max([z[name] for name in (level, kind(level)) if name in z], axis=0)
        for level in (LEVELS[0], LEVELS[-1])
    )
    # Robust deviations grow with the sample that they were estimated from; plain distances do not.
    centre, level = baseline.gaussians[baseline.level].mean, baseline.level
    gap = np.linalg.norm(pool.embeddings[level] - centre, axis=1)
    known = reference.embeddings[level] if reference is not None and len(reference) else None
    usual = gap if known is None else np.linalg.norm(known - centre, axis=1)
    within = gap <= FOREIGN * (np.median(usual) if len(usual) else 0.0)
    shows: Mask = (low >= CLEAR_Z) & (low >= high) & (high < ANOTHER_Z) & within
    return shows


def _taken(
    pool: Pool, candidates: Ints, worth: Floats, count: int, policy: Policy
) -> tuple[Ints, Ints]:
    """The `count` candidates that are worth (n,) the most, the first first, and the one of them
    that each sample (n,) is counted with."""
    candidates = candidates[np.argsort(-worth[candidates], kind="stable")]
    duplicate_of = np.full(len(pool), -1, dtype=np.int64)
    if not policy.apart:
        return candidates[:count], duplicate_of
    vectors = pool.embeddings[policy.level]
    outliers, duplicate_of[candidates] = one_of_each(vectors, candidates, count, policy.apart)
    return outliers, duplicate_of


def _merit(score: Floats, pool: Pool, policy: Policy, reviews: Reviews) -> Floats:
    vectors = pool.embeddings[policy.level]
    return rerank(score, vectors, reviews.vectors, reviews.labels)


def _confirmed(
    pool: Pool, flagged: Ints, policy: Policy, closest: Floats, reviews: Reviews | None
) -> tuple[Ints, Floats]:
    """Per flag, the review of the edge case that is nearer than every normal sample, if any."""
    none = np.full(len(flagged), -1, dtype=np.int64), np.full(len(flagged), np.nan)
    if reviews is None or not reviews.is_edge_case.any() or not len(flagged):
        return none
    cases = np.flatnonzero(reviews.is_edge_case)
    best, least = none[0].copy(), np.full(len(flagged), np.inf)
    step = max(BLOCK // len(cases), 1)
    for start in range(0, len(flagged), step):
        block = slice(start, start + step)
        gaps = cdist(pool.embeddings[policy.level][flagged[block]], reviews.vectors[cases])
        best[block], least[block] = cases[gaps.argmin(axis=1)], gaps.min(axis=1)
    near = np.isfinite(least) & ((least < closest) | np.isnan(closest))
    return np.where(near, best, none[0]), np.where(near, least, np.nan)


def _told(reviews: Reviews | None, confirmed: Ints, distances: Floats) -> list[tuple[str, ...]]:
    return [
        (reasons.confirmed_reason(reviews.sample_ids[case], gap),) if reviews and case >= 0 else ()
        for case, gap in zip(confirmed, distances, strict=True)
    ]


def _usual_gap(pool: Pool) -> float:
    """How far a sample's nearest neighbour usually is; NaN where none has one."""
    first = pool.distances[:, :1]
    known = first[np.isfinite(first)]
    return float(np.median(known)) if len(known) else np.nan


def _groups(vectors: NDArray[np.floating], to_normal: Floats, outliers: int) -> tuple[Ints, Floats]:
    """The groups of the outliers, which come first, and then those of the capture faults."""
    group, distance = find_groups(vectors[:outliers], to_normal[:outliers])
    others, their_distance = find_groups(vectors[outliers:], to_normal[outliers:])
    others[others >= 0] += group.max(initial=-1) + 1
    return np.concatenate([group, others]), np.concatenate([distance, their_distance])


def _normal(
    pool: Pool, score: Floats, flagged: Ints, reviews: Reviews | None, reference: Pool | None
) -> tuple[Pool, Ints]:
    """The samples that flags are shown beside, and which rows of them are normal.

    Those of the reference, where there is one: people vouch for them. Else what is unremarkable in
    the pool: the siblings of a group that has more members than the budget are no more normal than
    the group. flagged: rows of flags and of what is counted with one.
    """
    odd = [] if reviews is None else reviews.not_normal
    if reference is not None and len(reference):
        return reference, np.flatnonzero(~np.isin(reference.sample_ids, odd))
    rows = np.flatnonzero((score < NOTABLE_Z) & ~np.isin(pool.sample_ids, odd))
    return pool, np.setdiff1d(rows, flagged)


def nearest_of(
    vectors: NDArray[np.floating], normal: Ints, flags: NDArray[np.floating], policy: Policy
) -> tuple[Ints, Floats]:
    """The `policy.nearest` normal samples closest to each flag, on the scored level.

    vectors: (n, d), of which the rows `normal` are that. flags: (f, d). Exact: a flag's neighbours
    of the pool are mostly flags themselves where it is one of a group. Returns rows (f, m), -1
    where there are fewer, and Euclidean distances (f, m).
    """
    rows = np.full((len(flags), policy.nearest), -1, dtype=np.int64)
    distances = np.full(rows.shape, np.nan)
    m = min(policy.nearest, len(normal))
    if m == 0:
        return rows, distances
    N = vectors[normal]
    squares = np.einsum("ij,ij->i", N, N)
    step = max(BLOCK // len(N), 1)
    for start in range(0, len(flags), step):
        block = slice(start, start + step)
        queries = flags[block]
        # Without the queries' own norms, which change no order.
        closest = np.argpartition(squares - 2 * np.inner(queries, N), m - 1, axis=1)[:, :m]
        exact = np.linalg.norm(N[closest] - queries[:, None], axis=2)
        order = np.argsort(exact, axis=1, kind="stable")
        rows[block, :m] = normal[np.take_along_axis(closest, order, axis=1)]
        distances[block, :m] = np.take_along_axis(exact, order, axis=1)
    return rows, distances
