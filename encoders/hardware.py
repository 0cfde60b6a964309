"""What this machine computes with, found without importing torch or a runtime."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from encoders.base import Precision
from schemas.errors import EncoderError

_CU_COMPUTE_CAPABILITY_MAJOR = 75
_BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True, slots=True)
class Device:
    """`cpu` or `cuda:N`, and the precisions that it multiplies fast, the best first."""

    name: str
    precisions: tuple[Precision, ...]

    @property
    def is_cuda(self) -> bool:
        return self.name.startswith("cuda")


def find_device(name: str) -> Device:
    """The first of the devices that a name stands for. Raises EncoderError as `find_devices`."""
    return find_devices(name)[0]


def find_devices(name: str) -> list[Device]:
    """`auto`, `cpu`, `cuda` or `cuda:N` -> the devices here; `auto` takes GPUs where there are any.

    `cuda`, and `auto` with it, stands for every GPU. Raises EncoderError for another name, or a
    GPU that is not here.
    """
    gpus = cuda_capabilities()
    if name == "cpu" or (name == "auto" and not gpus):
        return [Device("cpu", ("bf16", "fp32") if _cpu_has_bf16() else ("fp32",))]
    return choose_gpus(name, gpus)


def choose_gpus(name: str, capabilities: Sequence[int]) -> list[Device]:
    """The GPUs that `auto`, `cuda` or `cuda:N` stands for, each with what all of these multiply.

    capabilities: the major compute capability of every GPU. Raises EncoderError.
    """
    if not re.fullmatch(r"auto|cuda(:\d+)?", name):
        raise EncoderError(f"device {name!r} is unknown; use auto, cpu, cuda or cuda:N")
    number = name.partition(":")[2]
    wanted = [int(number)] if number else list(range(max(len(capabilities), 1)))
    if wanted[-1] >= len(capabilities):
        raise EncoderError(
            f"device {name!r} is not here: torch can use {len(capabilities)} GPUs; use cpu or auto"
        )
    # Vectors of one run must not differ in precision, whichever GPU gave them.
    ampere = min(capabilities[gpu] for gpu in wanted) >= 8
    precisions: tuple[Precision, ...] = ("bf16", "fp16", "fp32") if ampere else ("fp16", "fp32")
    return [Device(f"cuda:{gpu}", precisions) for gpu in wanted]


def assign(devices: Sequence[Device], worker: int) -> Device:
    """The device of a worker, counted from 0: each in turn."""
    return devices[worker % len(devices)]


_workers = itertools.count()


def next_device(name: str) -> str:
    """The device for one more worker of this process."""
    return assign(find_devices(name), next(_workers)).name


def has(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a stand-in without a spec, or None, in sys.modules
        return False


def cores() -> int:
    """Cores that this process may use; of a container that has a share of them, its share."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        share = quota(Path("/sys/fs/cgroup/cpu.max").read_text())
    except OSError:  # no control group, or the root of them
        return mine
    return min(mine, share or mine)


def quota(cpu_max: str) -> int | None:
    """Whole cores that a control group may use, None for all.

    cpu_max: the text of its file `cpu.max`, microseconds of time and of the period, or `max`.
    """
    time, period = cpu_max.split()
    return None if time == "max" else math.ceil(int(time) / int(period))


def threads(workers: int) -> int:
    """For each of so many workers, so that all together take the cores that there are."""
    return max(1, cores() // workers)


@functools.cache
def cuda_capabilities() -> tuple[int, ...]:
    """Major compute capability of each GPU that the driver shows, if torch was built for them."""
    if not _torch_has_cuda():
        return ()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return ()
    count, major = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    majors = []
    for device in range(count.value):
        driver.cuDeviceGetAttribute(ctypes.byref(major), _CU_COMPUTE_CAPABILITY_MAJOR, device)
        majors.append(major.value)
    return tuple(majors)


def _torch_has_cuda() -> bool:
    """Whether torch was built for CUDA, as its file of versions tells without importing it."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return False
    versions = Path(torch.origin).with_name("version.py").read_text()
    return re.search(r"^cuda\b.*= *'", versions, re.MULTILINE) is not None


@functools.cache
def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself; False where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    flags = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return bool(flags) and not _BF16_CPU_FLAGS.isdisjoint(flags[0].split())
