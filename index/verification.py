"""Comparing the index with the table that it is a cache of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.durable import Mark, mark
from index.search import Snapshot


@dataclass(frozen=True, slots=True)
class Verification:
    """What differs: names of files whose content changed, and sample ids.

    missing: in the table, not found by the index. extra: found, but not in the table. different:
    in both, with other vectors.
    """

    damaged: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    different: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not (self.damaged or self.missing or self.extra or self.different)


def verify(
    root: Path, snapshot: Snapshot, table: Iterable[tuple[Sequence[str], NDArray[np.float32]]]
) -> Verification:
    """Read every file and every vector; `table` gives (sample ids, vectors (n, d)) in batches."""
    missing: list[str] = []
    different: list[str] = []
    unseen = np.zeros(len(snapshot.sample_ids), dtype=bool)
    unseen[snapshot.live_rows()] = True
    for sample_ids, vectors in table:
        names = np.asarray(sample_ids)
        rows = snapshot.sample_ids.rows(sample_ids)
        held = rows >= 0
        missing += names[~held].tolist()
        unseen[rows[held]] = False
        changed = (snapshot.read(rows[held]) != vectors[held]).any(axis=1)
        different += names[held][changed].tolist()
    files = {name: written for s in snapshot.segments for name, written in s.files.items()}
    if snapshot.trained is not None:
        files[snapshot.trained.file_name] = snapshot.trained.mark
    return Verification(
        damaged=tuple(name for name, written in files.items() if _mark(root / name) != written),
        missing=tuple(missing),
        extra=tuple(snapshot.sample_ids.take(np.flatnonzero(unseen))),
        different=tuple(different),
    )


def _mark(path: Path) -> Mark | None:
    return mark(path) if path.exists() else None
