"""Standing queries made from examples: a fleet is asked for more of one thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from detectors.scores import Floats, Mask, as_matrix

LONE_REACH = 0.001
"""Share of a pool that a trigger of one example reaches until verdicts say more."""
JUST_BELOW = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class Trigger:
    """Positive (p, d) and negative (q, d) examples of one level, p >= 1, and the reach.

    A sample matches if its nearest positive example is within `reach` (Euclidean, between
    unit-norm embeddings in [0, 2]) and no negative example is nearer.
    """

    positive: NDArray[np.floating]
    negative: NDArray[np.floating]
    reach: float

    def distance(self, vectors: NDArray[np.floating]) -> Floats:
        """Distance (n,) to the nearest positive example, infinite where a negative is nearer."""
        X = as_matrix(vectors)
        near = np.asarray(cdist(X, as_matrix(self.positive)).min(axis=1), dtype=np.float64)
        if len(self.negative):
            against = cdist(X, as_matrix(self.negative)).min(axis=1)
            near[against <= near] = np.inf
        return near

    def matches(self, vectors: NDArray[np.floating]) -> Mask:
        """Which of the vectors (n, d) match."""
        return np.asarray(self.distance(vectors) <= self.reach)


def learn(
    positive: NDArray[np.floating], negative: NDArray[np.floating], pool: NDArray[np.floating]
) -> Trigger:
    """A trigger whose reach separates the examples with the fewest mistakes.

    Each positive is held against the other positives, each negative against all of them; the
    reach lies halfway between the two neighbouring distances at the best cut. Without
    negatives it is the largest distance between a positive and the next. With one positive
    alone it takes in the nearest thousandth of the pool (n, d), and one sample at least.
    """
    P = as_matrix(positive)
    if len(P) == 0:
        raise ValueError("a trigger needs at least one positive example")
    N = as_matrix(negative) if len(negative) else np.zeros((0, P.shape[1]))
    if len(P) == 1 and len(N) == 0:
        distances = Trigger(P, N, np.inf).distance(pool)
        others = distances[distances > 0]  # the example itself is of the pool
        reach = np.quantile(others, LONE_REACH, method="lower") if len(others) else 0.0
        return Trigger(P, N, float(reach))
    among = cdist(P, P)
    np.fill_diagonal(among, np.inf)
    inside = among.min(axis=1)[np.isfinite(among.min(axis=1))]
    outside = cdist(N, P).min(axis=1) if len(N) else np.zeros(0)
    if len(outside) == 0:
        return Trigger(P, N, float(inside.max()))
    return Trigger(P, N, _best_cut(inside, outside))


def learn_from_words(
    words: NDArray[np.floating],
    confirmed: NDArray[np.floating],
    rejected: NDArray[np.floating],
    pool: NDArray[np.floating],
) -> Trigger:
    """A trigger around the embedding (1, d) of a text, whose reach the judged matches teach.

    Images lie far from words and near to one another, so that no image is an example beside
    them: the confirmed (p, d) and rejected (q, d) only tell how far to reach, and what lies nearer
    than all of them matches in any case. Until one is confirmed it takes in the nearest thousandth
    of the pool (n, d).
    """
    nothing = np.zeros((0, words.shape[1]))
    if not len(confirmed):
        return learn(words, nothing, pool)
    around = Trigger(words, nothing, np.inf)
    inside = around.distance(confirmed)
    if not len(rejected):
        return Trigger(words, nothing, float(inside.max()))
    return Trigger(words, nothing, _best_cut(inside, around.distance(rejected), lowest=JUST_BELOW))


def _best_cut(inside: Floats, outside: Floats, lowest: float = 0.5) -> float:
    """The threshold with the fewest of `inside` above and of `outside` below it.

    lowest: the first to try, as a share of the smallest distance.
    """
    values = np.unique(np.concatenate([inside, outside]))
    cuts = np.concatenate([[lowest * values[0]], (values[:-1] + values[1:]) / 2, [values[-1]]])
    missed = (inside[None] > cuts[:, None]).sum(axis=1)
    wrong = (outside[None] <= cuts[:, None]).sum(axis=1)
    return float(cuts[np.argmin(missed + wrong)])
