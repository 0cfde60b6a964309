"""longtail.yaml: what it may hold, its defaults, and what overrides it.

Order of precedence: flags, then LONGTAIL_* variables, then the file, then the defaults. Nested keys
are written with two underscores in a variable: LONGTAIL_MINING__BUDGET=2%.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from encoders import hardware
from longtail.references import Wanted
from schemas.catalog import SETTINGS
from schemas.errors import SettingsError, UsageError

if TYPE_CHECKING:
    from encoders.registry import Options

FILE = SETTINGS
_PREFIX = "LONGTAIL_"
_NOT_SETTINGS = {"LONGTAIL_WORKSPACE"}
_HEADING = object()  # where a section stands for a value


def _budget(value: str) -> str:
    number = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", value.strip())
    if (
        number is None
        or (not number[2] and "." in number[1])
        or (number[2] and float(number[1]) > 100)
    ):
        raise ValueError("a budget is a count such as 200 or a share such as 2%")
    return value.strip()


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("a device is auto, cpu, cuda or cuda:N")
    return value


def _detector(value: str) -> str:
    if value != "combined":
        from detectors.registry import detector  # scikit-learn is slow to import

        try:
            detector(value)
        except UsageError as error:
            raise ValueError(str(error)) from None
    return value


def _reference(value: str) -> str:
    if value:
        try:
            Wanted.parse(value)
        except UsageError as error:
            raise ValueError(str(error)) from None
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Mining(_Section):
    """How outliers and capture faults are called."""

    budget: Annotated[str, BeforeValidator(str), AfterValidator(_budget)] = Field(
        "1%", description="outliers to flag per run: a count (200) or a share of the samples (2%)"
    )
    fdr: float = Field(
        0,
        ge=0,
        lt=1,
        description="flag what a reference proves at this false discovery rate; 0: no",
    )
    reference: Annotated[str, AfterValidator(_reference)] = Field(
        "", description="what the model knows: dataset:NAME@3, source:NAME, before:DATE, saved:NAME"
    )
    detector: Annotated[str, AfterValidator(_detector)] = Field(
        "combined", description="how samples are scored: combined, knn, margin, ..., pyod:NAME"
    )
    neighbours: int = Field(
        3, ge=1, le=1000, description="nearest neighbours in the distance score"
    )
    apart: float = Field(
        0, ge=0, lt=2, description="samples within this distance of each other count once; 0: all"
    )
    fault_threshold: float = Field(
        3,
        gt=0,
        description="capture fault: robust z over all levels from this on, and 3 at the lowest",
    )


class IndexSettings(_Section):
    """Which FAISS index is made, and how well it answers."""

    recall: float = Field(
        0.95, gt=0, le=1, description="share of the true 10 nearest that a search must find"
    )
    memory_gb: float = Field(
        0, ge=0, description="memory for searched codes, in GB; 0: half of the machine's"
    )
    factory: str = Field(
        "",
        description="FAISS factory string, such as 'IVF1024,SQ8', used as soon as there is a "
        "vector for each cell; empty: chosen by size",
    )


class LimitSettings(_Section):
    """What is refused, per image and per job."""

    max_bytes: int = Field(256 * 2**20, ge=1, description="largest file that is read, in bytes")
    max_pixels: int = Field(200_000_000, ge=1, description="largest image decoded, width x height")
    min_side: int = Field(8, ge=1, description="shortest side accepted, in pixels")
    max_rejected_share: float = Field(
        0.5, ge=0, le=1, description="a run that rejects more than this share publishes nothing"
    )


class _Variables(EnvSettingsSource):
    def prepare_field_value(
        self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool
    ) -> Any:
        try:
            return super().prepare_field_value(field_name, field, value, value_is_complex)
        except ValueError:
            variable = _PREFIX + field_name.upper()
            raise SettingsError(f"{variable} is {value!r}; write a JSON object") from None


class Settings(BaseSettings):
    """Everything that can be set. Unknown keys and wrong values raise SettingsError."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    encoder: str = Field(
        "efficientnet-lite0", description="the encoder; 'longtail doctor' tests it"
    )
    vector_column: str = Field(
        "embedding", min_length=1, description="for encoder vectors:NAME, the column of the vectors"
    )
    patches: bool = Field(
        False, description="score the strangest patch of each image too: small local defects"
    )
    device: Annotated[str, AfterValidator(_device)] = Field(
        "auto", description="auto, cpu, cuda or cuda:N"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto, fp32, bf16 or fp16; auto: the fastest of the device"
    )
    compile: bool = Field(
        False, description="torch.compile where torch runs it (a GPU): slow to start, then faster"
    )
    trust_remote_code: bool = Field(
        False, description="let an hf: model run code of its own; true only for one you have read"
    )
    batch_size: int = Field(
        16, ge=1, le=4096, description="images that a worker takes at once; a GPU finds its own"
    )
    workers: int = Field(0, ge=0, le=256, description="parallel workers; 0: one per core")
    runner: str = Field("FnApiRunner", description="Beam runner: FnApiRunner, FlinkRunner, ...")
    runner_options: dict[str, Any] = Field(
        default_factory=dict, description="options of that runner, e.g. {flink_master: host:8081}"
    )
    mining: Mining = Field(Mining(), description="how edge cases are called")
    index: IndexSettings = Field(IndexSettings(), description="how similar samples are found")
    limits: LimitSettings = Field(
        LimitSettings(), description="what is refused, per image and per job"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `init` carries two layers under private names: flags above the environment, file below.
        layers: dict[str, dict[str, Any]] = init_settings()
        return (
            InitSettingsSource(settings_cls, layers.get("flags", {})),
            _Variables(settings_cls),
            InitSettingsSource(settings_cls, layers.get("file", {})),
        )

    @property
    def encoder_options(self) -> Options:
        """What settles the identity of the encoder beside its name."""
        return {
            "device": self.device,
            "precision": self.precision,
            "trust_remote_code": self.trust_remote_code,
        }

    @property
    def worker_count(self) -> int:
        """Workers to start: as set, else one per core this process may use."""
        return self.workers or hardware.cores()


def load(workspace: Path, flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings of a workspace: its file, LONGTAIL_* over it, `flags` (nested, no Nones) over both.

    Raises SettingsError with the key, the value and where it came from.
    """
    path = workspace / FILE
    try:
        content = yaml.safe_load(path.read_text("utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold 'key: value' lines, not a {type(content).__name__}")
    known = [_PREFIX + key.upper() for key, *_ in _entries(Settings)]
    unknown = set(_variables()).difference(known)
    if unknown:
        raise SettingsError(f"unknown variable {min(unknown)}; known are {', '.join(known)}")
    try:
        return Settings(flags=dict(flags or {}), file=content)  # type: ignore[call-arg]
    except ValidationError as error:
        raise SettingsError(_explain(error, path, flags or {})) from None


def template() -> str:
    """The text of a new longtail.yaml: every key, its default and a one-line comment."""
    lines = ["# longtail settings. LONGTAIL_* variables override this file, flags override both.\n"]
    for key, value, description in _entries(Settings, dotted=False):
        indent = "  " * key.count(".")
        name = key.rpartition(".")[2]
        if value is _HEADING:
            lines.append(f"\n# {description}\n{name}:\n")
            continue
        text = yaml.safe_dump(value, default_flow_style=True).replace("...", "").strip()
        lines.append(f"{indent}{name}: {text}  # {description}\n")
    return "".join(lines)


def _entries(
    model: type[BaseModel], prefix: str = "", dotted: bool = True
) -> Iterator[tuple[str, Any, str]]:
    separator = "__" if dotted else "."
    for name, info in model.model_fields.items():
        section = _section(info)
        if section is None:
            yield prefix + name, info.get_default(call_default_factory=True), info.description or ""
        else:
            yield prefix + name, _HEADING, info.description or ""
            yield from _entries(section, f"{prefix}{name}{separator}", dotted)


def _section(info: FieldInfo) -> type[_Section] | None:
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, _Section) else None


def _variables() -> Iterator[str]:
    for name in os.environ:
        if name.startswith(_PREFIX) and name not in _NOT_SETTINGS:
            yield name


def _explain(error: ValidationError, path: Path, flags: Mapping[str, Any]) -> str:
    first = error.errors(include_url=False)[0]
    keys = [str(part) for part in first["loc"]]
    key = ".".join(keys)
    variable = _PREFIX + "__".join(keys).upper()
    origin = f"{path}: "
    if _given(flags, keys):
        origin = ""
    elif variable in os.environ:
        origin = f"{variable}: "
    if first["type"] == "extra_forbidden":
        known = ", ".join(name for name, *_ in _entries(Settings, dotted=False))
        return f"{origin}unknown setting '{key}'; known are {known}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{origin}{key} is {first['input']!r}: {message[0].lower()}{message[1:]}"


def _given(tree: Mapping[str, Any], keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return False
        tree = tree[key]
    return True
