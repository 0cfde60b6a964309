"""The statistics mean what `Quality` says, on pictures whose statistics are known."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_image

from encoders.quality import measure, thumbnail

PHOTO = Image.fromarray(load_sample_image("flower.jpg")).resize((224, 224))


def bits_apart(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_a_uniform_grey_has_no_contrast_detail_or_colour() -> None:
    quality = measure(Image.new("RGB", (64, 64), (51, 51, 51)))
    assert quality.brightness == pytest.approx(0.2)
    assert quality.contrast == quality.sharpness == quality.entropy == quality.clipped == 0
    assert quality.saturation == pytest.approx(0, abs=1e-6)


def test_half_black_half_white() -> None:
    image = Image.new("L", (64, 64))
    image.paste(255, (0, 0, 32, 64))
    quality = measure(image)
    assert quality.brightness == pytest.approx(0.5)
    assert quality.contrast == pytest.approx(0.5)
    assert quality.entropy == pytest.approx(1)
    assert quality.clipped == 1
    # of 62 x 62 inner pixels, one column of 62 turns up by 255 and one down
    assert quality.sharpness == pytest.approx(255**2 * 2 / 62, rel=1e-4)


def test_saturation_is_that_of_hsv() -> None:
    assert measure(Image.new("RGB", (8, 8), (200, 0, 0))).saturation == pytest.approx(1)
    assert measure(Image.new("RGB", (8, 8), (200, 100, 150))).saturation == pytest.approx(0.5)
    assert measure(Image.new("RGB", (8, 8))).saturation == 0
    hsv = np.asarray(PHOTO.convert("HSV"))[:, :, 1].mean() / 255
    assert measure(PHOTO).saturation == pytest.approx(hsv, abs=0.005)


def test_blur_lowers_sharpness() -> None:
    blurred = PHOTO.filter(ImageFilter.GaussianBlur(2))
    assert measure(blurred).sharpness < 0.2 * measure(PHOTO).sharpness


def test_the_hash_survives_brightness_and_size_but_not_another_picture() -> None:
    reference = measure(PHOTO).phash
    assert len(reference) == 16
    assert bits_apart(reference, measure(PHOTO.point(lambda v: v * 0.8)).phash) <= 4
    assert bits_apart(reference, measure(PHOTO.resize((90, 90)).resize((224, 224))).phash) <= 4
    other = Image.fromarray(load_sample_image("china.jpg")).resize((224, 224))
    assert bits_apart(reference, measure(other).phash) > 16


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (112, 84)),
        ((480, 640), (84, 112)),
        ((9000, 10), (112, 1)),
        ((60, 40), (60, 40)),
    ],
)
def test_thumbnails_keep_the_proportions(
    mode: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    with Image.open(io.BytesIO(thumbnail(PHOTO.convert(mode), *size))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", mode, expected)
