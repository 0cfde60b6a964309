"""Merging segments: fewer and larger ones, without the forgotten, in the index that suits them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import faiss
import numpy as np

from index import gpu
from index.durable import mark, sync
from index.factory import (
    Policy,
    TrainedIndex,
    cells_of,
    copy_codes,
    empty,
    least_training,
    train,
    training_size,
)
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
"""Each segment adds to every search: with more small ones a compaction is due."""

OUTGROWN = 4
"""The quantizer is trained anew once the cells that suit are this many times those it has."""

GROWN = 0.1
"""The recall is measured anew once the cells hold this share more than when it was."""

WORN = 3
"""The quantizer is trained anew once the same recall costs this many times what it did at first:
what came since lies where it has few cells, or beyond the range of its codes."""

LOST = 0.03
"""So too once no probing brings back this much recall: more than another measurement may differ."""


def compacted(
    root: Path, manifest: Manifest, policy: Policy, *, forgotten: bool = False
) -> Manifest:
    """What `manifest` becomes by merging, its files written but unpublished; itself if all is well.

    forgotten: whether to rewrite every segment that holds a forgotten sample, and the quantizer
    that was trained with one: the centroid of a cell of one vector is that vector.
    """
    anew = not _suits(manifest, policy) or (forgotten and _knows_forgotten(manifest))
    after = _merged(root, manifest, policy, anew, forgotten)
    if after.trained is None or (after == manifest and not _outdated(manifest, policy)):
        return after
    after = _measured(root, after, policy, None if anew else manifest.choice)
    if not anew and _worn(manifest.choice, after.choice):
        after = _merged(root, manifest, policy, True, forgotten)
        after = _measured(root, after, policy, None)
    return after


def due(manifest: Manifest, policy: Policy) -> bool:
    """Whether segments are many, another index or effort would suit by now, or much is forgotten.

    So too where the recall stands for fewer vectors than there are.
    """
    return (
        not _suits(manifest, policy)
        or _outdated(manifest, policy)
        or any(map(_mostly_forgotten, manifest.segments))
        or _many(manifest, policy)
    )


def rebased(root: Path, before: Manifest, after: Manifest, current: Manifest) -> Manifest:
    """`after`, made from `before`, with what was committed and forgotten up to `current`.

    Where another compaction was first, that is `current` itself; so too where one trained anew
    while vectors went into the old cells.
    """
    if after == before:
        return current
    merged = {s.name: s for s in before.segments if s not in after.segments}
    now = {s.name: s for s in current.segments if s.name in merged}
    kept = tuple(s for s in current.segments if s.name not in merged)
    if len(now) < len(merged) or current.trained != before.trained:
        return current
    if after.trained != before.trained and any(s.kind != "Flat" for s in kept):
        return current
    forgotten = [
        map_ids(root, s)[sorted(set(now[name].deleted) - set(s.deleted))]
        for name, s in merged.items()
    ]
    new = tuple(s for s in after.segments if s not in before.segments)
    if forgotten:
        new = without(root, replace(after, segments=new), np.concatenate(forgotten)).segments
    return replace(
        current,
        segments=kept + new,
        choice=after.choice,
        trained=after.trained,
        forgotten=after.forgotten + current.forgotten - before.forgotten,
    )


def _merged(
    root: Path, manifest: Manifest, policy: Policy, anew: bool, forgotten: bool
) -> Manifest:
    """`manifest` with fewer or cleaner segments, which nobody has measured yet."""
    old = list(manifest.segments) if anew else _worth_merging(manifest.segments, policy)
    old += [s for s in manifest.segments if s not in old and _mostly_forgotten(s)]
    old += [s for s in manifest.segments if s not in old and forgotten and s.deleted]
    if not old:
        return manifest
    before = opened(root, manifest)
    for name, written in (file for segment in old for file in segment.files.items()):
        if mark(root / name) != written:
            raise CorruptionError(f"{root / name} is not what the index wrote; {REMEDY}")
    if anew:
        trained = _train(before, _factory(manifest, policy), policy)
        saved = save(root, trained) if trained else None
        manifest = replace(manifest, trained=saved, forgotten=0)
    else:
        trained = load_trained(root, manifest.trained) if manifest.trained else None
    parts = [part for part in before.parts if part.segment in old]
    kept = tuple(segment for segment in manifest.segments if segment not in old)
    new = _merge(root, parts, trained, policy, anew)
    return replace(manifest, segments=kept + tuple(new), choice=Choice())


def _measured(root: Path, manifest: Manifest, policy: Policy, earlier: Choice | None) -> Manifest:
    """`manifest` with the effort that its recall takes.

    earlier: the choice before, by the same quantizer; None where that is new.
    """
    if manifest.trained is None:
        return manifest
    trained = load_trained(root, manifest.trained)
    choice = measured(opened(root, manifest), trained.factory, trained.cells, policy.recall)
    if earlier is not None and earlier.target == choice.target:
        choice = replace(choice, cost_when_new=earlier.cost_when_new)
    return replace(manifest, choice=choice)


def opened(root: Path, manifest: Manifest) -> Snapshot:
    """Raises CorruptionError, for a missing file too: nobody sweeps one that is in use."""
    try:
        return Snapshot(root, manifest)
    except FileNotFoundError as error:
        raise CorruptionError(f"{error.filename} is missing; {REMEDY}") from error


def _outdated(manifest: Manifest, policy: Policy) -> bool:
    """Whether the choice is for another recall, or for much less than the cells hold by now."""
    if manifest.trained is None:
        return False
    choice = manifest.choice
    cells = [segment for segment in manifest.segments if segment.kind != "Flat"]
    seen = sum(segment.live for segment in cells if segment.name in choice.segments)
    new = sum(segment.live for segment in cells) - seen
    return choice.target != policy.recall or new > GROWN * seen


def _worn(before: Choice, after: Choice) -> bool:
    """Whether a quantizer serves worse than it did when it was new."""
    if before.target != after.target:
        return False
    dear = after.effort.cost > WORN * after.cost_when_new
    return dear or after.recall < min(after.target, before.recall - LOST)


def _knows_forgotten(manifest: Manifest) -> bool:
    return manifest.trained is not None and manifest.forgotten > 0


def _factory(manifest: Manifest, policy: Policy) -> str:
    return policy.choose(manifest.live, manifest.dimension)


def _suits(manifest: Manifest, policy: Policy) -> bool:
    """Whether segments may go on sharing the quantizer that they have, or go without."""
    now, wanted = manifest.trained, _factory(manifest, policy)
    if now is None or wanted == "Flat":
        return now is None and wanted == "Flat"
    if now.factory.partition(",")[2] != wanted.partition(",")[2]:
        return False
    cells, wanted_cells = (
        cells_of(empty(factory, manifest.dimension)) for factory in (now.factory, wanted)
    )
    return bool(cells < wanted_cells * OUTGROWN and wanted_cells < cells * OUTGROWN)


def _many(manifest: Manifest, policy: Policy) -> bool:
    small = [segment for segment in manifest.segments if not _full(segment, policy)]
    return len(small) > MANY and bool(_worth_merging(small, policy))


def _full(segment: Segment, policy: Policy) -> bool:
    return 2 * segment.live * segment.dimension * 4 > policy.merged_bytes


def _mostly_forgotten(segment: Segment) -> bool:
    return len(segment.deleted) > DELETED_SHARE * segment.vectors


def _worth_merging(segments: Sequence[Segment], policy: Policy) -> list[Segment]:
    """Those segments whose merging gains more than it costs."""
    chosen: list[Segment] = []
    total = 0
    for segment in sorted(segments, key=lambda s: s.live):
        if (chosen and segment.live > TIER * total) or _full(segment, policy):
            break
        chosen.append(segment)
        total += segment.live
    return chosen if len(chosen) > 1 else []


def _train(snapshot: Snapshot, factory: str, policy: Policy) -> TrainedIndex | None:
    """Train `factory` on a seeded sample of the snapshot's vectors; None for Flat."""
    if factory == "Flat":
        return None
    policy.warn_of_memory(factory, snapshot.vectors, snapshot.dimension)
    live = snapshot.live_rows()
    pool = live[~held_out(snapshot.sample_ids.digests(live))]
    if len(pool) < least_training(empty(factory, snapshot.dimension)):
        pool = live
    size = min(training_size(factory, snapshot.dimension), len(pool))
    chosen = np.random.default_rng(0).choice(pool, size, replace=False)
    return train(factory, snapshot.read(np.sort(chosen)))


def _merge(
    folder: Path,
    parts: Sequence[OpenSegment],
    trained: TrainedIndex | None,
    policy: Policy,
    anew: bool,
) -> list[Segment]:
    """Write the live rows of `parts` into as few new segments as the policy allows.

    A part is ordered by sample id, so that each new segment reads one stretch of every part. What
    is in cells keeps its codes, unless they are to be made anew.
    """
    rows = [part.live_rows() for part in parts]
    digests = [part.ids[live] for part, live in zip(parts, rows, strict=True)]
    everything = np.sort(np.concatenate(digests))
    if not len(everything):
        return []
    dimension = parts[0].segment.dimension
    pieces = -(-len(everything) * dimension * 4 // policy.merged_bytes)
    written = []
    for piece in np.array_split(everything, pieces):
        vectors = np.empty((len(piece), dimension), dtype=np.float32)
        large = trained is not None and len(piece) >= policy.least_in_cells(trained.cells)
        cells = faiss.clone_index(trained.index) if trained and large else None
        uncoded = np.ones(len(piece), dtype=bool)
        for part, live, ids in zip(parts, rows, digests, strict=True):
            inside = slice(
                np.searchsorted(ids, piece[0]), np.searchsorted(ids, piece[-1], side="right")
            )
            places = np.searchsorted(piece, ids[inside])
            vectors[places] = part.read(live[inside])
            if cells is not None and part.cells is not None and not anew:
                place_of = np.full(part.segment.vectors, -1)
                place_of[live[inside]] = places
                copy_codes(part.cells, cells, place_of)
                uncoded[places] = False
        if cells is not None and uncoded.any():
            cells = gpu.extended(cells, vectors[uncoded], np.flatnonzero(uncoded))
        kind = trained.factory if trained and large else "Flat"
        written.append(write_sorted(folder, piece, vectors, kind, cells))
    return written


def save(root: Path, trained: TrainedIndex) -> Trained:
    """Keep a quantizer for segments to share; a snapshot that names it makes it count."""
    path = root / f"quantizer-{uuid4().hex}.faiss"
    faiss.write_index(trained.index, os.fspath(path))
    sync(path)
    return Trained(trained.factory, path.name, mark(path))


def load_trained(root: Path, trained: Trained) -> TrainedIndex:
    """Read the quantizer that segments share, whole. Raises CorruptionError."""
    path = root / trained.file_name
    try:
        if mark(path) != trained.mark:
            raise CorruptionError(f"{path} is not what the index wrote; {REMEDY}")
        index = faiss.read_index(os.fspath(path))
    except (FileNotFoundError, RuntimeError) as error:
        raise CorruptionError(f"{path} is missing or no FAISS file; {REMEDY}") from error
    return TrainedIndex(trained.factory, index)
