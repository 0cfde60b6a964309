"""A snapshot's file: which segments count. `snapshot-N.json`, and CURRENT, which names the newest.

A snapshot file never changes; publishing one is replacing CURRENT, which is atomic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.durable import Mark, replace_text
from index.sample_ids import find
from index.segments import REMEDY, Effort, Segment, map_ids
from schemas.errors import CorruptionError, EncoderError

FORMAT = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """Which index was chosen and how well it answers.

    factory: FAISS factory string. effort: what searches spend. recall: share of the true `k`
    nearest that it finds, in [0, 1], measured on `queries` held-out vectors against exact search.
    target: the recall that the effort was chosen for. segments: which ones were there then.
    cost_when_new: of the effort that the same target took when the quantizer was new.
    """

    factory: str = "Flat"
    effort: Effort = field(default_factory=Effort)
    recall: float = 1.0
    k: int = 10
    queries: int = 0
    target: float = 0.0
    segments: tuple[str, ...] = ()
    cost_when_new: int = 1


@dataclass(frozen=True, slots=True)
class Trained:
    """The file of a trained, empty index, its mark, and the factory string that it came from."""

    factory: str
    file_name: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a snapshot file. `number` counts from 1; rows follow the order of segments.

    trained: the quantizer that large segments share, if any. forgotten: how many samples were
    forgotten since it was trained, with them perhaps. covered: names, the caller's own, of what the
    samples came from, so that nothing is looked at twice.
    """

    number: int
    dimension: int
    segments: tuple[Segment, ...]
    choice: Choice = field(default_factory=Choice)
    trained: Trained | None = None
    forgotten: int = 0
    covered: tuple[str, ...] = ()

    @property
    def live(self) -> int:
        """How many samples can be found."""
        return sum(segment.live for segment in self.segments)

    @property
    def file_name(self) -> str:
        return snapshot_name(self.number)

    @property
    def files(self) -> frozenset[str]:
        """Every file that a reader or writer of this snapshot needs."""
        shared = [self.trained.file_name] if self.trained else []
        segments = (segment.files for segment in self.segments)
        return frozenset({self.file_name, *shared}.union(*segments))


def first(segments: Sequence[Segment], *, number: int) -> Manifest:
    """What stands before the first commit of `segments`: nothing, of their dimension."""
    if not segments:
        raise ValueError("an index starts with a segment, got none")
    return Manifest(number, segments[0].dimension, ())


def extended(root: Path, manifest: Manifest, segments: Sequence[Segment]) -> Manifest:
    """`manifest` plus those of `segments` that it lacks; the newest vector of a sample counts.

    Raises EncoderError for vectors of another dimension.
    """
    known = {segment.name for segment in manifest.segments}
    new = [segment for segment in segments if segment.name not in known]
    for segment in new:
        if segment.dimension != manifest.dimension:
            raise EncoderError(
                f"the new vectors have {segment.dimension} dimensions, the index holds "
                f"{manifest.dimension}; {REMEDY}"
            )
    if not new:
        return manifest
    digests = [map_ids(root, segment) for segment in new]
    manifest = without(root, manifest, np.concatenate(digests))
    return replace(manifest, segments=(*manifest.segments, *_last_of_each(new, digests)))


def _last_of_each(
    segments: Sequence[Segment], digests: Sequence[NDArray[np.bytes_]]
) -> Iterator[Segment]:
    """Of a sample that several of them hold, only the last counts."""
    backwards = np.concatenate(digests[::-1])
    _, last = np.unique(backwards, return_index=True)
    superseded = np.ones(len(backwards), dtype=bool)
    superseded[last] = False
    ends = np.cumsum([len(rows) for rows in digests[::-1]])
    gone = np.split(superseded, ends[:-1])[::-1]
    for segment, rows in zip(segments, gone, strict=True):
        if not rows.all():
            yield replace(segment, deleted=tuple(np.flatnonzero(rows).tolist()))


def without(root: Path, manifest: Manifest, digests: NDArray[np.bytes_]) -> Manifest:
    """`manifest` without these samples; a segment that has none left is dropped."""
    kept = []
    for segment in manifest.segments:
        try:
            rows = find(map_ids(root, segment), digests)
        except FileNotFoundError as error:
            raise CorruptionError(f"{error.filename} is missing; {REMEDY}") from error
        gone = np.union1d(segment.deleted, rows[rows >= 0]).astype(int)
        if len(gone) < segment.vectors:
            kept.append(replace(segment, deleted=tuple(gone.tolist())))
    return replace(manifest, segments=tuple(kept))


def read_current(root: Path) -> Manifest | None:
    """The published snapshot, None before the first. Raises CorruptionError."""
    pointer = root / "CURRENT"
    try:
        name = pointer.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise CorruptionError(f"{pointer} names no snapshot; {REMEDY}") from error
    if not re.fullmatch(r"snapshot-\d+\.json", name):
        raise CorruptionError(f"{pointer} says {name[:40]!r}, not a snapshot; {REMEDY}")
    try:
        return read_manifest(root / name)
    except FileNotFoundError as error:
        if pointer.read_text(encoding="utf-8").strip() != name:  # swept since we read the pointer
            return read_current(root)
        raise CorruptionError(f"{root / name} is missing; {REMEDY}") from error


def read_version(pointer: Path) -> tuple[int, int] | None:
    """The inode and time of CURRENT, which every publishing replaces; None before the first."""
    try:
        stat = pointer.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def read_manifest(path: Path) -> Manifest:
    """Raises CorruptionError for a file that is not ours, FileNotFoundError for a missing one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("unknown format")
        content["segments"] = tuple(_segment(**segment) for segment in content["segments"])
        content["choice"]["effort"] = Effort(**content["choice"]["effort"])
        content["choice"]["segments"] = tuple(content["choice"]["segments"])
        content["choice"] = Choice(**content["choice"])
        content["trained"] = content["trained"] and _trained(**content["trained"])
        content["covered"] = tuple(content["covered"])
        return Manifest(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptionError(f"{path} is not a snapshot of an index; {REMEDY}") from error


def _segment(files: dict[str, list[int]], deleted: list[int], **rest: Any) -> Segment:
    marks = {name: Mark(*mark) for name, mark in files.items()}
    return Segment(files=marks, deleted=tuple(deleted), **rest)


def _trained(mark: list[int], **rest: Any) -> Trained:
    return Trained(mark=Mark(*mark), **rest)


def publish(root: Path, manifest: Manifest) -> None:
    """Write the snapshot's file, then point CURRENT at it."""
    content = {"format": FORMAT, **asdict(manifest)}
    replace_text(root / manifest.file_name, json.dumps(content, indent=1) + "\n")
    replace_text(root / "CURRENT", manifest.file_name + "\n")


def snapshot_name(number: int) -> str:
    return f"snapshot-{number}.json"


def snapshot_numbers(root: Path) -> list[int]:
    """The numbers of all snapshot files, published or not, readable or not, ascending."""
    stems = (path.stem.removeprefix("snapshot-") for path in root.glob("snapshot-*.json"))
    return sorted(int(stem) for stem in stems if stem.isdigit())


def last_number(root: Path) -> int:
    """The largest of `snapshot_numbers`, 0 without any."""
    return max(snapshot_numbers(root), default=0)
