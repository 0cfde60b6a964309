"""Where a user's own model is in doubt or wrong, from its predictions: (n, c) class shares.

A sample's metadata may say it as `uncertainty`, a number; or as `prediction`, the shares of the
classes, a list or class -> share, with the true class as `label`: a place in the list or a name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detectors.scores import Floats
from schemas.errors import UsageError

LEAST = 1e-12


def doubt(metadata: Sequence[Mapping[str, Any]]) -> Floats | None:
    """Of each sample (n,), NaN where its metadata says nothing usable; None where none does.

    The uncertainty where it is given, else the loss of the true class where there is one, else the
    entropy. Raises UsageError for samples that differ in which of these they give.
    """
    kinds, values = zip(*(_doubt(one) for one in metadata), strict=True) if metadata else ((), ())
    given = sorted(set(filter(None, kinds)))
    if len(given) > 1:
        raise UsageError(
            f"samples give their model's doubt as {' and as '.join(given)}, which do not compare; "
            "give all of them one"
        )
    return np.asarray(values, dtype=np.float64) if given else None


def _doubt(metadata: Mapping[str, Any]) -> tuple[str, float]:
    stated, prediction = metadata.get("uncertainty"), metadata.get("prediction")
    try:
        if stated is not None:
            return "uncertainty", float(stated)
        if prediction is None:
            return "", np.nan
        shares = json.loads(prediction) if isinstance(prediction, str) else prediction
        names = [str(name) for name in shares] if isinstance(shares, Mapping) else None
        p = np.asarray([[*shares.values()] if isinstance(shares, Mapping) else shares], np.float64)
        if metadata.get("label") is None:
            return "prediction", float(entropy(p)[0])
        label = str(metadata["label"])
        true = names.index(label) if names else int(label)
        return "prediction and label", float(loss(p, np.array([true]))[0])
    except (TypeError, ValueError, IndexError):  # what one row says wrongly says nothing
        return "", np.nan


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
