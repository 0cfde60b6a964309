"""A person's own encoder: any object that satisfies `encoders.base.Encoder`."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.base import Embeddings, Encoder, EncoderInfo, Pixels, batch_of
from encoders.networks import first_line
from schemas.errors import EncoderError, LongtailError


def load(target: str) -> Encoder:
    """`package.attribute`: an encoder, or a class or function that gives one without arguments.

    What it gives is checked. Raises EncoderError where it cannot be imported or is no encoder.
    """
    module, _, attribute = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
        ready = not isinstance(found, type) and hasattr(found, "encode")
        encoder = found if ready or not callable(found) else _make(found)
    except (Exception, SystemExit) as error:  # it runs a person's own code
        raise EncoderError(
            f"encoder 'module:{target}' cannot be made: {type(error).__name__}: "
            f"{first_line(error)}; "
            "give module:PACKAGE.ATTRIBUTE, with the package on PYTHONPATH"
        ) from error
    info = getattr(encoder, "info", None)
    if not isinstance(info, EncoderInfo) or not callable(getattr(encoder, "encode", None)):
        raise EncoderError(
            f"encoder 'module:{target}' must have `info`, an EncoderInfo, and `encode(pixels)`; "
            "see encoders.base.Encoder"
        )
    if "high" not in info.dimensions:
        raise EncoderError(
            f"encoder 'module:{target}' has the dimensions {dict(info.dimensions)} in its `info`; "
            "'high' must be one of them"
        )
    kind = CheckedWithPatches if hasattr(encoder, "encode_patches") else Checked
    return kind(f"encoder 'module:{target}'", encoder)


class Checked:
    """A person's encoder, whose errors and wrong answers become EncoderErrors that name it."""

    def __init__(self, name: str, encoder: Any) -> None:
        self._name = name
        self._encoder = encoder

    @property
    def info(self) -> EncoderInfo:
        return self._encoder.info  # type: ignore[no-any-return]

    @property
    def batch(self) -> int | None:
        return batch_of(self._encoder)

    def encode(self, pixels: Pixels) -> Embeddings:
        given = self._call("encode", pixels)
        levels = self.info.dimensions
        wanted = {level: (len(pixels), d) for level, d in levels.items()}
        seen: object = _kind(given)
        if isinstance(given, Mapping):
            seen = {level: _kind(given[level]) for level in levels if level in given}
        if seen != wanted:
            raise self._wrong("encode", seen, wanted)
        return {level: given[level] for level in levels}

    def _call(self, method: str, pixels: Pixels) -> Any:
        try:
            return getattr(self._encoder, method)(pixels)
        except LongtailError:
            raise
        except (Exception, SystemExit) as error:  # it runs a person's own code
            raise EncoderError(
                f"{self._name} failed in {method}, on {len(pixels)} images: "
                f"{type(error).__name__}: {first_line(error)}; --debug shows where"
            ) from error

    def _wrong(self, method: str, seen: object, wanted: object) -> EncoderError:
        return EncoderError(
            f"{self._name} gave {seen} in {method}; by its `info` that must be {wanted}, "
            "arrays of floats"
        )


class CheckedWithPatches(Checked):
    """One that gives patches, too."""

    def encode_patches(self, pixels: Pixels) -> NDArray[np.float32]:
        given = self._call("encode_patches", pixels)
        seen = _kind(given)
        if not isinstance(seen, tuple) or len(seen) != 4 or seen[0] != len(pixels):
            raise self._wrong("encode_patches", seen, f"({len(pixels)}, h, w, d)")
        return given  # type: ignore[no-any-return]


def _kind(given: Any) -> tuple[int, ...] | str:
    """The shape of an array of floats, else what it is instead."""
    if not isinstance(given, np.ndarray):
        return type(given).__name__
    return given.shape if given.dtype.kind == "f" else f"{given.dtype} {given.shape}"


@functools.lru_cache(maxsize=4)
def _make(make: Callable[[], Any]) -> Any:
    """Once: a job asks for the identity many times, and it may load a model."""
    return make()
