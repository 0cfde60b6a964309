"""What a model already knows, as a folder: the reference's vectors as an index, and their fit.

    references/<name>/index/          every sample of the reference, for distances to it
    references/<name>/baseline.npz    `detectors.baseline.Baseline`

A run that fits a reference makes the folder where nobody looks; one that is to be kept moves to
its name when the run has published, whole or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detectors.baseline import Baseline, fit_reference
from detectors.pool import Pool
from index.search import Snapshot
from index.store import IndexStore

BASELINE = "baseline.npz"
INDEX = "index"
_ROWS_PER_SEGMENT = 50_000


@dataclass(frozen=True)
class Reference:
    """A folder, made by `prepare`, and what is in it, for people and for checks.

    about: `of`, what the reference is of, in the words of the settings; `encoder`; `samples`, how
    many; `digest` of their ids. left_out: samples in the folder and the fit that were found
    strange since, and tell no longer what is normal.
    """

    folder: Path
    about: Mapping[str, str | int]
    left_out: Collection[str] = ()

    def open(self) -> Snapshot:
        """The reference's samples."""
        snapshot = IndexStore(self.folder / INDEX).open()
        if snapshot is None:
            raise ValueError(f"{self.folder} holds no samples")
        return snapshot

    def neighbours(self, asked: int) -> int:
        """To how many nearest samples distances are asked: what the fit says, where there is."""
        baseline = self.saved()
        return asked if baseline is None else baseline.neighbours

    def saved(self) -> Baseline | None:
        """The fit, None where it is still to be made. Raises CorruptionError."""
        path = self.folder / BASELINE
        return Baseline.load(path) if path.exists() else None

    def fit(self, samples: Pool, neighbours: int) -> Baseline:
        """Fit the reference's samples, each held against the others, and keep that."""
        baseline = fit_reference(samples, neighbours=neighbours, about=self.about)
        temporary = self.folder / f"{BASELINE}.tmp"
        baseline.save(temporary)
        temporary.replace(self.folder / BASELINE)
        return baseline


def prepare(folder: Path, snapshot: Snapshot, sample_ids: Sequence[str]) -> None:
    """Make the folder of a reference: an index of these samples of the snapshot alone."""
    store = IndexStore(folder / INDEX)
    rows: NDArray[np.int64] = np.sort(snapshot.sample_ids.rows(sample_ids))
    parts = (
        rows[start : start + _ROWS_PER_SEGMENT] for start in range(0, len(rows), _ROWS_PER_SEGMENT)
    )
    store.commit(
        store.write_segment(snapshot.sample_ids.take(part), snapshot.read(part)) for part in parts
    )
    if store.is_due():
        store.compact()
        store.sweep(grace_s=0)
