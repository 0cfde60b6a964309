"""What the first bytes of a file tell: its format, its size and which way up it is.

Headers are read here, before any decoder runs, so that a header of 30,000 x 30,000 pixels costs
nothing and each refusal has its reason.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.errors import ImageError

Format = Literal["jpeg", "png", "webp", "bmp", "tiff", "gif"]

_MAGIC: Mapping[bytes, Format] = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
}
_BMP_HEADER_SIZES = {12, 40, 52, 56, 64, 108, 124}

_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274
_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES = 273, 279, 324, 325
_BITS_PER_SAMPLE, _COLOUR_MAP, _JPEG_TABLES = 258, 320, 347
_TIFF_STRUCTURE = {
    *(_WIDTH, _HEIGHT, _ORIENTATION, _BITS_PER_SAMPLE, _COLOUR_MAP, _JPEG_TABLES),
    *(_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES),
}
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "L", 7: "B", 16: "Q"}

_JPEG_START_OF_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_START_OF_SCAN, _JPEG_APP1 = 0xDA, 0xE1
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


@dataclass(frozen=True, slots=True)
class Header:
    """width, height: as stored, in pixels. orientation: EXIF, 1 to 8. channels: of a JPEG, or 0."""

    format: Format
    width: int
    height: int
    orientation: int = 1
    channels: int = 0


def read_header(data: bytes) -> Header:
    """Raises ImageError: `empty`, `not_an_image`, or `truncated` where the header is cut short.

    The orientation of PNG and WebP lies anywhere in the file; their decoder tells it later.
    """
    if not data:
        raise ImageError("empty", "no bytes")
    kind = _sniff(data)
    if kind is None:
        raise ImageError("not_an_image", f"begins with {data[:8]!r}")
    try:
        if kind == "jpeg":
            return _jpeg(data)
        if kind == "tiff":
            return _tiff(data)
        width, height = {"png": _png, "gif": _gif, "bmp": _bmp, "webp": _webp}[kind](data)
        return Header(kind, width, height)
    except (struct.error, IndexError, KeyError, ValueError) as error:
        raise ImageError("truncated", f"{kind} header of {len(data)} bytes") from error


def ends_early(data: bytes, kind: Format) -> bool:
    """Whether the format's own end is missing; False where the format has none to look for."""
    if kind == "jpeg":
        return b"\xff\xd9" not in data[-4096:]
    if kind == "png":
        return not data.endswith(b"IEND\xaeB`\x82") and data.rfind(b"IEND") < 0
    if kind == "webp":
        return len(data) - 8 < int.from_bytes(data[4:8], "little")
    if kind == "tiff":
        tags = tiff_tags(data, _TIFF_STRUCTURE)
        pieces = [
            *zip(tags.get(_STRIP_OFFSETS, ()), tags.get(_STRIP_BYTES, ()), strict=False),
            *zip(tags.get(_TILE_OFFSETS, ()), tags.get(_TILE_BYTES, ()), strict=False),
        ]
        return any(offset + size > len(data) for offset, size in pieces)
    return False


def exif_orientation(exif: bytes) -> int:
    """1 to 8; 1, which is upright, where the block is broken or says nothing."""
    try:
        (value,) = tiff_tags(exif.removeprefix(b"Exif\0\0"), {_ORIENTATION})[_ORIENTATION]
    except (struct.error, KeyError, ValueError):
        return 1
    return value if 1 <= value <= 8 else 1


def tiff_tags(block: bytes, wanted: Collection[int]) -> dict[int, tuple[int, ...]]:
    """The wanted integer tags of the first directory of a TIFF, or EXIF, block.

    Raises struct.error where the block ends before one of them.
    """
    order = "<" if block[:2] == b"II" else ">"
    # a classic TIFF counts in 2 and 4 bytes, a BigTIFF in 8
    big = block[2:4] in (b"+\0", b"\0+")
    number, offset, entry_format = ("Q", "Q", "HHQ") if big else ("H", "L", "HHL")
    (start,) = struct.unpack_from(order + offset, block, 8 if big else 4)
    (entries,) = struct.unpack_from(order + number, block, start)
    start += struct.calcsize(order + number)
    entry_bytes, inline = (20, 8) if big else (12, 4)
    tags = {}
    for entry in range(start, start + entries * entry_bytes, entry_bytes):
        tag, kind, count = struct.unpack_from(order + entry_format, block, entry)
        if tag not in wanted or kind not in _TIFF_INTEGERS:
            continue
        values = f"{order}{count}{_TIFF_INTEGERS[kind]}"
        at = entry + entry_bytes - inline
        if struct.calcsize(values) > inline:
            (at,) = struct.unpack_from(order + offset, block, at)
        tags[tag] = struct.unpack_from(values, block, at)
    return tags


def _sniff(data: bytes) -> Format | None:
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"
    return None


def _jpeg(data: bytes) -> Header:
    at, orientation = 2, 1
    while True:
        if data[at] != 0xFF:
            raise ImageError("corrupt", f"no JPEG marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in _JPEG_WITHOUT_LENGTH:
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker == _JPEG_APP1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = exif_orientation(data[at + 4 : at + 2 + length])
        elif marker in _JPEG_START_OF_FRAME:
            height, width, channels = struct.unpack_from(">HHB", data, at + 5)
            return Header("jpeg", width, height, orientation, channels)
        elif marker == _JPEG_START_OF_SCAN:
            raise ImageError("corrupt", "JPEG scan without a frame")
        at += 2 + length


def _tiff(data: bytes) -> Header:
    tags = tiff_tags(data, _TIFF_STRUCTURE)
    (width,), (height,) = tags[_WIDTH], tags[_HEIGHT]
    if tags.get(_ORIENTATION, (1,))[0] >= 5:
        width, height = height, width
    return Header("tiff", width, height)  # Pillow turns a TIFF upright by itself


def _png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">LL", data, 16)
    return width, height


def _gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp(data: bytes) -> tuple[int, int]:
    old = data[14] == 12
    width, height = struct.unpack_from("<HH" if old else "<ll", data, 18)
    return width, abs(height)  # a negative height says that the rows run downwards


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<L", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF
