"""Progress of a running job on stderr: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.progress import Progress

_LINE_EVERY_S = 10.0
_BAR_EVERY_S = 0.2


@contextmanager
def watch(job: str, progress: Progress) -> Iterator[None]:
    """Show `progress` until the job ends."""
    show = _bar if sys.stderr.isatty() else _lines
    ended = threading.Event()
    thread = threading.Thread(target=show, args=(job, progress, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def line(job: str, progress: Progress, seconds: float) -> str:
    """One line for a log: how many of how many, how fast, how long still."""
    rate = progress.done / seconds if seconds > 0 else 0.0
    left = max(progress.todo - progress.done, 0)
    text = f"{job}: {progress.done:,} of {progress.todo:,}, {rate:,.0f}/s"
    if progress.rejected:
        text += f", {progress.rejected:,} rejected"
    if rate > 0 and left:
        text += f", {left / rate:,.0f} s left"
    return text


def _lines(job: str, progress: Progress, ended: threading.Event) -> None:
    begun = time.monotonic()
    while not ended.wait(_LINE_EVERY_S):
        print(line(job, progress, time.monotonic() - begun), file=sys.stderr, flush=True)


def _bar(job: str, progress: Progress, ended: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description:<7}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>6}/s"),
        TextColumn("{task.fields[rejected]} rejected"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    begun = time.monotonic()
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(job, total=None, rate="-", rejected=0)
        running = True
        while running:
            running = not ended.wait(_BAR_EVERY_S)
            seconds = time.monotonic() - begun
            bar.update(
                task,
                total=progress.todo or None,
                completed=progress.done,
                rate=f"{progress.done / seconds:,.0f}",
                rejected=progress.rejected,
            )
