"""What an encoder is, to the rest of longtail: its identity and one method. Imports no network."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.records import Level

Interpolation = Literal["bicubic", "bilinear", "lanczos"]
Backend = Literal["torch", "cuda", "openvino", "onnx", "module"]
Precision = Literal["fp32", "bf16", "fp16"]

Pixels = NDArray[np.uint8]
"""uint8 (n, size, size, 3), RGB in [0, 255]."""

Vectors = list[NDArray[np.float32]]
"""float32 (n, d) for each level that a network has, lowest first."""

Run = Callable[[Pixels], Vectors]
"""A network that a backend has made ready; several threads may call it at once.

One that wants many images at once says how many by an attribute `batch`.
"""

Embeddings = dict[Level, NDArray[np.float32]]
"""float32 (n, d) of unit L2 norm for each level that the encoder has."""

DECODER = "turbojpeg-2x"
"""The way from bytes to pixels. Change the name whenever that way gives other pixels."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes the square of pixels that a network sees.

    size: side of the square, in pixels.
    mean, std: of red, green and blue, for pixel values scaled to [0, 1].
    crop: None stretches the whole image to the square, so that nothing at its border is lost;
        a fraction in (0, 1] keeps the aspect ratio and takes the central square whose side is
        that share of the image's shorter side, as classifiers are trained.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    crop: float | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells vectors apart: those whose fingerprints differ never meet.

    dimensions: length of the vector of each level that there is; `high` is always one of them.
    """

    name: str
    dimensions: Mapping[Level, int]

    @property
    def fingerprint(self) -> str:
        """SHA-256, 64 hex digits, over everything that changes the vectors."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """All of it, on one line; `identity_from_json` reads it back."""
        return json.dumps(asdict(self), sort_keys=True, default=dict)

    @property
    def id(self) -> str:
        """Readable and safe as a folder's name, `efficientnet-lite0-1f0c9a83b2d4` for one."""
        slug = re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-.")
        return f"{slug[-48:].lstrip('-.')}-{self.fingerprint[:12]}"

    def difference(self, other: Identity) -> str:
        """What keeps the vectors of two encoders apart: `precision bf16, not fp32` for one."""
        mine, theirs = asdict(self), asdict(other)
        return "; ".join(
            f"{key} {mine[key]}, not {theirs.get(key)}"
            for key in mine
            if mine[key] != theirs.get(key)
        )


@dataclass(frozen=True, slots=True)
class EncoderInfo(Identity):
    """The identity of an encoder: a network, and the way from bytes to what it sees.

    weights_sha256: of the file, or files, that hold the weights.
    """

    preprocess: Preprocess
    backend: Backend
    precision: Precision
    weights_sha256: str
    decoder: str = DECODER


def identity_from_json(text: str) -> Identity:
    """The inverse of `Identity.to_json`: of an encoder, or of vectors that came without one."""
    fields = json.loads(text)
    if "preprocess" not in fields:
        return Identity(**fields)
    preprocess = fields["preprocess"]
    for key in ("mean", "std"):
        preprocess[key] = tuple(preprocess[key])
    return EncoderInfo(**(fields | {"preprocess": Preprocess(**preprocess)}))


class Encoder(Protocol):
    """Turns pixels into embeddings. Several threads may call `encode` at once.

    One that runs on a GPU may have a number `batch`: so many images are then gathered for a call,
    and the next are decoded while it lasts.
    """

    @property
    def info(self) -> EncoderInfo: ...

    def encode(self, pixels: Pixels) -> Embeddings:
        """Embed uint8 (n, size, size, 3), n >= 1, for the `size` of `info.preprocess`."""
        ...


class PatchEncoder(Protocol):
    """Turns pixels into a grid of vectors, where small local defects show."""

    @property
    def info(self) -> EncoderInfo: ...

    def encode_patches(self, pixels: Pixels) -> NDArray[np.float32]:
        """float32 (n, h, w, d) of unit L2 norm, for uint8 (n, size, size, 3)."""
        ...


class TextEncoder(Protocol):
    """Embeds text where images of the same meaning lie, as CLIP-like models do."""

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (n, d) of unit L2 norm, to compare with the `high` level of images."""
        ...


def batch_of(encoder: Encoder | PatchEncoder) -> int | None:
    """How many images an encoder wants at once; None where it takes them as they come."""
    return getattr(encoder, "batch", None)


def batches(pixels: Pixels, size: int, *, exact: bool = False) -> Iterator[tuple[Pixels, int]]:
    """Parts of at most `size` images, each with how many count.

    exact: the last part is filled up, for a network that takes no other number.
    """
    for start in range(0, len(pixels), size):
        part = pixels[start : start + size]
        wanted = len(part)
        if exact and wanted < size:
            part = np.concatenate([part, np.repeat(part[-1:], size - wanted, axis=0)])
        yield part, wanted


def unit_norm(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Vectors (..., d) scaled to an L2 norm of 1 in fp32, whatever precision they came in."""
    rows = vectors.astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    return rows
