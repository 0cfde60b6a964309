"""Commands that change a workspace: run, ingest, index, mine, curate, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from longtail.cli.common import (
    BudgetOption,
    JsonOption,
    SetOption,
    WorkspaceOption,
    open_workspace,
    print_json,
    print_summary,
)
from schemas.records import VerdictLabel

ExportFormat = Literal["hf", "imagefolder"]
Inputs = Annotated[
    list[str],
    typer.Argument(
        help="Folders, files, globs, manifests (.csv, .jsonl, .parquet) or tar shards; or s3://."
    ),
]
Source = Annotated[
    str, typer.Option(help="Where the images come from: a camera, a site.", show_default=False)
]


def run(
    inputs: Inputs,
    workspace: WorkspaceOption = None,
    source: Source = "",
    budget: BudgetOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ingest, index, mine and report: the job to schedule, safe to repeat.

    Example: longtail run -w my-workspace photos/ --source line-3
    """
    opened = open_workspace(workspace, assignments, budget)
    summary = opened.run(inputs, source)
    print_summary(summary, as_json)
    if not as_json:
        report = opened.report()
        print(f"report: {report}" if report else "nothing was ingested, so there is no report")


def ingest(
    inputs: Inputs,
    workspace: WorkspaceOption = None,
    source: Source = "",
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read, check and embed images that are new to the workspace.

    Example: longtail ingest -w my-workspace manifest.csv
    """
    print_summary(open_workspace(workspace, assignments).ingest(inputs, source), as_json)


def index(workspace: WorkspaceOption = None, assignments: SetOption = None) -> None:
    """Add embedded samples to the FAISS index.

    Example: longtail index -w my-workspace
    """
    opened = open_workspace(workspace, assignments)
    opened.index()
    state = opened.status()["index"]
    print(
        f"index: {state['vectors']:,} vectors in {state['segments']} segments, "
        f"snapshot {state['snapshot']}"
    )


def mine(
    workspace: WorkspaceOption = None,
    budget: BudgetOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Flag outliers and capture faults among the indexed samples, and report.

    Example: longtail mine -w my-workspace --budget 2%
    """
    opened = open_workspace(workspace, assignments, budget)
    print_summary(opened.mine(), as_json)
    report = opened.report()
    if report and not as_json:
        print(f"report: {report}")


def curate(
    name: Annotated[str, typer.Argument(help="The dataset; made on first use.")],
    workspace: WorkspaceOption = None,
    verdict: Annotated[
        list[str] | None,
        typer.Option(help="A verdict to take, edge_case by default; may be repeated."),
    ] = None,
    top: Annotated[
        int, typer.Option(min=0, help="Take this many top flags too, where nobody has reviewed.")
    ] = 0,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write reviewed samples, with their lineage, into a new version of a dataset.

    Example: longtail curate -w my-workspace cracks
    """
    opened = open_workspace(workspace, assignments)
    labels = cast("list[VerdictLabel]", verdict or ["edge_case"])  # curate checks them
    curated = opened.curate(name, labels, top)
    if as_json:
        print_json(curated)
        return
    refused = ", ".join(f"{count:,} {reason}" for reason, count in curated["rejected"].items())
    version = "no version yet" if curated["version"] is None else f"version {curated['version']}"
    print(
        f"dataset {name}: {curated['added']:,} added"
        + (f", rejected {refused}" if refused else "")
        + f"; {curated['samples']:,} samples, {version}"
    )


def export(
    name: Annotated[str, typer.Argument(help="The dataset.")],
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    workspace: WorkspaceOption = None,
    format_: Annotated[
        ExportFormat,
        typer.Option("--format", help="hf (Parquet) or imagefolder (with metadata.csv)."),
    ] = "hf",
    version: Annotated[
        int | None, typer.Option(min=0, help="An older version.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version of a dataset in a format that training code reads.

    Example: longtail export -w my-workspace cracks --format hf out/
    """
    exported = open_workspace(workspace).export(name, out, format_, version)
    if as_json:
        print_json(exported)
        return
    print(f"{exported['samples']:,} samples of {name} version {exported['version']} in {out}")
