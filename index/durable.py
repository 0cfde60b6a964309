"""Files that are either whole and on the disk, or not there."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import NamedTuple

SPOTS, SPOT = 4, 4096
"""How many stretches of a file are looked at to know it again, and their bytes."""


class Mark(NamedTuple):
    """What a file is known by: its bytes, the CRC-32 of all of them, and of a few stretches."""

    size: int
    checksum: int
    spots: int


def sync(path: Path) -> None:
    """Return once the file or folder at `path` survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Give `path` this text at once: readers see the old file or the new one, never a part."""
    staged = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    staged.write_text(text, encoding="utf-8")
    sync(staged)
    staged.replace(path)
    sync(path.parent)


def mark(path: Path) -> Mark:
    """Read the whole file and return its mark."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
        return Mark(file.tell(), checksum, spots(path, file.tell()))


def spots(path: Path, size: int) -> int:
    """The CRC-32 of stretches of a file of so many bytes, from its first to its last ones."""
    checksum = 0
    with path.open("rb", buffering=0) as file:
        for number in range(SPOTS):
            file.seek(max(size - SPOT, 0) * number // (SPOTS - 1))
            checksum = zlib.crc32(file.read(SPOT), checksum)
    return checksum
