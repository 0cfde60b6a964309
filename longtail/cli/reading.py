"""Commands of a person who looks and judges: flags, query, verdict, status."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zipfile import BadZipFile

import typer

from longtail.cli.common import (
    SAMPLE_ID_DIGITS,
    JsonOption,
    WorkspaceOption,
    index_line,
    open_workspace,
    print_flags,
    print_json,
    print_table,
    print_titled,
)
from schemas.errors import NotFoundError, UsageError
from schemas.records import VERDICT_LABELS, FlagKind, Level, VerdictLabel

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


def flags(
    workspace: WorkspaceOption = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Only so many, the best.", show_default=False)
    ] = None,
    kind: Annotated[
        FlagKind | None, typer.Option(help="Only flags of this kind.", show_default=False)
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Another mining run than the newest.", show_default=False)
    ] = None,
    left: Annotated[
        bool, typer.Option("--left", help="What nobody has judged, ranked anew by the verdicts.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List what a mining run flagged, the strangest first.

    Example: longtail flags -w my-workspace --top 20
    """
    from longtail.runs import newest_mining_run

    opened = open_workspace(workspace)
    found = opened.flags(run, kind, top, left=left)
    if as_json:
        print_json([asdict(flag) for flag in found])
    elif found:
        print_flags(found)
    elif mined := run or newest_mining_run(opened.catalog):
        print(
            f"no such flags are left of run {mined}" if left else f"run {mined} has no such flags"
        )
    else:
        print("no flags; 'longtail run' mines a folder of images")


def query(
    image: Annotated[
        list[Path] | None, typer.Argument(help="Image files.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
    sample_id: Annotated[
        list[str] | None,
        typer.Option("--id", help="A sample as example; may be repeated.", show_default=False),
    ] = None,
    unlike: Annotated[
        list[str] | None,
        typer.Option(help="A file or sample of what is not meant; repeat.", show_default=False),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="Words, for an encoder that embeds text.", show_default=False),
    ] = None,
    vector: Annotated[
        Path | None,
        typer.Option(help="A .npy file of one vector, or one a row.", show_default=False),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Ask for each example by itself, all at once.")
    ] = False,
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 12,
    within: Annotated[float, typer.Option(min=0, max=2, help="Largest distance.")] = 2.0,
    apart: Annotated[
        float, typer.Option(min=0, max=2, help="Of samples within this distance, only the best.")
    ] = 0.0,
    level: Annotated[
        Level, typer.Option(help="Alike in texture (low), parts (mid) or as a whole (high).")
    ] = "high",
    source: Annotated[str | None, typer.Option(help="Only from here.", show_default=False)] = None,
    since: Annotated[
        datetime | None,
        typer.Option(help="Captured (else seen) then or later (UTC).", show_default=False),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(help="Captured (else seen) before then (UTC).", show_default=False),
    ] = None,
    quality: Annotated[
        list[str] | None,
        typer.Option(help="Such as 'sharpness<0.01'; may be repeated.", show_default=False),
    ] = None,
    flagged: Annotated[
        bool | None,
        typer.Option("--flagged/--unflagged", help="By the newest run.", show_default=False),
    ] = None,
    verdict: Annotated[
        VerdictLabel | None, typer.Option(help="Judged so.", show_default=False)
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Only what this dataset holds.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the samples most like images, samples, vectors or words.

    Example: longtail query -w my-workspace photo.jpg -k 12
    """
    from longtail.filters import Filter

    opened = open_workspace(workspace)
    where = Filter(source, since, until, tuple(quality or ()), flagged, verdict, dataset)
    if each and (text is not None or unlike or apart):
        raise UsageError(
            "--each asks by files, --id and --vector; leave out --text, --unlike and --apart"
        )
    ask: Callable[..., pa.Table] = opened.query_each
    if not each:
        ask = partial(opened.query, text=text, unlike=unlike or (), apart=apart)
    hits = ask(
        image or (),
        sample_id=sample_id or (),
        vector=() if vector is None else _vectors(vector),
        k=k,
        within=within,
        where=where,
        level=level,
    ).to_pylist()
    if as_json:
        print_json(hits)
        return
    print_table(
        (*["query"] * each, "rank", "sample", "distance", "image"),
        [
            (
                *[str(hit.get("query"))] * each,
                str(hit["rank"]),
                hit["sample_id"][:SAMPLE_ID_DIGITS],
                f"{hit['distance']:.4f}",
                hit["uri"],
            )
            for hit in hits
        ],
        right={"query", "rank", "distance"},
    )


def _vectors(file: Path) -> NDArray[Any]:
    import numpy as np

    try:
        with file.open("rb") as stream:
            vectors: NDArray[Any] = np.load(stream, allow_pickle=False)
    except OSError as error:
        raise NotFoundError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, EOFError, BadZipFile) as error:
        raise UsageError(f"{file} is no .npy file of numbers: {error}") from None
    return vectors


def duplicates(
    workspace: WorkspaceOption = None,
    within: Annotated[float, typer.Option(min=0, max=2, help="Largest distance.")] = 0.1,
    as_json: JsonOption = False,
) -> None:
    """List groups of near-duplicates, the largest first.

    Example: longtail duplicates -w my-workspace --within 0.05
    """
    groups = open_workspace(workspace).duplicates(within)
    if as_json:
        print_json(groups)
        return
    print_table(
        ("group", "sample", "distance", "image"),
        [
            (
                str(number),
                member["sample_id"][:SAMPLE_ID_DIGITS],
                f"{member['distance']:.4f}",
                member["uri"],
            )
            for number, group in enumerate(groups, start=1)
            for member in group
        ],
        right={"group", "distance"},
    )


def verdict(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SAMPLE_ID... VERDICT",
            help=f"Sample ids, or their first digits, then one of {', '.join(VERDICT_LABELS)}.",
        ),
    ],
    workspace: WorkspaceOption = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="A tag; may be repeated.", show_default=False)
    ] = None,
    note: Annotated[str, typer.Option(help="A note.", show_default=False)] = "",
    reviewer: Annotated[
        str | None, typer.Option(help="Who judges; else the user.", show_default=False)
    ] = None,
    group: Annotated[
        bool, typer.Option("--group", help="Judge every flag that is in a group with them.")
    ] = False,
    run: Annotated[
        str | None, typer.Option(help="The run looked at; else the newest.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Record what you say of samples; the latest counts.

    Example: longtail verdict -w my-workspace 3f2a9c01b7de edge_case --tag crack
    """
    *sample_ids, last = words
    label = next((label for label in VERDICT_LABELS if label == last), None)
    if label is None:
        raise UsageError(f"'{last}' is no verdict; end with one of {', '.join(VERDICT_LABELS)}")
    if not sample_ids:
        raise UsageError(f"which sample is '{label}'? give its id before the verdict")
    opened = open_workspace(workspace)
    before = opened.verdicts.latest()
    verdicts = opened.verdict(sample_ids, label, tag or (), note, reviewer, group=group, run_id=run)
    if as_json:
        print_json([asdict(given) for given in verdicts])
    else:
        changed = sum(
            given.sample_id in before and before[given.sample_id].label != label
            for given in verdicts
        )
        otherwise = f"; {changed:,} of them had another verdict before" if changed else ""
        print(f"{len(verdicts):,} recorded as {label} by {verdicts[0].reviewer}{otherwise}")


def status(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show what a workspace holds and what the last run did.

    Example: longtail status -w my-workspace --json
    """
    state = open_workspace(workspace).status()
    if as_json:
        print_json(state)
        return
    index, last = state["index"], state["last_run"]
    rows = [
        ("workspace", state["workspace"]),
        ("encoder", state["encoder"]),
        ("samples", f"{state['samples']:,} from {state['uris']:,} URIs"),
        ("rejects", f"{state['rejects']:,}"),
        ("index", index_line(index)),
        ("flags", f"{state['flags']:,} in the newest mining run"),
        ("runs", f"{state['runs']:,}"),
    ]
    if last:
        rows.append(
            (
                "last run",
                f"{last['run_id']}: {last['ingested']:,} ingested, {last['skipped']:,} skipped, "
                f"{last['rejected']:,} rejected, {last['flagged']:,} flagged in "
                f"{last['seconds']:.1f} s",
            )
        )
    if failure := state["last_failure"]:
        rows.append(("failed", f"{failure['run_id']}: {failure['command']}: {failure['error']}"))
    print_titled(rows)
