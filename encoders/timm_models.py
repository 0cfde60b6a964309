"""Models of `timm`: thousands of convolutional networks and transformers, weights from the hub."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import timm
import torch
from torch import Tensor, nn

from encoders.base import Interpolation, Preprocess
from encoders.networks import Network, first_line
from schemas.errors import EncoderError
from schemas.records import LEVELS, Level


def find(target: str) -> Network:
    """A name as `timm.list_models` gives it, or `local-dir:PATH` that timm saved.

    Raises EncoderError where timm does not know the name or cannot fetch the weights, or prepares
    images in a way that is not known here.
    """
    folder = Path(target.partition(":")[2])
    files = sorted(folder.iterdir()) if folder.is_dir() and folder.name else []
    preprocess, dimensions, sha256 = _loaded(
        target, tuple((file, file.stat().st_mtime_ns) for file in files)
    )
    return Network(
        dimensions=dimensions,
        preprocess=preprocess,
        weights_sha256=sha256,
        build=lambda: Levels(_load(target)),
        build_patches=lambda: Patches(_load(target)),
    )


def _load(target: str) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(target, pretrained=True, num_classes=0)
    except Exception as error:  # timm and its hub raise whatever they do
        raise EncoderError(
            f"model 'timm:{target}' cannot be loaded: {first_line(error)}"
        ) from error
    return model.eval()


@functools.lru_cache(maxsize=4)
def _loaded(
    target: str, stamp: tuple[tuple[Path, int], ...]
) -> tuple[Preprocess, Mapping[Level, int], str]:
    """What the identity needs, which a job asks for often; the stamp tells of other files."""
    model = _load(target)
    config = timm.data.resolve_model_data_config(model)
    if config["interpolation"] not in get_args(Interpolation):
        raise EncoderError(
            f"model 'timm:{target}' resizes by {config['interpolation']!r}; longtail resizes by "
            f"{', '.join(get_args(Interpolation))}"
        )
    size = int(config["input_size"][-1])
    with torch.inference_mode():
        levels = Levels(model)(torch.zeros(1, 3, size, size))
    preprocess = Preprocess(
        size=size,
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
        crop=None if config["crop_mode"] == "squash" else float(config["crop_pct"]),
    )
    dimensions = {name: level.shape[1] for name, level in zip(LEVELS, levels, strict=True)}
    return preprocess, dimensions, _sha256_of_state(model)


class Levels(nn.Module):
    """The maps (n, d, h, w) at a quarter and half of the depth, the pooled features (n, d)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        model = cast(Any, self.model)
        last, maps = model.forward_intermediates(x, output_fmt="NCHW")
        high = model.forward_head(last, pre_logits=True)
        return maps[len(maps) // 4], maps[len(maps) // 2], high


class Patches(nn.Module):
    """The map at half of the depth of a convolutional network, the last one of a transformer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor]:
        _, maps = cast(Any, self.model).forward_intermediates(x, norm=True, output_fmt="NCHW")
        constant_side = maps[0].shape[-1] == maps[-1].shape[-1]
        return (maps[-1 if constant_side else len(maps) // 2],)


def _sha256_of_state(model: nn.Module) -> str:
    """Over the names and values of the weights: timm does not tell which file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
