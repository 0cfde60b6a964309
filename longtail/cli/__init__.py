"""The command line: parses, calls the public API, prints. Heavy imports wait in the commands."""

from __future__ import annotations

import os
import sys

import typer

from longtail import __version__
from longtail.cli import explaining, jobs, learning, reading, setup
from schemas.errors import LongtailError

_INTERRUPTED = 130

app = typer.Typer(
    help="Mines streams of real-world images for the edge cases a model has not learned to handle.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for command in (
    setup.init,
    jobs.run,
    jobs.ingest,
    jobs.index,
    jobs.mine,
    jobs.references,
    reading.flags,
    explaining.explain,
    reading.query,
    reading.duplicates,
    reading.verdict,
    learning.suggest,
    jobs.curate,
    jobs.export,
    jobs.forget,
    jobs.vacuum,
    reading.status,
    setup.encoders,
    setup.doctor,
    setup.demo,
):
    app.command()(command)
app.add_typer(learning.trigger, name="trigger")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"longtail {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_print_version, is_eager=True
    ),
    debug: bool = typer.Option(False, "--debug", help="Print the traceback of an error."),
) -> None:
    pass


def main() -> None:
    """Entry point of the `longtail` command."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        app(arguments, prog_name="longtail")
    except SystemExit as ended:  # how Typer ends every command, also when it is stopped
        if ended.code == _INTERRUPTED:
            print("longtail: interrupted; run the same command again to go on", file=sys.stderr)
        if isinstance(ended.__context__, BrokenPipeError):
            ended.code = 0  # whoever reads, such as `head`, has seen enough
        _flush()
        raise
    except LongtailError as error:
        if debug:
            raise
        print(f"longtail: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        lines = str(error).strip().splitlines() or [""]
        print(
            f"longtail: {type(error).__name__}: {lines[-1]} (--debug shows the traceback)",
            file=sys.stderr,
        )
        sys.exit(1)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # what is left goes nowhere, or the interpreter complains as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
