"""One mining run over one pool: embeddings and neighbours in, findings out.

pool --> score: the larger of two ranks on one level     --> the budget's best are outliers
     \\-> deviation: mean robust z over low, mid and high --> what is left over a threshold
                                                             is a capture fault
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from detectors import reasons, scores
from detectors.scores import Floats, Ints
from schemas.errors import UsageError
from schemas.records import LEVELS, FlagKind, Level

OUTLIER: FlagKind = "outlier"
CAPTURE_FAULT: FlagKind = "capture_fault"

BLOCK = 1024
"""Flags compared with the whole pool at a time: bounds the memory of the exact search."""


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

    budget: how many outliers. neighbours: k of the kNN distance. level: the one that is scored.
    fault_threshold: mean robust z over the levels from which a sample that is no outlier is a
    capture fault; 3.5 is the cut of Iglewicz and Hoaglin (1993). nearest: how many unflagged
    samples to show beside a flag.
    """

    budget: Budget = Budget(share=0.02)
    neighbours: int = 5
    level: Level = "high"
    fault_threshold: float = 3.5
    nearest: int = 3


@dataclass(frozen=True, slots=True)
class Pool:
    """n samples to be mined, and the neighbours of each.

    embeddings: (n, d) finite float32 per level. quality: (n,) per statistic, NaN where unknown.
    neighbours: (n, k) rows of this pool, nearest first, without the sample itself, -1 where
    there are fewer than k. distances: (n, k), aligned with them, Euclidean on the scored level.
    """

    sample_ids: Sequence[str]
    sources: Sequence[str]
    embeddings: Mapping[Level, NDArray[np.float32]]
    quality: Mapping[str, NDArray[np.floating]]
    neighbours: Ints
    distances: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.sample_ids)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run says of each of the n samples, and of its f flags in the order of their ranks.

    score: (n,) in (0, 1), the share of the pool that is less strange; 0.5 is ordinary.
    z: (n,) robust deviations per level. level: (n,) the level with the largest.
    flagged: (f,) rows of the pool, the best first: outliers by score, then capture faults by
    deviation; rank i + 1 is flagged[i]. kinds: (f,). reasons: (f,) tuples of strings.
    nearest: (f, m) rows of the closest unflagged samples, nearest first, -1 where there are
    fewer; nearest_distances: (f, m), NaN there.
    """

    score: Floats
    z: Mapping[Level, Floats]
    level: list[Level]
    flagged: Ints
    kinds: list[FlagKind]
    reasons: list[tuple[str, ...]]
    nearest: Ints
    nearest_distances: Floats


def mine(pool: Pool, policy: Policy) -> Findings:
    """Scores a pool and flags what is strange in it.

    A sample within the budget is an outlier whatever else is wrong with it; its reasons say the
    rest. Only samples stranger than the middle of the pool are flagged, so that a pool of equal
    images, or of one, has no flags. Raises ValueError if an embedding is not finite.
    """
    distance = {level: _trimmed_mahalanobis(pool.embeddings[level]) for level in LEVELS}
    z = {level: scores.fit_scale(values).z(values) for level, values in distance.items()}
    isolation = scores.knn_distance(pool.distances, policy.neighbours)
    score, order = scores.larger_rank(isolation, distance[policy.level])

    outliers = order[: policy.budget.of(len(pool))]
    outliers = outliers[score[outliers] > 0.5]
    deviation = np.mean([z[level] for level in LEVELS], axis=0)
    faulty = deviation >= policy.fault_threshold
    faults = np.setdiff1d(np.flatnonzero(faulty), outliers)
    faults = faults[np.argsort(-deviation[faults], kind="stable")]
    flagged = np.concatenate([outliers, faults])

    usual = reasons.UsualRange(pool.sources, pool.quality)
    why = [
        (
            *reasons.level_reasons(z, row),
            *reasons.isolation_reasons(isolation, row, policy.neighbours),
            *reasons.fault_reasons(z, deviation, row, policy.fault_threshold),
            *usual.reasons(row),
        )
        or (reasons.rank_reason(score, row, policy.level),)
        for row in flagged
    ]
    kinds = [*repeat(OUTLIER, len(outliers)), *repeat(CAPTURE_FAULT, len(faults))]
    nearest, nearest_distances = nearest_unflagged(pool, flagged, policy)
    return Findings(
        score=score,
        z=z,
        level=[LEVELS[i] for i in np.argmax([z[level] for level in LEVELS], axis=0)],
        flagged=flagged,
        kinds=kinds,
        reasons=why,
        nearest=nearest,
        nearest_distances=nearest_distances,
    )


def nearest_unflagged(pool: Pool, flagged: Ints, policy: Policy) -> tuple[Ints, Floats]:
    """The `policy.nearest` closest unflagged samples of each flag, on the scored level.

    Exact: a flag's neighbours of the pool are mostly flags themselves where it is one of a
    group. Returns rows (f, m), -1 where there are fewer, and Euclidean distances (f, m).
    """
    rows = np.full((len(flagged), policy.nearest), -1, dtype=np.int64)
    distances = np.full(rows.shape, np.nan)
    normal = np.setdiff1d(np.arange(len(pool)), flagged)
    m = min(policy.nearest, len(normal))
    if m == 0:
        return rows, distances
    X = pool.embeddings[policy.level]
    N = X[normal]
    squares = np.einsum("ij,ij->i", N, N)
    for start in range(0, len(flagged), BLOCK):
        block = slice(start, start + BLOCK)
        queries = X[flagged[block]]
        # Without the queries' own norms, which change no order.
        closest = np.argpartition(squares - 2 * np.inner(queries, N), m - 1, axis=1)[:, :m]
        exact = np.linalg.norm(N[closest] - queries[:, None], axis=2)
        order = np.argsort(exact, axis=1, kind="stable")
        rows[block, :m] = normal[np.take_along_axis(closest, order, axis=1)]
        distances[block, :m] = np.take_along_axis(exact, order, axis=1)
    return rows, distances


def _trimmed_mahalanobis(vectors: NDArray[np.float32]) -> Floats:
    return scores.fit_trimmed(vectors).distance(vectors) if len(vectors) else np.zeros(0)
