"""The index of one encoder: a folder that many may read while others write to it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from index.compaction import compacted, due, load_trained, opened, rebased, save
from index.factory import Policy, cells_of, empty, least_training, train
from index.sample_ids import encode
from index.search import Snapshot
from index.segments import REMEDY, Effort, Segment, write_segment
from index.snapshots import (
    Choice,
    Manifest,
    Trained,
    extended,
    first,
    last_number,
    publish,
    read_current,
    read_manifest,
    read_version,
    snapshot_name,
    snapshot_numbers,
    without,
)
from index.verification import Verification, verify
from schemas.errors import CorruptionError

GRACE_S = 24 * 3600.0
"""Seconds for which files outlive the last snapshot that needs them, for readers at work."""


class IndexStore:
    """The index in the folder `root`, such as `index/efficientnet-lite0-3f2a9c01b7de`."""

    def __init__(self, root: Path, policy: Policy | None = None) -> None:
        self.root = Path(root)
        self.policy = policy or Policy()
        self._pointer = self.root / "CURRENT"

    def open(self) -> Snapshot | None:
        """The newest snapshot, None before the first commit.

        Raises CorruptionError, naming the file and the remedy, for one that is damaged.
        """
        missing = None
        while (manifest := read_current(self.root)) is not None:
            try:
                return Snapshot(self.root, manifest)
            except FileNotFoundError as error:
                if error.filename == missing:  # gone twice, so not swept under a newer snapshot
                    raise CorruptionError(f"{missing} is missing; {REMEDY}") from error
                missing = error.filename
        return None

    def version(self) -> tuple[int, int] | None:
        """What differs after every commit, None before the first; costs microseconds."""
        return read_version(self._pointer)

    def write_segment(
        self,
        sample_ids: Sequence[str],
        vectors: NDArray[np.float32],
        trained: Trained | None = None,
        *,
        anew: bool = False,
    ) -> Segment:
        """Write vectors that nobody sees before `commit` names the segment.

        sample_ids: n > 0 distinct ids. vectors: (n, d) float32 of unit norm. Any number of workers
        may write at once; they share `trained`, made by `train` for them, or if they are large what
        the last compaction trained; anew: not that, whatever state it is in. Raises ValueError for
        input that is not so.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        least = self.policy.flat_rows
        if trained is not None:
            least = self.policy.least_in_cells(cells_of(empty(trained.factory, vectors.shape[-1])))
        elif not anew and (current := read_current(self.root)):
            trained = current.trained
        large = trained is not None and len(sample_ids) >= least
        quantizer = load_trained(self.root, trained) if trained and large else None
        return write_segment(self.root, sample_ids, vectors, quantizer)

    def commit(
        self,
        segments: Iterable[Segment],
        *,
        trained: Trained | None = None,
        covered: Iterable[str] | None = None,
        anew: bool = False,
    ) -> Snapshot:
        """Publish the newest snapshot plus `segments`; one that is there already counts once.

        trained: what large ones of them share, where the snapshot has none; all its cells are
        looked into until a compaction has measured how many it takes. covered: names of all
        that the samples came from by now. anew: take the place of the newest snapshot, whatever
        state its files are in. A sample that was there before is found by its new vector only. A
        crash at any point leaves the old snapshot or the new one. Raises EncoderError for vectors
        of another dimension.
        """
        segments = list(segments)
        with self._committing():
            current = None if anew else read_current(self.root)
            if current is None:
                current = first(segments, number=last_number(self.root))
            changed = extended(self.root, current, segments)
            if trained is not None and changed.trained is None:
                changed = replace(
                    changed, trained=trained, choice=self._unmeasured(changed, trained)
                )
            if covered is not None:
                changed = replace(changed, covered=tuple(sorted(covered)))
            return self._publish(current, changed)

    def train(self, sample: NDArray[np.float32], vectors: int) -> Trained | None:
        """Train what suits so many `vectors` on a `sample` (m, d) of them.

        For `write_segment` and `commit`: a first build puts its vectors into cells at once. None
        for Flat, and for too small a sample.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        factory = self.policy.choose(vectors, sample.shape[1])
        least = least_training(empty(factory, sample.shape[1]))
        return save(self.root, train(factory, sample)) if len(sample) >= least > 0 else None

    def forget(self, sample_ids: Sequence[str]) -> Snapshot | None:
        """Publish a snapshot that finds none of these samples; unknown ones are no error.

        Their vectors leave the files when a compaction rewrites their segments, and the disk when
        `sweep` deletes the old ones.
        """
        with self._committing():
            current = read_current(self.root)
            if current is None:
                return None
            changed = without(self.root, current, encode(sample_ids))
            gone = current.live - changed.live
            return self._publish(current, replace(changed, forgotten=current.forgotten + gone))

    def compact(self, *, forgotten: bool = False) -> Snapshot | None:
        """Merge small segments, drop forgotten rows, and train and measure the index that suits.

        Readers and writers go on meanwhile. forgotten: leave nothing of a forgotten sample in a
        new file, as a privacy request wants: rewrite every segment that holds one, and train anew.
        """
        before = read_current(self.root)
        if before is None:
            return None
        after = compacted(self.root, before, self.policy, forgotten=forgotten)
        with self._committing():
            current = read_current(self.root)
            if current is None:
                raise CorruptionError(f"{self._pointer} is missing; {REMEDY}")
            return self._publish(current, rebased(self.root, before, after, current))

    def is_due(self) -> bool:
        """Whether `compact` is worth its time: see `compaction.due`."""
        current = read_current(self.root)
        return current is not None and due(current, self.policy)

    def verify(
        self, table: Iterable[tuple[Sequence[str], NDArray[np.float32]]]
    ) -> Verification | None:
        """Compare with the batches (sample ids, vectors) of `table`; None before any commit.

        Reads every file whole. Raises CorruptionError where one cannot be read at all.
        """
        snapshot = self.open()
        return None if snapshot is None else verify(self.root, snapshot, table)

    def sweep(self, grace_s: float = GRACE_S) -> list[str]:
        """Delete files that the newest snapshot does not need, and return their names.

        Spared are the files of snapshots that were superseded less than `grace_s` seconds ago, and
        files younger than that, which a worker may still be about to commit.
        """
        with self._committing():
            current = read_current(self.root)
            if current is None:
                return []
            oldest = time.time() - grace_s
            keep = set(current.files)
            for number, successor in pairwise(snapshot_numbers(self.root)):
                if (self.root / snapshot_name(successor)).stat().st_mtime > oldest:
                    with suppress(CorruptionError):
                        keep |= read_manifest(self.root / snapshot_name(number)).files
            swept = [
                path
                for pattern in ("segment-*", "snapshot-*", "quantizer-*", "*.tmp")
                for path in self.root.glob(pattern)
                if path.name not in keep and path.stat().st_mtime <= oldest
            ]
            for path in swept:
                path.unlink(missing_ok=True)
            return sorted(path.name for path in swept)

    def _unmeasured(self, manifest: Manifest, trained: Trained) -> Choice:
        cells = cells_of(empty(trained.factory, manifest.dimension))
        return Choice(trained.factory, Effort(cells, overfetch=4), recall=0.0)

    def _publish(self, current: Manifest, changed: Manifest) -> Snapshot:
        """Make `changed` the newest snapshot, unless it is what `current` was; under the lock."""
        if changed == current:
            return opened(self.root, current)
        changed = replace(changed, number=current.number + 1)
        snapshot = opened(self.root, changed)  # first: what cannot be opened is not published
        publish(self.root, changed)
        return snapshot

    def _committing(self) -> FileLock:
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / "commit.lock")
