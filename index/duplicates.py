"""Near-duplicates: groups of samples that could stand for one another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from index.search import Snapshot

NEIGHBOURS = 32

BLOCK = 1024
"""Rows compared with a whole chain at a time: a parked camera makes chains of many thousands."""


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Samples near one of them. rows: its representative first, then by `distances` (m,) to it."""

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]


def near_duplicates(snapshot: Snapshot, within: float) -> list[DuplicateGroup]:
    """Groups whose every member lies `within` this distance of the group's representative.

    Candidates are mutual neighbours: no farther from either than its own k nearest, which keeps
    dense regions of alike but different images apart. A chain of them may lead far, so each chain
    is cut: the sample with the most others near it takes those as its group, and so on with the
    rest. Largest groups first; samples without a near-duplicate are in none.
    """
    live = snapshot.live_rows()
    k = min(NEIGHBOURS, len(live) - 1)
    if k < 1:
        return []
    neighbours, distances = snapshot.neighbours(live, k)
    near = (distances <= within) & (neighbours >= 0)
    sample, _ = np.nonzero(near)
    other = np.searchsorted(live, neighbours[near])
    mutual = (
        distances[near] <= distances[other, -1]
    )  # by radius: equal vectors crowd each other out
    links = (np.ones(mutual.sum(), np.int8), (sample[mutual], other[mutual]))
    graph = coo_array(links, shape=(len(live), len(live)))
    count, chain_of = connected_components(graph, directed=False)
    order = np.argsort(chain_of, kind="stable")
    chains = np.split(order, np.cumsum(np.bincount(chain_of, minlength=count))[:-1])
    groups = [
        group for chain in chains if len(chain) > 1 for group in _cut(snapshot, live[chain], within)
    ]
    return sorted(groups, key=lambda group: (-len(group.rows), group.rows[0]))


def _cut(snapshot: Snapshot, chain: NDArray[np.int64], within: float) -> Iterator[DuplicateGroup]:
    """Split a chain of rows into groups around representatives; leaves single samples out."""
    vectors = snapshot.read(chain)
    cosine = 1 - within**2 / 2
    standing = np.empty(len(chain))  # how many are near, and of equals who is nearer to them
    for start in range(0, len(chain), BLOCK):
        alike = vectors[start : start + BLOCK] @ vectors.T
        standing[start : start + BLOCK] = np.where(alike >= cosine, alike, 0).sum(
            axis=1, dtype=float
        )
    free = np.ones(len(chain), dtype=bool)
    for leader in np.argsort(-standing, kind="stable"):
        if not free[leader]:
            continue
        distances = np.linalg.norm(vectors - vectors[leader], axis=1)
        members = np.flatnonzero(free & (distances <= within) & (np.arange(len(chain)) != leader))
        members = members[np.argsort(distances[members], kind="stable")]
        free[[leader, *members]] = False
        if len(members):
            group = np.concatenate([[leader], members])
            yield DuplicateGroup(chain[group], distances[group])
