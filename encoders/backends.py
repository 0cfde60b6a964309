"""Runs a network on a CPU: through OpenVINO where it is installed, in torch otherwise.

Both take the same torch module, pixels in and one vector per level out, so that the weights and
the arithmetic are written once. `encoders.cuda` runs it on a GPU.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from encoders.base import Pixels, Precision, Preprocess, Run, Vectors, batches
from schemas.errors import EncoderError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CPU_BATCH = 4
"""Images that a CPU takes at once: larger batches leave its caches and are slower."""


class PixelsToVectors(nn.Module):
    """uint8 (n, size, size, 3) -> float32, a tuple as `encoders.networks.Network` says.

    pooled: maps and tokens are averaged to (n, d); otherwise they stay as the body gives them.
    """

    def __init__(self, body: nn.Module, preprocess: Preprocess, *, pooled: bool = True) -> None:
        super().__init__()
        self.body = body
        self.pooled = pooled
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1) * 255)

    @property
    def batch(self) -> int | None:
        """The number of images that the body insists on, if it does."""
        return cast(int | None, getattr(self.body, "batch", None))

    def normalised(self, pixels: Tensor) -> Tensor:
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        levels = self.body(self.normalised(pixels))
        if not self.pooled:
            return tuple(level.float() for level in levels)
        spatial = {4: (2, 3), 3: (1,)}
        return tuple(
            level.float().mean(spatial[level.ndim]) if level.ndim > 2 else level.float()
            for level in levels
        )


def moved(network: PixelsToVectors, device: str) -> PixelsToVectors:
    """The network on a device; with it the constants of an exported graph, which `to` leaves.

    The graph's checks of what its tensors are hold for the device and the precision that it was
    exported with, and go.
    """
    checks = torch.ops.aten._assert_tensor_metadata.default
    for graph in (each for each in network.modules() if isinstance(each, torch.fx.GraphModule)):
        for part in graph.modules():
            for name, value in list(vars(part).items()):
                if isinstance(value, Tensor):
                    setattr(part, name, value.to(device))
        for node in list(graph.graph.nodes):
            if node.target is checks:
                graph.graph.erase_node(node)
            elif "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": torch.device(device)}
            elif node.target is torch.ops.aten.to.device:
                node.args = (node.args[0], torch.device(device), *node.args[2:])
        graph.recompile()
    return network.to(device)


def torch_cpu(
    network: PixelsToVectors,
    size: int,
    precision: Precision,
    threads: int,
    *,
    compile_: bool = False,
) -> Run:
    """`threads` holds for the whole process: torch has one setting for all callers.

    compile_: build it before the first image comes. Raises EncoderError as `building` does.
    """
    torch.set_num_threads(threads)
    network = moved(network.eval().requires_grad_(False), "cpu")
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    autocast = torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32")
    # A compiled network is built anew for every other number of images.
    batch, exact = network.batch or CPU_BATCH, compile_ or network.batch is not None
    forward = torch.compile(network) if compile_ else network

    def run(pixels: Pixels) -> Vectors:
        parts = []
        pixels = np.require(pixels, requirements=["C", "W"])
        with torch.inference_mode(), autocast:
            for chunk, wanted in batches(pixels, batch, exact=exact):
                parts.append([level[:wanted] for level in forward(torch.from_numpy(chunk))])
        return [torch.cat(level).numpy() for level in zip(*parts, strict=True)]

    if compile_:
        with building():
            run(np.zeros((batch, size, size, 3), np.uint8))
    return run


@contextmanager
def building() -> Iterator[None]:
    """While torch.compile builds: EncoderError for what it cannot build, or builds with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about itself
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import InductorError

        try:
            yield
        except (TorchDynamoException, InductorError) as error:
            first = str(error).strip().splitlines()[0]
            raise EncoderError(
                f"torch.compile failed ({first}); it needs a C++ compiler, such as the package "
                "g++, and on a GPU Triton: install these, or set 'compile: false'"
            ) from error


def openvino_cpu(
    network: PixelsToVectors, size: int, precision: Precision, threads: int, workers: int
) -> Run:
    """One compiled model for the process, a stream and an infer request for each calling thread."""
    # Converting a model would report it to the vendor; without this package it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    batch = network.batch
    example = torch.zeros(batch or 2, size, size, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's, about its own internals
        # torch would trace a second time to compare, which takes longer than all the rest.
        traced = TorchScriptPythonDecoder(
            network.eval(), example_input=example, trace_kwargs={"check_trace": False}
        )
        model = openvino.convert_model(traced, example_input=example)
    model.reshape([batch or -1, size, size, 3])
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
        pixels = np.ascontiguousarray(pixels)
        for chunk, wanted in batches(pixels, batch or CPU_BATCH, exact=batch is not None):
            results = local.request.infer([chunk], share_inputs=True)
            parts.append([results[output][:wanted] for output in compiled.outputs])
        return [np.concatenate(level) for level in zip(*parts, strict=True)]

    return run
