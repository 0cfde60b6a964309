"""TorchScript, torch.export and ONNX files with a YAML beside them: saved here, then a user's."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from encoders.base import Encoder
from encoders.registry import describe, load, load_patches
from schemas.errors import EncoderError
from schemas.records import LEVELS

SIDECAR = """\
size: 32
mean: [0.5, 0.4, 0.3]
std: [0.2, 0.2, 0.2]
levels: {low: 0, mid: 1, high: 2}
"""
Photographs = Callable[[int, int], np.ndarray]


def save_torchscript(model: nn.Module, folder: Path) -> str:
    path = folder / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(model, torch.zeros(2, 3, 32, 32)), path)
    return f"torchscript:{path}"


def save_exported(model: nn.Module, folder: Path) -> str:
    path = folder / "model.pt2"
    batch = {0: torch.export.Dim("batch")}
    torch.export.save(
        torch.export.export(model, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=(batch,)), path
    )
    return f"export:{path}"


def save_exported_for_four_images(model: nn.Module, folder: Path) -> str:
    path = folder / "four.pt2"
    torch.export.save(torch.export.export(model, (torch.zeros(4, 3, 32, 32),)), path)
    return f"export:{path}"


def save_onnx(model: nn.Module, folder: Path) -> str:
    return _onnx(model, folder / "model.onnx", dynamic_shapes=({0: "batch"},))


def save_onnx_for_one_image(model: nn.Module, folder: Path) -> str:
    return _onnx(model, folder / "one.onnx", images=1)


def _onnx(model: nn.Module, path: Path, images: int = 2, **options: object) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        torch.onnx.export(
            model,
            (torch.zeros(images, 3, 32, 32),),
            path,
            output_names=["texture", "parts", "whole"],
            verbose=False,
            **options,
        )
    return f"onnx:{path}"


KINDS = [
    save_torchscript,
    save_exported,
    save_exported_for_four_images,
    save_onnx,
    save_onnx_for_one_image,
]
Save = Callable[[nn.Module, Path], str]


def with_sidecar(spec: str, text: str = SIDECAR) -> str:
    Path(spec.partition(":")[2]).with_suffix(".yaml").write_text(text)
    return spec


@pytest.mark.parametrize("save", KINDS)
def test_a_saved_model_gives_its_levels(
    save: Save,
    device: str,
    small_model: nn.Module,
    expected: dict[str, np.ndarray],
    photographs: Photographs,
    batches_agree: Callable[[Encoder], None],
    tmp_path: Path,
) -> None:
    spec = with_sidecar(save(small_model, tmp_path))
    if spec.startswith("onnx"):
        device = "cpu"  # ONNX Runtime for GPUs is a package of its own
    info = describe(spec, device=device)
    assert info.dimensions == {"low": 4, "mid": 8, "high": 12}
    assert info.preprocess.size == 32
    precision = "auto" if spec.startswith("onnx") else "fp32"
    encoder = load(spec, device=device, precision=precision)
    embeddings = encoder.encode(photographs(5, 32))
    for level in LEVELS:
        np.testing.assert_allclose(embeddings[level], expected[level], atol=2e-5)
    batches_agree(load(spec, device=device))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's, of its own parts
def test_compile_gives_the_same_vectors(
    device: str,
    small_model: nn.Module,
    expected: dict[str, np.ndarray],
    photographs: Photographs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # which builds what it runs by itself
    spec = with_sidecar(save_exported(small_model, tmp_path))
    encoder = load(spec, device=device, precision="fp32", compile_=True)
    embeddings = encoder.encode(photographs(5, 32))
    for level in LEVELS:
        np.testing.assert_allclose(embeddings[level], expected[level], atol=2e-5)


def test_a_machine_without_a_compiler_is_told_so(small_model: nn.Module, tmp_path: Path) -> None:
    spec = with_sidecar(save_exported(small_model, tmp_path))
    program = (
        "import sys; sys.modules['openvino'] = None\n"
        "from encoders.registry import load; from schemas.errors import EncoderError\n"
        f"try: load({spec!r}, device='cpu', compile_=True)\n"
        "except EncoderError as error: print(error)"
    )
    environment = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert "torch.compile failed" in done.stdout, done.stderr
    assert "set 'compile: false'" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("save", [save_torchscript, save_onnx])
def test_the_name_of_the_folder_is_no_part_of_the_identity(
    save: Save, small_model: nn.Module, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    spec = with_sidecar(save(small_model, tmp_path / "here"))
    before = describe(spec, device="cpu")
    elsewhere = (tmp_path / "here").rename(tmp_path / "elsewhere")
    moved = f"{spec.partition(':')[0]}:{elsewhere / Path(spec).name}"
    assert describe(moved, device="cpu").fingerprint == before.fingerprint
    with_sidecar(moved, SIDECAR.replace("0.3", "0.31"))
    assert describe(moved, device="cpu").fingerprint != before.fingerprint


def test_one_level_is_enough_and_outputs_go_by_name(
    small_model: nn.Module,
    expected: dict[str, np.ndarray],
    photographs: Photographs,
    tmp_path: Path,
) -> None:
    spec = save_onnx(small_model, tmp_path)
    with_sidecar(spec, SIDECAR.replace("{low: 0, mid: 1, high: 2}", "{high: whole}"))
    embeddings = load(spec, device="cpu").encode(photographs(5, 32))
    assert set(embeddings) == {"high"}
    np.testing.assert_allclose(embeddings["high"], expected["high"], atol=2e-5)


@pytest.mark.parametrize("save", [save_torchscript, save_exported, save_onnx])
def test_the_choice_of_outputs_is_part_of_the_identity(
    save: Save, small_model: nn.Module, tmp_path: Path
) -> None:
    spec = with_sidecar(save(small_model, tmp_path))
    before = describe(spec, device="cpu")
    with_sidecar(spec, SIDECAR.replace("{low: 0, mid: 1, high: 2}", "{low: 0, mid: 0, high: 2}"))
    assert describe(spec, device="cpu").weights_sha256 != before.weights_sha256


def test_weights_beside_an_onnx_file_are_part_of_the_identity(
    small_model: nn.Module, tmp_path: Path
) -> None:
    spec = with_sidecar(save_onnx(small_model, tmp_path))
    model = onnx.load(tmp_path / "model.onnx")
    onnx.save(
        model,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="numbers.bin",
        size_threshold=100,
    )
    before = describe(spec, device="cpu")
    numbers = bytearray((tmp_path / "numbers.bin").read_bytes())
    numbers[2] ^= 0x40  # of the first float
    (tmp_path / "numbers.bin").write_bytes(numbers)
    assert describe(spec, device="cpu").id != before.id


def test_an_onnx_model_in_half_precision_is_fed_so(
    small_model: nn.Module,
    expected: dict[str, np.ndarray],
    photographs: Photographs,
    tmp_path: Path,
) -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(level.half() for level in small_model(x.float()))

    path = tmp_path / "half.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        torch.onnx.export(Half(), (torch.zeros(1, 3, 32, 32).half(),), path, verbose=False)
    encoder = load(with_sidecar(f"onnx:{path}"), device="cpu")
    assert encoder.info.precision == "fp16"
    for level, vectors in encoder.encode(photographs(5, 32)).items():
        assert (vectors * expected[level]).sum(1).min() > 1 - 1e-4


@pytest.mark.parametrize("save", [save_torchscript, save_exported])
def test_an_output_that_is_a_map_gives_patches(
    save: Save, small_model: nn.Module, photographs: Photographs, tmp_path: Path
) -> None:
    spec = with_sidecar(save(small_model, tmp_path), SIDECAR + "patches: 0\n")
    patches = load_patches(spec, device="cpu").encode_patches(photographs(5, 32))
    assert patches.shape == (5, 16, 16, 4)
    with pytest.raises(EncoderError, match="must name a map"):
        describe(with_sidecar(spec, SIDECAR + "patches: 1\n"))
    with pytest.raises(EncoderError, match="whose YAML names its 'patches'"):
        load_patches(with_sidecar(spec))


def test_patches_are_not_for_onnx(small_model: nn.Module, tmp_path: Path) -> None:
    spec = with_sidecar(save_onnx(small_model, tmp_path), SIDECAR + "patches: 9\n")
    with pytest.raises(EncoderError, match="gives no patches, but its YAML says 'patches: 9'"):
        load(spec, device="cpu")
    assert describe(with_sidecar(spec)).dimensions["high"] == 12


@pytest.mark.parametrize("save", [save_torchscript, save_exported, save_onnx])
def test_a_size_that_the_model_does_not_take_is_one_line(
    save: Save, small_model: nn.Module, tmp_path: Path
) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = small_model

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            low, mid, high = self.model(x + torch.zeros(3, 32, 32))
            return low, mid, high

    spec = with_sidecar(save(Fixed().eval(), tmp_path), SIDECAR.replace("size: 32", "size: 40"))
    with pytest.raises(EncoderError, match=r"^[^\n]*does not fit its YAML \(size 40\): [^\n]*$"):
        describe(spec)


def test_onnx_runtime_for_the_cpu_is_not_taken_for_a_gpus(
    small_model: nn.Module, tmp_path: Path
) -> None:
    from encoders.onnx import describe as describe_on

    target = with_sidecar(save_onnx(small_model, tmp_path)).partition(":")[2]
    with pytest.raises(EncoderError, match=r"'cuda:0'.*pip install onnxruntime-gpu"):
        describe_on(target, "cuda:0")
    assert describe_on(target, "auto").dimensions["high"] == 12


@pytest.mark.parametrize("save", [save_torchscript, save_exported, save_onnx])
def test_a_model_without_yaml_shows_one(save: Save, small_model: nn.Module, tmp_path: Path) -> None:
    spec = save(small_model, tmp_path)
    with pytest.raises(EncoderError, match=r"needs model.yaml beside it, such as:\nsize: 224\n"):
        describe(spec)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (SIDECAR + "sise: 3", "sise: Extra inputs are not permitted"),
        (SIDECAR.replace("size: 32", "size: big"), "size: Input should be a valid integer"),
        (SIDECAR.replace("0.4", "116"), r"mean\.1: Input should be less than or equal to 1"),
        (SIDECAR.replace("[0.2,", "[0,"), r"std\.0: Input should be greater than 0"),
        (SIDECAR.replace("high: 2", "top: 2"), "levels.top"),
        (SIDECAR.replace(", high: 2", ""), "'high' is missing"),
        ("- 1", "the file: Input should be a valid dictionary"),
        ("{", "is not YAML"),
    ],
)
def test_a_wrong_yaml_is_explained(
    text: str, complaint: str, small_model: nn.Module, tmp_path: Path
) -> None:
    spec = with_sidecar(save_torchscript(small_model, tmp_path), text)
    with pytest.raises(EncoderError, match=complaint):
        describe(spec)


@pytest.mark.parametrize("save", [save_torchscript, save_onnx])
def test_a_yaml_that_is_not_utf_8_is_named(
    save: Save, small_model: nn.Module, tmp_path: Path
) -> None:
    spec = save(small_model, tmp_path)
    (tmp_path / "model.yaml").write_bytes(SIDECAR.encode() + "# Größe\n".encode("latin-1"))
    with pytest.raises(EncoderError, match=r"^[^\n]*model\.yaml is not UTF-8[^\n]*$"):
        describe(spec)


@pytest.mark.parametrize("output", ["3", "whole_one"])
@pytest.mark.parametrize(
    ("save", "complaint"),
    [
        (save_torchscript, r"no tensor '?{}'?, which its YAML names; its outputs are \[0, 1, 2\]"),
        (save_exported, r"no tensor '?{}'?, which its YAML names; its outputs are \[0, 1, 2\]"),
        (save_onnx, r"outputs \['texture', 'parts', 'whole'\]; it must .* that its YAML names"),
    ],
)
def test_a_level_that_the_model_lacks_is_an_error(
    save: Save, complaint: str, output: str, small_model: nn.Module, tmp_path: Path
) -> None:
    spec = with_sidecar(save(small_model, tmp_path), SIDECAR.replace("high: 2", f"high: {output}"))
    with pytest.raises(EncoderError, match=complaint.format(output)):
        describe(spec)


@pytest.mark.parametrize("name", ["torchscript:model.pt", "export:model.pt2", "onnx:model.onnx"])
def test_a_file_of_something_else_is_an_error(name: str, tmp_path: Path) -> None:
    family, _, file = name.partition(":")
    (tmp_path / file).write_bytes(b"something else")
    spec = with_sidecar(f"{family}:{tmp_path / file}")
    with pytest.raises(EncoderError, match="cannot be loaded"):
        describe(spec)
    with pytest.raises(EncoderError, match=r"missing.pt' does not exist"):
        describe(f"{family}:{tmp_path / 'missing.pt'}")
