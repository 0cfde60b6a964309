"""What keeps an index small, fast and true to the samples table."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from longtail import runs
from longtail.jobs import Jobs
from longtail.opened import embeddings
from schemas.errors import NotFoundError

if TYPE_CHECKING:
    from index.verification import Verification


def status(jobs: Jobs) -> dict[str, Any]:
    """What the index holds, which FAISS index it is, and the recall at 10 measured for it."""
    snapshot = jobs.index_store.open()
    return {
        "vectors": snapshot.vectors if snapshot else 0,
        "segments": len(snapshot.segments) if snapshot else 0,
        "snapshot": snapshot.number if snapshot else None,
        "factory": snapshot.choice.factory if snapshot else None,
        "recall": snapshot.choice.recall if snapshot else None,
        "recall_wanted": jobs.settings.index.recall,
        "measured": snapshot.measured if snapshot else 0,
    }


def compact(jobs: Jobs) -> None:
    """Merge segments, without the forgotten, and train anew where another index suits by now."""
    with runs.start(jobs.catalog, command="index compact") as run:
        jobs.index_store.compact(forgotten=True)
        jobs.index_store.sweep()
        run.finish()


def rebuild(jobs: Jobs) -> None:
    """Make the index anew from the samples table, whatever state its files are in.

    Raises NotFoundError where there are no samples.
    """
    if not jobs.catalog.samples.files(jobs.encoder.id):
        raise NotFoundError(f"{jobs.catalog.root} has no samples; 'longtail run' adds some")
    with runs.start(jobs.catalog, command="index rebuild") as run:
        jobs.index(run, anew=True)
        run.finish()


def verify(jobs: Jobs) -> Verification:
    """Compare every file and vector with the samples table. Raises NotFoundError, CorruptionError.

    NotFoundError before anything is indexed; CorruptionError for a file that cannot be read. What
    was forgotten may be in either, after a crash, until the next run: that is no difference.
    """
    refused = set(jobs.catalog.forgotten.read(["sample_id"])["sample_id"].to_pylist())
    verification = jobs.index_store.verify(_indexed(jobs, refused))
    if verification is None:
        raise NotFoundError(f"{jobs.catalog.root} has no indexed samples; 'longtail run' adds some")
    extra = tuple(sample_id for sample_id in verification.extra if sample_id not in refused)
    return replace(verification, extra=extra)


def _indexed(
    jobs: Jobs, refused: Collection[str]
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    for sample_ids, vectors in embeddings(jobs.catalog.samples, jobs.encoder.id, "high"):
        kept = np.array([sample_id not in refused for sample_id in sample_ids], dtype=bool)
        yield list(compress(sample_ids, kept)), vectors[kept]
