"""Rivals on the very same embeddings, each as (reference or None, pool) -> scores of the pool."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors

Vectors = NDArray[np.float64]
Rival = Callable[[Vectors | None, Vectors], NDArray[np.float64]]

PYOD = ("KNN", "LOF", "HBOS", "PCA", "OCSVM", "ECOD", "COPOD", "CBLOF", "ABOD")
SEEDED = {"CBLOF", "PCA"}
SAME = {"PyOD IForest": "Isolation Forest"}
"""The tenth of PyOD's ten is scikit-learn's forest with the same defaults, so it is grown once."""


def fiftyone_uniqueness(reference: Vectors | None, pool: Vectors) -> NDArray[np.float64]:
    """FiftyOne Brain's formula: 0.6, 0.3 and 0.1 times the distances to the 3 nearest."""
    model = NearestNeighbors(n_neighbors=3).fit(pool if reference is None else reference)
    distances, _ = model.kneighbors(None if reference is None else pool)
    return np.asarray(distances @ np.array([0.6, 0.3, 0.1]))


def cleanlab_ood(reference: Vectors | None, pool: Vectors) -> NDArray[np.float64]:
    """cleanlab's OutOfDistribution on features; its score falls for what is strange."""
    from cleanlab.outlier import OutOfDistribution

    model = OutOfDistribution()
    if reference is None:
        return -np.asarray(model.fit_score(features=pool, verbose=False))
    model.fit(features=reference, verbose=False)
    return -np.asarray(model.score(features=pool))


def isolation_forest(reference: Vectors | None, pool: Vectors) -> NDArray[np.float64]:
    model = IsolationForest(random_state=0).fit(pool if reference is None else reference)
    return -np.asarray(model.score_samples(pool))


def pyod(name: str, reference: Vectors | None, pool: Vectors) -> NDArray[np.float64]:
    detector = getattr(importlib.import_module(f"pyod.models.{name.lower()}"), name)
    model = detector(**({"random_state": 0} if name in SEEDED else {}))
    try:
        model.fit(pool if reference is None else reference)
    except ValueError:
        if name != "CBLOF":
            raise
        return np.zeros(len(pool))  # it refuses clusters of one size
    scores = model.decision_scores_ if reference is None else model.decision_function(pool)
    return np.nan_to_num(np.asarray(scores, dtype=np.float64))


RIVALS: Mapping[str, Rival] = {
    "FiftyOne uniqueness": fiftyone_uniqueness,
    "cleanlab": cleanlab_ood,
    "Isolation Forest": isolation_forest,
    **{f"PyOD {name}": partial(pyod, name) for name in PYOD},
}


def rivals_scores(reference: Vectors | None, pool: Vectors) -> Mapping[str, NDArray[np.float64]]:
    scores = {name: rival(reference, pool) for name, rival in RIVALS.items()}
    return {**scores, **{name: scores[other] for name, other in SAME.items()}}


def warm_up() -> None:
    """Import what the rivals need, and compile what PyOD compiles in its first call.

    That takes seconds, so it is kept beside PyOD's sources: once for an environment.
    """
    for name in (*(f"models.{name.lower()}" for name in PYOD), "utils.stat_models"):
        for compiled in vars(importlib.import_module(f"pyod.{name}")).values():
            if isinstance(compiled, Dispatcher):
                compiled.enable_caching()
    few = np.random.default_rng(0).standard_normal((60, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rivals_scores(few[:30], few)


def cleanvision(images: Path) -> Mapping[str, float]:
    """How faulty cleanvision finds each image of a folder: 1 - its least score, by file name.

    Only of the checks that look at one image alone, so that an image's score is its own.
    """
    from cleanvision import Imagelab

    kinds = ("dark", "light", "low_information", "blurry")
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        lab = Imagelab(data_path=str(images))
        lab.find_issues({kind: {} for kind in kinds}, n_jobs=1)
    scores = lab.issues.filter(like="_score").min(axis=1)
    return {Path(str(path)).name: 1 - float(score) for path, score in scores.items()}
