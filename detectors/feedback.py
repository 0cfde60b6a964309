"""What verdicts say about the samples that nobody has looked at yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from detectors.scores import Floats, as_matrix, share_below
from schemas.records import VerdictLabel

WIDTH = 0.15
"""Of the kernel, in cosine: a verdict speaks for samples at a cosine above about 0.7."""
SIGN: Mapping[VerdictLabel, float] = {"edge_case": 1, "normal": -1, "junk": -1, "duplicate": 0}
"""Of what a verdict says about its surroundings; that a sample is a duplicate says nothing."""
BLOCK = 2**22
"""Cosines to verdicts that are held at a time: some 100 MB."""


def rerank(
    score: Floats,
    vectors: NDArray[np.floating],
    reviewed: NDArray[np.floating],
    labels: Sequence[VerdictLabel],
) -> Floats:
    """Prior rank plus what each verdict says of its surroundings: (n,), larger comes first.

    score: (n,) of the run, of which only the ranks count. vectors: (n, d) of the samples;
    reviewed: (v, d) of those with a verdict, labels: which. Each adds (edge case) or takes away
    (normal, junk) exp((cos - 1) / 0.15), the cosine between mean-centred vectors. A rank lies in
    (0, 1), so the prior still decides wherever no verdict is near: a classifier without it forgets
    what is strange. After Rocchio's relevance feedback (1971) with a local kernel.
    """
    prior = share_below(score)
    if len(reviewed) == 0 or len(prior) == 0:
        return prior
    X = as_matrix(vectors)
    mean = X.mean(axis=0)
    sign = np.array([SIGN[label] for label in labels])
    R = _directions(as_matrix(reviewed)[sign != 0] - mean)
    sign = sign[sign != 0]
    step = max(BLOCK // max(len(R), 1), 1)
    for start in range(0, len(X), step):
        block = slice(start, start + step)
        cosine = np.inner(_directions(X[block] - mean), R)
        prior[block] += np.exp((cosine - 1) / WIDTH) @ sign
    return prior


def _directions(X: Floats) -> Floats:
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    return np.asarray(X / np.where(lengths > 0, lengths, 1.0), dtype=np.float64)
