"""Commands that change a workspace: run, ingest, index, mine, references, curate, export."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from longtail.cli.common import (
    BudgetOption,
    FdrOption,
    JsonOption,
    ReferenceOption,
    SaveReferenceOption,
    SetOption,
    WorkspaceOption,
    index_line,
    open_workspace,
    print_json,
    print_summary,
    print_table,
)
from schemas.errors import CorruptionError, UsageError
from schemas.records import VerdictLabel

if TYPE_CHECKING:
    from longtail.runs import RunSummary
    from longtail.workspace import Workspace

ExportFormat = Literal["hf", "imagefolder"]
Inputs = Annotated[
    list[str],
    typer.Argument(
        help="Folders, files, globs, manifests (.csv, .jsonl, .parquet), tar shards or vectors; "
        "or s3://."
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
    fdr: FdrOption = None,
    reference: ReferenceOption = None,
    save_reference: SaveReferenceOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ingest, index, mine and report: the job to schedule.

    Example: longtail run -w my-workspace photos/ --source line-3
    """
    opened = open_workspace(workspace, assignments, budget=budget, fdr=fdr, reference=reference)
    _print_mined(opened, opened.run(inputs, source, save_reference), as_json)


def ingest(
    inputs: Inputs,
    workspace: WorkspaceOption = None,
    source: Source = "",
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read, check and embed the images that are new.

    Example: longtail ingest -w my-workspace manifest.csv
    """
    print_summary(open_workspace(workspace, assignments).ingest(inputs, source), as_json)


def index(
    action: Annotated[
        Literal["update", "compact", "rebuild", "verify"],
        typer.Argument(
            help="update: add new samples; compact: merge, and drop the forgotten; rebuild: anew "
            "from the samples table; verify: compare with it."
        ),
    ] = "update",
    workspace: WorkspaceOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add embedded samples to the FAISS index, or maintain it.

    Example: longtail index compact -w my-workspace
    """
    opened = open_workspace(workspace, assignments)
    if action == "verify":
        _verify(opened, as_json)
        return
    before = None
    if action == "update":
        before = opened.index_status()
        opened.index()
    elif action == "compact":
        opened.compact_index()
    else:
        opened.rebuild_index()
    state = opened.index_status()
    if as_json:
        print_json(state)
        return
    if state == before:
        print("nothing new to index; 'longtail ingest' adds images")
    print(f"index: {index_line(state)}")


def _verify(opened: Workspace, as_json: bool) -> None:
    verification = opened.verify_index()
    if as_json:
        print_json({"ok": verification.ok, **asdict(verification)})
    elif verification.ok:
        print("the index agrees with the samples table")
    if not verification.ok:
        counts = ", ".join(
            f"{len(names):,} {what} ({names[0]}...)"
            for what, names in asdict(verification).items()
            if names
        )
        raise CorruptionError(f"the index differs: {counts}; run 'longtail index rebuild'")


def forget(
    sample_ids: Annotated[
        list[str] | None,
        typer.Argument(help="Sample ids, or their first digits.", show_default=False),
    ] = None,
    workspace: WorkspaceOption = None,
    ids: Annotated[
        typer.FileText | None,
        typer.Option(
            help="A file of sample ids, one a line; '-' reads stdin.",
            show_default=False,
            encoding="utf-8",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="All samples seen from this source.", show_default=False)
    ] = None,
    before: Annotated[
        datetime | None,
        typer.Option(
            help="All samples captured (else seen) before this time (UTC).", show_default=False
        ),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Accept these contents again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete samples and refuse them; 'vacuum' then clears the disk.

    Example: longtail forget -w my-workspace 3f2a9c01b7de
    """
    try:
        named = [*(sample_ids or ()), *filter(None, map(str.strip, ids or ()))]
    except UnicodeDecodeError as error:
        raise UsageError(
            f"--ids: {ids and ids.name} is not UTF-8 ({error.reason}); give sample ids, one a line"
        ) from None
    if not (named or source or before):
        raise UsageError("what shall be forgotten? give sample ids, --ids, --source or --before")
    gone = open_workspace(workspace).forget(named, source=source, before=before, undo=undo)
    if as_json:
        print_json(gone)
    elif undo:
        print(f"{len(gone):,} will be accepted again by the next ingest")
    else:
        print(f"{len(gone):,} forgotten; 'longtail vacuum' takes their bytes off the disk")


def vacuum(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Remove from the disk what was forgotten, deleted or replaced.

    Example: longtail vacuum -w my-workspace
    """
    freed = open_workspace(workspace).vacuum()
    if as_json:
        print_json({"freed_bytes": freed})
    else:
        print(f"{freed / 1e6:,.1f} MB freed; nothing that was forgotten is left in a file")


def mine(
    workspace: WorkspaceOption = None,
    budget: BudgetOption = None,
    fdr: FdrOption = None,
    reference: ReferenceOption = None,
    save_reference: SaveReferenceOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Flag outliers and capture faults, and write the report.

    Example: longtail mine -w my-workspace --budget 2%
    """
    opened = open_workspace(workspace, assignments, budget=budget, fdr=fdr, reference=reference)
    _print_mined(opened, opened.mine(save_reference), as_json)


def references(
    workspace: WorkspaceOption = None,
    remove: Annotated[
        str | None, typer.Option(metavar="NAME", help="Delete this one.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List what 'mine --reference saved:NAME' can name.

    Example: longtail references -w my-workspace
    """
    opened = open_workspace(workspace)
    if remove is not None:
        opened.remove_reference(remove)
    saved = opened.references()
    if as_json:
        print_json(saved)
    elif saved:
        columns = ("name", "of", "samples", "encoder")
        print_table(columns, [[str(about[name]) for name in columns] for about in saved])
    else:
        print(
            "no saved references; 'longtail mine --reference ... --save-reference NAME' keeps one"
        )


def _print_mined(opened: Workspace, summary: RunSummary, as_json: bool) -> None:
    """What a run did and has to say, or why it flagged nothing, and where the report is."""
    from longtail.runs import newest_mining_run

    print_summary(summary, as_json)
    if as_json:
        return
    newest = newest_mining_run(opened.catalog)
    if newest is None or not opened.index_status()["vectors"]:
        print("nothing is indexed; 'longtail run' ingests images")
        return
    if newest != summary.run_id:
        stand = f"{len(opened.flags()):,} flags stand"
        print(f"nothing new since run {newest}: {stand}; 'longtail flags' lists them")
    for note in opened.notes(summary.run_id):
        print(f"note: {note}")
    print(f"report: {opened.report()}")


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
    """Write reviewed samples into a new version of a dataset.

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
    """Write a version of a dataset for training code to read.

    Example: longtail export -w my-workspace cracks --format hf out/
    """
    exported = open_workspace(workspace).export(name, out, format_, version)
    if as_json:
        print_json(exported)
        return
    print(f"{exported['samples']:,} samples of {name} version {exported['version']} in {out}")
