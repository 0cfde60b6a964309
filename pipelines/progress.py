"""How far the running job is, for a person who waits.

Workers in this process add to the counts as they go; workers elsewhere add to counts that nobody
reads, and the totals come from Beam's counters when the job ends.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Counts of one job. `todo` grows while the inputs are listed."""

    todo: int = 0
    done: int = 0
    rejected: int = 0
    started: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, todo: int = 0, done: int = 0, rejected: int = 0) -> None:
        with self._lock:
            self.todo += todo
            self.done += done
            self.rejected += rejected


_jobs: dict[str, Progress] = {}
_jobs_lock = threading.Lock()


def of(job: str) -> Progress:
    """The progress of a job, by its run id; made on first use."""
    with _jobs_lock:
        return _jobs.setdefault(job, Progress())


def forget(job: str) -> None:
    """Drop the counts of a job that has ended."""
    with _jobs_lock:
        _jobs.pop(job, None)
