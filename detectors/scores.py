"""How strange is each row of a matrix: plain functions from vectors or distances to scores.

Larger is stranger. Vectors are (n, d), in this product unit-norm embeddings of one level, but
nothing here depends on the norm. All arithmetic is float64 whatever comes in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.stats import rankdata
from sklearn.covariance import ledoit_wolf

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NORMAL_MAD = 1.4826
"""Median absolute deviation times this is the standard deviation of a normal sample."""
NORMAL_MEAN_AD = 1.2533
"""The same for the mean absolute deviation."""
LEAST = 1e-6
"""Smaller distances are taken for this one: below lie rounding errors, and log 0."""


def as_matrix(vectors: NDArray[np.floating]) -> Floats:
    """(n, d) as float64. Raises ValueError for another shape or a value that is not finite."""
    X = np.asarray(vectors, dtype=np.float64)
    if X.ndim != 2:
        raise ValueError(f"vectors are (n, d), not of shape {X.shape}")
    broken = np.flatnonzero(~np.isfinite(X).all(axis=1))
    if len(broken):
        raise ValueError(
            f"{len(broken)} of {len(X)} vectors hold NaN or infinity, the first is row {broken[0]}"
        )
    return X


def knn_distance(distances: NDArray[np.floating], k: int = 5) -> Floats:
    """Mean distance to the k nearest neighbours (Angiulli and Pizzuti, 2002).

    distances: (n, m) to other samples, nearest first; a negative or NaN distance stands for a
    missing neighbour. With fewer than k neighbours the mean is over those that exist; without
    any it is 0, for nothing says that the sample is strange. Returns (n,).
    """
    near = np.asarray(distances, dtype=np.float64)[:, :k]
    exists = near >= 0
    total = np.where(exists, near, 0.0).sum(axis=1)
    mean: Floats = total / np.maximum(exists.sum(axis=1), 1)
    return mean


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A centre and the Cholesky factor of a covariance: what a Mahalanobis distance needs.

    mean: (d,). factor: (d, d), lower triangular.
    """

    mean: Floats
    factor: Floats

    def distance(self, vectors: NDArray[np.floating]) -> Floats:
        """Mahalanobis distance of each row of (n, d) to the mean: (n,), >= 0."""
        centred = as_matrix(vectors) - self.mean
        white = solve_triangular(self.factor, centred.T, lower=True, overwrite_b=True)
        distance: Floats = np.linalg.norm(white, axis=0)
        return distance


def fit_gaussian(vectors: NDArray[np.floating], floor: float = 0.0) -> Gaussian:
    """Mean and Ledoit-Wolf shrunk covariance (Ledoit and Wolf, 2004) of (n, d) vectors, n >= 1.

    floor: the least variance of any direction. Below it lie only rounding errors; it keeps the
    covariance of constant or too few vectors invertible.
    """
    X = as_matrix(vectors)
    n, d = X.shape
    covariance = ledoit_wolf(X)[0] if n > 1 else np.zeros((d, d))
    covariance[np.diag_indices(d)] += max(floor, np.finfo(np.float64).tiny)
    return Gaussian(X.mean(axis=0), np.linalg.cholesky(covariance))


def fit_trimmed(vectors: NDArray[np.floating], keep: float = 0.9, rounds: int = 3) -> Gaussian:
    """`fit_gaussian`, refitted `rounds` times on the `keep` share of samples nearest to it.

    These are the concentration steps of the minimum covariance determinant (Rousseeuw and Van
    Driessen, 1999) from the whole sample as the start: a group of alike outliers no longer hides
    by stretching the covariance towards itself. A group larger than `1 - keep` is taken for a
    mode of what is normal.
    """
    X = as_matrix(vectors)
    floor = 1e-6 * float(X.var(axis=0).mean())
    gaussian = fit_gaussian(X, floor)
    for _ in range(rounds):
        distance = gaussian.distance(X)
        gaussian = fit_gaussian(X[distance <= np.quantile(distance, keep)], floor)
    return gaussian


@dataclass(frozen=True, slots=True)
class Scale:
    """A robust centre and spread of the logarithm of a distance.

    Distances are ratios: the logarithm makes their bulk symmetric and keeps one far sample from
    outweighing every other level's say. spread 0 gives z 0.
    """

    centre: float
    spread: float

    def z(self, distances: NDArray[np.floating]) -> Floats:
        """Robust deviations of each distance (n,) from the centre, signed."""
        if self.spread == 0.0:
            return np.zeros(len(distances))
        return (_log(distances) - self.centre) / self.spread


def fit_scale(distances: NDArray[np.floating]) -> Scale:
    """Median and MAD (Iglewicz and Hoaglin, 1993) of log distances, in normal deviations.

    Where more than half of the values are equal the MAD is 0 and the mean absolute deviation
    takes its place.
    """
    if len(distances) == 0:
        return Scale(0.0, 0.0)
    values = _log(distances)
    centre = float(np.median(values))
    deviation = np.abs(values - centre)
    spread = NORMAL_MAD * float(np.median(deviation))
    return Scale(centre, spread or NORMAL_MEAN_AD * float(deviation.mean()))


def _log(distances: NDArray[np.floating]) -> Floats:
    return np.log(np.maximum(np.asarray(distances, dtype=np.float64), LEAST))


def share_below(values: NDArray[np.floating]) -> Floats:
    """Share of the sample below each value, ties counted half: the mid-rank in (0, 1).

    A lone or a constant sample is at 0.5 throughout.
    """
    if len(values) == 0:
        return np.zeros(0)
    return np.asarray((rankdata(values) - 0.5) / len(values), dtype=np.float64)


def larger_rank(first: NDArray[np.floating], second: NDArray[np.floating]) -> tuple[Floats, Ints]:
    """The larger of each sample's ranks under two scores, and the order it gives.

    Two judges that fail differently: single oddities stand out by their distance to neighbours,
    groups of alike ones by their distance to the bulk, and a mean of both would dilute either.
    Returns the larger `share_below` (n,), in (0, 1), and the rows (n,) from the strangest on;
    of equal ones the one whose other rank is larger comes first.
    """
    a, b = share_below(first), share_below(second)
    larger, smaller = np.maximum(a, b), np.minimum(a, b)
    return larger, np.lexsort((-smaller, -larger)).astype(np.int64)
