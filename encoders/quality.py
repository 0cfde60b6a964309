"""Statistics of the pixels, a perceptual hash and a thumbnail: a few tenths of a millisecond."""

from __future__ import annotations

import math

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from schemas.records import Quality

THUMBNAIL_SIDE = 112  # half of the usual 224 pixels, which halves exactly
_THUMBNAIL_QUALITY = 85

_HASH_SIDE, _HASH_FREQUENCIES = 32, 8


def _cosines(size: int, frequencies: int) -> NDArray[np.float32]:
    """The first rows of the DCT-II matrix, float32 (frequencies, size)."""
    angles = np.pi / size * np.outer(np.arange(frequencies), np.arange(size) + 0.5)
    return np.cos(angles).astype(np.float32)


_DCT = _cosines(_HASH_SIDE, _HASH_FREQUENCIES)


def measure(image: Image.Image) -> Quality:
    """The statistics of an image in mode L or RGB, whose meaning is told at `Quality`."""
    grey = image.mode == "L"
    luma = image if grey else image.convert("L")
    counts = np.array(luma.histogram(), dtype=np.float64)
    share = counts / counts.sum()
    values = np.arange(256)
    mean = float(share @ values)
    spread = math.sqrt(float(share @ np.square(values - mean)))
    present = share[share > 0]
    return Quality(
        brightness=mean / 255,
        contrast=spread / 255,
        sharpness=_sharpness(np.asarray(luma)),
        saturation=0.0 if grey else _saturation(image),
        entropy=abs(float(present @ np.log2(present))),
        clipped=float(share[0] + share[255]),
        phash=_perceptual_hash(luma),
    )


def thumbnail(image: Image.Image, width: int, height: int) -> bytes:
    """A JPEG of at most 112 px on its longer side, in the proportions of `width` and `height`."""
    scale = min(1.0, THUMBNAIL_SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(image.resize(size, Image.Resampling.BOX, reducing_gap=1.0))
    if small.ndim == 2:
        return bytes(
            simplejpeg.encode_jpeg(
                small[:, :, None], _THUMBNAIL_QUALITY, colorspace="GRAY", colorsubsampling="Gray"
            )
        )
    return bytes(simplejpeg.encode_jpeg(small, _THUMBNAIL_QUALITY, colorsubsampling="420"))


def _sharpness(luma: NDArray[np.uint8]) -> float:
    """Variance of the 4-neighbour Laplacian (Pech-Pacheco et al., 2000)."""
    pixels = luma.astype(np.int16)
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]
    laplacian -= 4 * pixels[1:-1, 1:-1]
    return float(laplacian.var(dtype=np.float32))


def _saturation(image: Image.Image) -> float:
    """Over every other pixel of every other row: exact enough for a mean, and four times faster."""
    red, green, blue = np.asarray(image)[::2, ::2].transpose(2, 0, 1)
    high = np.maximum(np.maximum(red, green), blue).astype(np.float32)
    low = np.minimum(np.minimum(red, green), blue)
    return float(((high - low) / np.maximum(high, 1)).mean())


def _perceptual_hash(luma: Image.Image) -> str:
    """Signs of the 8 x 8 lowest cosine frequencies about their median (Zauner, 2010)."""
    small = luma.resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.BILINEAR, reducing_gap=1.0)
    frequencies = _DCT @ np.asarray(small, dtype=np.float32) @ _DCT.T
    bits = frequencies > np.median(frequencies)
    return np.packbits(bits).tobytes().hex()
