"""Models that people export themselves: TorchScript and torch.export, with a YAML beside each."""

from __future__ import annotations

import functools
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from encoders import programs
from encoders.networks import Network, first_line, sha256_of_files
from encoders.sidecar import Output, find_model
from schemas.errors import EncoderError


def find_torchscript(target: str) -> Network:
    """A file that `torch.jit.save` wrote, and the YAML beside it."""
    return _network(target, _load_torchscript)


def find_exported(target: str) -> Network:
    """A `.pt2` that `torch.export.save` wrote, and the YAML beside it."""
    return _network(target, _load_exported)


class Chosen(nn.Module):
    """A person's model, giving only the outputs that are levels.

    batch: the number of images that the model was exported for, or None where any will do.
    """

    def __init__(self, model: nn.Module, outputs: Sequence[Output], batch: int | None) -> None:
        super().__init__()
        self.model = model
        self.outputs = tuple(outputs)
        self.batch = batch

    def train(self, mode: bool = True) -> Chosen:
        """Nothing: it was saved for inference, and an exported program refuses to change."""
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        given = self.given(x)
        return tuple(cast(Any, given)[output] for output in self.outputs)

    def given(self, x: Tensor) -> Sequence[Tensor] | Mapping[Output, Tensor]:
        """All outputs of the model."""
        given: Tensor | Sequence[Tensor] | Mapping[Output, Tensor] = self.model(x)
        return (given,) if isinstance(given, Tensor) else given


Load = Callable[[Path], tuple[nn.Module, int | None]]


def _network(target: str, load: Load) -> Network:
    path, sidecar = find_model(target)
    patches = sidecar.patches
    outputs = tuple(output for _, output in sidecar.outputs)
    everything = outputs if patches is None else (*outputs, patches)
    sha256 = sha256_of_files([path], sidecar.choice)
    shapes = _shapes(path, load, everything, sidecar.size, sha256)
    if patches is not None and len(shapes[-1]) != 4:
        raise EncoderError(
            f"model {target!r} gives {shapes[-1]} as patches; its YAML must name a map (n, d, h, w)"
        )
    return Network(
        dimensions={
            level: shape[-1 if len(shape) < 4 else 1]
            for (level, _), shape in zip(sidecar.outputs, shapes, strict=False)
        },
        preprocess=sidecar.preprocess,
        weights_sha256=sha256,
        build=lambda: _choose(path, load, outputs),
        build_patches=None if patches is None else lambda: _choose(path, load, (patches,)),
    )


def _choose(path: Path, load: Load, outputs: Sequence[Output]) -> Chosen:
    if not zipfile.is_zipfile(path):
        raise EncoderError(f"model {str(path)!r} cannot be loaded: it is no archive of torch")
    try:
        model, batch = load(path)
    except EncoderError:
        raise
    except Exception as error:  # of torch, which has no error of its own for a broken file
        raise EncoderError(f"model {str(path)!r} cannot be loaded: {first_line(error)}") from error
    return Chosen(model, outputs, batch)


@functools.lru_cache(maxsize=8)
def _shapes(
    path: Path, load: Load, outputs: tuple[Output, ...], size: int, sha256: str
) -> list[tuple[int, ...]]:
    """Of the outputs for a black image: the file does not say. A job asks for them often."""
    model = _choose(path, load, outputs)
    try:
        with torch.inference_mode():
            given = model.given(torch.zeros(model.batch or 1, 3, size, size))
        there = [*given] if isinstance(given, Mapping) else [*range(len(given))]
    except Exception as error:  # of the person's own model
        raise EncoderError(
            f"model {str(path)!r} does not fit its YAML (size {size}): {first_line(error)}"
        ) from error
    shapes = []
    for output in outputs:
        try:
            shapes.append(tuple(cast(Any, given)[output].shape))
        except (LookupError, TypeError, AttributeError):
            raise EncoderError(
                f"model {str(path)!r} gives no tensor {output!r}, which its YAML names; "
                f"its outputs are {there}"
            ) from None
    return shapes


def _load_torchscript(path: Path) -> tuple[nn.Module, None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
        return torch.jit.load(path, map_location="cpu"), None


def _load_exported(path: Path) -> tuple[nn.Module, int | None]:
    program = programs.load(path)
    (images,) = program.graph_signature.user_inputs
    shapes = {
        node.name: node.meta["val"].shape
        for node in program.graph.nodes
        if node.op == "placeholder"
    }
    batch = shapes[images][0]
    return program.module(), batch if isinstance(batch, int) else None
