"""A person's own encoder: any object that satisfies `encoders.base.Encoder`."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from encoders.base import Encoder, EncoderInfo
from encoders.networks import first_line
from schemas.errors import EncoderError


def load(target: str) -> Encoder:
    """`package.attribute`: an encoder, or a class or function that gives one without arguments.

    Raises EncoderError where it cannot be imported or is no encoder.
    """
    module, _, attribute = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
        ready = not isinstance(found, type) and hasattr(found, "encode")
        encoder = found if ready or not callable(found) else _make(found)
    except Exception as error:  # it runs a person's own code
        raise EncoderError(
            f"encoder 'module:{target}' cannot be made: {first_line(error)}; "
            "give module:PACKAGE.ATTRIBUTE, with the package on PYTHONPATH"
        ) from error
    if not isinstance(getattr(encoder, "info", None), EncoderInfo) or not callable(
        getattr(encoder, "encode", None)
    ):
        raise EncoderError(
            f"encoder 'module:{target}' must have `info`, an EncoderInfo, and `encode(pixels)`; "
            "see encoders.base.Encoder"
        )
    return encoder  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=4)
def _make(make: Callable[[], Any]) -> Any:
    """Once: a job asks for the identity many times, and it may load a model."""
    return make()
