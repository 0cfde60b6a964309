from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from detectors.pool import Pool
from schemas.records import LEVELS

DIMENSIONS = (6, 12, 24)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def unit():
    """Scales vectors, (..., d), to unit norm."""
    return _unit


@pytest.fixture
def displaced():
    """Moves rows along one axis: unit norm again, and alike in their strangeness."""

    def move(vectors, rows, axis, by=2.0):
        moved = vectors.copy()
        moved[rows, axis] += by
        return _unit(moved)

    return move


@pytest.fixture
def levels(rng):
    """600 ordinary samples at the three levels."""
    return [_unit(X) for X in _of_one_population(rng, 600)]


@pytest.fixture
def many_kinds(rng):
    """Makes 1,290 samples of three kinds, 110 of a rarer one, and 10 that are of none."""

    def make(apart=0.6):
        made = []
        for d in DIMENSIONS:
            centres = apart * rng.normal(size=(4, d)) + 3 * np.eye(d)[0]
            kind = np.repeat([0, 1, 2, 3, 0], [430, 430, 430, 110, 10])
            noise = 0.1 * rng.normal(size=(1410, d))
            if d > 6:
                noise[-10:] *= 4
            made.append(_unit(centres[kind] + noise))
        return made

    return make


@pytest.fixture
def pool_of():
    """Makes a pool of the vectors at the three levels, with exact neighbours on the high one."""
    return _pool_of


@pytest.fixture
def ordinary(rng):
    """Makes pools of one population: ordinary(n, odd=k) moves the first k along one axis, by what
    they show and hardly by their texture; wild=k gives the last k any direction.

    Distances are to the samples of `near`, or to the pool's own others.
    """
    made = []

    def make(n, odd=0, wild=0, near=None, source="line-3", start=None):
        levels = _of_one_population(rng, n)
        for X, by in zip(levels, (0.15, 1.5, 1.5), strict=True):
            X[:odd, 3] += by
            X[n - wild :] = rng.normal(size=(wild, X.shape[1]))
        pool = replace(
            _pool_of(*map(_unit, levels), near=near, source=source),
            sample_ids=[f"{len(made):02x}{i:062x}" for i in range(n)],
            times=None if start is None else start + np.arange(n) * np.timedelta64(1, "m"),
        )
        made.append(pool)
        return pool

    return make


def _unit(X):
    return (X / np.linalg.norm(X, axis=-1, keepdims=True)).astype(np.float32)


def _of_one_population(rng, n):
    return [np.eye(d)[0] + 0.1 * rng.normal(size=(n, d)) for d in DIMENSIONS]


def _pool_of(low, mid, high, k=100, near=None, source="line-3", **quality):
    neighbours, distances = _nearest(high, near and near.embeddings["high"], k)
    return Pool(
        sample_ids=[f"{i:064x}" for i in range(len(high))],
        sources=[source] * len(high),
        embeddings=dict(zip(LEVELS, (low, mid, high), strict=True)),
        quality=quality,
        distances=distances,
        neighbours=neighbours,
    )


def _nearest(vectors, among, k):
    """Rows (n, k) and distances of the k nearest of `among`, or of the others."""
    gaps = cdist(vectors, vectors if among is None else among)
    if among is None:
        np.fill_diagonal(gaps, np.inf)
    rows = np.argsort(gaps, axis=1, kind="stable")[:, : min(k, gaps.shape[1] - (among is None))]
    return rows, np.take_along_axis(gaps, rows, axis=1).astype(np.float32)
