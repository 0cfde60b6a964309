"""A snapshot's file: which segments count. `snapshot-N.json`, and CURRENT, which names the newest.

A snapshot file never changes; publishing one is replacing CURRENT, which is atomic.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from index.durable import replace_text
from index.segments import REMEDY, Segment
from schemas.errors import CorruptionError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a snapshot file. `number` counts from 1; rows follow the order of segments."""

    number: int
    dimension: int
    segments: tuple[Segment, ...]

    @property
    def file_name(self) -> str:
        return f"snapshot-{self.number}.json"

    @property
    def files(self) -> frozenset[str]:
        """Every file that a reader of this snapshot needs."""
        return frozenset({self.file_name}.union(*(segment.files for segment in self.segments)))


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


def read_manifest(path: Path) -> Manifest:
    """Raises CorruptionError for a file that is not ours, FileNotFoundError for a missing one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("unknown format")
        segments = tuple(Segment(**segment) for segment in content.pop("segments"))
        return Manifest(segments=segments, **content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptionError(f"{path} is not a snapshot of an index; {REMEDY}") from error


def publish(root: Path, manifest: Manifest) -> None:
    """Write the snapshot's file, then point CURRENT at it."""
    content = {"format": FORMAT, **asdict(manifest)}
    replace_text(root / manifest.file_name, json.dumps(content, indent=1) + "\n")
    replace_text(root / "CURRENT", manifest.file_name + "\n")
