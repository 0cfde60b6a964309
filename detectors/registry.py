"""Detectors by name: each a plain function from a pool to scores, larger for stranger.

combined      the combination of `detectors.scores.combined`, with p-values; the default
knn           mean distance to the nearest neighbours (Angiulli and Pizzuti, 2002)
mahalanobis   to the trimmed, shrunk bulk (Rousseeuw and Van Driessen, 1999)
lof           local outlier factor (Breunig et al., 2000)
pca           what 99% of the variance does not explain (Jackson and Mudholkar, 1979)
levels        mean robust deviation over low, mid and high
patch         distance of the strangest patches to a bank of ordinary ones (Roth et al., 2022)
uncertainty   the doubt of a user's own model, from the samples' metadata, whatever that gives
entropy, margin, loss   that doubt from the model's class shares alone, by one rule
module:P:F    function F of the importable module P, of the signature below
pyod:NAME     any detector of PyOD by its class, such as pyod:IForest

Against a reference a score must mean the same in every run: there combined, knn, mahalanobis and
levels are robust deviations from the reference, with p-values, and what compares a pool with
itself is refused.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from types import ModuleType
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import LocalOutlierFactor

from detectors.baseline import Baseline
from detectors.disagreement import DOUBTS, NONE_SAID
from detectors.measures import ISOLATION, Measures
from detectors.pool import Patches, Pool
from detectors.scores import Floats, Gaussian, as_matrix
from schemas.errors import UsageError
from schemas.records import LEVELS

Detector = Callable[[Pool, Baseline], Floats]
"""Scores (n,) of a pool's samples; the baseline was fitted on them and names the scored level."""

DEFAULT = "combined"
VARIANCE = 0.99
LOF_NEIGHBOURS = 20


def combined(pool: Pool, baseline: Baseline) -> Floats:
    """Single oddities and groups of alike ones; see `detectors.scores.combined`."""
    return baseline.score(baseline.z)


def knn(pool: Pool, baseline: Baseline) -> Floats:
    """Mean distance to the nearest neighbours."""
    return baseline.measure(pool)[ISOLATION]


def mahalanobis(pool: Pool, baseline: Baseline) -> Floats:
    """Distance to the bulk of the scored level."""
    return baseline.measure(pool)[baseline.level]


def levels(pool: Pool, baseline: Baseline) -> Floats:
    """Mean robust deviation over the levels, which capture faults raise."""
    return np.asarray(np.mean([baseline.z[level] for level in LEVELS], axis=0), dtype=np.float64)


def lof(pool: Pool, baseline: Baseline) -> Floats:
    """How much sparser a sample's surroundings are than its neighbours' own.

    Equal vectors count once: next to its copies a sample is infinitely dense.
    """
    X, own = np.unique(as_matrix(pool.embeddings[baseline.level]), axis=0, return_inverse=True)
    if len(X) < 3:
        return np.zeros(len(pool))
    model = LocalOutlierFactor(min(LOF_NEIGHBOURS, len(X) - 1)).fit(X)
    return np.asarray(-model.negative_outlier_factor_[own], dtype=np.float64)


def pca(pool: Pool, baseline: Baseline) -> Floats:
    """Length of what the leading components, 99% of the variance, leave of a vector."""
    X = as_matrix(pool.embeddings[baseline.level])
    if len(X) < 3 or not X.var(axis=0).any():
        return np.zeros(len(X))
    model = PCA(VARIANCE, svd_solver="full").fit(X)
    residual = X - model.inverse_transform(model.transform(X))
    return np.asarray(np.linalg.norm(residual, axis=1), dtype=np.float64)


def patch(pool: Pool, baseline: Baseline) -> Floats:
    """Distance of the strangest spot; a sample of which it is unknown counts as ordinary."""
    if pool.patches is None or (len(pool) and np.isnan(pool.patches.score).all()):
        raise UsageError(
            "detector 'patch' needs patch scores, and no sample has one; set 'patches: true' and "
            "run 'longtail ingest' with enough images for a bank of patches"
        )
    return pool.patches.known()


def uncertainty(pool: Pool, baseline: Baseline) -> Floats:
    """The user's model's doubt, as the pool was read for; a sample without one counts as sure."""
    if not len(pool):
        return np.zeros(0)
    if pool.uncertainty is None or np.isnan(pool.uncertainty).all():
        raise UsageError(NONE_SAID)
    least = float(np.nanmin(pool.uncertainty))
    return np.nan_to_num(np.asarray(pool.uncertainty, dtype=np.float64), nan=least)


DETECTORS: Mapping[str, Detector] = {
    DEFAULT: combined,
    "knn": knn,
    "mahalanobis": mahalanobis,
    "lof": lof,
    "pca": pca,
    "levels": levels,
    "patch": patch,
    **dict.fromkeys(DOUBTS, uncertainty),
}


Yardstick = Callable[[Measures, Baseline], Floats]
"""Scores of samples from their robust deviations by a reference."""

AGAINST_REFERENCE: Mapping[str, Yardstick] = {
    DEFAULT: lambda z, baseline: baseline.score(z),
    "knn": lambda z, baseline: z[ISOLATION],
    "mahalanobis": lambda z, baseline: z[baseline.level],
    "levels": lambda z, baseline: np.mean([z[level] for level in LEVELS], axis=0),
}
_OF_THE_POOL_ALONE = ("lof", "pca", "pyod")


def yardstick(name: str) -> Yardstick | None:
    """How a detector scores against a reference; None where it asks something else of the samples.

    Raises UsageError for one that compares a pool with itself.
    """
    if name.partition(":")[0] in _OF_THE_POOL_ALONE:
        raise UsageError(
            f"detector '{name}' compares a pool with itself; against a reference take one of "
            f"{', '.join(AGAINST_REFERENCE)}"
        )
    return AGAINST_REFERENCE.get(name)


def detector(name: str) -> Detector:
    """The detector of this name. Raises UsageError that lists those there are."""
    if name in DETECTORS:
        return DETECTORS[name]
    kind, _, rest = name.partition(":")
    if kind == "module":
        return _checked(name, _of_module(name, rest))
    if kind == "pyod":
        return _checked(name, _of_pyod(name, rest))
    known = ", ".join(DETECTORS)
    raise UsageError(f"detector '{name}' is none of {known}, module:P:F or pyod:NAME")


def _of_module(name: str, path: str) -> Detector:
    module, _, function = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # whatever the user's module raises on import
        away = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        hint = "; put the folder that holds it on PYTHONPATH" if away else ""
        raise UsageError(f"detector '{name}' cannot be imported: {_said(error)}{hint}") from error
    if not callable(found):
        raise UsageError(f"detector '{name}' is a {type(found).__name__}, not a function")
    return lambda pool, baseline: found(_read_only(pool), _read_only(baseline))


def _read_only(value: Any) -> Any:
    """The same, with views of its arrays that cannot be written to: the run goes on with these."""
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    elif isinstance(value, Mapping):
        value = {name: _read_only(each) for name, each in value.items()}
    elif isinstance(value, Pool | Patches | Baseline | Gaussian):
        names = [field.name for field in fields(value)]
        value = replace(value, **{name: _read_only(getattr(value, name)) for name in names})
    return value


def _of_pyod(name: str, class_name: str) -> Detector:
    if not class_name.isidentifier():
        raise UsageError(f"detector '{name}' names no class; give one of PyOD's, pyod:IForest say")
    module = _pyod_module(name, class_name)
    found = getattr(module, class_name, None)
    if found is None:
        classes = {each.lower(): each for each in dir(module) if each != each.lower()}
        near = difflib.get_close_matches(class_name.lower(), classes, n=1)
        hint = f"; did you mean 'pyod:{classes[near[0]]}'?" if near else ""
        raise UsageError(f"detector '{name}': PyOD has no class '{class_name}'{hint}")

    def fit(pool: Pool, baseline: Baseline) -> Floats:
        X = as_matrix(pool.embeddings[baseline.level])
        try:
            seeded = "random_state" in inspect.signature(found).parameters
            model = found(**({"random_state": 0} if seeded else {})).fit(X)
        except Exception as error:  # some need arguments, and some cannot be fitted to some pools
            raise UsageError(
                f"detector '{name}' cannot be used on this pool: {_said(error)}"
            ) from error
        return np.asarray(model.decision_scores_)

    return fit


def _pyod_module(name: str, class_name: str) -> ModuleType:
    """The module of a class: pyod.models.iforest of IForest, pyod.models.deep_svdd of DeepSVDD."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", class_name).lower()
    for path in dict.fromkeys((f"pyod.models.{class_name.lower()}", f"pyod.models.{words}")):
        try:
            return importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                needed = f"detector '{name}' needs more; pip install {error.name}"
                raise UsageError(needed) from error
    raise UsageError(f"detector '{name}': PyOD has no module of this name")


def _checked(name: str, found: Detector) -> Detector:
    def check(pool: Pool, baseline: Baseline) -> Floats:
        if not len(pool):
            return np.zeros(0)
        try:
            given = found(pool, baseline)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # whatever a function of the user's raises
            raise UsageError(f"detector '{name}' failed: {_said(error)}") from error
        try:
            scores = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise UsageError(f"detector '{name}' gives no numbers: {_said(error)}") from error
        if scores.shape != (len(pool),) or not np.isfinite(scores).all():
            raise UsageError(
                f"detector '{name}' must give {len(pool)} finite scores, "
                f"not {scores.shape} with {int((~np.isfinite(scores)).sum())} that are not finite"
            )
        return scores

    return check


def _said(error: BaseException) -> str:
    """The kind of an error and its words, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
