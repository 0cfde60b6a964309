"""Commands around a workspace: init, doctor, demo."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.common import (
    JsonOption,
    WorkspaceOption,
    print_flags,
    print_json,
    print_summary,
    print_table,
    quieten,
)


def init(
    folder: Annotated[Path, typer.Argument(help="The new workspace.")] = Path(),
) -> None:
    """Make a workspace with every setting and its default.

    Example: longtail init my-workspace
    """
    from longtail.workspace import Workspace

    Workspace.create(folder)
    print(f"made {folder / 'longtail.yaml'}; next: longtail run -w {folder} FOLDER_OF_IMAGES")


def encoders(as_json: JsonOption = False) -> None:
    """List the encoders, and what is missing to use each.

    Example: longtail encoders
    """
    from encoders import hardware
    from encoders.registry import available

    lines = available()
    if as_json:
        print_json([asdict(line) for line in lines])
        return
    print_table(
        ("encoder", "dimensions", "licence", "missing"),
        [
            (
                line.name,
                " / ".join(map(str, (line.dimensions or {}).values())) or "the model's own",
                line.licence,
                line.missing or "-",
            )
            for line in lines
        ],
    )
    if not hardware.find_device("auto").is_cuda and not hardware.has("openvino"):
        print("on this CPU most run faster with: pip install 'longtail[openvino]'")


def doctor(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Check the installation, and say how to mend it.

    Example: longtail doctor
    """
    quieten()
    from longtail import doctor, settings

    folder = workspace or Path()
    given = settings.load(folder) if (folder / settings.FILE).exists() else settings.Settings()
    checks = []
    for check in doctor.examine(folder.absolute(), given):
        checks.append(check)
        if not as_json:
            print(f"{'ok ' if check.ok else 'BAD'}  {check.name:<13} {check.found}")
            if check.remedy:
                print(f"     {'':<13} mend: {check.remedy}")
    if as_json:
        print_json([asdict(check) for check in checks])
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def demo(
    folder: Annotated[Path, typer.Argument(help="The demo's workspace.")] = Path("longtail-demo"),
    limit: Annotated[
        int | None, typer.Option(min=10, help="Only so many photographs.", show_default=False)
    ] = None,
) -> None:
    """Mine 2,624 photographs of solar cells.

    Example: longtail demo --limit 200
    """
    quieten()
    from longtail import settings
    from longtail.cli.progress import watch
    from longtail.demo import BUDGET, SOURCE, check_own, judge, photographs
    from longtail.workspace import Workspace

    inputs = photographs(limit)
    if not (folder / settings.FILE).exists():
        Workspace.create(folder)
    workspace = Workspace(folder, {"mining": {"budget": BUDGET}}, watch)
    check_own(workspace.catalog)
    summary = workspace.run(inputs, source=SOURCE)
    flags = workspace.flags()
    print_flags([flag for flag in flags if flag.kind == "outlier"][:20])
    print()
    print_summary(summary, as_json=False)
    if not flags:
        print("nothing was flagged; the settings in longtail.yaml say how flags are called")
        return
    hits = judge(flags, workspace.catalog.samples.read(["uri"])["uri"].to_pylist())
    print(
        f"of the first {hits.flags} flags, {hits.defects} are true defects; "
        f"chance would give {hits.chance:.0f} (the labels were not used to score)"
    )
    print(f"report: {workspace.report()}")
    print(f"next:   longtail query -w {folder} --id {flags[0].sample_id[:12]}")
