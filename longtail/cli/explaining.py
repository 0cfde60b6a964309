"""The command that says why a sample stands where it does in a mining run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longtail.cli.common import (
    SAMPLE_ID_DIGITS,
    JsonOption,
    WorkspaceOption,
    open_workspace,
    print_json,
    print_titled,
    short_uri,
)
from schemas.errors import UsageError

if TYPE_CHECKING:
    from longtail.explanation import Explanation
    from longtail.workspace import Workspace
    from schemas.records import Neighbour


def explain(
    sample_id: Annotated[str, typer.Argument(help="A sample id, or its first digits.")],
    workspace: WorkspaceOption = None,
    run: Annotated[
        str | None, typer.Option(help="Another mining run than the newest.", show_default=False)
    ] = None,
    heatmap: Annotated[
        Path | None,
        typer.Option(help="Also draw where, as a PNG; needs patches.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a sample, flagged or not, stands where it does.

    Example: longtail explain -w my-workspace 3f2a9c01b7de
    """
    opened = open_workspace(workspace)
    explanation = opened.explain(sample_id, run)
    drawn = None if heatmap is None else _draw(opened, sample_id, heatmap)
    if as_json:
        print_json(asdict(explanation))
        return
    print_titled([*_lines(explanation), *([("heat map", drawn)] if drawn else [])])


def _draw(opened: Workspace, sample_id: str, file: Path) -> str:
    """Write the heat map; says where the strangest spot is."""
    if file.suffix.lower() != ".png":
        raise UsageError(f"--heatmap {file}: write it as a .png")
    drawn = opened.heatmap(sample_id)
    try:
        drawn.picture.save(file)
    except OSError as error:
        raise UsageError(f"--heatmap {file} cannot be written: {error.strerror}") from None
    return (
        f"{file}: strangest spot at {drawn.x:.0%} across, {drawn.y:.0%} down; score "
        f"{drawn.score:.2f}, reference patches reach {drawn.usual:.2f}"
    )


def _lines(told: Explanation) -> Iterator[tuple[str, str]]:
    yield "sample", told.sample_id
    yield "image", told.uri
    yield "source", told.source or "(none)"
    p_value = "" if told.p_value is None else f", p-value {told.p_value:.2g}"
    of = f"{told.samples:,}{' of the reference' if told.of_reference else ''}"
    yield "score", f"{told.score:.4f}, place {told.position:,} of {of}{p_value}"
    kind = (told.kind or "").replace("_", " ")
    none = "none, as a sample of the reference," if told.of_reference else "none"
    flag = none if told.rank is None else f"{kind}, rank {told.rank:,}"
    yield "flag", f"{flag} in run {told.run_id}"
    if told.group is not None:
        medoid = told.group.medoid[:SAMPLE_ID_DIGITS]
        yield "group", f"one of {told.group.size:,} alike flags around {medoid}"
    if told.z:
        yield "levels", ", ".join(f"{level} {z:+.1f}σ" for level, z in told.z.items())
    for reason in told.reasons:
        yield "why", reason
    if told.quality:
        yield "quality", ", ".join(f"{name} {value:.3g}" for name, value in told.quality.items())
    yield from _neighbours("normal", told.nearest)
    yield from _neighbours("edge case", told.confirmed)
    for given in told.verdicts:
        details = [*given.tags, *([repr(given.note)] if given.note else [])]
        said = f"{given.label} by {given.reviewer}, {given.at:%Y-%m-%d %H:%M} UTC"
        yield "verdict", ": ".join([said, ", ".join(details)] if details else [said])


def _neighbours(title: str, nearest: Sequence[Neighbour]) -> Iterator[tuple[str, str]]:
    for near in nearest:
        image = short_uri(near.uri)
        yield title, f"{near.sample_id[:SAMPLE_ID_DIGITS]} {near.distance:.4f} away, {image}"
