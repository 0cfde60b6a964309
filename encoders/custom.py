"""A person's own encoder: any object that satisfies `encoders.base.Encoder`."""

from __future__ import annotations

import importlib

from encoders.base import Encoder, EncoderInfo
from schemas.errors import EncoderError


def load(target: str) -> Encoder:
    """`package.attribute`: an encoder, or a class or function that gives one without arguments.

    Raises EncoderError where it cannot be imported or is no encoder.
    """
    module, _, attribute = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise EncoderError(
            f"encoder 'module:{target}' cannot be imported: {error}; "
            "give module:PACKAGE.ATTRIBUTE, with the package on PYTHONPATH"
        ) from error
    ready = not isinstance(found, type) and hasattr(found, "encode")
    encoder = found if ready or not callable(found) else found()
    if not isinstance(getattr(encoder, "info", None), EncoderInfo) or not callable(
        getattr(encoder, "encode", None)
    ):
        raise EncoderError(
            f"encoder 'module:{target}' must have `info`, an EncoderInfo, and `encode(pixels)`; "
            "see encoders.base.Encoder"
        )
    return encoder  # type: ignore[no-any-return]
