"""Images for every room's tests: real photographs, broken files, and one file of each format."""

from __future__ import annotations

import importlib.util
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schemas.errors import RejectReason

MakePhotographs = Callable[[Path, int], list[Path]]
MakeBroken = Callable[[Path], Mapping[str, RejectReason]]
MakeFormats = Callable[[Path], Mapping[str, tuple[int, int]]]


@pytest.fixture(scope="session")
def make_photographs() -> MakePhotographs:
    """`make_photographs(folder, n)` links n real photographs of solar cells, 300 x 300 PNG, there.

    They are spread evenly over the 2,624 of elpv-dataset, so that some show defects.
    """
    package = importlib.util.find_spec("elpv_dataset")
    assert package is not None
    assert package.origin is not None
    images = sorted((Path(package.origin).parent / "data/images").glob("*.png"))

    def make(folder: Path, n: int) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        links = []
        for i in range(n):
            image = images[i * len(images) // n]
            links.append(folder / image.name)
            links[-1].symlink_to(image)
        return links

    return make


@pytest.fixture(scope="session")
def make_broken() -> MakeBroken:
    """`make_broken(folder)` writes 20 files that are no usable image; name -> why each is refused.

    No two have the same bytes.
    """

    def make(folder: Path) -> Mapping[str, RejectReason]:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (data, _) in BROKEN.items():
            (folder / name).write_bytes(data)
        return {name: reason for name, (_, reason) in BROKEN.items()}

    return make


@pytest.fixture(scope="session")
def make_formats() -> MakeFormats:
    """`make_formats(folder)` writes one picture in every form that must decode.

    Gives name -> upright (width, height). The picture is a disc, darker to the right and below.
    """

    def make(folder: Path) -> Mapping[str, tuple[int, int]]:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (data, _) in FORMATS.items():
            (folder / name).write_bytes(data)
        return {name: size for name, (_, size) in FORMATS.items()}

    return make


def _disc(width: int = 96, height: int = 64) -> Image.Image:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    inside = (x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.1
    pixels = np.stack([255 * (1 - x), 255 * (1 - y), np.where(inside, 200, 40)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def _noise(side: int = 96) -> Image.Image:
    """Noise does not compress: half of its file is half of its pixels."""
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (side, side, 3), np.uint8))


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _half(image: Image.Image, form: str) -> bytes:
    data = _encoded(image, form)
    return data[: len(data) // 2]


def _png(width: int, height: int, pixels: bytes) -> bytes:
    """An RGB PNG whose header and checksums are right, whatever `pixels` holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in parts)


def _zip(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, _encoded(_disc(), "PNG"))
    return buffer.getvalue()


def _rotated() -> bytes:
    """Stored lying on its side; its EXIF data says how to turn it (6: clockwise)."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return _encoded(_disc().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


def _deep() -> Image.Image:
    return Image.fromarray(np.asarray(_disc().convert("L")).astype(np.uint16) * 257)


def _translucent() -> Image.Image:
    image = _disc().convert("RGBA")
    image.putalpha(160)
    return image


BROKEN: Mapping[str, tuple[bytes, RejectReason]] = {
    "empty.jpg": (b"", "empty"),
    "half.png": (_half(_noise(), "PNG"), "truncated"),
    "half.jpg": (_half(_noise(), "JPEG"), "truncated"),
    "half.webp": (_half(_noise(), "WEBP"), "truncated"),
    "half.gif": (_half(_noise(), "GIF"), "truncated"),
    "half.bmp": (_half(_noise(), "BMP"), "truncated"),
    "first-kilobyte.jpg": (_encoded(_noise(), "JPEG")[:1024], "truncated"),
    "last-rows-missing.png": (_encoded(_noise(), "PNG")[:-100], "truncated"),
    "notes.txt": (b"These photographs were taken in May.\n", "not_an_image"),
    "text.jpg": (b"404 not found\n", "not_an_image"),
    "page.png": (b"<!doctype html><title>Log in</title>", "not_an_image"),
    "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not_an_image"),
    "archive.zip": (_zip("a.png"), "not_an_image"),
    "zipped.png": (_zip("b.png"), "not_an_image"),
    "document.jpeg": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "not_an_image"),
    "never-written.jpg": (bytes(4096), "not_an_image"),
    "garbled.png": (_png(96, 64, np.random.default_rng(7).bytes(4096)), "corrupt"),
    "nothing.png": (_png(0, 0, zlib.compress(b"")), "too_small"),
    "dot.gif": (_encoded(Image.new("L", (1, 1)), "GIF"), "too_small"),
    "vast.png": (_png(30_000, 30_000, zlib.compress(b"")), "too_large"),
}

FORMATS: Mapping[str, tuple[bytes, tuple[int, int]]] = {
    "rgb.jpg": (_encoded(_disc(), "JPEG"), (96, 64)),
    "progressive.jpg": (_encoded(_disc(), "JPEG", progressive=True, quality=90), (96, 64)),
    "grey.jpg": (_encoded(_disc().convert("L"), "JPEG"), (96, 64)),
    "cmyk.jpg": (_encoded(_disc().convert("CMYK"), "JPEG"), (96, 64)),
    "rotated.jpg": (_rotated(), (96, 64)),
    "rgb.png": (_encoded(_disc(), "PNG"), (96, 64)),
    "grey.png": (_encoded(_disc().convert("L"), "PNG"), (96, 64)),
    "16-bit.png": (_encoded(_deep(), "PNG"), (96, 64)),
    "one-bit.png": (_encoded(_disc().convert("1"), "PNG"), (96, 64)),
    "palette.png": (_encoded(_disc().convert("P"), "PNG"), (96, 64)),
    "alpha.png": (_encoded(_translucent(), "PNG"), (96, 64)),
    "alpha.webp": (_encoded(_translucent(), "WEBP", lossless=True), (96, 64)),
    "rgb.webp": (_encoded(_disc(), "WEBP"), (96, 64)),
    "palette.gif": (_encoded(_disc().convert("P"), "GIF"), (96, 64)),
    "animated.gif": (
        _encoded(_disc(), "GIF", save_all=True, append_images=[_noise().resize((96, 64))]),
        (96, 64),
    ),
    "rgb.bmp": (_encoded(_disc(), "BMP"), (96, 64)),
    "rgb.tif": (_encoded(_disc(), "TIFF"), (96, 64)),
    "deflated.tiff": (_encoded(_disc(), "TIFF", compression="tiff_adobe_deflate"), (96, 64)),
    "16-bit.tiff": (_encoded(_deep(), "TIFF"), (96, 64)),
    "a-jpeg-named.png": (_encoded(_disc(), "JPEG", quality=80), (96, 64)),
    "tall.png": (_encoded(_disc(40, 120), "PNG"), (40, 120)),
}
