"""How well the index answers, measured: the least effort that gives the recall asked for.

Samples whose digest starts with a low byte never train the index; they ask the questions. One half
of them chooses the effort, the other half measures what it gives.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from index.search import Snapshot
from index.segments import Effort
from index.snapshots import Choice

K = 10

QUERIES = 400
"""Enough that the standard error of a recall of 0.95 stays below half a point."""

_HELD_OUT = b"\x08"  # digests below it: one in 32


def held_out(digests: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """Which samples to keep out of training, (n,)."""
    return np.asarray(digests < _HELD_OUT)


def measured(snapshot: Snapshot, factory: str, cells: int, target: float) -> Choice:
    """The least effort whose recall at 10 reaches `target`, in (0, 1], and the recall it gives.

    cells: how many the IVF index of `factory` has.
    """
    rows = _questions(snapshot)
    truth, _ = snapshot.neighbours(rows, K, exact=True)
    tuning = np.arange(len(rows)) % 2 == 0

    def shares(effort: Effort, asked: NDArray[np.bool_]) -> NDArray[np.float64]:
        found, _ = snapshot.neighbours_with(effort, rows[asked], K)
        return _shares(found, truth[asked])

    def surely(effort: Effort) -> float:
        """The recall less its standard error: asking others may give a little less."""
        given = shares(effort, tuning)
        return float(given.mean() - given.std() / np.sqrt(len(given)))

    # Compression may cost half of the misses allowed, probing the other half.
    widest = max(1, cells // 4)
    for overfetch in (1, 2, 4, 8, 16, 32, 64):
        if surely(Effort(widest, overfetch)) >= (1 + target) / 2:
            break
    for probes in _ladder(cells):
        effort = Effort(probes, overfetch)
        if surely(effort) >= target:
            break
    testing = ~tuning if len(rows) > 1 else tuning
    recall = round(float(shares(effort, testing).mean()), 4)
    return Choice(
        factory=factory,
        effort=effort,
        recall=recall,
        k=K,
        queries=int(testing.sum()),
        target=target,
        segments=tuple(segment.name for segment in snapshot.segments),
        cost_when_new=effort.cost,
    )


def _questions(snapshot: Snapshot) -> NDArray[np.int64]:
    live = snapshot.live_rows()
    asked = live[held_out(snapshot.sample_ids.digests(live))]
    if len(asked) < QUERIES:  # few samples, where asking some that trained is the lesser evil
        asked = live
    chosen = np.random.default_rng(0).choice(len(asked), min(QUERIES, len(asked)), replace=False)
    return np.sort(asked[chosen])


def _ladder(cells: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16 ... up to all cells."""
    probes = 1
    while probes < cells:
        yield probes
        if probes > 1 and 3 * probes // 2 < cells:
            yield 3 * probes // 2
        probes *= 2
    yield cells


def _shares(found: NDArray[np.int64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each question the share of the rows of `truth` (n, k), -1 padded, in `found` (n, k)."""
    there = (found[:, None, :] == truth[:, :, None]).any(axis=2) & (truth >= 0)
    return np.asarray(there.sum(axis=1) / np.maximum(1, (truth >= 0).sum(axis=1)))
