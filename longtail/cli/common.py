"""What the commands share: the options, opening the workspace, tables and JSON."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import UsageError, WorkspaceError

if TYPE_CHECKING:
    from longtail.runs import RunSummary
    from longtail.workspace import Workspace
    from schemas.records import Flag, FlagKind, Group

SAMPLE_ID_DIGITS = 12
_SHORT = 0.02
"""How far below the recall asked for a measured one may lie by chance."""
_KINDS: Mapping[FlagKind, str] = {"outlier": "outlier", "capture_fault": "fault"}

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "-w",
        "--workspace",
        envvar="LONGTAIL_WORKSPACE",
        help="The workspace; else the current folder.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting of longtail.yaml, such as limits.max_pixels=50000000.",
        show_default=False,
    ),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(help="Outliers to flag: a count (200) or a share (2%).", show_default=False),
]
FdrOption = Annotated[
    float | None,
    typer.Option(
        help="Flag what the reference proves at this false discovery rate, such as 0.1.",
        show_default=False,
    ),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        help="What the model knows: dataset:NAME@3, source:NAME, before:DATE, verdict:normal or "
        "saved:NAME.",
        show_default=False,
    ),
]
SaveReferenceOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Keep the fitted reference as NAME.", show_default=False),
]


def open_workspace(
    path: Path | None, assignments: Sequence[str] | None = None, **mining: object
) -> Workspace:
    """The workspace of the option, the variable or the current folder, with overrides applied.

    mining: settings of that section that an option of its own gives; None where it was not given.
    """
    quieten()
    from longtail.cli.progress import watch
    from longtail.settings import FILE
    from longtail.workspace import Workspace

    if path is None:
        if not Path(FILE).exists():
            raise WorkspaceError(
                f"no workspace: the current folder holds no {FILE}; pass -w FOLDER, set "
                "LONGTAIL_WORKSPACE, or make one with 'longtail init FOLDER'"
            )
        path = Path()
    overrides = _overrides(assignments or ())
    for name, value in mining.items():
        if value is not None:
            _assign(overrides, f"mining.{name}", value)
    return Workspace(path, overrides, watch)


def _overrides(assignments: Iterable[str]) -> dict[str, Any]:
    import yaml

    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {assignment}: write it as KEY=VALUE")
        try:
            _assign(overrides, key, yaml.safe_load(value))
        except yaml.YAMLError:
            raise UsageError(f"--set {assignment}: the value is not valid YAML") from None
    return overrides


def _assign(overrides: dict[str, Any], key: str, value: Any) -> None:
    conflict = UsageError(f"'{key}' is set both as a value and as a section; leave out one of them")
    *sections, last = key.split(".")
    for name in sections:
        overrides = overrides.setdefault(name, {})
        if not isinstance(overrides, dict):
            raise conflict
    if isinstance(overrides.get(last), dict) and not isinstance(value, dict):
        raise conflict
    overrides[last] = value


def quieten() -> None:
    """Keep libraries' notices off the terminal; a run's own log keeps them."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("apache_beam").setLevel(logging.WARNING)


def print_json(document: Any) -> None:
    """The one document on stdout."""
    print(json.dumps(document, indent=2, default=str, ensure_ascii=False))


def print_summary(summary: RunSummary, as_json: bool) -> None:
    """What a run did."""
    from dataclasses import asdict

    if as_json:
        print_json(asdict(summary))
        return
    print(
        f"run {summary.run_id}: {summary.ingested:,} ingested, {summary.skipped:,} skipped, "
        f"{summary.rejected:,} rejected, {summary.flagged:,} flagged in {summary.seconds:.1f} s"
    )


def index_line(state: dict[str, Any]) -> str:
    """What the index holds and how well it answers."""
    line = f"{state['vectors']:,} vectors in {state['segments']} segments"
    if state["snapshot"] is None:
        return line
    line = (
        f"{line}, snapshot {state['snapshot']}, {state['factory']}, recall at 10 "
        f"{state['recall']:.3f}"
    )
    if state["measured"] < state["vectors"]:
        line += f" (measured on {state['measured']:,} of them)"
    if state["recall"] < state["recall_wanted"] - _SHORT:
        line += f": short of the {state['recall_wanted']:g} that index.recall asks for"
    return line


def print_flags(flags: Sequence[Flag]) -> None:
    """A table of flags for a person, best first, and one of the groups they are in."""
    faults = any(flag.kind == "capture_fault" for flag in flags)
    groups = {flag.group.number: flag.group for flag in flags if flag.group}
    kind, group = ["kind"] * faults, ["group"] * bool(groups)
    print_table(
        ("rank", *kind, *group, "sample", "image", "score", "p-value", "level", "why"),
        [
            (
                str(flag.rank),
                *[_KINDS[flag.kind]] * faults,
                *[str(flag.group.number) if flag.group else "-"] * bool(groups),
                flag.sample_id[:SAMPLE_ID_DIGITS],
                short_uri(flag.uri),
                f"{flag.score:.4f}",
                "-" if flag.p_value is None else f"{flag.p_value:.2g}",
                flag.level,
                "; ".join(flag.reasons[:2]),
            )
            for flag in flags
        ],
        right={"rank", "group", "score", "p-value"},
    )
    if groups:
        print()
        _print_groups([group for _, group in sorted(groups.items())])


def _print_groups(groups: Sequence[Group]) -> None:
    print_table(
        ("group", "alike", "spread", "in its middle"),
        [
            (
                str(group.number),
                f"{group.size:,}",
                f"{group.spread:.2f}",
                group.medoid[:SAMPLE_ID_DIGITS],
            )
            for group in groups
        ],
        right={"group", "alike", "spread"},
    )
    example = groups[0].medoid[:SAMPLE_ID_DIGITS]
    print(f"one look judges a group, such as: longtail verdict {example} VERDICT --group")


def short_uri(uri: str) -> str:
    """The last two parts of a URI: enough to tell images apart in a table."""
    return "/".join(uri.rsplit("/", 2)[-2:])


def print_titled(lines: Iterable[tuple[str, str]]) -> None:
    """Values behind their titles, a title that is the last one's left out."""
    before = ""
    for title, value in lines:
        print(f"{title if title != before else '':<10} {value}")
        before = title


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[str] = (),
) -> None:
    """A plain table as wide as the terminal, or as wide as it needs where there is none."""
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in header:
        last = name == header[-1]
        table.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=not last,
            overflow="fold" if last else "ellipsis",
        )
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 160
    Console(width=width, highlight=False, markup=False).print(table)
