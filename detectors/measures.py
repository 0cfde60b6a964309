"""What is measured of each sample, before any scale: its names, and how neighbours tell it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from detectors.pool import Pool
from detectors.scores import GROUP_Z, STRANGE_Z, Floats, Mask, fit_trimmed, knn_distance
from detectors.surroundings import beside_its_like, relative, strange_for_its_kind
from schemas.records import LEVELS, Level

Measures = Mapping[str, Floats]
"""(n,) per name, raw ones NaN where nothing can be said. Always: the three levels, ISOLATION and
LOCAL. PATCH where patches were scored. Of a pool that is held against itself also `kind(level)`,
`like(level)` of the scored level and of SECOND, and the `GROUPS`; of one that is held against a
reference PARTS."""

ISOLATION = "isolation"
"""The mean distance to the nearest neighbours."""
LOCAL = "local"
"""ISOLATION relative to that of the nearest samples, which of a pool are a crowd, so that no small
group is all there is: where these lie far apart, to be far is nothing strange."""
PARTS = "parts"
"""The distance of the other levels to what the scored one lets expect: what looks right as a whole
may have parts or a texture that its like do not."""
PATCH = "patch"
"""The distance of the strangest spot."""
CROWDED = "crowd"
"""The distance to the last of a crowd of neighbours, relative to theirs."""
APART = "apart"
"""The distance to the bulk of the pool, at the scored and at the second level, the lesser of the
two: a group is odd in what it shows and in its parts, an ordinary minority in one of them."""
REMOTE = "remote"
"""The distances to the median of the pool, at the scored and at the second level, as one (Stouffer
et al., 1949): a group hardly moves that, and it says little of a single oddity."""
GROUPS = (APART, REMOTE, CROWDED)
"""What tells one of a group of alike oddities. Against a reference no group can hide."""
CROWDED_Z = 5.0
"""A group that is odd at the scored level alone is heard from here on."""
SECOND: Level = "mid"
"""This level has a say beside the scored one where there is no reference: what is strange in its
parts. With all levels together so many dimensions let a group bend the fit."""

NEIGHBOURS = 3
"""More hide the members of a small group less, and blur what a single oddity is far from."""
CROWD = 100
"""At most so many neighbours are a crowd; a tenth of a smaller pool."""


def kind(level: Level) -> str:
    """The measure of a sample that is strange for its kind, at a level."""
    return f"{level} for its kind"


def like(level: Level) -> str:
    """The measure of what a sample's like leave of it, at a level."""
    return f"{level} among its like"


def groups_heard(z: Measures, level: Level) -> dict[tuple[str, ...], Floats]:
    """What tells a group, by the names of the measures that must agree: their least z (n,), -inf
    where that is too little to be heard.

    A crowd alone says nothing: in a pool of many kinds ordinary samples have one that reaches
    beyond their kind. level: the scored one, which counts by the scale of a sample's source and so
    must say more. Empty against a reference.
    """
    if APART not in z:
        return {}
    asked = {
        (APART,): GROUP_Z,
        (APART, CROWDED): STRANGE_Z,
        (CROWDED, level): CROWDED_Z,
        (REMOTE,): STRANGE_Z,
    }
    heard = {}
    for names, least in asked.items():
        agreed = np.min([z[name] for name in names], axis=0)
        heard[names] = np.where(agreed >= least, agreed, -np.inf)
    return heard


REASONS = (*LEVELS, *map(kind, LEVELS), *map(like, LEVELS), LOCAL, PARTS, *GROUPS)
"""The measures that reasons are made of, where there are such."""


def crowd_of(samples: int, neighbours: int) -> int:
    """How many neighbours make a crowd in a pool of this size, never fewer than `neighbours`."""
    return max(neighbours, min(samples // 10, CROWD))


def from_pool(pool: Pool, neighbours: int) -> dict[str, Floats]:
    """The measures that need no fit, and mean the same against a reference."""
    raw = {ISOLATION: knn_distance(pool.distances, neighbours)}
    if pool.patches is not None:
        raw[PATCH] = np.asarray(pool.patches.score, dtype=np.float64)
    return raw


def among_neighbours(pool: Pool, level: Level, neighbours: int, copied: Mask) -> dict[str, Floats]:
    """The measures of a sample by its neighbours' own, where these are of the pool.

    copied: (n,) who are copies of others.
    """
    crowd = crowd_of(len(pool), neighbours)
    near, distances = pool.neighbours[:, :crowd], pool.distances[:, :crowd]
    raw = {LOCAL: relative(knn_distance(distances, neighbours), near, copied)}
    raw[CROWDED] = relative(_last(distances), near, copied)
    for each in LEVELS:
        raw[kind(each)] = strange_for_its_kind(pool.embeddings[each], pool.neighbours, copied)
    for each in {level, SECOND}:
        left = beside_its_like(pool.embeddings[each], pool.neighbours)
        raw[like(each)] = fit_trimmed(left)[1]
    return raw


def _last(distances: NDArray[np.floating]) -> Floats:
    """The farthest of each sample's neighbours that there are (n,), 0 where there are none."""
    there = np.where(np.isfinite(distances), distances, 0.0)
    return np.asarray(np.max(there, axis=1, initial=0.0), dtype=np.float64)
