"""`longtail doctor` and the checks behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from longtail import Workspace
from longtail.doctor import examine
from longtail.settings import Settings


def test_doctor_finds_nothing_wrong(longtail, mined: Workspace) -> None:
    checks = longtail("doctor", "-w", mined.root, "--json")
    assert checks.code == 0
    assert {check["name"] for check in checks.json} >= {"faiss", "encoder", "runner", "disk"}
    assert all(check["ok"] for check in checks.json)


def test_doctor_says_what_is_wrong(longtail, workspace: Workspace) -> None:
    (workspace.root / "longtail.yaml").write_text("encoder: vit-99\nrunner: Abacus\n")
    told = longtail("doctor", "-w", workspace.root)
    assert told.code == 1
    assert "BAD  encoder" in told.out
    assert "vit-99" in told.out
    assert "BAD  runner        runner is 'Abacus'" in told.out


@pytest.mark.parametrize(
    ("option", "ok"), [("flink_master", True), ("spark_master_url", True), ("flink_mister", False)]
)
def test_doctor_checks_the_options_of_a_runner(tmp_path: Path, option: str, ok: bool) -> None:
    given = Settings(flags={"runner": "FlinkRunner", "runner_options": {option: "host:8081"}})
    checks = {check.name: check for check in examine(tmp_path, given)}
    assert checks["runner"].ok is ok
    assert ("Beam knows FlinkRunner" if ok else option) in checks["runner"].found
