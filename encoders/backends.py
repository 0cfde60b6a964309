"""Runs a network on what the machine has: torch on a GPU, OpenVINO or torch on a CPU.

All take the same torch module, pixels in and one vector per level out, so that the
weights and the arithmetic are written once.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoders.base import Pixels, Precision, Preprocess

Vectors = list[NDArray[np.float32]]
"""float32 (n, d) for each level, lowest first."""

Run = Callable[[Pixels], Vectors]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CPU_BATCH = 4
"""Images that a CPU takes at once: larger batches leave its caches and are slower."""


class PixelsToVectors(nn.Module):
    """uint8 (n, size, size, 3) -> a tuple of float32 (n, d).

    `body` takes normalised float (n, 3, size, size) and gives, per level, a map (n, d, h, w),
    which is averaged over the image, or a vector (n, d).
    """

    def __init__(self, body: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.body = body
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1) * 255)

    def normalised(self, pixels: Tensor) -> Tensor:
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            level.float().mean((2, 3)) if level.ndim == 4 else level.float()
            for level in self.body(self.normalised(pixels))
        )


def torch_cpu(network: nn.Module, precision: Precision, threads: int) -> Run:
    """`threads` holds for the whole process: torch has one setting for all callers."""
    torch.set_num_threads(threads)
    network = network.eval().requires_grad_(False)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(pixels: Pixels) -> Vectors:
        pixels = np.require(pixels, requirements=["C", "W"])
        with torch.inference_mode(), autocast("cpu", precision):
            parts = [
                network(torch.from_numpy(pixels[start : start + CPU_BATCH]))
                for start in range(0, len(pixels), CPU_BATCH)
            ]
        return [torch.cat(level).numpy() for level in zip(*parts, strict=True)]

    return run


def autocast(device: str, precision: Precision) -> AbstractContextManager[Any]:
    """Lower precision where it is safe, as torch judges; nothing at all for fp32."""
    return torch.autocast(device, _DTYPES[precision], enabled=precision != "fp32")


def openvino_cpu(
    network: nn.Module, size: int, precision: Precision, threads: int, workers: int
) -> Run:
    """One compiled model for the process, a stream and an infer request for each calling thread."""
    # Converting a model would report it to the vendor; without this package it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    example = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's, about its own internals
        model = openvino.convert_model(network.eval(), example_input=example)
    model.reshape([-1, size, size, 3])
    hints = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[precision],
        "INFERENCE_NUM_THREADS": threads * workers,
        "NUM_STREAMS": workers,
    }
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    local = threading.local()

    def run(pixels: Pixels) -> Vectors:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        parts = []
        for start in range(0, len(pixels), CPU_BATCH):
            chunk = np.ascontiguousarray(pixels[start : start + CPU_BATCH])
            results = local.request.infer([chunk], share_inputs=True)
            parts.append([results[output] for output in compiled.outputs])
        return [np.concatenate(level) for level in zip(*parts, strict=True)]

    return cast(Run, run)
