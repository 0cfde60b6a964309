"""Models of `timm`: thousands of convolutional networks and transformers, weights from the hub."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from encoders.base import Interpolation, Preprocess
from encoders.networks import Network
from schemas.errors import EncoderError
from schemas.records import LEVELS


def find(target: str) -> Network:
    """A name as `timm.list_models` gives it, or `local-dir:PATH` that timm saved.

    Raises EncoderError where timm does not know the name or cannot fetch the weights.
    """
    try:
        model = timm.create_model(target, pretrained=True, num_classes=0).eval()
    except (RuntimeError, ValueError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise EncoderError(f"model 'timm:{target}' cannot be loaded: {first}") from error
    config = timm.data.resolve_model_data_config(model)
    size = int(config["input_size"][-1])
    body = Levels(model)
    with torch.inference_mode():
        levels = body(torch.zeros(1, 3, size, size))
    return Network(
        dimensions={name: level.shape[1] for name, level in zip(LEVELS, levels, strict=True)},
        preprocess=Preprocess(
            size=size,
            mean=config["mean"],
            std=config["std"],
            interpolation=cast(Interpolation, config["interpolation"]),
            crop=None if config["crop_mode"] == "squash" else float(config["crop_pct"]),
        ),
        weights_sha256=_sha256_of_state(model),
        build=lambda: body,
        build_patches=lambda: Patches(model),
    )


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
