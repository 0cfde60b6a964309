"""Small models of each family, of random weights: saved by transformers, loaded as a user's."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from PIL.ImageFilter import GaussianBlur
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn

from encoders.base import Encoder
from encoders.images import Limits, decode
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
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1]}
SWIN |= {"num_heads": [1, 2], "window_size": 4}
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
    "clip_half": (hf.CLIPVisionConfig, TOWER, (32, 32, 32)),
    "siglip_half": (hf.SiglipVisionConfig, TOWER, (32, 32, 32)),
    "swin": (hf.SwinConfig, SWIN, (8, 16, 16)),
    "convnext": (hf.ConvNextConfig, STAGES, (8, 16, 32)),
    "resnet": (hf.ResNetConfig, {**STAGES, "embedding_size": 8}, (8, 16, 32)),
}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
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
    device: str,
    photographs: Photographs,
    batches_agree: Callable[[Encoder], None],
    tmp_path: Path,
) -> None:
    model = save(family, tmp_path)
    spec = f"hf:{tmp_path}"
    info = describe(spec, device=device, precision="fp32")
    assert tuple(info.dimensions.values()) == CONFIGS[family][2]
    embeddings = load(spec, device=device, precision="fp32").encode(photographs(3, 64))
    x = torch.from_numpy(photographs(3, 64)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        inputs = {"pixel_values": (x - 0.5) / 0.25}
        if family in ("clip", "siglip"):
            high = model.get_image_features(**inputs).pooler_output
        elif family in ("convnext", "resnet", "swin", "clip_half", "siglip_half"):
            high = model(**inputs).pooler_output.flatten(1)
        else:
            high = model(**inputs).last_hidden_state[:, 0]
    np.testing.assert_allclose(embeddings["high"], nn.functional.normalize(high).numpy(), atol=1e-4)
    batches_agree(load(spec, device=device))


@pytest.mark.parametrize("family", ["dinov3", "convnext", "swin"])
def test_patches_are_the_image_without_the_extra_tokens(
    family: str, device: str, photographs: Photographs, tmp_path: Path
) -> None:
    save(family, tmp_path)
    patches = load_patches(f"hf:{tmp_path}", device=device).encode_patches(photographs(2, 64))
    shapes = {"dinov3": (2, 4, 4, 32), "convnext": (2, 8, 8, 16), "swin": (2, 8, 8, 16)}
    assert patches.shape == shapes[family]


PROCESSORS = {
    "stretched": hf.ViTImageProcessorPil(size={"height": 64, "width": 64}),
    "clip": hf.CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=64),
    "cropped": hf.BitImageProcessorPil(size={"shortest_edge": 80}, crop_size=64),
    "convnext": hf.ConvNextImageProcessorPil(size={"shortest_edge": 64}),
    "warped": hf.ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    "lanczos": hf.ViTImageProcessorPil(size={"height": 64, "width": 64}, resample=1),
    "unnormalised": hf.SiglipImageProcessorPil(
        size={"height": 64, "width": 64}, do_normalize=False
    ),
    "of 0 to 2": hf.ViTImageProcessorPil(size={"height": 64, "width": 64}, rescale_factor=2 / 255),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_preprocessing_is_the_models_own(name: str, tmp_path: Path) -> None:
    save("dinov2", tmp_path)
    PROCESSORS[name].save_pretrained(tmp_path)
    preprocess = describe(f"hf:{tmp_path}", device="cpu").preprocess
    # blurred: transformers crops at whole pixels, which is up to half a pixel beside the centre
    photograph = Image.fromarray(load_sample_image("flower.jpg")).filter(GaussianBlur(32))
    png = io.BytesIO()
    photograph.save(png, "png")
    pixels = decode(png.getvalue(), preprocess, Limits()).pixels
    ours = (pixels / 255 - preprocess.mean) / preprocess.std
    theirs = PROCESSORS[name](images=photograph, return_tensors="np")["pixel_values"][0]
    difference = np.abs(ours - theirs.transpose(1, 2, 0)) * preprocess.std * 255
    assert difference.mean() < 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # the size is stretched by ViT's processor, and that of others' crops
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 64}, {"crop": None}),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": 64, "crop_size": 64},
            {"crop": 1.0, "mean": (0.48145466, 0.4578275, 0.40821073)},
        ),
        (
            {"image_processor_type": "SiglipImageProcessor", "size": PROCESSOR["size"]},
            {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"},
        ),
        (
            {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": PROCESSOR["size"]},
            {"mean": (0.485, 0.456, 0.406), "interpolation": "bilinear", "crop": None},
        ),
        # of a file that names no processor, the model's own, which is BiT's
        ({"size": 80, "crop_size": 64}, {"size": 64, "crop": 0.8}),
    ],
)
def test_what_a_config_leaves_out_is_its_processors(
    config: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    save("dinov2", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    preprocess = describe(f"hf:{tmp_path}", device="cpu").preprocess
    assert {name: getattr(preprocess, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"resample": 0}, "resample 0"),
        ({"do_resize": False}, "do_resize: false"),
        ({"size": {"longest_edge": 64}}, "longest_edge"),
        ({"size": {"height": 64, "width": 32}}, "size"),
        ({"size": {"shortest_edge": 64}}, "leaves images oblong"),
        ({"do_center_crop": True, "crop_size": 80}, "crop_size"),
        ({"image_processor_type": "LevitImageProcessor", "size": 64, "crop_size": 64}, "Levit"),
        ({"image_processor_type": "DeiTImageProcessor", "size": 80, "crop_size": 64}, "DeiT"),
        ({"image_processor_type": "OneOfMyOwn"}, "OneOfMyOwn"),
        ({"size": {"height": 48, "width": 48}}, "48"),
    ],
)
def test_preprocessing_that_is_not_understood_is_refused(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    save("vit", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | changes))
    with pytest.raises(EncoderError, match=rf"^model 'hf:.*{complaint}"):
        describe(f"hf:{tmp_path}", device="cpu")


def test_a_processor_that_was_saved_with_its_tokenizer_is_found(tmp_path: Path) -> None:
    save("clip", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=64)
    hf.CLIPProcessor(images, tokenizer()).save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
    assert describe(f"hf:{tmp_path}", device="cpu").preprocess.crop == 1


def tokenizer(**options: int) -> Any:
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    vocabulary = {token: i for i, token in enumerate(names)}
    return hf.CLIPTokenizer(vocab=vocabulary, merges=[], **options)


@pytest.mark.parametrize(
    ("family", "options"), [("clip", {"model_max_length": 16}), ("clip", {}), ("siglip", {})]
)
def test_text_lies_where_the_images_do(
    family: str, options: dict[str, int], tmp_path: Path
) -> None:
    model = save(family, tmp_path)
    words = tokenizer(**options)
    words.save_pretrained(tmp_path)
    texts = ["a cat", "rust", "a text that is much longer than the model has positions for"]
    vectors = load_text(f"hf:{tmp_path}").encode_text(texts)
    assert vectors.shape == (3, describe(f"hf:{tmp_path}", device="cpu").dimensions["high"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    tokens = words(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        features = model.get_text_features(**tokens).pooler_output
    np.testing.assert_allclose(vectors, nn.functional.normalize(features).numpy(), atol=1e-5)
    assert load_text(f"hf:{tmp_path}") is load_text(f"hf:{tmp_path}")


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


def test_the_config_is_part_of_the_identity(tmp_path: Path) -> None:
    save("vit", tmp_path)
    before = describe(f"hf:{tmp_path}", device="cpu")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    assert describe(f"hf:{tmp_path}", device="cpu").id != before.id


OWN = """
from transformers import ViTConfig, ViTModel
class Config(ViTConfig): model_type = "mine"
class Model(ViTModel): config_class = Config
"""


def test_code_that_is_trusted_is_part_of_the_identity(tmp_path: Path) -> None:
    save("vit", tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    config["auto_map"]["AutoModel"] = "mine.Model"
    (tmp_path / "config.json").write_text(json.dumps(config))
    before = describe(f"hf:{tmp_path}", device="cpu", trust_remote_code=True)
    assert before.dimensions["high"] == 32
    (tmp_path / "mine.py").write_text(OWN + "changed = True\n")
    after = describe(f"hf:{tmp_path}", device="cpu", trust_remote_code=True)
    assert after.weights_sha256 != before.weights_sha256


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    model = save("vit", tmp_path)
    state = model.state_dict()

    def left_out(part: str) -> None:
        kept = {name: tensor for name, tensor in state.items() if part not in name}
        assert len(kept) < len(state)
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})

    left_out("layers.2.")
    with pytest.raises(EncoderError, match=r"lacks \d+ of its weights, '.*layers\.2"):
        load(f"hf:{tmp_path}", device="cpu")
    left_out("pooler.")  # which no level passes
    load(f"hf:{tmp_path}", device="cpu")


def test_weights_in_half_precision_compute_in_the_one_that_is_asked_for(
    photographs: Photographs, tmp_path: Path
) -> None:
    model = save("clip", tmp_path).half()
    model.save_pretrained(tmp_path)
    spec = f"hf:{tmp_path}"
    high = load(spec, device="cpu", precision="fp32").encode(photographs(3, 64))["high"]
    x = torch.from_numpy(photographs(3, 64)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        features = model.float().get_image_features(pixel_values=(x - 0.5) / 0.25).pooler_output
    np.testing.assert_allclose(high, nn.functional.normalize(features).numpy(), atol=1e-5)


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


def test_a_model_that_hides_patches_at_random_is_refused(tmp_path: Path) -> None:
    hf.ViTMAEModel(hf.ViTMAEConfig(**TOWER)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    with pytest.raises(EncoderError, match="hides or merges patches"):
        describe(f"hf:{tmp_path}", device="cpu")


def test_a_broken_model_is_one_line(tmp_path: Path) -> None:
    save("vit", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(EncoderError, match=r"^model 'hf:.*[^\n]*$"):
        load(f"hf:{tmp_path}", device="cpu")
    for name in ("config.json", "preprocessor_config.json"):
        save("vit", tmp_path)
        (tmp_path / name).write_text("{")
        with pytest.raises(EncoderError, match=r"^model 'hf:[^\n]*$"):
            describe(f"hf:{tmp_path}", device="cpu")


def test_a_model_of_text_is_refused(tmp_path: Path) -> None:
    config = hf.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    hf.BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    with pytest.raises(EncoderError, match=r"^model 'hf:[^\n]*$"):
        describe(f"hf:{tmp_path}", device="cpu")


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"it has no config\.json; give hf: a folder"):
        describe(f"hf:{tmp_path}")
    hf.ViTConfig(**TOWER).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"it has no preprocessor_config\.json"):
        describe(f"hf:{tmp_path}")


@pytest.mark.parametrize("path", ["/no/such", "./models", "a/b/c", "~/models", "/etc/hostname"])
def test_a_folder_that_is_not_there_is_told(path: str) -> None:
    with pytest.raises(
        EncoderError, match=f"^model 'hf:{path}' cannot be used: there is no such folder; give hf:"
    ):
        describe(f"hf:{path}")


def test_a_hub_that_cannot_be_reached_is_told_after_one_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each file that is asked for waits for it anew."""
    asked = []

    def cached_file(target: str, name: str, **options: Any) -> str | None:
        asked.append(name)
        return hf.utils.cached_file(target, name, **options)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("encoders.huggingface.cached_file", cached_file)
    with pytest.raises(EncoderError, match=r"^model 'hf:no/such' .* hub cannot be reached[^\n]*$"):
        describe("hf:no/such")
    assert asked == ["config.json"]
