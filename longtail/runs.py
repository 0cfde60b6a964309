"""Runs of a workspace: one at a time, each with a folder of what it did.

runs/<run_id>/metrics.json     the summary, the counters and the settings; written when it ended
runs/<run_id>/failed.json      the run, its command and the error, where it ended early
runs/<run_id>/mine.json        what was mined, where the run mined anything
runs/<run_id>/notes.json       what mining had to say beside the scores
runs/<run_id>/validation.json  the audits
runs/<run_id>/report.html
runs/<run_id>/log.jsonl
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from schemas.catalog import Catalog
from schemas.errors import LongtailError, NotFoundError, WorkspaceBusyError, WorkspaceError

METRICS = "metrics.json"
FAILED = "failed.json"
MINE = "mine.json"
REPORT = "report.html"

_STAMP = "%Y%m%dT%H%M%SZ"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did; the fields are a contract with other programs.

    skipped: inputs that were known already, by name or by content.
    flagged: outliers and capture faults that this run called; 0 where there was nothing to mine.
    """

    run_id: str
    started_at: str
    seconds: float
    ingested: int = 0
    skipped: int = 0
    rejected: int = 0
    flagged: int = 0


@dataclass
class Run:
    """A run in progress. `counters` add up over its jobs; `seconds` is the time of each job."""

    run_id: str
    folder: Path
    started: datetime
    details: dict[str, Any] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def count(self, counters: Mapping[str, int]) -> None:
        for name, value in counters.items():
            self.counters[name] = self.counters.get(name, 0) + value

    def summary(self) -> RunSummary:
        counters = self.counters
        ingested, rejected = counters.get("ingested", 0), counters.get("rejected", 0)
        return RunSummary(
            run_id=self.run_id,
            started_at=self.started.isoformat(timespec="seconds"),
            seconds=round((datetime.now(UTC) - self.started).total_seconds(), 2),
            ingested=ingested,
            skipped=counters.get("listed", 0) - ingested - rejected,
            rejected=rejected,
            flagged=counters.get("flagged", 0),
        )

    def finish(self) -> RunSummary:
        """Write metrics.json: from now on the run counts as having been."""
        summary = self.summary()
        record = {
            "summary": asdict(summary),
            **self.details,
            "counters": self.counters,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }
        write_json(self.folder / METRICS, record)
        return summary

    @contextmanager
    def timed(self, job: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[job] = time.perf_counter() - begun


@contextmanager
def start(catalog: Catalog, **details: Any) -> Iterator[Run]:
    """Hold the workspace and start a run in it, after what a crash left of forgetting is done.

    Raises WorkspaceBusyError while another does, WorkspaceError where nothing can be written.
    """
    started = datetime.now(UTC)
    run_id = id_at(started)
    run = Run(run_id, catalog.run(run_id), started, details)
    with ExitStack() as held:
        try:
            held.enter_context(FileLock(catalog.lock, timeout=0))
            shutil.rmtree(catalog.scratch, ignore_errors=True)
            run.folder.mkdir(parents=True)
            held.enter_context(_logged(run.folder / "log.jsonl"))
        except Timeout:
            raise WorkspaceBusyError(
                f"another run holds {catalog.root}; wait for it to end, or look at its log in "
                f"{catalog.runs}"
            ) from None
        except OSError as error:
            raise WorkspaceError(
                f"{catalog.root} cannot be written ({error.strerror}); mend that, or make a "
                "workspace elsewhere with 'longtail init FOLDER'"
            ) from None
        try:
            if catalog.forgetting.exists():
                from longtail import forgetting  # which needs this module

                forgetting.finish(catalog)
            yield run
        except BaseException as error:
            _log.exception("the run ended early")
            with suppress(OSError):  # a full disk, say, may be why the run failed
                write_json(run.folder / FAILED, _failure(run, error))
            raise


def id_at(time: datetime) -> str:
    """The id of a run that starts at a time (with a time zone); ids sort by time."""
    time = time.astimezone(UTC)
    stamp = f"{time:{_STAMP}}".zfill(16)  # strftime leaves out the zeros of the year 206
    return f"{stamp}-{time.microsecond:06x}"


def started_at(run_id: str) -> datetime:
    """When a run started, in UTC: its id tells."""
    return datetime.strptime(run_id.partition("-")[0], _STAMP).replace(tzinfo=UTC)


def finished(catalog: Catalog) -> list[str]:
    """Ids of the runs that ended, oldest first (ids sort by time)."""
    return sorted(path.parent.name for path in catalog.runs.glob(f"*/{METRICS}"))


def last_summary(catalog: Catalog, commands: Sequence[str]) -> dict[str, Any] | None:
    """The summary of the newest run of one of these commands that ended."""
    for run_id in reversed(finished(catalog)):
        record = metrics(catalog, run_id)
        if record.get("command") in commands:
            summary: dict[str, Any] = record["summary"]
            return summary
    return None


def last_failure(catalog: Catalog) -> dict[str, Any] | None:
    """What failed.json holds of the newest run that ended early, unless a later one finished."""
    newest = max(catalog.runs.glob(f"*/{FAILED}"), default=None)
    if newest is None or newest.parent.name < max(finished(catalog), default=""):
        return None
    return read_json(newest)


def mining_runs(catalog: Catalog) -> list[str]:
    """Ids of the runs that published scores, oldest first."""
    return sorted({str(file.partition) for file in catalog.scores.files()})


def newest_mining_run(catalog: Catalog) -> str | None:
    """Id of the newest run that published scores; None if there is none."""
    return max(mining_runs(catalog), default=None)


def mining_run(catalog: Catalog, run_id: str | None = None) -> str | None:
    """`run_id`, else the newest mining run if any. Raises NotFoundError for one that is none."""
    newest = newest_mining_run(catalog)
    if run_id is not None and run_id not in mining_runs(catalog):
        raise NotFoundError(f"no mining run '{run_id}'; the newest is {newest}")
    return run_id or newest


def metrics(catalog: Catalog, run_id: str) -> dict[str, Any]:
    """What metrics.json holds; empty for a run that did not end."""
    return read_json(catalog.run(run_id) / METRICS)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none."""
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object so that a reader sees the old file or the new one, never a half."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", "utf-8")
    temporary.replace(path)


def _failure(run: Run, error: BaseException) -> dict[str, Any]:
    """The error in one line, as the command prints it."""
    last = str(error).strip().splitlines()[-1:]
    words = last if isinstance(error, LongtailError) else [type(error).__name__, *last]
    command = run.details.get("command")
    return {"run_id": run.run_id, "command": command, "error": ": ".join(words)}


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_JsonFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)
