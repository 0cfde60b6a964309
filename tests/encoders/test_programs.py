"""Files of torch.export and TorchScript that someone else wrote: nothing in them runs."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from encoders.registry import describe
from schemas.errors import EncoderError


def exported(model: nn.Module, folder: Path) -> Path:
    path = folder / "model.pt2"
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(model, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=(batch,))
    torch.export.save(program, path)
    return path


def with_sidecar(spec: str, levels: str = "{low: 0, mid: 1, high: 2}") -> str:
    lines = ["size: 32", "mean: [0.5, 0.4, 0.3]", "std: [0.2, 0.2, 0.2]", f"levels: {levels}"]
    Path(spec.partition(":")[2]).with_suffix(".yaml").write_text("\n".join(lines))
    return spec


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def swapped(archive: Path, name: str, body: bytes) -> Path:
    """A copy of an archive of torch.export in which one member is another."""
    copy = archive.with_name(f"{Path(name).stem}-swapped.pt2")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(copy, "w") as new:
        members = {member: old.read(member) for member in old.namelist()}
        (found,) = (member for member in members if member.endswith(name))
        members[found] = body
        for member, content in members.items():
            if "weights/weight_" in name and member.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
            new.writestr(member, content)
    return copy


def test_no_pickle_is_opened(small_model: nn.Module, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = io.BytesIO()
    torch.save(Trap(sprung), trap)
    archive = exported(small_model, tmp_path)
    (tmp_path / "trap.pt").write_bytes(trap.getvalue())
    for spec in (
        f"torchscript:{tmp_path / 'trap.pt'}",
        f"export:{tmp_path / 'trap.pt'}",
        f"export:{swapped(archive, 'sample_inputs/model.pt', trap.getvalue())}",
        f"export:{swapped(archive, 'weights/weight_0', trap.getvalue())}",
    ):
        with pytest.raises(EncoderError, match="cannot be loaded"):
            describe(with_sidecar(spec))
    assert not sprung.exists()


def changed(archive: Path, name: str, change: Callable[[dict[str, Any]], None]) -> str:
    """The spec of a copy of an archive of torch.export in which one JSON is another."""
    with zipfile.ZipFile(archive) as old:
        (found,) = (member for member in old.namelist() if member.endswith(name))
        content = json.loads(old.read(found))
    change(content)
    return f"export:{swapped(archive, name, json.dumps(content).encode())}"


def test_no_string_of_a_program_runs(small_model: nn.Module, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    code = f"__import__('pathlib').Path({str(sprung)!r}).touch()"
    archive = exported(small_model, tmp_path)

    def size(text: str) -> Callable[[dict[str, Any]], None]:
        def change(program: dict[str, Any]) -> None:
            (images,) = program["graph_module"]["graph"]["inputs"][-1:]
            values = program["graph_module"]["graph"]["tensor_values"]
            values[images["as_tensor"]["name"]]["sizes"][0]["as_expr"]["expr_str"] = text

        return change

    def argument(program: dict[str, Any]) -> None:
        graph = program["graph_module"]["graph"]
        graph["inputs"][-1]["as_tensor"]["name"] = f"x={code}"

    def operator(program: dict[str, Any]) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"

    def guard(program: dict[str, Any]) -> None:
        program["guards_code"] = [code]

    def constant(constants: dict[str, Any]) -> None:
        constants["config"]["c"] = {"path_name": "opaque_obj_0", "use_pickle": True}

    program = "models/model.json"
    for name, change, found in (
        (program, size(f"{code} or Symbol('s0')"), "__import__"),
        (program, size(f"Max({code!r}, 2)"), "Max"),
        (program, argument, "x=__import__"),
        (program, operator, "torch.os.system"),
        ("model_constants_config.json", constant, "opaque_obj_0"),
    ):
        with pytest.raises(EncoderError, match=rf"it holds .*{re.escape(found)}.*export it anew"):
            describe(with_sidecar(changed(archive, name, change)))
    assert describe(with_sidecar(changed(archive, program, guard))).dimensions["high"] == 12
    assert not sprung.exists()


def test_shapes_that_are_computed_are_plain(tmp_path: Path) -> None:
    class Windows(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            n = x.shape[0]
            halves = x.reshape(n * 4, -1)[: n * 2 + 1].sum(1)
            return {"whole": x.mean((2, 3)) + halves.mean(), "rest": halves}

    with torch.no_grad():
        path = exported(Windows().eval(), tmp_path)
    spec = with_sidecar(f"export:{path}", "{high: whole}")
    assert describe(spec, device="cpu").dimensions == {"high": 3}
    for output in ("0", "hole"):
        with_sidecar(spec, f"{{high: {output}}}")
        with pytest.raises(EncoderError, match=r"its outputs are \['whole', 'rest'\]$"):
            describe(spec, device="cpu")
