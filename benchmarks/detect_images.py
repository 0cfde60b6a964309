"""Images for the detection benchmark: ELPV, 18 ways to break a photograph, foreign photographs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import elpv_dataset
import numpy as np
import skimage.data
import sklearn.datasets
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Luma = NDArray[np.float64]
"""(h, w), in [0, 1]."""

FOREIGN = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "coins.png", "retina.jpg")


def cells() -> tuple[list[Path], NDArray[np.float64], NDArray[np.str_]]:
    """Paths (2624), defect probabilities and cell types of ELPV."""
    folder = Path(elpv_dataset.__file__).parent / "data"
    rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines()]
    paths, probability, types = zip(*rows, strict=True)
    return [folder / path for path in paths], np.array(probability, float), np.array(types)


def luma(path: Path) -> Luma:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), dtype=np.float64) / 255


def png(pixels: NDArray[np.float64]) -> bytes:
    """Values in [0, 1], grey (h, w) or colour (h, w, 3)."""
    return _saved(Image.fromarray(np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)))


def _saved(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=0)
    return file.getvalue()


def crops(count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Crops of one photograph, of any place and size: alike, and nothing like a solar cell."""
    image = _foreign(rng)
    for _ in range(count):
        side = int(rng.uniform(0.5, 0.9) * min(image.size))
        x, y = (int(rng.integers(0, full - side + 1)) for full in image.size)
        yield _saved(_cropped(image, x, y, side))


def near_copies(count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """One photograph as a shaken hand takes it: moved by a few pixels, a little darker or not."""
    image = _foreign(rng)
    side = int(0.7 * min(image.size))
    for _ in range(count):
        x, y = (int((full - side) / 2 + rng.normal(0, 0.02 * side)) for full in image.size)
        pixels = np.asarray(_cropped(image, x, y, side)) / 255
        yield png(rng.uniform(0.9, 1.1) * pixels)


def _foreign(rng: np.random.Generator) -> Image.Image:
    name = FOREIGN[rng.integers(len(FOREIGN))]
    with Image.open(Path(skimage.data.__file__).parent / name) as file:
        return file.convert("RGB")


def _cropped(image: Image.Image, x: int, y: int, side: int) -> Image.Image:
    return image.resize((300, 300), box=(x, y, x + side, y + side), reducing_gap=1.0)


def corruptions(rng: np.random.Generator) -> Mapping[str, Callable[[Luma], Luma]]:
    """The 18 kinds, each a function of one image."""
    with Image.open(Path(sklearn.datasets.__file__).parent / "images" / "china.jpg") as file:
        strange = np.asarray(file.convert("L"), dtype=np.float64) / 255

    def pixels(share: float, value: float) -> Callable[[Luma], Luma]:
        return lambda x: np.where(rng.random(x.shape) < share, value, x)

    def dead_columns(x: Luma) -> Luma:
        broken = x.copy()
        broken[:, rng.integers(0, x.shape[1], 6)] = 0
        return broken

    def jpeg(x: Luma) -> Luma:
        file = io.BytesIO()
        Image.fromarray(np.round(255 * x).astype(np.uint8)).save(file, "JPEG", quality=8)
        return np.asarray(Image.open(file), dtype=np.float64) / 255

    def pixelated(x: Luma) -> Luma:
        small = Image.fromarray(np.round(255 * x).astype(np.uint8)).resize(
            (50, 50), Image.Resampling.BOX
        )
        return (
            np.asarray(small.resize(x.shape[::-1], Image.Resampling.NEAREST), dtype=np.float64)
            / 255
        )

    def banded(x: Luma) -> Luma:
        return np.asarray(x + 0.06 * np.sin(np.arange(len(x)) * 0.42)[:, None])

    def vignetted(x: Luma) -> Luma:
        y, z = np.ogrid[-0.5 : 0.5 : x.shape[0] * 1j, -0.5 : 0.5 : x.shape[1] * 1j]
        return np.asarray(x * np.clip(1 - 2.2 * (y**2 + z**2), 0, 1))

    def scratched(x: Luma) -> Luma:
        broken, t = x.copy(), np.linspace(0, 1, 2000)
        (x0, x1), (y0, y1) = (rng.uniform(0.05, 0.95, 2) * full for full in x.shape)
        rows, columns = (x0 + (x1 - x0) * t).astype(int), (y0 + (y1 - y0) * t).astype(int)
        for offset in range(3):
            broken[np.minimum(rows + offset, x.shape[0] - 1), columns] = 0.05
        return broken

    def pasted(side: int, patch: Luma) -> Callable[[Luma], Luma]:
        def paste(x: Luma) -> Luma:
            broken = x.copy()
            row, column = (int(rng.integers(0, full - side)) for full in x.shape)
            a, b = (int(rng.integers(0, full - side)) for full in patch.shape)
            broken[row : row + side, column : column + side] = patch[a : a + side, b : b + side]
            return broken

        return paste

    return {
        "gaussian noise": lambda x: x + rng.normal(0, 0.08, x.shape),
        "shot noise": lambda x: rng.poisson(30 * x) / 30,
        "salt and pepper": lambda x: pixels(0.005, 1)(pixels(0.005, 0)(x)),
        "hot pixels": pixels(0.005, 1),
        "dead pixels": pixels(0.01, 0),
        "dead columns": dead_columns,
        "defocus": lambda x: ndimage.gaussian_filter(x, 2.5),
        "motion blur": lambda x: ndimage.uniform_filter1d(x, 15, axis=1, mode="nearest"),
        "under-exposed": lambda x: 0.35 * x,
        "over-exposed": lambda x: 1.9 * x + 0.1,
        "low contrast": lambda x: 0.35 * (x - x.mean()) + x.mean(),
        "JPEG artefacts": jpeg,
        "pixelated": pixelated,
        "banding": banded,
        "vignetting": vignetted,
        "scratch": scratched,
        "foreign patch": pasted(80, strange),
        "occlusion": pasted(100, np.zeros((101, 101))),
    }
