"""Workspaces of real photographs, made once; tests that change one take a copy."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
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


@pytest.fixture(scope="session")
def two_lines(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Workspace:
    """60 photographs of line-3 and 30 of line-4; not mined yet."""
    workspace = Workspace.create(tmp_path_factory.mktemp("two-lines") / "workspace")
    paths = sorted(map(str, photographs.iterdir()))
    workspace.ingest([path for i, path in enumerate(paths) if i % 3], source="line-3")
    workspace.ingest([path for i, path in enumerate(paths) if i % 3 == 0], source="line-4")
    workspace.index()
    return workspace


@pytest.fixture
def lines_root(two_lines: Workspace, tmp_path: Path) -> Path:
    """The root of a copy of `two_lines`."""
    return shutil.copytree(two_lines.root, tmp_path / "workspace")


@pytest.fixture
def open_lines(lines_root: Path) -> Callable[..., Workspace]:
    """`open_lines(reference="source:line-3")` opens that copy with these settings of mining."""

    def opened(**mining: Any) -> Workspace:
        return Workspace(lines_root, {"mining": {"budget": 5, **mining}})

    return opened


@pytest.fixture
def scores_of() -> Callable[[Workspace, str], dict[str, dict[str, Any]]]:
    """`scores_of(workspace, run_id)`: sample_id -> its row of the run's scores."""
    return _scores_of


@pytest.fixture
def ids_of_reference() -> Callable[[Workspace, str], set[str]]:
    """`ids_of_reference(workspace, run_id)`: the samples that were the run's reference."""

    def ids(workspace: Workspace, run_id: str) -> set[str]:
        return {id_ for id_, row in _scores_of(workspace, run_id).items() if row["of_reference"]}

    return ids


@pytest.fixture
def ids_of_source() -> Callable[[Workspace, str], set[str]]:
    """`ids_of_source(workspace, "line-3")`: the samples of one source."""

    def ids(workspace: Workspace, source: str) -> set[str]:
        where = ds.field("source") == source
        return set(workspace.catalog.samples.read(["sample_id"], where)["sample_id"].to_pylist())

    return ids


def _scores_of(workspace: Workspace, run_id: str) -> dict[str, dict[str, Any]]:
    table = workspace.catalog.scores.read(where=ds.field("run_id") == run_id)
    return {row["sample_id"]: row for row in table.to_pylist()}


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
