"""What every family of models gives: a torch network that is found and described, not yet built."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from encoders.base import Preprocess
from schemas.records import Level

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Network:
    """A network that `build` loads into memory.

    build: the module takes normalised float (n, 3, size, size) and gives a tuple, low level first,
        of maps (n, d, h, w) or tokens (n, t, d), which are averaged, or vectors (n, d).
    build_patches: the module gives a tuple of one map (n, d, h, w); None where there is none.
    """

    dimensions: Mapping[Level, int]
    preprocess: Preprocess
    weights_sha256: str
    build: Callable[[], nn.Module]
    build_patches: Callable[[], nn.Module] | None = None


def sha256_of_files(paths: Iterable[Path]) -> str:
    """Of one file its SHA-256 in hex; of several, the SHA-256 of theirs in order."""
    digests = [_file_sha256(path, path.stat().st_mtime_ns) for path in paths]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@functools.lru_cache(maxsize=64)
def _file_sha256(path: Path, modified: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
