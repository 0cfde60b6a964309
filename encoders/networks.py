"""Networks: found and described by every family of models, and at work behind an encoder."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoders.base import Embeddings, EncoderInfo, Pixels, Preprocess, Run, unit_norm
from schemas.records import LEVELS, Level

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


class NetworkEncoder:
    """An `Encoder` over a network that a backend runs."""

    def __init__(self, info: EncoderInfo, run: Run) -> None:
        self.info = info
        self._run = run
        self._levels = tuple(level for level in LEVELS if level in info.dimensions)

    @property
    def batch(self) -> int | None:
        """As the backend wants it."""
        return getattr(self._run, "batch", None)

    def encode(self, pixels: Pixels) -> Embeddings:
        vectors = self._run(_checked(pixels, self.info))
        return dict(zip(self._levels, map(unit_norm, vectors), strict=True))


class NetworkPatchEncoder:
    """A `PatchEncoder` over a network that a backend runs."""

    def __init__(self, info: EncoderInfo, run: Run) -> None:
        self.info = info
        self._run = run

    @property
    def batch(self) -> int | None:
        """As the backend wants it."""
        return getattr(self._run, "batch", None)

    def encode_patches(self, pixels: Pixels) -> NDArray[np.float32]:
        (maps,) = self._run(_checked(pixels, self.info))
        return unit_norm(maps.transpose(0, 2, 3, 1))


def _checked(pixels: Pixels, info: EncoderInfo) -> Pixels:
    """The pixels, if they are what the encoder takes. Raises ValueError."""
    size = info.preprocess.size
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
        raise ValueError(
            f"{info.name} takes uint8 (n, {size}, {size}, 3), not {pixels.dtype} {pixels.shape}"
        )
    return pixels


def first_line(error: BaseException) -> str:
    """What an error of a library says, without its pages of context."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    # TorchScript begins with where it was, and ends with what happened
    return lines[-1 if "TorchScript interpreter" in lines[0] else 0]


def sha256_of_files(paths: Iterable[Path], also: str = "") -> str:
    """Of one file its SHA-256 in hex; of several, or with more, the SHA-256 of theirs in order.

    also: what else makes other vectors of these files.
    """
    digests = [_file_sha256(path, path.stat().st_mtime_ns) for path in paths]
    if len(digests) == 1 and not also:
        return digests[0]
    return hashlib.sha256("".join([*digests, also]).encode()).hexdigest()


@functools.lru_cache(maxsize=64)
def _file_sha256(path: Path, modified: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
