"""Checks of an installation: what is wrong, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtail.settings import Settings
from schemas.errors import LongtailError

_PACKAGES = ("apache-beam", "torch", "pyarrow", "great-expectations", "deltalake", "numpy")
_LEAST_FREE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Check:
    """One line of the doctor's answer; `remedy` is empty where nothing is wrong."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


class _UnwellError(Exception):
    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.found, self.remedy = found, remedy


def examine(folder: Path, settings: Settings) -> Iterator[Check]:
    """Run every check, the slow ones last. `folder` is the workspace or where it would be."""
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("python", platform.python_version),
        ("packages", _packages),
        ("disk", lambda: _disk(folder)),
        ("write access", lambda: _write(folder)),
        ("faiss", _faiss),
        ("encoder", lambda: _encoder(settings)),
        ("runner", lambda: _runner(settings.runner, settings.runner_options)),
    )
    for name, check in checks:
        try:
            yield Check(name, True, check())
        except _UnwellError as error:
            yield Check(name, False, error.found, error.remedy)
        except LongtailError as error:
            yield Check(name, False, str(error), "see the message")
        except Exception as error:  # noqa: BLE001 - a doctor reports whatever is broken
            yield Check(name, False, f"{type(error).__name__}: {error}", "reinstall longtail")


def _packages() -> str:
    missing, found = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise _UnwellError(
            f"missing: {', '.join(missing)}", "pip install -c constraints.txt longtail"
        )
    return ", ".join(found)


def _disk(folder: Path) -> str:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free at {folder}"
    if free < _LEAST_FREE_BYTES:
        raise _UnwellError(text, "free some space, or put the workspace elsewhere")
    return text


def _write(folder: Path) -> str:
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return f"files can be made in {folder}"
    except OSError as error:
        raise _UnwellError(
            f"{folder}: {error.strerror}", f"chown or chmod {folder}, or choose another folder"
        ) from None


def _faiss() -> str:
    try:
        import faiss
    except ImportError:
        raise _UnwellError(
            "FAISS is missing", "pip install 'longtail[cpu]' or 'longtail[gpu]'"
        ) from None
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    if gpus:
        import torch

        if torch.cuda.device_count() < gpus:
            raise _UnwellError(
                f"FAISS sees {gpus} GPUs, torch {torch.__version__} fewer: the index leaves them",
                "install a torch that is built for CUDA, or 'longtail[cpu]'",
            )
    return f"faiss {faiss.__version__}, {gpus} GPUs seen"


def _encoder(settings: Settings) -> str:
    import numpy as np

    from encoders import registry

    if registry.brings_vectors(settings.encoder):
        return f"{settings.encoder}: vectors come with the inputs, in '{settings.vector_column}'"
    encoder = registry.load(settings.encoder, **settings.encoder_options)
    info = encoder.info
    size = info.preprocess.size
    embeddings = encoder.encode(np.zeros((1, size, size, 3), dtype=np.uint8))
    lengths = ", ".join(f"{level} {vectors.shape[1]}" for level, vectors in embeddings.items())
    return f"{info.id} on {info.backend} {info.precision}: {lengths} dimensions"


def _runner(name: str, options: Mapping[str, Any]) -> str:
    from pipelines.runner import LOCAL, Runner

    runner = Runner(name, options=options)
    if name != LOCAL:
        runner.check()
        return f"Beam knows {name} and its options; whether it answers, a job will tell"
    runner.probe()
    return f"{name} ran a pipeline"
