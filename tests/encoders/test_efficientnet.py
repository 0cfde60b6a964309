"""Our network against the reference architecture, and on photographs that have a right answer."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import skimage.data
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from sklearn.datasets import load_sample_image
from torch.nn import functional

from encoders import efficientnet
from encoders.backends import PixelsToVectors
from encoders.images import Limits, decode
from encoders.pretrained import PRETRAINED, find

LITE0 = PRETRAINED["efficientnet-lite0"]


@pytest.mark.parametrize("name", PRETRAINED)
def test_agrees_with_the_reference_architecture(name: str) -> None:
    known = PRETRAINED[name]
    reference = EfficientNet.from_name(name).eval()
    reference.load_state_dict(torch.load(known.weights, weights_only=True))
    network = find(name).build()
    x = torch.randn(2, 3, known.size, known.size, generator=torch.Generator().manual_seed(0))
    outputs: dict[torch.Size, torch.Tensor] = {}
    with torch.inference_mode():
        maps = network(x)
        x = reference._swish(reference._bn0(reference._conv_stem(x)))
        for block in reference._blocks:
            x = block(x)
            outputs[x.shape] = x  # the last block of a stage wins
    for ours, width in zip(maps, known.dimensions, strict=True):
        theirs = outputs[ours.shape]
        assert ours.shape[1] == width
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
        vectors = [functional.normalize(each.mean((2, 3))) for each in (ours, theirs)]
        assert (vectors[0] - vectors[1]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("photograph", "imagenet_class"),
    [
        (skimage.data.chelsea(), {281, 282, 285}),  # tabby, tiger and Egyptian cat
        (skimage.data.coffee(), {967}),  # espresso
        (load_sample_image("china.jpg"), {698}),  # palace
    ],
)
def test_names_photographs(photograph: object, imagenet_class: set[int]) -> None:
    """Through our own decoding, with the classifier's head put back on."""
    stream = io.BytesIO()
    Image.fromarray(photograph).save(stream, "JPEG", quality=95)
    as_trained = replace(LITE0.preprocess, crop=224 / 256)
    pixels = decode(stream.getvalue(), as_trained, Limits()).pixels
    state = efficientnet.load_state(LITE0.weights)
    body = find("efficientnet-lite0").build()
    with torch.inference_mode():
        x = PixelsToVectors(body, LITE0.preprocess).normalised(torch.from_numpy(pixels[None]))
        *_, high = body(x)
        x = functional.conv2d(high, state["_conv_head.weight"])
        statistics = (state[f"_bn1.{key}"] for key in ("running_mean", "running_var"))
        x = functional.batch_norm(
            x, *statistics, state["_bn1.weight"], state["_bn1.bias"], eps=1e-3
        )
        logits = functional.linear(
            functional.relu6(x).mean((2, 3)), state["_fc.weight"], state["_fc.bias"]
        )
    assert int(logits.argmax()) in imagenet_class
