"""Commands that learn from verdicts: suggest and trigger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from longtail.cli.common import (
    SAMPLE_ID_DIGITS,
    JsonOption,
    WorkspaceOption,
    open_workspace,
    print_json,
    print_table,
    short_uri,
)

if TYPE_CHECKING:
    from longtail.triggers import StandingQuery
    from longtail.workspace import Workspace


def suggest(
    workspace: WorkspaceOption = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List what to judge next, for verdicts to be worth the most.

    A few at a time, with the verdicts in between, teach more than all at once.

    Example: longtail suggest -w my-workspace -n 10
    """
    found = open_workspace(workspace).suggest(count)
    if as_json:
        print_json([asdict(one) for one in found])
    elif found:
        print_table(
            ("sample", "why", "score", "image"),
            [
                (one.sample_id[:SAMPLE_ID_DIGITS], one.why, f"{one.score:.4f}", short_uri(one.uri))
                for one in found
            ],
            right={"score"},
        )
    else:
        print("nothing is left to judge; 'longtail run' adds images")


trigger = typer.Typer(
    help="Keep standing queries: every run tells their new matches.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The trigger; comes first.")]
LikeOption = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="SAMPLE_ID...", help="Examples.", show_default=False),
]
UnlikeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--not", metavar="SAMPLE_ID...", help="Examples of what is not meant.", show_default=False
    ),
]


class _TakesExamples(TyperCommand):
    """A command whose `--from` and `--not` take several ids each, which Click's options cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_one_each(args)))


def _one_each(words: Iterable[str]) -> Iterator[str]:
    """`--from A B` as `--from A --from B`."""
    option = ""
    for before, word in pairwise(["", *words]):
        if word.startswith("-"):
            option = word.partition("=")[0]
        elif option in ("--from", "--not") and before != option:
            yield option
        yield word


@trigger.command(cls=_TakesExamples)
def add(
    name: Name,
    workspace: WorkspaceOption = None,
    like: LikeOption = None,
    unlike: UnlikeOption = None,
    text: Annotated[
        str | None,
        typer.Option(help="Words, for an encoder that embeds text.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask every later run for more like some samples, or like words.

    Example: longtail trigger add cracks -w my-workspace --from 3f2a9c 81cc03
    """
    opened = open_workspace(workspace)
    opened.triggers.add(name, like or (), unlike=unlike or (), text=text)
    _print_matching(opened, name, as_json)


@trigger.command(cls=_TakesExamples)
def teach(
    name: Name,
    workspace: WorkspaceOption = None,
    like: LikeOption = None,
    unlike: UnlikeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a trigger more examples; a sample may change sides.

    Example: longtail trigger teach cracks -w my-workspace --not 05d1e7
    """
    opened = open_workspace(workspace)
    opened.triggers.teach(name, like or (), unlike=unlike or ())
    _print_matching(opened, name, as_json)


def _print_matching(opened: Workspace, name: str, as_json: bool) -> None:
    matching = len(opened.triggers.matches(name))
    if as_json:
        print_json({"trigger": name, "matches": matching})
    else:
        print(
            f"trigger {name}: {matching:,} matching now; 'longtail trigger show {name}' "
            "lists them, verdicts on them teach it"
        )


@trigger.command("list")
def list_(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the triggers.

    Example: longtail trigger list -w my-workspace
    """
    found = open_workspace(workspace).triggers.all()
    if as_json:
        print_json([_described(query) for query in found])
    elif found:
        print_table(
            ("trigger", "like", "unlike", "matched", "encoder"),
            [
                (
                    query.name,
                    repr(query.text) if query.text is not None else f"{len(query.positive):,}",
                    f"{len(query.negative):,}",
                    f"{len(query.matched):,}",
                    query.encoder_id,
                )
                for query in found
            ],
            right={"unlike", "matched"},
        )
    else:
        print("no triggers; 'longtail trigger add' makes one")


@trigger.command()
def show(name: Name, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List what matches a trigger now, the nearest first.

    Example: longtail trigger show cracks -w my-workspace
    """
    opened = open_workspace(workspace)
    found = opened.triggers.matches(name)
    verdicts = opened.verdicts.latest([match.sample_id for match in found])
    flagged = {flag.sample_id for flag in opened.flags()}
    rows = [
        {
            **asdict(match),
            "flagged": match.sample_id in flagged,
            "verdict": verdicts[match.sample_id].label if match.sample_id in verdicts else None,
        }
        for match in found
    ]
    if as_json:
        print_json(rows)
    elif rows:
        print_table(
            ("sample", "distance", "flagged", "verdict"),
            [
                (
                    row["sample_id"][:SAMPLE_ID_DIGITS],
                    f"{row['distance']:.4f}",
                    "yes" if row["flagged"] else "-",
                    row["verdict"] or "-",
                )
                for row in rows
            ],
            right={"distance"},
        )
    else:
        print(f"nothing matches trigger {name} yet")


@trigger.command()
def remove(name: Name, workspace: WorkspaceOption = None) -> None:
    """Ask no longer.

    Example: longtail trigger remove cracks -w my-workspace
    """
    open_workspace(workspace).triggers.remove(name)
    print(f"trigger {name} is removed")


def _described(query: StandingQuery) -> dict[str, object]:
    told = asdict(query)
    del told["words_vector"]
    return told
