"""The files around the code agree with it: pins, compose file, and the commands that they run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from longtail.cli import app

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def check_compose(path: Path) -> subprocess.CompletedProcess[str]:
    """Against the schema of the compose specification, which check-jsonschema carries."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*command, path], capture_output=True, text=True, check=False)


def test_the_compose_file_follows_the_compose_specification() -> None:
    result = check_compose(ROOT / "docker-compose.yml")
    assert result.returncode == 0, result.stdout


def test_the_check_of_the_compose_file_finds_a_mistake(tmp_path: Path) -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(compose.replace("restart:", "restarts:"))
    assert "restarts" in check_compose(wrong).stdout


@pytest.mark.parametrize("name", ["docker-compose.yml", "Makefile", ".ci/run"])
def test_the_commands_that_files_run_exist(name: str) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    text = (ROOT / name).read_text()
    used = set(re.findall(r"(?:^|[\s/])longtail ([a-z]+)", text, re.MULTILINE))
    assert used
    assert used <= set(commands)


def test_every_requirement_of_every_extra_is_pinned_within_its_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert list(pins) == sorted(pins)
    extras = PROJECT["optional-dependencies"].values()
    for text in (*PROJECT["dependencies"], *(text for extra in extras for text in extra)):
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:  # an extra made of other extras
            continue
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{text} is pinned to {version}"
