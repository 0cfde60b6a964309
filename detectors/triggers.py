"""Standing queries made from examples: a fleet is asked for more of one thing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from detectors.scores import Floats, Mask, as_matrix

LONE_REACH = 0.001
"""Share of a pool that each example of a trigger reaches at most, until verdicts say more."""
JUST_BELOW = 1 - 1e-9
BLOCK = 4096
"""Samples held against the examples at a time: bounds the memory."""


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
        P, N = as_matrix(self.positive), as_matrix(self.negative)
        near = np.empty(len(vectors))
        for start in range(0, len(vectors), BLOCK):
            rows = slice(start, start + BLOCK)
            X = as_matrix(vectors[rows])
            near[rows] = cdist(X, P).min(axis=1)
            if len(N):
                against = cdist(X, N).min(axis=1)
                near[rows][against <= near[rows]] = np.inf
        return near

    def matches(self, vectors: NDArray[np.floating]) -> Mask:
        """Which of the vectors (n, d) match."""
        return np.asarray(self.distance(vectors) <= self.reach)


def learn(
    positive: NDArray[np.floating], negative: NDArray[np.floating], pool: NDArray[np.floating]
) -> Trigger:
    """A trigger that reaches as far as its positives lie apart, and no farther than is likely.

    Each positive is held against the other positives, and the reach is the largest distance
    between one and the next; but it takes in no more than a thousandth of the pool (n, d) for each
    positive, and one sample at least: two unlike examples do not mean all that lies between. Every
    confirmed match is one more positive. One positive alone has that thousandth.

    Negatives only narrow: held against all positives, they take the reach back to the cut that
    separates the examples with the fewest mistakes.
    """
    P = as_matrix(positive)
    if len(P) == 0:
        raise ValueError("a trigger needs at least one positive example")
    N = as_matrix(negative) if len(negative) else np.zeros((0, P.shape[1]))
    among = cdist(P, P)
    np.fill_diagonal(among, np.inf)
    inside = among.min(axis=1)[np.isfinite(among.min(axis=1))]
    reach = min(_likely_reach(P, pool), inside.max(initial=0.0) or np.inf)
    return Trigger(P, N, _narrowed(reach, inside, cdist(N, P).min(axis=1)))


def _likely_reach(positive: Floats, pool: NDArray[np.floating]) -> float:
    """The distance within which a thousandth of the pool lies for each positive; 0 for no pool."""
    distances = Trigger(positive, positive[:0], np.inf).distance(pool)
    others = np.sort(distances[distances > 0])  # the examples themselves are of the pool
    if not len(others):
        return 0.0
    count = len(positive) * max(1, int(np.ceil(LONE_REACH * len(others))))
    return float(others[min(count, len(others)) - 1])


def learn_from_words(
    words: NDArray[np.floating],
    confirmed: NDArray[np.floating],
    rejected: NDArray[np.floating],
    pool: NDArray[np.floating],
) -> Trigger:
    """A trigger around the embedding (1, d) of a text, whose reach the judged matches teach.

    Images lie far from words and near to one another, so that no image is an example beside
    them: the confirmed (p, d) and rejected (q, d) only tell how far to reach, and what lies nearer
    than all of them matches in any case. It takes in the nearest thousandth of the pool (n, d),
    and all that were confirmed; what was rejected then narrows it.
    """
    around = learn(words, np.zeros((0, words.shape[1])), pool)
    if not len(confirmed):
        return around
    inside, outside = around.distance(confirmed), around.distance(rejected)
    reach = max(around.reach, float(inside.max()))
    return replace(around, reach=_narrowed(reach, inside, outside, lowest=JUST_BELOW))


def _narrowed(reach: float, inside: Floats, outside: Floats, lowest: float = 0.5) -> float:
    """The reach, or the best cut between `inside` and `outside` where that is nearer."""
    return min(reach, _best_cut(inside, outside, lowest)) if len(outside) else reach


def _best_cut(inside: Floats, outside: Floats, lowest: float = 0.5) -> float:
    """The threshold with the fewest of `inside` above and of `outside` below it.

    lowest: the first to try, as a share of the smallest distance.
    """
    values = np.unique(np.concatenate([inside, outside]))
    cuts = np.concatenate([[lowest * values[0]], (values[:-1] + values[1:]) / 2, [values[-1]]])
    missed = (inside[None] > cuts[:, None]).sum(axis=1)
    wrong = (outside[None] <= cuts[:, None]).sum(axis=1)
    return float(cuts[np.argmin(missed + wrong)])
