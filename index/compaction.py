"""Merging segments: fewer and larger ones, without the forgotten, in the index that suits them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import faiss
import numpy as np

from index.durable import sync
from index.factory import Policy, TrainedIndex, empty, train, training_size
from index.recall import held_out, measured
from index.search import Snapshot
from index.segments import REMEDY, OpenSegment, Segment, map_ids, write_sorted
from index.snapshots import Choice, Manifest, Trained, without
from schemas.errors import CorruptionError

TIER = 4
"""A segment joins a merge once the smaller ones sum to a quarter of it, so that over its life a
vector is rewritten a logarithmic number of times (as in log-structured merge trees)."""

DELETED_SHARE = 0.2
"""A segment with more forgotten rows than this is rewritten whatever its size."""

MANY = 16
"""Each segment adds to every search: with more of them a compaction is due."""

OUTGROWN = 4
"""The quantizer is trained anew once the cells that suit are this many times those it has."""


def compacted(
    root: Path, manifest: Manifest, policy: Policy, *, forgotten: bool = False
) -> Manifest:
    """What `manifest` becomes by merging, its files written but unpublished; itself if all is well.

    forgotten: whether to rewrite every segment that holds a forgotten sample.
    """
    anew = not _suits(manifest, policy)
    old = list(manifest.segments) if anew else _worth_merging(manifest.segments, policy)
    old += [s for s in manifest.segments if forgotten and s.deleted and s not in old]
    if not old:
        return manifest
    before = Snapshot(root, manifest)
    if anew:
        trained = _train(before, _factory(manifest, policy))
        manifest = replace(manifest, trained=_save(root, trained) if trained else None)
    else:
        trained = load_trained(root, manifest.trained) if manifest.trained else None
    parts = [part for part in before.parts if part.segment in old]
    new = _merge(root, parts, trained, policy)
    kept = tuple(segment for segment in manifest.segments if segment not in old)
    manifest = replace(manifest, segments=kept + tuple(new), choice=Choice())
    if trained is None:
        return manifest
    snapshot = Snapshot(root, manifest)
    return replace(
        manifest, choice=measured(snapshot, trained.factory, trained.cells, policy.recall)
    )


def due(root: Path, manifest: Manifest, policy: Policy) -> bool:
    """Whether there are many segments, or another index would suit by now."""
    return len(manifest.segments) > MANY or not _suits(manifest, policy)


def rebased(root: Path, before: Manifest, after: Manifest, current: Manifest) -> Manifest:
    """`after`, made from `before`, with what was committed and forgotten up to `current`.

    Where another compaction has rewritten one of the segments first, that is `current` itself.
    """
    merged = {s.name: s for s in before.segments if s not in after.segments}
    now = {s.name: s for s in current.segments if s.name in merged}
    if len(now) < len(merged) or not merged:
        return current
    forgotten = [
        map_ids(root, s)[sorted(set(now[name].deleted) - set(s.deleted))]
        for name, s in merged.items()
    ]
    new = replace(after, segments=tuple(s for s in after.segments if s not in before.segments))
    new = without(root, new, np.concatenate(forgotten))
    kept = tuple(s for s in current.segments if s.name not in merged)
    return replace(new, segments=kept + new.segments)


def _factory(manifest: Manifest, policy: Policy) -> str:
    return policy.choose(sum(s.live for s in manifest.segments), manifest.dimension)


def _suits(manifest: Manifest, policy: Policy) -> bool:
    """Whether segments may go on sharing the quantizer that they have, or go without."""
    now, wanted = manifest.trained, _factory(manifest, policy)
    if now is None or wanted == "Flat":
        return now is None and wanted == "Flat"
    if now.factory.partition(",")[2] != wanted.partition(",")[2]:
        return False
    cells, wanted_cells = (empty(f, manifest.dimension).nlist for f in (now.factory, wanted))
    return bool(cells < wanted_cells * OUTGROWN and wanted_cells < cells * OUTGROWN)


def _worth_merging(segments: Sequence[Segment], policy: Policy) -> list[Segment]:
    """Those segments whose rewriting gains more than it costs."""
    full = policy.segment_bytes // 2
    chosen: list[Segment] = []
    total = 0
    for segment in sorted(segments, key=lambda s: s.live):
        too_large = segment.live * segment.dimension * 4 > full
        if (chosen and segment.live > TIER * total) or too_large:
            break
        chosen.append(segment)
        total += segment.live
    if len(chosen) < 2:
        chosen = []
    return chosen + [
        segment
        for segment in segments
        if segment not in chosen and len(segment.deleted) > DELETED_SHARE * segment.vectors
    ]


def _train(snapshot: Snapshot, factory: str) -> TrainedIndex | None:
    """Train `factory` on a seeded sample of the snapshot's vectors; None for Flat."""
    if factory == "Flat":
        return None
    index = empty(factory, snapshot.dimension)
    live = snapshot.live_rows()
    pool = live[~held_out(snapshot.sample_ids.digests(live))]
    size = min(training_size(index), len(pool))
    chosen = np.random.default_rng(0).choice(pool, size, replace=False)
    train(index, snapshot.read(np.sort(chosen)))
    return TrainedIndex(factory, index)


def _merge(
    folder: Path, parts: Sequence[OpenSegment], trained: TrainedIndex | None, policy: Policy
) -> list[Segment]:
    """Write the live rows of `parts` into as few new segments as the policy allows.

    A part is ordered by sample id, so that each new segment reads one stretch of every part.
    """
    rows = [part.live_rows() for part in parts]
    digests = [part.ids[live] for part, live in zip(parts, rows, strict=True)]
    everything = np.sort(np.concatenate(digests))
    if not len(everything):
        return []
    dimension = parts[0].segment.dimension
    pieces = -(-len(everything) * dimension * 4 // policy.segment_bytes)
    written = []
    for piece in np.array_split(everything, pieces):
        vectors = np.empty((len(piece), dimension), dtype=np.float32)
        for part, live, ids in zip(parts, rows, digests, strict=True):
            inside = slice(
                np.searchsorted(ids, piece[0]), np.searchsorted(ids, piece[-1], side="right")
            )
            vectors[np.searchsorted(piece, ids[inside])] = part.read(live[inside])
        large = len(piece) >= policy.flat_rows
        written.append(write_sorted(folder, piece, vectors, trained if large else None))
    return written


def _save(root: Path, trained: TrainedIndex) -> Trained:
    path = root / f"quantizer-{uuid4().hex}.faiss"
    faiss.write_index(trained.index, os.fspath(path))
    sync(path)
    return Trained(trained.factory, path.name)


def load_trained(root: Path, trained: Trained) -> TrainedIndex:
    """Read the quantizer that segments share. Raises CorruptionError."""
    path = root / trained.file_name
    try:
        return TrainedIndex(trained.factory, faiss.read_index(os.fspath(path)))
    except RuntimeError as error:
        raise CorruptionError(f"{path} is missing or no FAISS file; {REMEDY}") from error
