"""Where a user's own model is in doubt or wrong, from its predictions: (n, c) class shares.

A sample's metadata may say it as `uncertainty`, a number from 0; or as `prediction`, the shares of
the classes, a list or class -> share, with the true class as `label`: a place in the list or a
name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detectors.scores import Floats
from schemas.errors import UsageError

LEAST = 1e-12
STATED = "uncertainty"
SAID = (STATED, "prediction", "label")
DOUBTS = (STATED, "entropy", "margin", "loss")
"""How a model's doubt may be asked for; the first takes what is there."""
NONE_SAID = (
    "the doubt of a model needs a number 'uncertainty' (detector 'uncertainty') or the class "
    "shares 'prediction' (also 'entropy' and 'margin'; 'loss' with the true class as 'label') in "
    "the manifest of the images; no sample has a usable one"
)


def doubt(metadata: Sequence[Mapping[str, Any]], how: str = STATED) -> Floats | None:
    """Of each sample (n,), NaN where its metadata says nothing usable; None where none does.

    how: one of `DOUBTS`. By "uncertainty" it is that where it is given, else the loss of the true
    class where there is one, else the entropy; raises UsageError for samples that differ in which
    of these they give.
    """
    kinds, values = (
        zip(*(_doubt(one, how) for one in metadata), strict=True) if metadata else ((), ())
    )
    given = sorted(set(filter(None, kinds)))
    if len(given) > 1:
        raise UsageError(
            f"samples give their model's doubt as {' and as '.join(given)}, which do not compare; "
            f"give all of them one, or take detector {', '.join(DOUBTS[1:])}"
        )
    return np.asarray(values, dtype=np.float64) if given else None


def none_said(metadata: Sequence[Mapping[str, Any]]) -> str:
    """`NONE_SAID`, and what the first sample gives of it that gives any."""
    for one in metadata:
        given = [f"{name} {one[name]}" for name in SAID if one.get(name) is not None]
        if given:
            return f"{NONE_SAID}: the first says {shorten(', '.join(given), 80)}"
    return NONE_SAID


def _doubt(metadata: Mapping[str, Any], how: str) -> tuple[str, float]:
    """Of one sample, and what it was made of; "" and NaN for what is missing or makes no sense."""
    stated, prediction, label = (metadata.get(name) for name in SAID)
    try:
        if how == STATED and stated is not None:
            return STATED, _not_negative(float(stated))
        if prediction is None or (how == "loss" and label is None):
            return "", np.nan
        shares = json.loads(prediction) if isinstance(prediction, str) else prediction
        names = [str(name) for name in shares] if isinstance(shares, Mapping) else None
        p = np.asarray([[*shares.values()] if isinstance(shares, Mapping) else shares], np.float64)
        if not p.sum() > 0:
            return "", np.nan
        if how == "margin":
            return "prediction", float(margin(p)[0])
        if how == "entropy" or label is None:
            return "prediction", float(entropy(p)[0])
        true = _named(label, names) if names else _place(label, p.shape[1])
        return "prediction and label", float(loss(p, np.array([true]))[0])
    except (TypeError, ValueError):  # what one row says wrongly says nothing
        return "", np.nan


def _not_negative(value: float) -> float:
    if not np.isfinite(value) or value < 0:
        raise ValueError(f"{value} is no uncertainty")
    return value


def _named(label: object, names: Sequence[str]) -> int:
    """The place of a class among their names."""
    name = str(label)
    return names.index(name if name in names else name.removesuffix(".0"))


def _place(label: object, classes: int) -> int:
    """A place in a list of classes; a table with gaps gives whole numbers as 1.0."""
    place = float(str(label))
    if not place.is_integer() or not 0 <= place < classes:
        raise ValueError(f"{label} is no place among {classes} classes")
    return int(place)


def entropy(predictions: ArrayLike) -> Floats:
    """Of the predicted classes, in nats, in [0, log c] (Shannon, 1948): (n,)."""
    p = _shares(predictions)
    return np.asarray(-(p * np.log(np.maximum(p, LEAST))).sum(axis=1), dtype=np.float64)


def margin(predictions: ArrayLike) -> Floats:
    """1 - (best - second best), in [0, 1] (Scheffer et al., 2001): (n,)."""
    p = np.sort(_shares(predictions), axis=1)
    if p.shape[1] < 2:
        return np.zeros(len(p))
    return np.asarray(1 - (p[:, -1] - p[:, -2]), dtype=np.float64)


def loss(predictions: ArrayLike, labels: NDArray[np.integer]) -> Floats:
    """Cross-entropy of the true class (n,), in nats: high where the model is sure and wrong."""
    p = _shares(predictions)[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.maximum(p, LEAST)), dtype=np.float64)


def _shares(predictions: ArrayLike) -> Floats:
    p = np.asarray(predictions, dtype=np.float64)
    if p.ndim != 2 or not np.isfinite(p).all() or (p < 0).any():
        raise ValueError(f"predictions are (n, classes) shares >= 0, not of shape {p.shape}")
    total = p.sum(axis=1, keepdims=True)
    return np.asarray(p / np.where(total > 0, total, 1.0), dtype=np.float64)
