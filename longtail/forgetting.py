"""Deleting samples on request: at once where a reader looks, then from the disk.

What stays is the sample's id, in the list of what is refused and in the logs of runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from detectors.patches import Bank
from index.factory import Policy
from index.store import IndexStore
from longtail import runs, triggers
from longtail.verdicts import VerdictLog
from schemas import arrow
from schemas.catalog import Catalog
from schemas.tables import Table


def forget(catalog: Catalog, verdicts: VerdictLog, sample_ids: Sequence[str]) -> None:
    """Remove samples from tables, datasets, indexes, reports and verdicts; refuse their content.

    Saved references forget their vectors; means and covariances stay as they were fitted. Safe to
    repeat after a crash. Older versions of tables keep their files, and segments of the index their
    vectors, until `vacuum`.
    """
    known = set(catalog.forgotten.read(["sample_id"])["sample_id"].to_pylist())
    new = [sample_id for sample_id in sample_ids if sample_id not in known]
    if new:
        # Refused from now on, so that an ingest that follows a crash does not bring them back.
        now = arrow.constant(datetime.now(UTC), len(new), pa.timestamp("us", tz="UTC"))
        rows = pa.table([pa.array(new, pa.string()), now], schema=arrow.FORGOTTEN)
        staged = catalog.forgotten.stage(rows)
        catalog.forgotten.commit([staged], transaction=f"forget-{staged.path}")
    for folder in _indexes(catalog):
        IndexStore(folder).forget(sample_ids)
    for path in catalog.banks():
        bank = Bank.load(path)
        if bank.holds(sample_ids):
            bank.without(sample_ids).save(path)
    for report in catalog.runs.glob(f"*/{runs.REPORT}"):
        report.unlink()  # with thumbnails inside; the newest is written anew when asked for
    verdicts.erase(sample_ids)
    triggers.forget(catalog, sample_ids)
    _unname(catalog.scores, set(sample_ids))
    for table in (catalog.uris, catalog.patches, catalog.scores, *_datasets(catalog)):
        table.delete("sample_id", sample_ids)
    catalog.samples.delete("sample_id", sample_ids)  # last: a repeat finds by them what is left


def described(catalog: Catalog, source: str | None, before: datetime | None) -> list[str]:
    """The samples that all which is given describes, none where nothing is.

    before: when they were captured, or ingested where that is unknown; UTC without a time zone.
    """
    if source is None and before is None:
        return []
    where = ds.scalar(True)
    if source is not None:
        where &= ds.field("source") == source
    if before is not None:
        time = pa.scalar(before if before.tzinfo else before.replace(tzinfo=UTC))
        where &= pc.coalesce(ds.field("captured_at"), ds.field("ingested_at")) < time
    found: list[str] = catalog.samples.read(["sample_id"], where)["sample_id"].unique().to_pylist()
    return found


def remember(catalog: Catalog, sample_ids: Sequence[str]) -> None:
    """Accept these contents again, from the next ingest on."""
    catalog.forgotten.delete("sample_id", sample_ids)
    catalog.rejects.delete("reason", ["forgotten"])  # so that their inputs are read again


def vacuum(catalog: Catalog, policy: Policy) -> int:
    """Remove from the disk what no newest version of a table or index names; returns the bytes.

    For the holder of the workspace, as a job may be about to commit what it staged. Open indexes
    keep their files while they are open, and `Table` says what readers of tables see.
    """
    before = _bytes(catalog.root)
    own = (catalog.samples, catalog.patches, catalog.uris, catalog.scores, catalog.rejects)
    for table in (*own, catalog.forgotten, *_datasets(catalog)):
        table.vacuum(kept_hours=0)
    for folder in _indexes(catalog):
        store = IndexStore(folder, policy)
        store.compact(forgotten=True)
        store.sweep(grace_s=0)
    return max(0, before - _bytes(catalog.root))  # a log may have grown meanwhile


def _unname(scores: Table, gone: Collection[str]) -> None:
    """Take samples out of other samples' rows: flags name the nearest normal ones, with URIs."""

    def without(rows: pa.Table) -> pa.Table:
        nearest = [
            near and [one for one in near if one["sample_id"] not in gone]
            for near in rows["nearest"].to_pylist()
        ]
        twins = [None if one in gone else one for one in rows["duplicate_of"].to_pylist()]
        confirmed = [
            None if one and one["sample_id"] in gone else one
            for one in rows["confirmed"].to_pylist()
        ]
        columns = {"nearest": nearest, "confirmed": confirmed, "duplicate_of": twins}
        for name, values in columns.items():
            at = rows.schema.get_field_index(name)
            field = rows.schema.field(at)
            rows = rows.set_column(at, field, pa.array(values, field.type))
        return rows

    scores.rewrite(without, where=ds.field("rank").is_valid())


def _indexes(catalog: Catalog) -> list[Path]:
    """Those of the samples, and those of the saved references."""
    from pipelines.reference import INDEX

    return [*catalog.indexes(), *(path / INDEX for path in sorted(catalog.references.glob("*")))]


def _datasets(catalog: Catalog) -> list[Table]:
    from pipelines.curate import dataset

    return [dataset(catalog, path.name) for path in sorted(catalog.datasets.glob("*"))]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
