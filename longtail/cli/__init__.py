"""The command line: parses, calls the public API, prints. Heavy imports wait in the commands."""

from __future__ import annotations

import sys

import typer

from longtail import __version__
from longtail.cli import jobs, reading, setup
from schemas.errors import LongtailError

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
    reading.flags,
    reading.query,
    reading.duplicates,
    reading.verdict,
    jobs.curate,
    jobs.export,
    jobs.forget,
    reading.status,
    setup.encoders,
    setup.doctor,
    setup.demo,
):
    app.command()(command)


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
        app(arguments)
    except KeyboardInterrupt:
        print("longtail: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
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
