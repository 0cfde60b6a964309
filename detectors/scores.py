"""How strange is each row of a matrix: plain functions from vectors or distances to scores.

Larger is stranger. Vectors are (n, d), in this product unit-norm embeddings of one level, but
nothing here depends on the norm. All arithmetic is float64 whatever comes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

NORMAL_MAD = 1.4826
"""Median absolute deviation times this is the standard deviation of a normal sample."""
NORMAL_MEAN_AD = 1.2533
"""The same for the mean absolute deviation."""
LEAST = 1e-6
"""Smaller distances are taken for this one: below lie rounding errors, and log 0."""
ROUNDING = 1e-9
"""Distances whose ratio is nearer to 1 than this are equal."""
BLOCK = 16_384
"""Samples measured at a time: bounds the memory."""
NOTABLE_Z = 3.0
"""A level that deviates by fewer robust deviations is no reason: Shewhart's three sigma."""
STRANGE_Z = 3.5
"""Robust deviations from which a value is an outlier (Iglewicz and Hoaglin, 1993)."""
GROUP_Z = 2 * STRANGE_Z
"""From here on what lies apart may be one of a group of alike oddities: some ordinary minority, the
images of one panel of a hundred, lies beyond `STRANGE_Z` too."""


def as_matrix(vectors: ArrayLike) -> Floats:
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

    distances: (n, m) to other samples, nearest first; one that is negative, NaN or infinite
    stands for a missing neighbour. With fewer than k neighbours the mean is over those that
    exist; without any it is 0, for nothing says that the sample is strange. Returns (n,).
    """
    near = np.asarray(distances, dtype=np.float64)[:, :k]
    exists = (near >= 0) & np.isfinite(near)
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

    def distance(self, vectors: ArrayLike, given: int = 0) -> Floats:
        """Mahalanobis distance of each row of (n, d) to the mean: (n,), >= 0.

        given: of all but the first so many coordinates, to where these let them be expected.
        """
        known, whole = self.squares(as_matrix(vectors), given)
        distance: Floats = np.sqrt(whole - known)
        return distance

    def squares(self, X: Floats, given: int) -> tuple[Floats, Floats]:
        """Squared distances (n,) of the first `given` coordinates, and of all."""
        known, whole = np.zeros(len(X)), np.zeros(len(X))
        for start in range(0, len(X), BLOCK):
            rows = slice(start, start + BLOCK)
            centred = (X[rows] - self.mean).T
            white = solve_triangular(self.factor, centred, lower=True, overwrite_b=True)
            known[rows] = np.einsum("ij,ij->j", white[:given], white[:given])
            whole[rows] = known[rows] + np.einsum("ij,ij->j", white[given:], white[given:])
        return known, whole


def fit_gaussian(vectors: ArrayLike, floor: float = 0.0) -> Gaussian:
    """Mean and Ledoit-Wolf shrunk covariance (Ledoit and Wolf, 2004) of (n, d) vectors.

    floor: the least variance of any direction. Below it lie only rounding errors; it keeps the
    covariance of constant or too few vectors invertible.
    """
    sample = _Sample(vectors)
    return sample.gaussian(sample.moments(sample.all), floor)


def fit_left_out(
    vectors: ArrayLike, members: Mask | None = None, given: int = 0
) -> tuple[Gaussian, Floats]:
    """`fit_gaussian` of the members (m, d) of (n, d), and the distance (n,) of every sample: that
    of a member is to the fit of the m - 1 others. given: as `Gaussian.distance`.

    In many dimensions a sample that took part in a fit looks closer to it than a new one of the
    same kind, and a calibration on such distances would promise too much. The shrinkage is that
    of all members; the rest is the exact rank-one downdate (Sherman and Morrison, 1950).
    Without `members` all samples are.
    """
    sample = _Sample(vectors)
    members = sample.all if members is None else members
    fit = sample.moments(members)
    return sample.gaussian(fit, sample.floor), sample.left_out(fit, members, given)


def fit_trimmed(vectors: ArrayLike, keep: float = 0.9, rounds: int = 3) -> tuple[Gaussian, Floats]:
    """`fit_left_out`, refitted `rounds` times on the `keep` share of samples nearest to the fit.

    These are the concentration steps of the minimum covariance determinant (Rousseeuw and Van
    Driessen, 1999) from all samples as the start. As no sample is measured by a fit that it took
    part in, one that was kept once is not kept for that: with few samples for the dimensions a
    group of alike outliers would otherwise never leave. A group that is large enough bends the
    first fit towards itself and stays all the same; `fit_bulk` is for these.
    """
    sample = _Sample(vectors)
    fit, members = sample.moments(sample.all), sample.all
    for _ in range(rounds):
        members = _nearest(sample.left_out(fit, members), keep)
        fit = sample.moments(members)
    return sample.gaussian(fit, sample.floor), sample.left_out(fit, members)


def fit_bulk(
    vectors: ArrayLike, start: Floats | None = None, keep: float = 0.75, rounds: int = 2
) -> tuple[Gaussian, Floats]:
    """As `fit_trimmed`, of what most samples are: no group below a quarter of (n, d) bends it that
    lies clearly out; in many dimensions one may be far from the median and not clearly out.

    The start are the samples nearest to the median of each coordinate, as in the deterministic MCD
    (Hubert et al., 2012), and the last fit is of all that are not strange to the one before, the
    reweighting step of the MCD. It leaves out ordinary minorities, too, so that it says less of a
    single sample than `fit_trimmed`. start: `to_median`, (n,), where it is known.
    """
    sample = _Sample(vectors)
    distance = to_median(vectors) if start is None else start
    for _ in range(rounds):
        members = _nearest(distance, keep)
        distance = sample.left_out(sample.moments(members), members)
    members = fit_scale(distance).z(distance) < STRANGE_Z
    fit = sample.moments(members)
    return sample.gaussian(fit, sample.floor), sample.left_out(fit, members)


def to_median(vectors: ArrayLike) -> Floats:
    """The distance of each row of (n, d) to the median of every coordinate: (n,)."""
    X = as_matrix(vectors)
    return np.asarray(np.linalg.norm(X - (np.median(X, axis=0) if len(X) else 0), axis=1))


def _nearest(distance: Floats, keep: float) -> Mask:
    most = np.quantile(distance, keep) if len(distance) else 0.0
    return np.asarray(distance <= most)


@dataclass(frozen=True, slots=True)
class _Moments:
    """Of m vectors. mean: (d,), from the centre of the sample. covariance: (d, d), shrunk by
    `shrinkage` towards a sphere, whose variance is to be added: `ridge`."""

    m: int
    mean: Floats
    covariance: Floats
    shrinkage: float
    ridge: float


class _Sample:
    """Vectors (n, d), and what fits to some of them have in common."""

    def __init__(self, vectors: ArrayLike) -> None:
        X = as_matrix(vectors)
        self.n, self.d = X.shape
        self.all: Mask = np.ones(self.n, dtype=bool)
        self.centre: Floats = X.sum(axis=0) / max(self.n, 1)
        self.centred = X - self.centre
        self.scatter: Floats = self.centred.T @ self.centred
        self.squares: Floats = np.einsum("ij,ij->i", self.centred, self.centred)
        self.floor = 1e-6 * float(self.squares.sum()) / max(self.n * self.d, 1)

    def moments(self, members: Mask) -> _Moments:
        """Of most of the vectors from what these leave out, which takes fewer products.

        The shrinkage is Ledoit and Wolf's (2004): of what the covariance lies from its target, what
        chance brings. scikit-learn's takes two more products of all samples for the same number.
        """
        m = int(members.sum())
        most = 2 * m > self.n
        fewer = self.centred[members != most]
        scatter, total = fewer.T @ fewer, fewer.sum(axis=0)
        if most:
            scatter, total = self.scatter - scatter, -total
        mean: Floats = total / max(m, 1)
        covariance: Floats = scatter / max(m, 1) - np.outer(mean, mean)
        target = float(np.trace(covariance)) / max(self.d, 1)
        size = float(np.sum(covariance**2))
        squares = (self.squares - 2 * (self.centred @ mean) + mean @ mean)[members]
        by_chance = (float(np.sum(squares**2)) / max(m, 1) - size) / max(m, 1)
        away = size - self.d * target**2
        shrinkage = min(max(by_chance / away, 0.0), 1.0) if m > 1 and away > 0 else 0.0
        return _Moments(m, mean, (1 - shrinkage) * covariance, shrinkage, shrinkage * target)

    def gaussian(self, fit: _Moments, floor: float) -> Gaussian:
        return Gaussian(self.centre + fit.mean, _factor(fit.covariance, fit.ridge + floor))

    def left_out(self, fit: _Moments, members: Mask, given: int = 0) -> Floats:
        """The distances (n,) of `fit_left_out`."""
        if fit.m < 3:
            return np.zeros(self.n)
        inflated = fit.m / (fit.m - 1)
        others = Gaussian(fit.mean, _factor(inflated * fit.covariance, fit.ridge + self.floor))
        known, whole = others.squares(self.centred, given)

        def without_it(squares: Floats) -> Floats:
            own = (1 - fit.shrinkage) * inflated**2 / fit.m * squares
            return inflated**2 * squares / np.maximum(1 - own, LEAST)

        squares = np.where(members, without_it(whole) - without_it(known), whole - known)
        return np.sqrt(np.maximum(squares, 0))


def _factor(covariance: Floats, ridge: float) -> Floats:
    ridged = covariance.copy()
    ridged[np.diag_indices(len(ridged))] += max(ridge, np.finfo(np.float64).tiny)
    return np.asarray(np.linalg.cholesky(ridged), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Scale:
    """A robust centre and spread of the logarithm of a distance.

    Distances are ratios: the logarithm makes their bulk symmetric and keeps one far sample from
    outweighing every other level's say. spread 0 gives z 0.
    """

    centre: float
    spread: float

    def z(self, distances: NDArray[np.floating]) -> Floats:
        """Robust deviations of each distance (n,) from the centre, signed; 0 where it is NaN."""
        if self.spread == 0.0:
            return np.zeros(len(distances))
        return np.nan_to_num((_log(distances) - self.centre) / self.spread, nan=0.0)

    def towards(self, other: Scale, weight: float) -> Scale:
        """Shrunk towards another by `weight` in [0, 1]; at 0 it is itself."""
        return Scale(
            (1 - weight) * self.centre + weight * other.centre,
            (1 - weight) * self.spread + weight * other.spread,
        )


def fit_scale(distances: NDArray[np.floating]) -> Scale:
    """Median and MAD (Iglewicz and Hoaglin, 1993) of log distances, in normal deviations.

    Where more than half of the values are equal the MAD is 0 and the mean absolute deviation
    takes its place; so are values that differ by rounding errors. NaN stands for a distance that is
    unknown.
    """
    known = np.asarray(distances)[~np.isnan(distances)]
    if len(known) == 0:
        return Scale(0.0, 0.0)
    values = _log(known)
    centre = float(np.median(values))
    deviation = values - centre
    return Scale(centre, _spread(np.where(np.abs(deviation) < ROUNDING, 0.0, deviation)))


def linear_z(values: Floats) -> Floats:
    """Robust deviations of scores of any sign and unit from their median: (n,)."""
    if len(values) == 0:
        return values
    deviation = values - np.median(values)
    spread = _spread(deviation)
    return deviation / spread if spread else np.zeros(len(values))


def _spread(deviation: Floats) -> float:
    size = np.abs(deviation)
    return NORMAL_MAD * float(np.median(size)) or NORMAL_MEAN_AD * float(size.mean())


def _log(distances: NDArray[np.floating]) -> Floats:
    return np.log(np.maximum(np.asarray(distances, dtype=np.float64), LEAST))


def consensus(judges: Sequence[Floats]) -> Floats:
    """Mean (n,) of the robust z of several judges, at least one (Stouffer et al., 1949).

    None counts for less than -3.5: a judge may call a sample ordinary and has no veto. Copies are
    at 0 from each other, and the logarithm of that has no bottom.
    """
    return np.asarray(np.mean(np.maximum(judges, -STRANGE_Z), axis=0), dtype=np.float64)


def combined(singles: Sequence[Floats], groups: Sequence[Floats]) -> Floats:
    """The default score of a sample, in robust deviations: 0 is ordinary, above 3.5 is strange.

    singles: (n,) each, robust z of what tells a single oddity. They fail differently, so they are
    averaged, as `consensus` does. groups: (n,) each, robust z of what tells one of several alike
    oddities, which fill each other's neighbourhoods; -inf where it is too little to be heard, as
    these are poor judges of anything less.
    """
    single = consensus(singles)
    if not groups:
        return single
    return np.asarray(np.maximum(single, np.max(groups, axis=0)), dtype=np.float64)


def share_below(values: NDArray[np.floating]) -> Floats:
    """Share of the sample below each value, ties counted half: the mid-rank in (0, 1).

    A lone or a constant sample is at 0.5 throughout.
    """
    if len(values) == 0:
        return np.zeros(0)
    return np.asarray((rankdata(values) - 0.5) / len(values), dtype=np.float64)
