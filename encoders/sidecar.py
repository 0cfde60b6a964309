"""The YAML beside a person's own model: what a file of weights does not tell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from encoders.base import Interpolation, Preprocess
from schemas.errors import EncoderError
from schemas.records import LEVELS, Level

Output = int | str
"""Which output of a model: its position, or its name."""

EXAMPLE = """\
size: 224
mean: [0.485, 0.456, 0.406]
std: [0.229, 0.224, 0.225]
interpolation: bicubic     # or bilinear, lanczos
crop: 0.875                # leave out to stretch the whole image to the square
levels: {low: 0, mid: 1, high: 2}   # the outputs, by position or by name; high is needed
"""

_Mean = Annotated[float, Field(ge=0, le=1)]
_Std = Annotated[float, Field(gt=0, le=1)]


class Sidecar(BaseModel):
    """How images become the model's input, and which of its outputs are the levels.

    mean, std: for pixel values scaled to [0, 1]. patches: an output that is a map (n, d, h, w).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(ge=8, le=4096)
    mean: tuple[_Mean, _Mean, _Mean]
    std: tuple[_Std, _Std, _Std]
    interpolation: Interpolation = "bicubic"
    crop: float | None = Field(default=None, gt=0, le=1)
    levels: dict[Level, Output] = Field(default={"high": 0})
    patches: Output | None = None

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(self.size, self.mean, self.std, self.interpolation, self.crop)

    @property
    def outputs(self) -> list[tuple[Level, Output]]:
        """The levels that there are, lowest first, with the output that each is."""
        return [(level, self.levels[level]) for level in LEVELS if level in self.levels]

    @property
    def choice(self) -> str:
        """Which outputs count, as a part of the identity: other ones are other vectors."""
        return repr((self.outputs, self.patches))


def find_model(target: str) -> tuple[Path, Sidecar]:
    """The file, and the YAML of the same name beside it.

    Raises EncoderError where one is missing or wrong; the message shows what the YAML holds.
    """
    model = Path(target)
    if not model.is_file():
        raise EncoderError(f"model {target!r} does not exist")
    path = model.with_suffix(".yaml")
    if not path.is_file():
        raise EncoderError(f"model {target!r} needs {path.name} beside it, such as:\n{EXAMPLE}")
    try:
        sidecar = Sidecar.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except UnicodeDecodeError as error:
        raise EncoderError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise EncoderError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise EncoderError(f"{path}: {key}: {first['msg']}; an example:\n{EXAMPLE}") from error
    if "high" not in sidecar.levels:
        raise EncoderError(f"{path}: levels: 'high' is missing; an example:\n{EXAMPLE}")
    return model, sidecar
