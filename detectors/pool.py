"""What a mining run is given: the samples of a pool, or of the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.records import Level


@dataclass(frozen=True, slots=True)
class Patches:
    """The strangest spot of n samples: its distance, and where it is, NaN where unknown.

    score: (n,) as `detectors.patches.patch_scores` gives it. x, y: (n,) shares of the image's
    width and height.
    """

    score: NDArray[np.floating]
    x: NDArray[np.floating]
    y: NDArray[np.floating]

    def known(self) -> NDArray[np.float64]:
        """The scores (n,); where one is unknown it is the median, which is ordinary."""
        scores = np.asarray(self.score, dtype=np.float64)
        there = scores[~np.isnan(scores)]
        return np.nan_to_num(scores, nan=float(np.median(there)) if len(there) else 0.0)


@dataclass(frozen=True, slots=True)
class Pool:
    """n samples and how far their neighbours are.

    embeddings: (n, d) finite float32 per level. quality: (n,) per statistic, NaN where unknown.
    distances: (n, k) float32, Euclidean on the scored level to the k nearest other samples of
    the pool (of the reference, if the run has one), nearest first; NaN or infinite where there are
    fewer, or a search found fewer.
    neighbours: (n, k) rows that those distances are to, of the pool or of the baseline's `fitted`;
    -1 where there are fewer, or one that is not of these.
    times: (n,) datetime64, when each was captured or else ingested, NaT where unknown; None where
    nobody knows.
    undated: (n,) whose time is that of their ingestion; None for none.
    uncertainty: (n,) of a user's own model, NaN where unknown; None where there is no model.
    patches: of the samples' images, None where nobody looked.
    """

    sample_ids: Sequence[str]
    sources: Sequence[str]
    embeddings: Mapping[Level, NDArray[np.float32]]
    quality: Mapping[str, NDArray[np.floating]]
    distances: NDArray[np.float32]
    neighbours: NDArray[np.integer]
    times: NDArray[np.datetime64] | None = None
    undated: NDArray[np.bool_] | None = None
    uncertainty: NDArray[np.floating] | None = None
    patches: Patches | None = None

    def __len__(self) -> int:
        return len(self.sample_ids)
