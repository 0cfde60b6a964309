import numpy as np
import pytest
from scipy.spatial.distance import cdist

from detectors.pool import Pool
from schemas.records import LEVELS

DIMENSIONS = (6, 12, 24)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def unit(X):
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def ordinary(rng):
    """Makes pools of one population: ordinary(n, odd=k) moves the first k along one axis, by what
    they show and hardly by their texture; wild=k gives the last k any direction.

    Distances are to the samples of `near`, or to the pool's own others.
    """
    made = []

    def make(n, odd=0, wild=0, near=None, source="line-3", start=None):
        levels = [np.eye(d)[0] + 0.1 * rng.normal(size=(n, d)) for d in DIMENSIONS]
        for X, by in zip(levels, (0.15, 1.5, 1.5), strict=True):
            X[:odd, 3] += by
            X[n - wild :] = rng.normal(size=(wild, X.shape[1]))
        embeddings = dict(zip(LEVELS, map(unit, levels), strict=True))
        neighbours, distances = _nearest(embeddings["high"], near and near.embeddings["high"])
        pool = Pool(
            sample_ids=[f"{len(made):02x}{i:062x}" for i in range(n)],
            sources=[source] * n,
            embeddings=embeddings,
            quality={},
            distances=distances,
            neighbours=None if near else neighbours,
            times=None if start is None else start + np.arange(n) * np.timedelta64(1, "m"),
        )
        made.append(pool)
        return pool

    return make


def _nearest(vectors, among):
    """Rows (n, k) and distances of the 100 nearest of `among`, or of the others."""
    gaps = cdist(vectors, vectors if among is None else among)
    if among is None:
        np.fill_diagonal(gaps, np.inf)
    rows = np.argsort(gaps, axis=1, kind="stable")[:, : min(100, gaps.shape[1] - (among is None))]
    return rows, np.take_along_axis(gaps, rows, axis=1).astype(np.float32)
