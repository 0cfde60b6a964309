"""Files that are either whole and on the disk, or not there."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

Mark = tuple[int, int]
"""A file's size in bytes and the CRC-32 of its content."""


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
        return file.tell(), checksum
