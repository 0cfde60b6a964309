"""Deleting samples on request, from everywhere that a reader looks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa

from index.store import IndexStore
from longtail import runs
from schemas import arrow
from schemas.catalog import Catalog


def forget(catalog: Catalog, sample_ids: Sequence[str]) -> None:
    """Remove samples from tables, datasets, indexes and reports, and refuse their content later.

    Safe to repeat after a crash. Older versions of tables keep their files until a vacuum, the
    index until a compaction and a sweep. Verdicts stay: they hold ids alone.
    """
    from pipelines.curate import dataset

    known = set(catalog.forgotten.read(["sample_id"])["sample_id"].to_pylist())
    new = [sample_id for sample_id in sample_ids if sample_id not in known]
    if new:
        # Refused from now on, so that an ingest that follows a crash does not bring them back.
        now = arrow.constant(datetime.now(UTC), len(new), pa.timestamp("us", tz="UTC"))
        rows = pa.table([pa.array(new, pa.string()), now], schema=arrow.FORGOTTEN)
        staged = catalog.forgotten.stage(rows)
        catalog.forgotten.commit([staged], transaction=f"forget-{staged.path}")
    names = [path.name for path in catalog.datasets.glob("*")]
    tables = [catalog.uris, catalog.scores, *(dataset(catalog, name) for name in names)]
    for table in (*tables, catalog.samples):  # samples last: a repeat finds by them what is left
        table.delete("sample_id", sample_ids)
    for folder in catalog.indexes():
        IndexStore(folder).forget(sample_ids)
    for report in catalog.runs.glob(f"*/{runs.REPORT}"):
        report.unlink()  # with thumbnails inside; the newest is written anew when asked for


def remember(catalog: Catalog, sample_ids: Sequence[str]) -> None:
    """Accept these contents again, from the next ingest on."""
    catalog.forgotten.delete("sample_id", sample_ids)
    catalog.rejects.delete("reason", ["forgotten"])  # so that their inputs are read again
