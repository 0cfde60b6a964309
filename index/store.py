"""The index of one encoder: a folder that many may read while one run at a time commits to it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from index.search import Snapshot
from index.segments import REMEDY, Segment, write_segment
from index.snapshots import Manifest, publish, read_current, read_manifest
from schemas.errors import CorruptionError, EncoderError

GRACE_S = 24 * 3600.0
"""Seconds for which files outlive the last snapshot that needs them, for readers at work."""


class IndexStore:
    """The index in the folder `root`, such as `index/efficientnet-lite0-3f2a9c01b7de`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def write_segment(self, sample_ids: Sequence[str], vectors: NDArray[np.float32]) -> Segment:
        """Write vectors that nobody sees before `commit` names the segment.

        sample_ids: n > 0 distinct ids. vectors: (n, d) float32 of unit norm. Any number of workers
        may write at once. Raises ValueError for input that is not so.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        return write_segment(self.root, sample_ids, vectors)

    def commit(self, segments: Iterable[Segment]) -> Snapshot:
        """Publish the newest snapshot plus `segments` (already committed ones count once).

        A crash at any point leaves the old snapshot or the new one. Raises EncoderError for vectors
        of another dimension than the index holds.
        """
        with self._committing():
            current = read_current(self.root)
            held = current.segments if current else ()
            known = {segment.name for segment in held}
            added = tuple(segment for segment in segments if segment.name not in known)
            for segment in added:
                if segment.dimension != (held or added)[0].dimension:
                    raise EncoderError(
                        f"the new vectors have {segment.dimension} dimensions, the index holds "
                        f"{(held or added)[0].dimension}; {REMEDY}"
                    )
            if added:
                number = current.number + 1 if current else 1
                publish(self.root, Manifest(number, added[0].dimension, held + added))
        snapshot = self.open()
        if snapshot is None:
            raise ValueError("a first commit needs a segment")
        return snapshot

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
            for path in self.root.glob("snapshot-*.json"):
                manifest = read_manifest(path)
                successor = self.root / f"snapshot-{manifest.number + 1}.json"
                if successor.exists() and successor.stat().st_mtime > oldest:
                    keep |= manifest.files
            swept = [
                path
                for pattern in ("segment-*", "snapshot-*", "*.tmp")
                for path in self.root.glob(pattern)
                if path.name not in keep and path.stat().st_mtime <= oldest
            ]
            for path in swept:
                path.unlink(missing_ok=True)
            return sorted(path.name for path in swept)

    def _committing(self) -> FileLock:
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / "commit.lock")
