"""Datasets: what was judged goes in as a new version, and a version comes out as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curation.dataset import check_name
from curation.export import ExportFormat, export_dataset
from curation.select import select
from longtail import runs
from longtail.jobs import Jobs
from pipelines.curate import dataset
from schemas.catalog import Catalog
from schemas.errors import REJECT_REASONS, NotFoundError, UsageError
from schemas.records import VERDICT_LABELS, Flag, Verdict, VerdictLabel

_IMAGES_PER_BATCH = 64


def curate(
    jobs: Jobs,
    name: str,
    flags: Sequence[Flag],
    verdicts: Mapping[str, Verdict],
    *,
    labels: Sequence[VerdictLabel],
    top: int,
) -> dict[str, Any]:
    """Append samples to a dataset; see `Workspace.curate`. Raises UsageError."""
    unknown = set(labels) - set(VERDICT_LABELS)
    if unknown:
        raise UsageError(
            f"'{min(unknown)}' is no verdict; take some of {', '.join(VERDICT_LABELS)}"
        )
    table = dataset(jobs.catalog, check_name(name))
    with runs.start(jobs.catalog, command="curate", dataset=name) as run:
        existing = set(table.read(["sample_id"])["sample_id"].to_pylist())
        selections = select(verdicts, flags, labels=labels, top=top, existing=existing)
        jobs.curate(run, name, selections)
        run.finish()
        return {
            "dataset": name,
            "version": table.version(),
            "added": run.counters.get("added", 0),
            "rejected": {
                reason: run.counters[reason] for reason in REJECT_REASONS if reason in run.counters
            },
            "samples": table.count(),
        }


def export(
    catalog: Catalog, name: str, out: Path, format_: ExportFormat, version: int | None
) -> dict[str, Any]:
    """Write a version of a dataset as files. Raises NotFoundError, UsageError."""
    table = dataset(catalog, check_name(name))
    newest = table.version()
    if newest is None:
        names = ", ".join(sorted(path.name for path in catalog.datasets.glob("*"))) or "none"
        raise NotFoundError(f"no dataset '{name}'; there are: {names}")
    version = newest if version is None else version
    batches = table.batches(version=version, rows=_IMAGES_PER_BATCH)
    summary = export_dataset(batches, out, format_, name=name, version=version)
    return {"dataset": name, "version": version, "samples": summary.images, "out": str(out)}
