"""Runs that end early: held off, refused, killed; none leaves anything half done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from longtail import Workspace
from longtail.runs import start


def test_another_run_holds_the_workspace(longtail, workspace: Workspace) -> None:
    with start(workspace.catalog, command="run"):
        told = longtail("mine", "-w", workspace.root)
    assert told.code == 4
    assert "another run holds" in told.err


def test_the_newest_run_sorts_last_also_within_a_second(empty: Workspace) -> None:
    ids = []
    for _ in range(20):
        with start(empty.catalog, command="index") as run:
            ids.append(run.run_id)
    assert ids == sorted(set(ids))


def test_a_failed_audit_exits_3_and_publishes_nothing(
    longtail, empty: Workspace, make_broken: Callable[[Path], object], tmp_path: Path
) -> None:
    make_broken(tmp_path / "images")
    told = longtail("run", "-w", empty.root, tmp_path / "images")
    assert told.code == 3
    assert "rejected_share" in told.err
    assert longtail("status", "-w", empty.root, "--json").json["rejects"] == 0
    failure = longtail("status", "-w", empty.root, "--json").json["last_failure"]
    assert failure["command"] == "run"
    assert told.err == f"longtail: {failure['error']}\n"
    assert failure["run_id"] in longtail("status", "-w", empty.root).out
    validation = next((empty.root / "runs").glob("*/validation.json"))
    assert json.loads(validation.read_text())[0]["success"] is False


def test_killed_at_any_moment_and_run_again(
    make_photographs: Callable[[Path, int], list[Path]], tmp_path: Path
) -> None:
    """Ten runs, each killed at another moment, end with the tables of one that was left alone."""
    import numpy as np

    make_photographs(tmp_path / "images", 48)

    def command(root: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "longtail", "run", "-w", str(root)),
            *(str(tmp_path / "images"), "--set", "batch_size=2", "--budget", "5"),
        ]

    whole = Workspace.create(tmp_path / "whole")
    begun = time.monotonic()
    subprocess.run(command(whole.root), check=True, capture_output=True)
    duration = time.monotonic() - begun

    killed = Workspace.create(tmp_path / "killed")
    moments = np.random.default_rng(0).uniform(0.1, 1.0, 10) * duration
    for moment in sorted(moments):
        process = subprocess.Popen(
            command(killed.root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moment)
        process.kill()
        process.wait()
    ended = subprocess.run(command(killed.root), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr

    assert contents(killed) == contents(whole)
    assert killed.report() is not None
    os.sync()


def contents(workspace: Workspace) -> dict[str, list[dict[str, object]]]:
    """The tables' rows without what differs from run to run, in an order of their own."""
    catalog = workspace.catalog
    tables = {
        "samples": catalog.samples.read(),
        "uris": catalog.uris.read(),
        "rejects": catalog.rejects.read(),
        "scores": catalog.scores.read(),
    }
    return {
        name: sorted(
            table.drop_columns(
                [column for column in ("run_id", "ingested_at") if column in table.column_names]
            ).to_pylist(),
            key=lambda row: str(row["uri"]),
        )
        for name, table in tables.items()
    }
