"""Commands that learn from verdicts: suggest."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from longtail.cli.common import (
    SAMPLE_ID_DIGITS,
    JsonOption,
    WorkspaceOption,
    open_workspace,
    print_json,
    print_table,
    short_uri,
)


def suggest(
    workspace: WorkspaceOption = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List what to judge next, for verdicts to be worth the most.

    Example: longtail suggest -w my-workspace -n 50
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
