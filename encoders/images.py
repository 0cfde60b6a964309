"""Bytes to pixels: one decode serves the encoder, the quality statistics and the thumbnail."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from encoders.base import Preprocess
from encoders.formats import Format, Header, ends_early, exif_orientation, read_header
from encoders.quality import measure, thumbnail
from schemas.errors import ImageError
from schemas.records import Quality

# Built directly rather than by Image.open: no guessing among forty formats, and no warning about
# large images, which Limits judge.
_DECODERS: dict[Format, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "gif": GifImagePlugin.GifImageFile,
}
# the only complaints of libjpeg that cost no pixels: a few bytes of padding, and odd headers
_HARMLESS = re.compile(
    r"Corrupt JPEG data: \d\d? extraneous bytes before marker 0xd9|unknown JFIF revision"
    r"|Unknown Adobe color transform|Invalid SOS parameters|Inconsistent progression"
)

_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OVERSAMPLING = 2
"""A JPEG is decoded at the smallest scale that leaves this many times the target's side."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused unread. Pixels cost memory: 3 bytes each, 4 while a file is decoded."""

    max_bytes: int = 256 * 2**20
    max_pixels: int = 100_000_000
    min_side: int = 8


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """pixels: uint8 (size, size, 3). width, height: upright, before resizing.

    thumbnail: a JPEG of the whole image, at most 112 px on its longer side.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: Format
    quality: Quality
    thumbnail: bytes


def decode(data: bytes, preprocess: Preprocess, limits: Limits) -> DecodedImage:
    """JPEG, PNG, WebP, BMP, TIFF or GIF (its first frame) to what one sample needs.

    Transparency is laid over white, 16 bits become 8, EXIF orientation is applied.

    Raises ImageError with one of the reasons of `schemas.errors`.
    """
    header = _checked_header(data, limits)
    target = preprocess.size / (preprocess.crop or 1)
    image, orientation = _pixels(data, header, at_least=math.ceil(_OVERSAMPLING * target))
    upright = _UPRIGHT.get(orientation)
    turned = orientation >= 5
    width, height = (header.height, header.width) if turned else (header.width, header.height)

    square = image.resize(
        (preprocess.size, preprocess.size),
        _RESAMPLING[preprocess.interpolation],
        box=_centre(image, preprocess.crop),
        reducing_gap=2.0,
    )
    whole = square if preprocess.crop is None else image
    if upright is not None:
        square, whole = square.transpose(upright), whole.transpose(upright)
    return DecodedImage(
        pixels=np.array(square.convert("RGB")),
        width=width,
        height=height,
        format=header.format,
        quality=measure(square),
        thumbnail=thumbnail(whole, width, height),
    )


def check_whole(data: bytes, limits: Limits) -> tuple[Format, int, int]:
    """Decode every pixel to prove that the image is whole; its format, upright width and height.

    Raises ImageError as `decode` does.
    """
    header = _checked_header(data, limits)
    _, orientation = _pixels(data, header, at_least=0)
    turned = orientation >= 5
    width, height = (header.height, header.width) if turned else (header.width, header.height)
    return header.format, width, height


def _checked_header(data: bytes, limits: Limits) -> Header:
    if len(data) > limits.max_bytes:
        raise ImageError("too_large", f"{len(data)} bytes, the limit is {limits.max_bytes}")
    header = read_header(data)
    size = f"{header.width} x {header.height} pixels"
    if header.width * header.height > limits.max_pixels:
        raise ImageError("too_large", f"{size}, the limit is {limits.max_pixels} in all")
    if min(header.width, header.height) < max(limits.min_side, 1):
        raise ImageError("too_small", f"{size}, the limit is {limits.min_side} a side")
    return header


def _pixels(data: bytes, header: Header, at_least: int) -> tuple[Image.Image, int]:
    """In mode L or RGB, as stored, with the orientation; a JPEG is reduced to `at_least` a side.

    0 leaves a JPEG at its full size.
    """
    if ends_early(data, header.format):
        raise ImageError("truncated", f"{header.format} without its end")
    if header.format == "jpeg" and header.channels in (1, 3):
        return _turbojpeg(data, header, at_least), header.orientation
    # Pillow warns of a broken tag, say, and goes on; what counts here is whether it decodes
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        image = _DECODERS[header.format](io.BytesIO(data))
        if at_least:
            image.draft("", (at_least, at_least))
        image.load()
        orientation = header.orientation
        if header.format in ("png", "webp") and "exif" in image.info:
            orientation = exif_orientation(image.info["exif"])
        return _as_l_or_rgb(image), orientation
    except MemoryError:
        raise
    except Exception as error:  # a decoder raises anything for bytes that it dislikes
        cut = "truncated" in str(error).lower()
        raise ImageError("truncated" if cut else "corrupt", str(error)) from error


def _turbojpeg(data: bytes, header: Header, at_least: int) -> Image.Image:
    colours = "GRAY" if header.channels == 1 else "RGB"

    def decoded(strict: bool) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colours, min_width=at_least, min_height=at_least, strict=strict
        )
        return pixels

    try:
        try:
            pixels = decoded(strict=True)
        except ValueError as warning:
            if not _HARMLESS.search(str(warning)):
                raise
            pixels = decoded(strict=False)
    except ValueError as error:
        cut = "Premature end of JPEG file" in str(error)
        raise ImageError("truncated" if cut else "corrupt", str(error)) from error
    return Image.fromarray(pixels[:, :, 0] if colours == "GRAY" else pixels)


def _centre(image: Image.Image, crop: float | None) -> tuple[float, float, float, float] | None:
    """The central square whose side is `crop` of the shorter side; None for the whole image."""
    if crop is None:
        return None
    side = crop * min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return left, top, left + side, top + side


def _as_l_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        return _stretched(np.asarray(image, dtype=np.float64))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def _stretched(values: NDArray[np.float64]) -> Image.Image:
    """32-bit pixels have no agreed range: the smallest becomes black, the largest white."""
    values = np.nan_to_num(values, posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))
