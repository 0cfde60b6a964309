from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from longtail import Workspace, __version__
from longtail.cli import app
from longtail.cli.common import print_flags
from longtail.cli.progress import line
from pipelines.progress import Progress
from schemas.errors import RejectReason

FLAG_FIELDS = {
    *("rank", "kind", "sample_id", "uri", "source", "score", "p_value", "level", "group"),
    *("reasons", "nearest", "run_id"),
}
SUMMARY_FIELDS = {
    *("run_id", "started_at", "seconds", "ingested", "skipped", "rejected", "flagged"),
}


def commands(group: Any, *words: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The words that call each command, and its documentation; those of groups among them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *words, name)
        else:
            yield (*words, name), command.help or ""


COMMANDS = dict(commands(get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_a_sentence_an_example_and_help(
    longtail, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = COMMANDS[words].splitlines()
    assert lines[0].endswith(".")
    assert lines[-1].startswith(f"Example: longtail {' '.join(words)}")
    helped = longtail(*words, "--help")
    assert helped.code == 0
    assert lines[-1] in helped.out  # on one line, to be copied


@pytest.mark.parametrize("group", [(), ("trigger",)], ids=["longtail", "trigger"])
def test_help_shows_every_sentence_whole(
    longtail, monkeypatch: pytest.MonkeyPatch, group: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = longtail(*group, "--help").out.partition("Commands:")[2].strip().splitlines()
    below = {words[len(group)] for words in COMMANDS if words[: len(group)] == group}
    assert {line.split()[0] for line in shown} == below
    assert all(line.endswith(".") and not line.endswith("...") for line in shown)


def test_help_imports_neither_torch_nor_beam() -> None:
    code = (
        "import sys; sys.argv = ['longtail', '--help']\n"
        "from longtail.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'apache_beam', 'pyarrow', 'pandas', 'faiss'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "Commands" in ended.stdout


def test_version(longtail) -> None:
    assert longtail("--version").out == f"longtail {__version__}\n"


def test_flags_as_json_are_the_contract(longtail, mined: Workspace) -> None:
    flags = longtail("flags", "-w", mined.root, "--json").json
    assert all(set(flag) == FLAG_FIELDS for flag in flags)
    assert [flag["rank"] for flag in flags] == list(range(1, len(flags) + 1))
    assert set(flags[0]["nearest"][0]) == {"sample_id", "uri", "distance"}
    assert longtail("flags", "-w", mined.root, "--top", 3, "--json").json == flags[:3]
    outliers = longtail("flags", "-w", mined.root, "--kind", "outlier", "--json").json
    assert outliers == [flag for flag in flags if flag["kind"] == "outlier"]
    run_id = flags[0]["run_id"]
    assert longtail("flags", "-w", mined.root, "--run", run_id, "--json").json == flags


def test_flags_as_a_table(longtail, mined: Workspace) -> None:
    shown = longtail("flags", "-w", mined.root, "--top", 3).out
    first = mined.flags()[0]
    assert first.sample_id[:12] in shown
    assert Path(first.uri).name in shown
    assert first.reasons[0][:20] in shown


def test_a_table_of_both_kinds_tells_them_apart(
    mined: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    outliers = mined.flags(kind="outlier")[:2]
    print_flags(outliers)
    assert capsys.readouterr().out.split()[:2] == ["rank", "sample"]
    print_flags([outliers[0], replace(outliers[1], kind="capture_fault")])
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["rank", "kind"]
    assert [str(outliers[0].rank), "outlier"] in rows
    assert [str(outliers[1].rank), "fault"] in rows
    print_flags([replace(outliers[1], kind="capture_fault")])
    assert capsys.readouterr().out.split()[:2] == ["rank", "kind"]


def test_a_run_with_nothing_to_do_says_why(
    longtail, workspace: Workspace, empty: Workspace, photographs: Path
) -> None:
    assert "nothing is indexed; 'longtail run' ingests" in longtail("mine", "-w", empty.root).out
    assert "nothing new to index" in longtail("index", "-w", empty.root).out
    assert "nothing new to index" in longtail("index", "-w", workspace.root).out
    flags = workspace.flags()
    told = f"nothing new since run {flags[0].run_id}: {len(flags)} flags stand; 'longtail flags'"
    for command in (("mine",), ("run", photographs)):
        repeated = longtail(*command, "-w", workspace.root)
        assert repeated.code == 0, repeated.err
        assert told in repeated.out
    assert set(longtail("mine", "-w", workspace.root, "--json").json) == SUMMARY_FIELDS
    assert "nothing new" not in longtail("mine", "-w", workspace.root, "--budget", "7").out


def test_status_and_query_as_json(longtail, mined: Workspace, photographs: Path) -> None:
    state = longtail("status", "-w", mined.root, "--json").json
    assert set(state) == {
        *("workspace", "encoder", "samples", "uris", "rejects", "flags", "runs", "index"),
        *("last_run", "last_failure"),
    }
    assert set(state["index"]) == {
        *("vectors", "segments", "snapshot", "factory"),
        *("recall", "recall_wanted", "measured"),
    }
    assert set(state["last_run"]) == SUMMARY_FIELDS

    image = min(photographs.iterdir())
    hits = longtail("query", "-w", mined.root, image, "-k", 2, "--json").json
    assert [set(hit) for hit in hits] == [{"rank", "sample_id", "uri", "distance"}] * 2
    assert Path(hits[0]["uri"]).name == image.name


def test_the_workspace_is_found(
    longtail, mined: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nowhere = longtail("status")
    assert nowhere.code == 2
    assert "the current folder holds no longtail.yaml" in nowhere.err
    monkeypatch.setenv("LONGTAIL_WORKSPACE", str(mined.root))
    assert longtail("status", "--json").json["samples"] == 90
    monkeypatch.delenv("LONGTAIL_WORKSPACE")
    monkeypatch.chdir(mined.root)
    assert longtail("status", "--json").json["samples"] == 90


def test_init_says_what_comes_next(longtail, tmp_path: Path) -> None:
    made = longtail("init", tmp_path / "w")
    assert made.code == 0
    assert f"longtail run -w {tmp_path / 'w'}" in made.out
    assert longtail("init", tmp_path / "w").code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flags", "--kind", "strange"], "strange"),
        (["flags", "--run", "20200101"], "no mining run '20200101'"),
        (["query"], "give an image file, a sample id, a vector or a text"),
        (["query", "--id", "0123456789ab"], "there is no sample whose id starts with"),
        (["verdict", "0123456789ab"], "'0123456789ab' is no verdict; end with one of edge_case"),
        (["verdict", "edge_case"], "which sample is 'edge_case'?"),
        (["run", "nowhere/"], "nowhere"),
        (["mine", "--budget", "many"], "mining.budget is 'many'"),
        (
            ["run", ".", "--set", "mining.detector=oracle"],
            "detector 'oracle' is none of combined",
        ),
        (["mine", "--set", "mining.budgt=3"], "unknown setting 'mining.budgt'"),
        (["mine", "--set", "budget"], "--set budget: write it as KEY=VALUE"),
        (["mine", "--set", "device=["], "--set device=[: the value is not valid YAML"),
        (["mine", "--set", "minng.budget=3"], "longtail: unknown setting 'minng"),
        (
            ["mine", "--set", "mining.budget.x=3", "--set", "mining.budget=3"],
            "'mining.budget' is set both as a value and as a section",
        ),
        (
            ["mine", "--set", "mining.budget=3", "--set", "mining.budget.x=3"],
            "'mining.budget.x' is set both as a value and as a section",
        ),
        (
            ["mine", "--set", "mining=3", "--budget", "3"],
            "'mining.budget' is set both as a value and as a section",
        ),
        (["mine", "--set", "encoder=vit-99"], "vit-99"),
        (["mine", "--set", "runner=Abacus", "--budget", "7"], "runner is 'Abacus'"),
        (["curate", "no/slash"], "'no/slash' cannot name a dataset"),
        (["curate", "cracks", "--verdict", "nice"], "'nice' is no verdict; take some of edge_case"),
        (["export", "../tables/samples", "out"], "'../tables/samples' cannot name a dataset"),
        (["export", "nothing", "out"], "no dataset 'nothing'; there are: none"),
        (["export", "nothing", "out", "--format", "coco"], "coco"),
    ],
)
def test_a_mistake_gets_one_line_and_code_2(
    longtail, workspace: Workspace, arguments: list[str], message: str
) -> None:
    told = longtail(*arguments, "-w", workspace.root)
    assert told.code == 2
    assert message in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_debug_gives_the_traceback(workspace: Workspace) -> None:
    command = [sys.executable, "-m", "longtail", "flags", "-w", str(workspace.root), "--run", "x"]
    assert "Traceback" not in subprocess.run(command, capture_output=True, text=True).stderr
    told = subprocess.run([*command, "--debug"], capture_output=True, text=True)
    assert told.returncode != 0
    assert "Traceback" in told.stderr


def test_a_reader_that_leaves_early_is_no_error(mined: Workspace) -> None:
    command = f"{sys.executable} -m longtail flags -w {mined.root}"
    for tail in ("--json", "--top 3"):
        told = subprocess.run(
            ["bash", "-c", f"{command} {tail} | true; exit ${{PIPESTATUS[0]}}"],
            capture_output=True,
            text=True,
        )
        assert (told.returncode, told.stderr) == (0, "")


def test_an_interrupted_command_says_how_to_go_on(mined: Workspace, tmp_path: Path) -> None:
    """The image is a pipe into which nothing is written, so that the command waits for it."""
    os.mkfifo(tmp_path / "image")
    command = ("longtail", "query", "-w", str(mined.root), str(tmp_path / "image"))
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, interrupts are ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with (tmp_path / "image").open("wb"):  # opens when the command reads
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told == "longtail: interrupted; run the same command again to go on\n"


def test_python_m_longtail_calls_itself_longtail() -> None:
    command = [sys.executable, "-m", "longtail", "flags", "--help"]
    assert "Usage: longtail flags" in subprocess.run(command, capture_output=True, text=True).stdout


def test_500_images_with_20_broken_ones(
    longtail,
    empty: Workspace,
    make_photographs: Callable[[Path, int], list[Path]],
    make_broken: Callable[[Path], Mapping[str, RejectReason]],
    tmp_path: Path,
) -> None:
    make_photographs(tmp_path / "images", 480)
    reasons = make_broken(tmp_path / "images")
    done = longtail("run", "-w", empty.root, tmp_path / "images", "--source", "line-3", "--json")
    assert done.code == 0
    assert set(done.json) == SUMMARY_FIELDS
    assert (done.json["ingested"], done.json["rejected"]) == (480, 20)
    rows = empty.catalog.rejects.read(["uri", "reason"]).to_pylist()
    assert {Path(row["uri"]).name: row["reason"] for row in rows} == reasons


def test_progress_without_a_terminal_is_a_line() -> None:
    progress = Progress(todo=100, done=40, rejected=2)
    assert line("ingest", progress, 4.0) == "ingest: 40 of 100, 10/s, 2 rejected, 6 s left"
    assert line("ingest", Progress(), 0.0) == "ingest: 0 of 0, 0/s"


def test_encoders_lists_what_can_be_used_and_how_to_get_the_rest(longtail) -> None:
    listed = {line["name"]: line for line in json.loads(longtail("encoders", "--json").out)}
    assert listed["efficientnet-lite0"]["dimensions"] == {"low": 24, "mid": 112, "high": 320}
    assert "onnx:PATH" in listed
    assert "24 / 112 / 320" in longtail("encoders").out
