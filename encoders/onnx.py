"""ONNX models, run by ONNX Runtime on a CPU or a GPU, in the precision that they were saved in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from encoders.base import EncoderInfo, Pixels, Run, Vectors, batches
from encoders.networks import sha256_of_files
from encoders.sidecar import Sidecar, find_model
from schemas.errors import EncoderError
from schemas.records import Level

_BATCH = 8


def describe(target: str) -> EncoderInfo:
    """Loads the model and runs one black image: the file may leave its lengths open."""
    path, sidecar = find_model(target)
    run = _runner(path, sidecar, ["CPUExecutionProvider"], threads=1)
    black = np.zeros((1, sidecar.size, sidecar.size, 3), np.uint8)
    dimensions: dict[Level, int] = {
        level: vectors.shape[1]
        for (level, _), vectors in zip(sidecar.outputs, run(black), strict=True)
    }
    return EncoderInfo(
        name=f"onnx:{path.stem}",
        dimensions=dimensions,
        preprocess=sidecar.preprocess,
        backend="onnx",
        precision="fp32",
        weights_sha256=sha256_of_files([path]),
    )


def start(target: str, *, device: str, threads: int) -> Run:
    """device: `cpu` or `cuda:N`, the latter where ONNX Runtime was built for it."""
    path, sidecar = find_model(target)
    providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
    if device != "cpu" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.partition(":")[2]}))
    return _runner(path, sidecar, providers, threads)


def _runner(path: Path, sidecar: Sidecar, providers: list, threads: int) -> Run:  # type: ignore[type-arg]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers)
    except Exception as error:
        raise EncoderError(f"model 'onnx:{path}' cannot be loaded: {error}") from error
    images, *others = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    try:
        chosen = [names[at] if isinstance(at, int) else at for _, at in sidecar.outputs]
    except IndexError:
        chosen = [""]
    if others or not set(chosen) <= set(names):
        raise EncoderError(
            f"model 'onnx:{path}' has the inputs {[i.name for i in session.get_inputs()]} and the "
            f"outputs {names}; it must have one input, and the outputs that its YAML names"
        )
    batch = images.shape[0] if isinstance(images.shape[0], int) else None
    mean = np.array(sidecar.mean, np.float32) * 255
    std = np.array(sidecar.std, np.float32) * 255

    def run(pixels: Pixels) -> Vectors:
        parts = []
        for chunk, wanted in batches(pixels, batch or _BATCH, exact=batch is not None):
            x = ((chunk.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2)
            outputs = session.run(chosen, {images.name: np.ascontiguousarray(x)})
            parts.append([_pooled(output)[:wanted] for output in outputs])
        return [np.concatenate(level) for level in zip(*parts, strict=True)]

    return run


def _pooled(output: NDArray[np.floating]) -> NDArray[np.float32]:
    """Maps (n, d, h, w) and tokens (n, t, d) to their mean (n, d)."""
    if output.ndim == 4:
        output = output.mean((2, 3))
    elif output.ndim == 3:
        output = output.mean(1)
    return output.astype(np.float32)
