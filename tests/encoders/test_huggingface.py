"""Small models of each family, of random weights: saved by transformers, loaded as a user's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from encoders.base import Encoder, Preprocess
from encoders.registry import describe, load, load_patches, load_text
from schemas.errors import EncoderError

Photographs = Callable[[int, int], np.ndarray]

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}
TEXT = {**TOWER, "vocab_size": 64, "max_position_embeddings": 16, "projection_dim": 24}
TEXT |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}

CONFIGS: dict[str, tuple[type, dict[str, Any], tuple[int, int, int]]] = {
    "vit": (hf.ViTConfig, TOWER, (32, 32, 32)),
    "dinov2": (hf.Dinov2Config, TOWER, (32, 32, 32)),
    "dinov3": (hf.DINOv3ViTConfig, {**TOWER, "num_register_tokens": 4}, (32, 32, 32)),
    "clip": (
        hf.CLIPConfig,
        {"vision_config": TOWER, "text_config": TEXT, "projection_dim": 24},
        (32, 32, 24),
    ),
    "siglip": (hf.SiglipConfig, {"vision_config": TOWER, "text_config": TEXT}, (32, 32, 32)),
    "convnext": (hf.ConvNextConfig, STAGES, (8, 16, 32)),
    "resnet": (hf.ResNetConfig, {**STAGES, "embedding_size": 8}, (8, 16, 32)),
}
PROCESSOR = {
    "size": {"height": 64, "width": 64},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
    "resample": 2,
}


def save(family: str, folder: Path) -> nn.Module:
    torch.manual_seed(0)
    config, options, _ = CONFIGS[family]
    model = hf.AutoModel.from_config(config(**options)).eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return model


@pytest.mark.parametrize("family", CONFIGS)
def test_a_family_gives_three_levels(
    family: str,
    photographs: Photographs,
    batches_agree: Callable[[Encoder], None],
    tmp_path: Path,
) -> None:
    model = save(family, tmp_path)
    spec = f"hf:{tmp_path}"
    info = describe(spec, device="cpu", precision="fp32")
    assert tuple(info.dimensions.values()) == CONFIGS[family][2]
    embeddings = load(spec, device="cpu", precision="fp32").encode(photographs(3, 64))
    x = torch.from_numpy(photographs(3, 64)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        inputs = {"pixel_values": (x - 0.5) / 0.25}
        if family in ("clip", "siglip"):
            high = model.get_image_features(**inputs).pooler_output
        elif family in ("convnext", "resnet"):
            high = model(**inputs).pooler_output.flatten(1)
        else:
            high = model(**inputs).last_hidden_state[:, 0]
    np.testing.assert_allclose(embeddings["high"], nn.functional.normalize(high).numpy(), atol=1e-4)
    batches_agree(load(spec, device="cpu"))


@pytest.mark.parametrize("family", ["dinov3", "convnext"])
def test_patches_are_the_image_without_the_extra_tokens(
    family: str, photographs: Photographs, tmp_path: Path
) -> None:
    save(family, tmp_path)
    patches = load_patches(f"hf:{tmp_path}", device="cpu").encode_patches(photographs(2, 64))
    assert patches.shape == {"dinov3": (2, 4, 4, 32), "convnext": (2, 8, 8, 16)}[family]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"size": 64, "interpolation": "bilinear", "crop": None}),
        (
            {"size": {"shortest_edge": 80}, "do_center_crop": True, "crop_size": 64},
            {"crop": 0.8},
        ),
        ({"size": {"shortest_edge": 64}, "crop_pct": 0.875}, {"crop": 0.875}),
        ({"size": 64, "do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"resample": 3}, {"interpolation": "bicubic"}),
    ],
)
def test_preprocessing_is_the_models_own(
    changes: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    save("dinov2", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | changes))
    preprocess = describe(f"hf:{tmp_path}", device="cpu").preprocess
    assert isinstance(preprocess, Preprocess)
    assert {name: getattr(preprocess, name) for name in expected} == expected


def test_text_lies_where_the_images_do(tmp_path: Path) -> None:
    model = save("clip", tmp_path)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    vocabulary = {token: i for i, token in enumerate(names)}
    tokenizer = hf.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)
    tokenizer.save_pretrained(tmp_path)
    texts = ["a cat", "rust"]
    vectors = load_text(f"hf:{tmp_path}").encode_text(texts)
    assert vectors.shape == (2, describe(f"hf:{tmp_path}", device="cpu").dimensions["high"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    tokens = tokenizer(texts, padding="max_length", return_tensors="pt")
    with torch.inference_mode():
        features = model.get_text_features(**tokens).pooler_output
    np.testing.assert_allclose(vectors, nn.functional.normalize(features).numpy(), atol=1e-5)


def test_a_model_without_text_says_so(tmp_path: Path) -> None:
    save("vit", tmp_path)
    with pytest.raises(EncoderError, match="embeds images only"):
        load_text(f"hf:{tmp_path}")


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    model = save("vit", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="has no safetensors"):
        describe(f"hf:{tmp_path}")


def test_shards_are_part_of_the_identity(tmp_path: Path) -> None:
    model = save("vit", tmp_path)
    whole = describe(f"hf:{tmp_path}", device="cpu")
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    sharded = describe(f"hf:{tmp_path}", device="cpu")
    assert sharded.weights_sha256 != whole.weights_sha256
    assert sharded.dimensions == whole.dimensions


def test_a_models_own_code_does_not_run(tmp_path: Path) -> None:
    save("vit", tmp_path)
    sprung = tmp_path / "sprung"
    (tmp_path / "mine.py").write_text(f"open({str(sprung)!r}, 'w')\nclass Config: pass\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match="trust_remote_code"):
        describe(f"hf:{tmp_path}")
    assert not sprung.exists()


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"preprocessor_config\.json"):
        describe(f"hf:{tmp_path}")
