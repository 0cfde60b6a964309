"""Where a user's own model is in doubt or wrong, from its predictions: (n, c) class shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detectors.scores import Floats

LEAST = 1e-12


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
