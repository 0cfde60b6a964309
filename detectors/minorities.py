"""What lies far from most of a pool: groups of oddities, which every fit may bend to.

Not all that lies there is odd. A panel of ten that is made another way, a rarer kind among kinds:
flagged they would hide what is. A group of something else may be as many and is flagged: nothing
lies between it and the rest, in texture as in content, and it is no kind among kinds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist, pdist

from detectors.measures import APART, ISOLATION, REMOTE, SECOND, Measures
from detectors.pool import Pool
from detectors.scores import GROUP_Z, STRANGE_Z, Floats, Mask, fit_bulk, fit_scale, to_median
from detectors.surroundings import MOST_STUCK
from schemas.records import LEVELS, Level

FEW, RARE = 10, 1 / 15
"""More samples, and more than this share of the pool, may be a minority of what is ordinary."""
MANY = 1 / 8
"""A larger share is part of what the pool is, whatever it shows."""
GAP = 2.5
"""Robust deviations between a group of something else and the rest, at every level. The panel of
ten in ELPV stays well below, as its texture is that of the others; foreign photographs among cells
or slices of MRI lie well above."""
TAIL = 0.5
"""Where more samples than this, to each that is remote, lack no more than one robust deviation to
it, those are the end of a tail: that of one rare kind of digits among ten, say."""
COMPARED = 1000
"""So many of either side are held against each other, drawn by chance."""


def far_from_most(
    pool: Pool, level: Level, fitted: Measures, moved: Sequence[str]
) -> dict[str, Floats]:
    """`measures.APART` and `measures.REMOTE` (n,), each by one scale for all sources, as what most
    samples are is that of all.

    0 for the samples of an ordinary minority, for those that are no group but the end of a tail,
    and for the sources that moved: these lie apart as a whole, which says nothing of their samples.
    fitted: the other measures, as robust z.
    """
    stayed = ~np.isin(pool.sources, moved)
    to_middle = {each: to_median(pool.embeddings[each]) for each in LEVELS}
    judged = stayed & (fitted[ISOLATION] > -STRANGE_Z)  # copies are no population
    usual = judged if judged.sum() >= (1 - MOST_STUCK) * stayed.sum() else stayed
    bulk = {
        each: _scaled(fit_bulk(pool.embeddings[each], start)[1], usual)
        for each, start in to_middle.items()
    }
    # A level that the encoder lacks is the same for all.
    there = [each for each, z in bulk.items() if z.any()] or [level]
    asked = [each for each in there if each in (level, SECOND)] or there
    middle = [_scaled(to_middle[each], usual) for each in asked]
    apart: Floats = np.min([bulk[each] for each in asked], axis=0)
    remote: Floats = np.sum(middle, axis=0) / np.sqrt(len(middle))
    lesser: Floats = np.min([bulk[each] for each in there], axis=0)
    has_room = np.min([fitted[each] for each in asked], axis=0) < GROUP_Z

    def ordinary(members: Mask) -> Mask:
        share = members.sum() / max(stayed.sum(), 1)
        minority = members.sum() > FEW and share > RARE
        if minority and share <= MANY:
            minority = not _foreign(pool, asked, lesser, members, judged)
        return members & has_room if minority else np.zeros_like(members)

    near, far = judged & (remote >= STRANGE_Z - 1), judged & (remote >= STRANGE_Z)
    tail = far if near.sum() > (1 + TAIL) * far.sum() else np.zeros_like(far)
    return {
        APART: np.where(~stayed | ordinary(judged & (apart >= GROUP_Z)), 0.0, apart),
        REMOTE: np.where(~stayed | ordinary(far) | tail, 0.0, remote),
    }


def _scaled(distances: Floats, usual: Mask) -> Floats:
    """In robust deviations of those that are usual (n,), 0 throughout where all are the same."""
    return fit_scale(distances[usual]).z(distances)


def _foreign(
    pool: Pool, levels: Sequence[Level], lesser: Floats, members: Mask, judged: Mask
) -> bool:
    """Whether the members are a group of something else than the rest of those that are judged.

    Between the two is a gap at every level (lesser: the least of the distances to the bulk), and at
    one of `levels` the members lie farther from all that is ordinary than nine tenths of that from
    each other.
    """
    rest = judged & ~members
    if not rest.any():  # all else are copies
        return True
    if np.quantile(lesser[members], 0.1) - np.quantile(lesser[rest], 0.99) < GAP:
        return False
    rng, ordinary = np.random.default_rng(0), judged & (lesser < STRANGE_Z)
    ours, others = (rng.permutation(np.flatnonzero(of))[:COMPARED] for of in (members, ordinary))
    if len(others) < 2:
        return False
    for level in levels:
        X = pool.embeddings[level]
        nearest = cdist(X[ours], X[others]).min(axis=1)
        if np.median(nearest) > np.quantile(pdist(X[others]), 0.9):
            return True
    return False
