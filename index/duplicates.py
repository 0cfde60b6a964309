"""Near-duplicates: groups of samples that could stand for one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from index.search import Snapshot

NEIGHBOURS = 32


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Samples near one of them. rows: its representative first, then by `distances` (m,) to it."""

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]


def near_duplicates(snapshot: Snapshot, within: float) -> list[DuplicateGroup]:
    """Groups whose every member lies `within` this distance of the group's representative.

    Samples are linked where they are mutual neighbours: no farther from either than its own k
    nearest, which keeps dense regions of alike but different images apart. A chain of links may
    lead far, so the sample with the most of them, of equals the one that is nearest to its own,
    takes as its group what links lead to without leaving its reach, and so on with the rest. So a
    group costs what it holds, however long the chain. Largest groups first; samples without a
    near-duplicate are in none.
    """
    asked = snapshot.scan_order()
    back = np.argsort(asked)
    live = asked[back]
    k = min(NEIGHBOURS, len(live) - 1)
    if k < 1:
        return []
    neighbours, distances = snapshot.neighbours(asked, k)
    links = _links(neighbours[back], distances[back], live, within)
    counts = np.diff(links.indptr)
    order = np.lexsort((links.sum(axis=1), -counts))[: np.count_nonzero(counts)]
    free = np.ones(len(live), dtype=bool)
    groups = []
    for leader in order:
        if free[leader]:
            members, distances = _reached(snapshot, live, links, free, leader, within)
            free[members] = False
            if len(members) > 1:
                groups.append(DuplicateGroup(live[members], distances))
    return sorted(groups, key=lambda group: (-len(group.rows), group.rows[0]))


def _links(
    neighbours: NDArray[np.int64],
    distances: NDArray[np.float32],
    live: NDArray[np.int64],
    within: float,
) -> csr_array:
    """The distances of mutual neighbours (n, n), as places in `live`, both ways."""
    near = (distances <= within) & (neighbours >= 0)
    one, _ = np.nonzero(near)
    other, gaps = np.searchsorted(live, neighbours[near]), distances[near]
    mutual = gaps <= distances[other, -1]  # by radius: equal vectors crowd each other out
    pairs = np.sort(np.stack([one[mutual], other[mutual]]), axis=0)
    (one, other), firsts = np.unique(pairs, axis=1, return_index=True)
    both = (np.concatenate([one, other]), np.concatenate([other, one]))
    return coo_array((np.tile(gaps[mutual][firsts], 2), both), shape=(len(live), len(live))).tocsr()


def _reached(
    snapshot: Snapshot,
    live: NDArray[np.int64],
    links: csr_array,
    free: NDArray[np.bool_],
    leader: int,
    within: float,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The leader, and the free places that links lead to `within` its reach, by distance."""
    centre = snapshot.read(live[[leader]])
    members, distances = [np.array([leader])], [np.zeros(1, np.float32)]
    seen = new = members[0]
    while len(new):
        linked = np.concatenate([links.indices[slice(*links.indptr[at : at + 2])] for at in new])
        linked = np.setdiff1d(linked[free[linked]], seen)
        gaps = np.linalg.norm(snapshot.read(live[linked]) - centre, axis=1)
        seen = np.union1d(seen, linked)
        new = linked[gaps <= within]
        members.append(new)
        distances.append(gaps[gaps <= within])
    places, gaps = np.concatenate(members[1:]), np.concatenate(distances[1:])
    order = np.argsort(gaps, kind="stable")
    return (
        np.concatenate([members[0], places[order]]),
        np.concatenate([distances[0], gaps[order]]),
    )
