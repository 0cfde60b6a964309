"""Other images than solar cells: made of what scikit-learn and scikit-image bring with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import sklearn.datasets
from PIL import Image

from benchmarks.detect_cells import Ints
from benchmarks.detect_images import Luma, corruptions
from benchmarks.detect_rows import Mask

SIDE = 224
TEXTURES = ("brick.png", "grass.png", "gravel.png")
PHOTOGRAPHS = (
    *("astronaut.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png"),
    *("hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png"),
    *("retina.jpg", "rocket.jpg", "text.png"),
)
CROPS = 100
OF_A_TEXTURE = 450
SPOILT = 0.08


@dataclass(frozen=True)
class Images:
    """pixels: n of one size. whole: (n,) which of them have no fault. normal: (n,) which of them
    are, in a seed. rare: edge cases over normal images in a pool. sought: (n,) what labels shall
    teach in a seed, if there is something to learn. kind: (n,) what each shows, where that may be
    common or rare."""

    pixels: Sequence[Luma]
    whole: Mask
    normal: Callable[[int], Mask]
    rare: float
    sought: Callable[[int], Mask] | None = None
    kind: Ints | None = None

    def of(self, seed: int) -> tuple[Ints, Ints]:
        """Rows of the normal images and of the others, in the seed's order."""
        order = np.random.default_rng(seed).permutation(len(self.pixels))
        normal = self.normal(seed)[order]
        return order[normal], order[~normal]

    def one_of_each(self, seed: int) -> tuple[Ints, Ints]:
        """Rows of half of the kinds, and one of each of the others; none without kinds."""
        if self.kind is None:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        rng = np.random.default_rng(seed)
        rare, common = np.array_split(rng.permutation(np.unique(self.kind)), 2)
        rows = rng.permutation(np.flatnonzero(np.isin(self.kind, common)))
        return rows, np.array([rng.choice(np.flatnonzero(self.kind == kind)) for kind in rare])


def digits() -> Images:
    """1,797 handwritten digits (UCI): the others among one, and one to be learnt."""
    data = sklearn.datasets.load_digits()
    pixels = [
        _scaled(Image.fromarray(np.round(255 / 16 * x).astype(np.uint8))) for x in data.images
    ]

    def one(seed: int) -> Mask:
        return np.asarray(data.target == seed % 10)

    return Images(pixels, np.full(len(pixels), True), normal=one, rare=0.05, sought=one)


def scenes() -> Images:
    """1,600 crops of 16 photographs: a few of one among those of all others, or one of each."""
    photographs = [_opened(name) for name in PHOTOGRAPHS]
    photographs += [
        Image.fromarray(x).convert("L") for x in sklearn.datasets.load_sample_images().images
    ]
    rng = np.random.default_rng(0)
    pixels = [_crop(x, rng, 0.35, 0.7) for x in photographs for _ in range(CROPS)]
    shown = np.repeat(np.arange(len(photographs)), CROPS)

    def others(seed: int) -> Mask:
        return np.asarray(shown != seed % len(photographs))

    return Images(pixels, shown >= 0, normal=others, rare=0.01, kind=shown)


def textures() -> Images:
    """1,350 crops of brick, grass and gravel, 8% of them with a scratch or a foreign spot."""
    rng = np.random.default_rng(0)
    whole = [_crop(_opened(name), rng, 0.2, 0.35) for name in TEXTURES for _ in range(OF_A_TEXTURE)]
    spoilt = rng.random(len(whole)) < SPOILT
    ways = corruptions(rng)
    pixels = [
        ways["scratch" if i % 2 else "foreign patch"](x) if spoilt[i] else x
        for i, x in enumerate(whole)
    ]
    return Images(pixels, ~spoilt, lambda _: ~spoilt, rare=0.05, sought=lambda _: spoilt)


SETS: Mapping[str, Callable[[], Images]] = {
    "digits": digits,
    "scenes": scenes,
    "textures": textures,
}


def _opened(name: str) -> Image.Image:
    with Image.open(Path(skimage.data.__file__).parent / name) as file:
        return file.convert("L")


def _scaled(image: Image.Image) -> Luma:
    resized = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float64) / 255


def _crop(image: Image.Image, rng: np.random.Generator, least: float, most: float) -> Luma:
    """A square of any place, its side a share of the shorter one."""
    side = int(rng.uniform(least, most) * min(image.size))
    x, y = (int(rng.integers(0, full - side + 1)) for full in image.size)
    return _scaled(image.crop((x, y, x + side, y + side)))
