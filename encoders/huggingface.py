"""Vision models of `transformers`: ViT, DINOv2, DINOv3, CLIP, SigLIP, ConvNeXt, ResNet and kin.

Only safetensors are read, and no code of a model's own runs unless the settings allow it.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import cached_file, logging

from encoders.base import Preprocess, unit_norm
from encoders.networks import Network, sha256_of_files
from encoders.processors import preprocess
from schemas.errors import EncoderError
from schemas.records import LEVELS, Level

# it draws bars and tables on the terminal; what matters of them is raised here
logging.set_verbosity_error()
logging.disable_progress_bar()

_UNUSED = re.compile(r"pooler\.")
"""Tensors that a checkpoint may lack: a head over the CLS token, which no level passes."""

_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""What may be a name on the hub; anything else is a path."""


def find(target: str, *, trust_remote_code: bool = False) -> Network:
    """ORG/NAME on the hub, or a folder that `save_pretrained` wrote.

    Raises EncoderError where there is no such model, or no safetensors, or where its images or
    its levels are not understood.
    """
    with _naming(target):
        config = _config(target)
        processor = json.dumps(_processor_config(target))
        known = [*_weights(target), config, *config.parent.glob("*.py")]
        stamp = sha256_of_files(sorted(known))
        found = _sketched(target, trust_remote_code, processor, stamp)
    return Network(
        dimensions=found.dimensions,
        preprocess=found.preprocess,
        weights_sha256=sha256_of_files([*_weights(target), *found.beside]),
        build=lambda: Levels(_load(target, trust_remote_code)),
        build_patches=lambda: Patches(_load(target, trust_remote_code)),
    )


@dataclass(frozen=True, slots=True)
class _Sketched:
    """What a model tells without its weights. beside: files that make it another network."""

    preprocess: Preprocess
    dimensions: dict[Level, int]
    beside: list[Path]


@functools.lru_cache(maxsize=4)
def _sketched(target: str, trust_remote_code: bool, processor: str, stamp: str) -> _Sketched:
    """A job asks for it often; the stamp tells when its files have changed."""
    sketch = _sketch(target, trust_remote_code)
    wanted = preprocess(json.loads(processor), sketch.config.model_type)
    return _Sketched(wanted, _dimensions(sketch, wanted), _files_of_the_config(target, sketch))


class Levels(nn.Module):
    """Hidden states at a quarter and half of the depth, and the vector that the family is known by.

    low, mid: patch tokens (n, t, d), or maps (n, d, h, w). high (n, d): the projection that a
    CLIP-like model compares with text; the pooled map of a convolutional or hierarchical one; the
    pooled tokens of the vision half of a CLIP-like one; else the CLS token after the last norm;
    else the mean of the patches.
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
        if prefix < 0:
            return low, mid, _pooled(output)
        if _has_text(self.model) or _is_half(self.model):
            high = _pooled(output)
        elif prefix:
            high = output.last_hidden_state[:, 0]
        else:
            high = output.last_hidden_state.mean(1)
        return low[:, prefix:], mid[:, prefix:], high


class Patches(nn.Module):
    """The patch tokens after the last norm, as (n, d, h, w).

    Of a convolutional or hierarchical model the map at half of the depth.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor]:
        output = _vision(self.model, x)
        hidden = output.hidden_states
        if hidden[-1].ndim == 4:
            return (hidden[round((len(hidden) - 1) / 2)],)
        tokens = output.last_hidden_state
        prefix = _prefix_tokens(self.model, tokens.shape[1], x.shape[-1])
        tokens = tokens[:, prefix:] if prefix >= 0 else hidden[round((len(hidden) - 1) / 2)]
        side = math.isqrt(int(tokens.shape[1]))
        return (tokens.transpose(1, 2).unflatten(2, (side, side)),)


class TextTower:
    """The text half of a CLIP-like model: its vectors compare with the `high` level of images."""

    def __init__(self, target: str, *, trust_remote_code: bool = False) -> None:
        self._model = _load(target, trust_remote_code)
        with _naming(target):
            self._tokenizer = AutoTokenizer.from_pretrained(
                target, trust_remote_code=trust_remote_code
            )
        longest = self._model.config.text_config.max_position_embeddings
        self._length = min(self._tokenizer.model_max_length, longest)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (n, d) of unit L2 norm."""
        # SigLIP was trained on texts padded to their full length; others do not mind
        tokens = self._tokenizer(
            list(texts),
            padding="max_length",
            max_length=self._length,
            truncation=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            output = self._model.get_text_features(**tokens)
        return unit_norm(output.pooler_output.float().numpy())


@functools.lru_cache(maxsize=1)
def text_tower(target: str, *, trust_remote_code: bool = False) -> TextTower:
    """The last one is kept: a person asks more than once."""
    return TextTower(target, trust_remote_code=trust_remote_code)


def embeds_text(target: str, *, trust_remote_code: bool = False) -> bool:
    """Whether the model is CLIP-like. Reads its configuration only."""
    with _naming(target):
        return _has_text(_sketch(target, trust_remote_code))


@contextmanager
def _naming(target: str) -> Iterator[None]:
    """One line with the name of the model, whatever transformers raises: it has no error of own."""
    try:
        yield
    except EncoderError as error:
        raise EncoderError(f"model 'hf:{target}' cannot be used: {error}") from error
    except Exception as error:
        raise EncoderError(f"model 'hf:{target}' cannot be used: {_one_line(error)}") from error


def _has_text(model: nn.Module) -> bool:
    return hasattr(model, "get_text_features")


def _vision(model: nn.Module, x: Tensor) -> Any:
    forward = model.get_image_features if _has_text(model) else model
    return cast(Any, forward)(pixel_values=x, output_hidden_states=True, return_dict=True)


def _is_half(model: nn.Module) -> bool:
    """Whether it is the vision half of a CLIP-like model, as `clip_vision_model`."""
    return bool(cast(Any, model).config.model_type.endswith("_vision_model"))


def _pooled(output: Any) -> Tensor:
    pooled: Tensor | None = getattr(output, "pooler_output", None)
    if pooled is None:
        raise EncoderError("it hides or merges patches and pools none of them: no vector is known")
    return pooled


def _prefix_tokens(model: nn.Module, tokens: int, size: int) -> int:
    """CLS and register tokens: what is there beyond the square of patches.

    Negative for a hierarchical model, which merges patches on its way.
    """
    config = cast(Any, model).config
    patch = getattr(getattr(config, "vision_config", config), "patch_size", None)
    if isinstance(patch, Sequence):
        patch = patch[0]
    return 0 if patch is None else int(tokens) - (int(size) // patch) ** 2


def _dimensions(sketch: Any, preprocess: Preprocess) -> dict[Level, int]:
    with torch.device("meta"):
        levels = Levels(sketch)(torch.zeros(1, 3, preprocess.size, preprocess.size))
    return {
        name: level.shape[-1 if level.ndim < 4 else 1]
        for name, level in zip(LEVELS, levels, strict=True)
    }


def _load(target: str, trust_remote_code: bool) -> Any:
    """Raises EncoderError where the file lacks weights, which would be random then."""
    with _naming(target):
        model, loaded = AutoModel.from_pretrained(
            target,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            dtype=torch.float32,  # else that of the file, whatever precision was asked for
            output_loading_info=True,
        )
        missing = sorted(name for name in loaded["missing_keys"] if not _UNUSED.match(name))
        if missing:
            raise EncoderError(
                f"it lacks {len(missing)} of its weights, {missing[0]!r} for one; "
                "save it again, whole, with save_pretrained"
            )
    return model.eval()


def _sketch(target: str, trust_remote_code: bool) -> Any:
    """The model without its weights: on the meta device it has shapes and costs next to nothing."""
    trust = {"trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(target, **trust)
    with torch.device("meta"):
        return AutoModel.from_config(config, **trust).eval()


def _file(target: str, name: str) -> Path | None:
    found = cached_file(
        target,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None


def _config(target: str) -> Path:
    """What all models have: looked for first, as each file waits for a hub that does not answer."""
    if not Path(target).is_dir() and not _REPOSITORY.fullmatch(target):
        raise EncoderError("there is no such folder; give hf: one with a model, or ORG/NAME")
    found = _file(target, "config.json")
    if found is None:
        where = "it has" if Path(target).is_dir() else "the hub cannot be reached, or has"
        raise EncoderError(f"{where} no config.json; give hf: a folder with a model of images")
    return found


def _weights(target: str) -> list[Path]:
    single = _file(target, "model.safetensors")
    if single:
        return [single]
    index = _file(target, "model.safetensors.index.json")
    if not index:
        raise EncoderError(
            "it has no safetensors, the only weights that are read; "
            "save it again with save_pretrained of transformers 5"
        )
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    shards = [_file(target, name) for name in names]
    return [shard for shard in shards if shard]


def _files_of_the_config(target: str, sketch: Any) -> list[Path]:
    """What makes another network of the same weights: config.json, and code of the model's own."""
    own = type(sketch).__module__.startswith("transformers_modules.")
    code = sorted(Path(inspect.getfile(type(sketch))).parent.glob("*.py")) if own else []
    return [_config(target), *code]


def _processor_config(target: str) -> dict[str, Any]:
    """How its images are prepared. CLIP-like models of transformers 5 have it in another file."""
    together = _file(target, "processor_config.json")
    if together:
        config = json.loads(together.read_text())
        if "image_processor" in config:
            return cast(dict[str, Any], config["image_processor"])
    path = _file(target, "preprocessor_config.json")
    if path is None:
        raise EncoderError(
            "it has no preprocessor_config.json, or the hub cannot be reached; "
            "give hf: a folder that holds a model of images"
        )
    return cast(dict[str, Any], json.loads(path.read_text()))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
