"""A model of timm where timm loads; where it does not, what a person is told."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.base import Encoder
from encoders.registry import describe, load, load_patches
from schemas.errors import EncoderError

Photographs = Callable[[int, int], np.ndarray]

if find_spec("timm") and find_spec("torchvision"):
    import timm

    @pytest.mark.parametrize(
        ("name", "dimensions", "patches"),
        [
            ("resnet10t", (64, 128, 512), (2, 8, 8, 128)),
            ("vit_tiny_patch16_224", (192, 192, 192), (2, 4, 4, 192)),
        ],
    )
    def test_a_saved_model_gives_its_levels(
        name: str,
        dimensions: tuple[int, ...],
        patches: tuple[int, ...],
        device: str,
        photographs: Photographs,
        batches_agree: Callable[[Encoder], None],
        tmp_path: Path,
    ) -> None:
        options = {"img_size": 64} if "vit" in name else {}
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=0, **options).eval()
        config = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.25,) * 3}
        timm.models.save_for_hf(
            model, tmp_path, model_config={"pretrained_cfg": config}, model_args=options
        )
        spec = f"timm:local-dir:{tmp_path}"
        assert tuple(describe(spec, device=device).dimensions.values()) == dimensions
        encoder = load(spec, device=device, precision="fp32")
        assert encoder.info.preprocess.size == 64
        x = torch.from_numpy(photographs(2, 64)).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            high = torch.nn.functional.normalize(model((x - 0.5) / 0.25)).numpy()
        embeddings = encoder.encode(photographs(2, 64))
        np.testing.assert_allclose(embeddings["high"], high, atol=1e-4)
        grid = load_patches(spec, device=device).encode_patches(photographs(2, 64))
        assert grid.shape == patches
        batches_agree(load(spec, device=device))

    def test_an_unknown_name_is_an_error() -> None:
        with pytest.raises(EncoderError, match="'timm:no_such_model' cannot be loaded"):
            describe("timm:no_such_model")

else:

    def test_what_is_missing_is_said_with_the_command() -> None:
        with pytest.raises(EncoderError, match=r"pip install 'longtail\[timm\]'"):
            describe("timm:resnet18")
