"""Runs of a workspace: one at a time, each with a folder of what it did.

runs/<run_id>/metrics.json     the summary, the counters and the settings; written when it ended
runs/<run_id>/mine.json        what was mined, where the run mined anything
runs/<run_id>/validation.json  the audits
runs/<run_id>/report.html
runs/<run_id>/log.jsonl
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from schemas.catalog import Catalog
from schemas.errors import WorkspaceBusyError

METRICS = "metrics.json"
MINE = "mine.json"
REPORT = "report.html"


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
    """Hold the workspace and start a run in it. Raises WorkspaceBusyError while another does."""
    lock = FileLock(catalog.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise WorkspaceBusyError(
            f"another run holds {catalog.root}; wait for it to end, or look at its log in "
            f"{catalog.runs}"
        ) from None
    shutil.rmtree(catalog.scratch, ignore_errors=True)
    started = datetime.now(UTC)
    run_id = f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    run = Run(run_id, catalog.run(run_id), started, details)
    run.folder.mkdir(parents=True)
    handler = logging.FileHandler(run.folder / "log.jsonl", encoding="utf-8")
    handler.setFormatter(_JsonFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield run
    except BaseException:
        logging.getLogger(__name__).exception("the run ended early")
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
        lock.release()


def finished(catalog: Catalog) -> list[str]:
    """Ids of the runs that ended, oldest first (ids sort by time)."""
    return sorted(path.parent.name for path in catalog.runs.glob(f"*/{METRICS}"))


def newest_mining_run(catalog: Catalog) -> str | None:
    """Id of the newest run that published scores; None if there is none."""
    candidates = (path.parent.name for path in catalog.runs.glob(f"*/{MINE}"))
    for run_id in sorted(candidates, reverse=True):
        if catalog.scores.files(run_id):
            return run_id
    return None


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
