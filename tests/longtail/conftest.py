"""A mined workspace of real photographs, made once; tests that change it take a copy."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from longtail import Workspace
from longtail.cli import main

SETTINGS = "mining: {budget: 10}\n"


@pytest.fixture(scope="session")
def photographs(
    tmp_path_factory: pytest.TempPathFactory, make_photographs: Callable[[Path, int], list[Path]]
) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    make_photographs(folder, 90)
    return folder


@pytest.fixture(scope="session")
def mined(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Workspace:
    root = tmp_path_factory.mktemp("mined") / "workspace"
    Workspace.create(root)
    (root / "longtail.yaml").write_text(SETTINGS)
    workspace = Workspace(root)
    summary = workspace.run([str(photographs)], source="line-3")
    assert (summary.ingested, summary.skipped, summary.rejected) == (90, 0, 0)
    return workspace


@pytest.fixture
def workspace(mined: Workspace, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(mined.root, tmp_path / "workspace"))


@pytest.fixture
def empty(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "empty")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Outcome]


@pytest.fixture
def longtail(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`longtail("flags", "-w", path)` runs the command in this process."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["longtail", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        captured = capsys.readouterr()
        return Outcome(int(code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def photograph() -> Callable[[Path, int], Path]:
    """Makes a new image at a path, unlike any other."""

    def make(path: Path, value: int) -> Path:
        noise = np.random.default_rng(value).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
        return path

    return make
