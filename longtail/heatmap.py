"""Where an image is strange: the distances of its patches, drawn over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray
from PIL import Image

from detectors.patches import Bank, patch_scores, strangest_places
from encoders import images, registry
from encoders.base import Preprocess
from longtail.jobs import Jobs
from pipelines.patches import of_image, read
from schemas.errors import ImageError, NotFoundError

_LONGER_SIDE = 1024
_WHOLE = Preprocess(_LONGER_SIDE, mean=(0.0,) * 3, std=(1.0,) * 3)
_RED = (230, 30, 30)
_STRONGEST = 0.6
"""How much of the image the red hides at most."""


@dataclass(frozen=True)
class Heatmap:
    """What is strange in one image, and where.

    distances: float32 (h, w) of its patches to the nearest of the bank, in [0, 2], as the encoder
    sees the image. score: the mean of the 3 largest. x, y: where the largest is, as shares of the
    image's width and height. usual: what 99% of the reference's patches are nearer than.
    picture: the whole image, upright, 1,024 px on its longer side at most; red begins at a distance
    of `usual`, the same in every image, and is strongest from one and a half times that.
    """

    distances: NDArray[np.float32]
    score: float
    x: float
    y: float
    usual: float
    picture: Image.Image


def heatmap(jobs: Jobs, sample_id: str) -> Heatmap:
    """Read the image of a sample again and hold its patches against the bank.

    Raises EncoderError for an encoder that gives no patches, NotFoundError where there is no bank
    yet or the image is no longer where it lay.
    """
    settings, catalog = jobs.settings, jobs.catalog
    registry.check_patches(settings.encoder)
    info = registry.describe(settings.encoder, **settings.encoder_options)
    path = catalog.bank(info.id)
    if not path.exists():
        raise NotFoundError(
            f"{catalog.root} has no bank of reference patches yet; set 'patches: true' in "
            "longtail.yaml and run 'longtail ingest'"
        )
    mine = (ds.field("encoder") == info.id) & (ds.field("sample_id") == sample_id)
    uris = catalog.samples.read(["uri"], mine)["uri"].to_pylist()
    if not uris:
        raise NotFoundError(f"sample {sample_id} is of another encoder than {info.id}")
    try:
        data = read(sample_id, uris[0])
        seen = images.decode(data, info.preprocess, jobs.limits)
        whole = images.decode(data, _WHOLE, jobs.limits)
    except ImageError as error:
        raise NotFoundError(f"the image of sample {sample_id[:12]} is lost: {error}") from None
    bank = Bank.load(path)
    encoder = registry.share_patches(settings.encoder, **settings.encoder_options)
    distances = bank.distances(encoder.encode_patches(seen.pixels[np.newaxis]), [sample_id])
    sizes = np.array([[seen.width, seen.height]], dtype=np.float64)
    x, y = of_image(*strangest_places(distances), sizes, info.preprocess.crop)
    strength = np.clip(2 * (distances[0] / max(bank.usual, 1e-6) - 1), 0, 1)
    return Heatmap(
        distances=distances[0],
        score=float(patch_scores(distances)[0]),
        x=float(x[0]),
        y=float(y[0]),
        usual=bank.usual,
        picture=_painted(whole, strength, info.preprocess.crop),
    )


def _painted(
    whole: images.DecodedImage, strength: NDArray[np.floating], crop: float | None
) -> Image.Image:
    """The image in its own proportions, reddened where the square that was seen is strange."""
    scale = min(1.0, _LONGER_SIDE / max(whole.width, whole.height))
    width, height = (max(1, round(side * scale)) for side in (whole.width, whole.height))
    picture = Image.fromarray(whole.pixels).resize((width, height), Image.Resampling.BICUBIC)
    seen = (width, height) if crop is None else (max(1, round(crop * min(width, height))),) * 2
    red = Image.fromarray((255 * _STRONGEST * strength).astype(np.uint8))
    mask = Image.new("L", (width, height))
    corner = ((width - seen[0]) // 2, (height - seen[1]) // 2)
    mask.paste(red.resize(seen, Image.Resampling.BICUBIC), corner)
    return Image.composite(Image.new("RGB", (width, height), _RED), picture, mask)
