"""ONNX models, run by ONNX Runtime on a CPU or a GPU, in the precision that they were saved in."""

from __future__ import annotations

import functools
import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from encoders.base import EncoderInfo, Pixels, Precision, Preprocess, Run, Vectors, batches
from encoders.networks import first_line, sha256_of_files
from encoders.sidecar import Output, find_model
from schemas.errors import EncoderError
from schemas.records import Level

Outputs = tuple[tuple[Level, Output], ...]
Providers = list[str | tuple[str, dict[str, str]]]

_BATCH = 8
_CUDA = "CUDAExecutionProvider"
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x00-\x7f])")
"""Protobuf's way to write the key `location` and the length of its value, a file's name."""


def describe(target: str, device: str) -> EncoderInfo:
    """device: as in the settings. Raises EncoderError where the model or the GPU cannot be used."""
    if device.startswith("cuda") and _CUDA not in onnxruntime.get_available_providers():
        raise EncoderError(
            f"device {device!r} is not for ONNX Runtime here, which was built for the CPU; "
            "run: pip install onnxruntime-gpu, or set 'device: cpu'"
        )
    path, sidecar = find_model(target)
    if sidecar.patches is not None:
        raise EncoderError(
            f"model 'onnx:{path}' gives no patches, but its YAML says 'patches: "
            f"{sidecar.patches}'; leave that out, or give a torchscript: or export: model"
        )
    sha256 = sha256_of_files([path, *_external_data(path)], sidecar.choice)
    lengths, precision = _lengths(path, sidecar.preprocess, tuple(sidecar.outputs), sha256)
    return EncoderInfo(
        name=f"onnx:{path.stem}",
        dimensions={level: n for (level, _), n in zip(sidecar.outputs, lengths, strict=True)},
        preprocess=sidecar.preprocess,
        backend="onnx",
        precision=precision,
        weights_sha256=sha256,
    )


@functools.lru_cache(maxsize=8)
def _lengths(
    path: Path, preprocess: Preprocess, outputs: Outputs, sha256: str
) -> tuple[tuple[int, ...], Precision]:
    """Of the vectors for a black image: the file may leave them open. A job asks for them often."""
    session = _session(path, ["CPUExecutionProvider"], threads=1)
    run = _runner(session, path, preprocess, outputs)
    try:
        vectors = run(np.zeros((1, preprocess.size, preprocess.size, 3), np.uint8))
    except Exception as error:  # of ONNX Runtime, which has no class for them
        raise EncoderError(
            f"model 'onnx:{path}' does not fit its YAML (size {preprocess.size}): "
            f"{first_line(error)}"
        ) from error
    half = session.get_inputs()[0].type == "tensor(float16)"
    return tuple(each.shape[1] for each in vectors), "fp16" if half else "fp32"


def _external_data(path: Path) -> list[Path]:
    """The files that hold the weights, where the model's own does not."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        names = {data[at.end() : at.end() + at[1][0]] for at in _LOCATION.finditer(data)}
    files = [path.parent / name.decode(errors="replace") for name in sorted(names)]
    return [file for file in files if file.is_file()]


def start(target: str, *, device: str, threads: int) -> Run:
    """device: `cpu` or `cuda:N`, the latter where ONNX Runtime was built for it."""
    path, sidecar = find_model(target)
    providers: Providers = ["CPUExecutionProvider"]
    if device != "cpu" and _CUDA in onnxruntime.get_available_providers():
        # fp32 means fp32: convolutions in TF32 give other vectors
        options = {"device_id": device.partition(":")[2], "use_tf32": "0"}
        providers.insert(0, (_CUDA, options))
    session = _session(path, providers, threads)
    return _runner(session, path, sidecar.preprocess, tuple(sidecar.outputs))


def _session(path: Path, providers: Providers, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what it logs as an error is raised too
    try:
        return onnxruntime.InferenceSession(str(path), options, providers)
    except Exception as error:  # of ONNX Runtime, which has no class for them
        raise EncoderError(f"model 'onnx:{path}' cannot be loaded: {first_line(error)}") from error


def _runner(session: Any, path: Path, preprocess: Preprocess, outputs: Outputs) -> Run:
    images, *others = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    try:
        chosen = [names[at] if isinstance(at, int) else at for _, at in outputs]
    except IndexError:
        chosen = [""]
    if others or not set(chosen) <= set(names) or images.type not in _TYPES:
        inputs = {each.name: each.type for each in session.get_inputs()}
        raise EncoderError(
            f"model 'onnx:{path}' has the inputs {inputs} and the outputs {names}; it must have "
            f"one input, of {' or '.join(_TYPES)}, and the outputs that its YAML names"
        )
    batch = images.shape[0] if isinstance(images.shape[0], int) else None
    mean = np.array(preprocess.mean, np.float32) * 255
    std = np.array(preprocess.std, np.float32) * 255

    def run(pixels: Pixels) -> Vectors:
        parts = []
        for chunk, wanted in batches(pixels, batch or _BATCH, exact=batch is not None):
            x = ((chunk.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2)
            given = np.ascontiguousarray(x, _TYPES[images.type])
            results = session.run(chosen, {images.name: given})
            parts.append([_pooled(output)[:wanted] for output in results])
        return [np.concatenate(level) for level in zip(*parts, strict=True)]

    return run


def _pooled(output: NDArray[np.floating]) -> NDArray[np.float32]:
    """Maps (n, d, h, w) and tokens (n, t, d) to their mean (n, d)."""
    output = output.astype(np.float32)
    if output.ndim == 4:
        output = output.mean((2, 3))
    elif output.ndim == 3:
        output = output.mean(1)
    return output
