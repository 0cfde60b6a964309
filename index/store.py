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

from index.compaction import compacted, due, load_trained, rebased
from index.factory import Policy
from index.sample_ids import encode
from index.search import Snapshot
from index.segments import REMEDY, Segment, write_segment
from index.snapshots import (
    Manifest,
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
        return read_version(self.root)

    def write_segment(self, sample_ids: Sequence[str], vectors: NDArray[np.float32]) -> Segment:
        """Write vectors that nobody sees before `commit` names the segment.

        sample_ids: n > 0 distinct ids. vectors: (n, d) float32 of unit norm. Any number of workers
        may write at once; large segments share the quantizer that the last compaction trained.
        Raises ValueError for input that is not so.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        current = read_current(self.root)
        trained = None
        if current and current.trained and len(sample_ids) >= self.policy.flat_rows:
            trained = load_trained(self.root, current.trained)
        return write_segment(self.root, sample_ids, vectors, trained)

    def commit(self, segments: Iterable[Segment]) -> Snapshot:
        """Publish the newest snapshot plus `segments`; one that is there already counts once.

        A sample that was there before is found by its new vector only. A crash at any point leaves
        the old snapshot or the new one. Raises EncoderError for vectors of another dimension.
        """
        segments = list(segments)
        with self._committing():
            current = read_current(self.root)
            if current is None:
                current = first(segments, number=last_number(self.root))
            return self._publish(current, extended(self.root, current, segments))

    def forget(self, sample_ids: Sequence[str]) -> Snapshot | None:
        """Publish a snapshot that finds none of these samples; unknown ones are no error.

        Their vectors leave the files when a compaction rewrites their segments, and the disk when
        `sweep` deletes the old ones.
        """
        with self._committing():
            current = read_current(self.root)
            if current is None:
                return None
            return self._publish(current, without(self.root, current, encode(sample_ids)))

    def compact(self, *, forgotten: bool = False) -> Snapshot | None:
        """Merge small segments, drop forgotten rows, and train and measure the index that suits.

        Readers and writers go on meanwhile. forgotten: rewrite every segment that holds a forgotten
        sample, as a privacy request wants, instead of those alone that gain by it.
        """
        before = read_current(self.root)
        if before is None:
            return None
        after = compacted(self.root, before, self.policy, forgotten=forgotten)
        with self._committing():
            current = read_current(self.root)
            if current is None:
                raise CorruptionError(f"{self.root / 'CURRENT'} is missing; {REMEDY}")
            return self._publish(current, rebased(self.root, before, after, current))

    def rebuild(self, batches: Iterable[tuple[Sequence[str], NDArray[np.float32]]]) -> Snapshot:
        """Make the index anew from (sample ids, vectors (n, d)), whatever state its files are in.

        Readers see the old snapshot until all is written; what others commit meanwhile is lost.
        Raises ValueError for no vectors at all.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        segments = [write_segment(self.root, ids, vectors) for ids, vectors in batches]
        blank = first(segments, number=last_number(self.root))
        after = compacted(self.root, extended(self.root, blank, segments), self.policy)
        with self._committing():
            return self._publish(replace(blank, number=last_number(self.root)), after)

    def is_due(self) -> bool:
        """Whether `compact` is worth its time: many segments, or another index suits by now."""
        current = read_current(self.root)
        return current is not None and due(self.root, current, self.policy)

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

    def _publish(self, current: Manifest, changed: Manifest) -> Snapshot:
        """Make `changed` the newest snapshot, unless it is what `current` was; under the lock."""
        if changed != current:
            changed = replace(changed, number=current.number + 1)
            publish(self.root, changed)
        return Snapshot(self.root, changed)

    def _committing(self) -> FileLock:
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / "commit.lock")
