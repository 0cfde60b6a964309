"""Every format, mode and fault, through `decode` and `check_whole`."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from sklearn.datasets import load_sample_image

from encoders.base import Preprocess
from encoders.images import Limits, check_whole, decode
from schemas.errors import ImageError

STRETCH = Preprocess(size=64, mean=(0.5,) * 3, std=(0.5,) * 3)
LIMITS = Limits()
PHOTO = Image.fromarray(load_sample_image("china.jpg"))  # 640 x 427
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


def file_of(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    size = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size)


def reason_for(data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(ImageError) as decoding:
        decode(data, STRETCH, limits)
    with pytest.raises(ImageError) as checking:
        check_whole(data, limits)
    assert decoding.value.reason == checking.value.reason
    return decoding.value.reason


def mean_difference(pixels: np.ndarray, image: Image.Image) -> float:
    expected = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))
    return float(np.abs(pixels.astype(int) - expected).mean())


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_gives_the_photograph(kind: str) -> None:
    data = file_of(PHOTO, kind)
    image = decode(data, STRETCH, LIMITS)
    assert (image.width, image.height, image.format) == (640, 427, kind.lower())
    assert image.pixels.shape == (64, 64, 3)
    assert image.pixels.dtype == np.uint8
    assert mean_difference(image.pixels, PHOTO) < 4
    assert check_whole(data, LIMITS) == (kind.lower(), 640, 427)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, "L") for kind in FORMATS),
        *((kind, "P") for kind in ("PNG", "BMP", "TIFF", "GIF")),
        *((kind, "1") for kind in ("PNG", "BMP", "TIFF", "GIF")),
        *((kind, "CMYK") for kind in ("JPEG", "TIFF")),
        *((kind, "RGBA") for kind in ("PNG", "WEBP", "TIFF", "GIF")),
        *((kind, "LA") for kind in ("PNG", "TIFF")),
    ],
)
def test_each_mode_gives_the_photograph(kind: str, mode: str) -> None:
    image = decode(file_of(PHOTO.convert(mode), kind), STRETCH, LIMITS)
    assert mean_difference(image.pixels, PHOTO.convert(mode).convert("RGB")) < 5


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight(kind: str) -> None:
    grey = PHOTO.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    assert mean_difference(decode(file_of(deep, kind), STRETCH, LIMITS).pixels, grey) < 1


def test_floating_point_pixels_span_black_to_white() -> None:
    values = np.linspace(-3, 7, 64 * 64, dtype=np.float32).reshape(64, 64)
    pixels = decode(file_of(Image.fromarray(values), "TIFF"), STRETCH, LIMITS).pixels
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (32, 32), (10, 20, 30, 0))
    assert (decode(file_of(clear, "PNG"), STRETCH, LIMITS).pixels == 255).all()
    palette = PHOTO.convert("P")
    entries = bytes([0]) * 256
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = file_of(palette, "PNG", transparency=entries)
        assert (decode(png, STRETCH, LIMITS).pixels == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind: str, orientation: int) -> None:
    flip = Image.Transpose
    # what a camera in that position stores of an upright photograph
    stored = {
        2: flip.FLIP_LEFT_RIGHT,
        3: flip.ROTATE_180,
        4: flip.FLIP_TOP_BOTTOM,
        5: flip.TRANSPOSE,
        6: flip.ROTATE_90,
        7: flip.TRANSVERSE,
        8: flip.ROTATE_270,
    }
    turned = PHOTO.transpose(stored[orientation]) if orientation > 1 else PHOTO
    exif = Image.Exif()
    exif[274] = orientation
    image = decode(file_of(turned, kind, exif=exif), STRETCH, LIMITS)
    assert (image.width, image.height) == (640, 427)
    assert mean_difference(image.pixels, PHOTO) < 6
    with Image.open(io.BytesIO(image.thumbnail)) as thumbnail:
        assert thumbnail.size == (112, 75)


def test_broken_exif_is_upright() -> None:
    exif = Image.Exif()
    exif[274] = 6
    block = exif.tobytes()
    for broken in (block[:9], block[:-8], block.replace(b"\0\x06", b"\0\x77")):
        assert decode(file_of(PHOTO, "JPEG", exif=broken), STRETCH, LIMITS).width == 640


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [PHOTO.convert("L"), Image.new("L", PHOTO.size, 255)]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert mean_difference(decode(data, STRETCH, LIMITS).pixels, PHOTO.convert("L")) < 4


def test_a_large_jpeg_is_decoded_reduced_yet_alike() -> None:
    large = PHOTO.resize((4000, 2668), Image.Resampling.BICUBIC)
    data = file_of(large, "JPEG", quality=92)
    image = decode(data, STRETCH, LIMITS)
    assert (image.width, image.height) == (4000, 2668)
    assert mean_difference(image.pixels, large) < 2


def test_a_crop_takes_the_centre_and_keeps_the_proportions() -> None:
    wide = Image.new("RGB", (400, 100), "red")
    wide.paste("blue", (150, 0, 250, 100))
    crop = Preprocess(size=64, mean=(0.5,) * 3, std=(0.5,) * 3, crop=0.9)
    assert (decode(file_of(wide, "PNG"), crop, LIMITS).pixels == (0, 0, 255)).all()
    stretched = decode(file_of(wide, "PNG"), STRETCH, LIMITS).pixels
    assert (stretched[:, 0] == (255, 0, 0)).all()


def test_an_image_under_a_wrong_extension_is_told_by_its_bytes() -> None:
    assert decode(file_of(PHOTO, "JPEG"), STRETCH, LIMITS).format == "jpeg"
    assert reason_for(b"a text that someone named photo.png") == "not_an_image"
    assert reason_for(b"BM is how this text begins, by chance") == "not_an_image"
    assert reason_for(b"PK\x03\x04" + bytes(200)) == "not_an_image"


def test_nothing_is_empty() -> None:
    assert reason_for(b"") == "empty"


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("GIF", {}),
    ],
)
def test_a_cut_file_is_truncated(kind: str, options: dict[str, object], kept: float) -> None:
    data = file_of(PHOTO, kind, **options)
    assert reason_for(data[: int(len(data) * kept)]) == "truncated"


def test_a_cut_cmyk_jpeg_is_truncated() -> None:
    data = file_of(PHOTO.convert("CMYK"), "JPEG")
    assert reason_for(data[: len(data) // 2]) == "truncated"


def test_a_cut_bigtiff_is_truncated() -> None:
    data = file_of(PHOTO, "TIFF", big_tiff=True)
    assert decode(data, STRETCH, LIMITS).width == 640
    assert reason_for(data[:-50]) == "truncated"


def test_stray_bytes_in_a_whole_jpeg_are_forgiven() -> None:
    data = file_of(PHOTO, "JPEG")
    assert decode(data[:-2] + bytes(3) + data[-2:], STRETCH, LIMITS).width == 640


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_scrambled_data_is_corrupt(kind: str) -> None:
    data = bytearray(file_of(PHOTO, kind))
    middle = len(data) // 2
    data[middle : middle + 2000] = b"\xff\xc4\x00\x03" * 500
    assert reason_for(bytes(data)) == "corrupt"


def test_an_image_without_pixels_is_too_small() -> None:
    gif = bytearray(file_of(PHOTO, "GIF"))
    gif[6:10] = bytes(4)
    bmp = bytearray(file_of(PHOTO, "BMP"))
    bmp[18:26] = bytes(8)
    jpeg = bytearray(file_of(PHOTO, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = bytes(4)
    for data in (png_header(0, 0), bytes(gif), bytes(bmp), bytes(jpeg)):
        assert reason_for(data) == "too_small"
    assert reason_for(file_of(PHOTO.resize((7, 200)), "PNG")) == "too_small"


def test_a_huge_header_is_too_large_at_no_cost() -> None:
    assert reason_for(png_header(30_000, 30_000)) == "too_large"
    webp = bytearray(file_of(PHOTO, "WEBP"))
    webp[26:30] = struct.pack("<HH", 16_383, 16_383)
    assert reason_for(bytes(webp)) == "too_large"
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[256], tags[257] = 50_000, 50_000
    assert reason_for(tags.tobytes(8).join((b"II*\0\x08\0\0\0", b""))) == "too_large"


def test_limits_are_the_callers() -> None:
    data = file_of(PHOTO, "PNG")
    assert reason_for(data, Limits(max_bytes=1000)) == "too_large"
    assert reason_for(data, Limits(max_pixels=640 * 427 - 1)) == "too_large"
    assert reason_for(data, Limits(min_side=428)) == "too_small"
    decode(data, STRETCH, Limits(max_pixels=640 * 427, min_side=427))
