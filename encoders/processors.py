"""How a model of `transformers` wants its images, as its own image processor says it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import transformers
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from encoders.base import Interpolation, Preprocess
from encoders.images import Limits, decode
from schemas.errors import EncoderError

# the numbers that Pillow gives its filters, as preprocessor_config.json holds them
_INTERPOLATION: Mapping[int, Interpolation] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_WARPED_FROM = 384
"""Side in pixels from which ConvNeXt's processor stretches images instead of cropping them."""


class _DINOv3(PilBackend):  # type: ignore[misc]
    """As transformers has it for torchvision only."""

    resample = 2
    image_mean = (0.485, 0.456, 0.406)
    image_std = (0.229, 0.224, 0.225)
    size = {"height": 224, "width": 224}  # noqa: RUF012
    do_resize = do_rescale = do_normalize = True


def preprocess(config: Mapping[str, Any], model_type: str) -> Preprocess:
    """What a preprocessor_config.json of a model of this type stands for.

    The processor of transformers fills in what the file leaves out, and is then held against
    `images.decode` on a test image. Raises EncoderError for a way of preparing images that
    `Preprocess` cannot express.
    """
    processor = _processor(config, model_type)
    size, crop = _square(processor)
    resample = int(processor.resample)
    if resample not in _INTERPOLATION:
        raise _unknown(f"resample {resample}; it may be one of {sorted(_INTERPOLATION)}")
    # pixels * factor, then normalised, is pixels / 255 normalised by other numbers
    factor = round(255 * processor.rescale_factor, 6) if processor.do_rescale else 255.0
    normal = processor.do_normalize
    found = Preprocess(
        size=size,
        mean=_three(processor.image_mean if normal else 0.0, factor),
        std=_three(processor.image_std if normal else 1.0, factor),
        interpolation=_INTERPOLATION[resample],
        crop=crop,
    )
    if not _agree(processor, found):
        raise _unknown(f"{type(processor).__name__}, which does more than to resize and crop")
    return found


def _processor(config: Mapping[str, Any], model_type: str) -> Any:
    old = config.get("feature_extractor_type", "").replace("FeatureExtractor", "ImageProcessor")
    named = config.get("image_processor_type") or old
    if not named:
        known = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {})
        named = next(iter(known.values()), "no image_processor_type")
    name = named.removesuffix("Fast").removesuffix("Pil")
    if name == "DINOv3ViTImageProcessor":
        return _DINOv3(**config)
    # the other kind needs torchvision
    kind = getattr(transformers, f"{name}Pil", None)
    if kind is None:
        raise _unknown(name)
    return kind(**config)


def _square(processor: Any) -> tuple[int, float | None]:
    """Side of the square, and the share of the image's shorter side that it shows, or None."""
    size = dict(processor.size or {})
    if not processor.do_resize:
        raise _unknown("do_resize: false")
    if set(size) == {"height", "width"} and size["height"] == size["width"]:
        shown, stretched = size["height"], True
    elif set(size) == {"shortest_edge"}:
        shown, stretched = size["shortest_edge"], False
    else:
        raise _unknown(f"size {size}; it may be a square or a shortest_edge")
    if processor.do_center_crop:
        crop = dict(processor.crop_size)
        if set(crop.values()) != {crop.get("height")} or crop["height"] > shown:
            raise _unknown(f"crop_size {crop} of size {size}")
        whole = stretched and crop["height"] == shown
        return crop["height"], None if whole else crop["height"] / shown
    if stretched:
        return shown, None
    share = getattr(processor, "crop_pct", None)
    if share is None:
        raise _unknown(f"size {size} without a crop, which leaves images oblong")
    return shown, share if shown < _WARPED_FROM else None


def _three(values: float | tuple[float, ...], factor: float) -> tuple[float, float, float]:
    red, green, blue = values if isinstance(values, tuple) else (values,) * 3
    return red / factor, green / factor, blue / factor


def _agree(processor: Any, preprocess: Preprocess) -> bool:
    """Whether both make the same of a smooth coloured image that is wider than high."""
    y, x = np.mgrid[0:1:320j, 0:1:480j]
    smooth = np.stack([x, y, (x + y * y) / 2], axis=-1)
    image = Image.fromarray((smooth * 255).astype(np.uint8))
    png = io.BytesIO()
    image.save(png, "png")
    theirs = np.asarray(processor(images=image, return_tensors="np")["pixel_values"])
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    ours = (decode(png.getvalue(), preprocess, Limits()).pixels / 255 - mean) / std
    if theirs.shape != (1, *ours.transpose(2, 0, 1).shape):
        return False
    difference = np.abs(theirs[0].transpose(1, 2, 0) - ours) * std * 255
    # transformers crops at whole pixels, which is up to half a pixel beside the centre
    return bool(difference.mean() < 1 + 128 / preprocess.size)


def _unknown(what: str) -> EncoderError:
    return EncoderError(
        f"its images are prepared by {what}: longtail does not know how; export the model with "
        "torch.export and say so in a YAML beside it (export:PATH)"
    )
