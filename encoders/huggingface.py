"""Vision models of `transformers`: ViT, DINOv2, DINOv3, CLIP, SigLIP, ConvNeXt, ResNet and kin.

Only safetensors are read, and no code of a model's own runs unless the settings allow it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import cached_file

from encoders.base import Interpolation, Preprocess, unit_norm
from encoders.networks import Network, sha256_of_files
from schemas.errors import EncoderError
from schemas.records import LEVELS

# the numbers that Pillow gives its filters, as preprocessor_config.json holds them
_INTERPOLATION: Mapping[int, Interpolation] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def find(target: str, *, trust_remote_code: bool = False) -> Network:
    """ORG/NAME on the hub, or a folder that `save_pretrained` wrote.

    Raises EncoderError where there is no such model, or no safetensors.
    """
    preprocess = _preprocess(target)
    weights = _weights(target)
    with torch.device("meta"):
        black = torch.zeros(1, 3, preprocess.size, preprocess.size)
        levels = Levels(_sketch(target, trust_remote_code))(black)
    return Network(
        dimensions={
            name: level.shape[-1 if level.ndim < 4 else 1]
            for name, level in zip(LEVELS, levels, strict=True)
        },
        preprocess=preprocess,
        weights_sha256=sha256_of_files(weights),
        build=lambda: Levels(_load(target, trust_remote_code)),
        build_patches=lambda: Patches(_load(target, trust_remote_code)),
    )


class Levels(nn.Module):
    """Hidden states at a quarter and half of the depth, and the vector that the family is known by.

    low, mid: patch tokens (n, t, d), or maps (n, d, h, w). high (n, d): the projection that a
    CLIP-like model compares with text; the pooled map of a convolutional one; else the CLS token
    after the last norm; else the mean of the patches.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        output = _vision(self.model, x)
        hidden = output.hidden_states
        depth = len(hidden) - 1
        low, mid = hidden[round(depth / 4)], hidden[round(depth / 2)]
        if hidden[-1].ndim == 4:
            return low, mid, output.pooler_output.flatten(1)
        prefix = _prefix_tokens(self.model, hidden[-1].shape[1], x.shape[-1])
        if _has_text(self.model):
            high = output.pooler_output
        elif prefix:
            high = output.last_hidden_state[:, 0]
        else:
            high = output.last_hidden_state.mean(1)
        return low[:, prefix:], mid[:, prefix:], high


class Patches(nn.Module):
    """The patch tokens after the last norm, or the map at half of the depth, as (n, d, h, w)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor]:
        output = _vision(self.model, x)
        hidden = output.hidden_states
        if hidden[-1].ndim == 4:
            return (hidden[round((len(hidden) - 1) / 2)],)
        tokens = output.last_hidden_state
        tokens = tokens[:, _prefix_tokens(self.model, tokens.shape[1], x.shape[-1]) :]
        side = math.isqrt(int(tokens.shape[1]))
        return (tokens.transpose(1, 2).unflatten(2, (side, side)),)


class TextTower:
    """The text half of a CLIP-like model: its vectors compare with the `high` level of images."""

    def __init__(self, target: str, *, trust_remote_code: bool = False) -> None:
        self._model = _load(target, trust_remote_code)
        self._tokenizer = AutoTokenizer.from_pretrained(target, trust_remote_code=trust_remote_code)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (n, d) of unit L2 norm."""
        # SigLIP was trained on texts padded to their full length; others do not mind
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, return_tensors="pt"
        )
        with torch.inference_mode():
            output = self._model.get_text_features(**tokens)
        return unit_norm(output.pooler_output.float().numpy())


def embeds_text(target: str, *, trust_remote_code: bool = False) -> bool:
    """Whether the model is CLIP-like. Reads its configuration only."""
    return _has_text(_sketch(target, trust_remote_code))


def _has_text(model: nn.Module) -> bool:
    return hasattr(model, "get_text_features")


def _vision(model: nn.Module, x: Tensor) -> Any:
    forward = model.get_image_features if _has_text(model) else model
    return cast(Any, forward)(pixel_values=x, output_hidden_states=True, return_dict=True)


def _prefix_tokens(model: nn.Module, tokens: int, size: int) -> int:
    """CLS and register tokens: what is there beyond the square of patches."""
    config = cast(Any, model).config
    patch = getattr(getattr(config, "vision_config", config), "patch_size", None)
    return 0 if patch is None else int(tokens) - (int(size) // patch) ** 2


def _load(target: str, trust_remote_code: bool) -> Any:
    model = AutoModel.from_pretrained(
        target, use_safetensors=True, trust_remote_code=trust_remote_code
    )
    return model.eval()


def _sketch(target: str, trust_remote_code: bool) -> Any:
    """The model without its weights: on the meta device it has shapes and costs next to nothing."""
    trust = {"trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(target, **trust)
        with torch.device("meta"):
            return AutoModel.from_config(config, **trust).eval()
    except (OSError, ValueError) as error:
        raise EncoderError(f"model 'hf:{target}' cannot be read: {_one_line(error)}") from error


def _file(target: str, name: str) -> Path | None:
    try:
        found = cached_file(
            target,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError as error:
        raise EncoderError(f"model 'hf:{target}' cannot be read: {_one_line(error)}") from error
    return Path(found) if found else None


def _weights(target: str) -> list[Path]:
    single = _file(target, "model.safetensors")
    if single:
        return [single]
    index = _file(target, "model.safetensors.index.json")
    if not index:
        raise EncoderError(
            f"model 'hf:{target}' has no safetensors, the only weights that are read; "
            "save it again with save_pretrained of transformers 5"
        )
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    shards = [_file(target, name) for name in names]
    return [shard for shard in shards if shard]


def _preprocess(target: str) -> Preprocess:
    """From the model's own preprocessor_config.json."""
    path = _file(target, "preprocessor_config.json")
    if path is None:
        raise EncoderError(
            f"model 'hf:{target}' has no preprocessor_config.json, or the hub cannot be reached; "
            "give hf: a folder that holds the model"
        )
    config = json.loads(path.read_text())
    size, crop = _side(config["size"]), None
    stretched = isinstance(config["size"], dict) and "height" in config["size"]
    if config.get("do_center_crop"):
        resized, size = size, _side(config["crop_size"])
        crop = size / resized
    elif not stretched:
        # ConvNeXt resizes the shorter side to size / crop_pct below 384 pixels, then crops
        crop = config.get("crop_pct", 1.0) if size < 384 else None
    normal = config.get("do_normalize", True)
    return Preprocess(
        size=size,
        mean=tuple(config.get("image_mean", _IMAGENET_MEAN)) if normal else (0.0,) * 3,
        std=tuple(config.get("image_std", _IMAGENET_STD)) if normal else (1.0,) * 3,
        interpolation=_INTERPOLATION.get(config.get("resample", 3), "bicubic"),
        crop=crop,
    )


def _side(size: int | Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    sides = set(size.values())
    if len(sides) != 1:
        raise EncoderError(f"images of {dict(size)} are not square; only square inputs are taken")
    return sides.pop()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
