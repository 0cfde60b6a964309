"""Deleting samples on request: at once where a reader looks, then from the disk.

What stays is the sample's id, in the list of what is refused and in the logs of runs.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from detectors.patches import Bank
from index.factory import Policy
from index.store import IndexStore
from longtail import references, runs, triggers
from longtail.filters import sighted
from longtail.verdicts import VerdictLog
from schemas import arrow
from schemas.catalog import Catalog
from schemas.errors import CorruptionError
from schemas.tables import Table

_log = logging.getLogger(__name__)


def forget(catalog: Catalog, verdicts: VerdictLog, sample_ids: Sequence[str]) -> None:
    """Remove samples from tables, datasets, indexes, reports and verdicts; refuse their content.

    Saved references forget their vectors; means and covariances stay as they were fitted. What a
    crash leaves undone the next run finishes. Older versions of tables keep their files, and
    segments of the index their vectors, until `vacuum`. Raises CorruptionError, after all else is
    done, where an index, a reference or a bank of patches is damaged.
    """
    if not sample_ids:
        return
    runs.write_json(catalog.forgetting, {"sample_ids": list(sample_ids)})
    known = set(catalog.forgotten.read(["sample_id"])["sample_id"].to_pylist())
    new = [sample_id for sample_id in sample_ids if sample_id not in known]
    if new:
        # Refused from now on, so that an ingest that follows a crash does not bring them back.
        now = arrow.constant(datetime.now(UTC), len(new), pa.timestamp("us", tz="UTC"))
        rows = pa.table([pa.array(new, pa.string()), now], schema=arrow.FORGOTTEN)
        staged = catalog.forgotten.stage(rows)
        catalog.forgotten.commit([staged], transaction=f"forget-{staged.path}")
    damaged: list[str] = []
    for path in references.fits(catalog):  # by their indexes, which forget next
        with _noting(damaged, path):
            references.forget(path, sample_ids)
    for folder in _indexes(catalog):
        with _noting(damaged, folder):
            IndexStore(folder).forget(sample_ids)
    for path in catalog.banks():
        with _noting(damaged, path):
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
    catalog.samples.delete("sample_id", sample_ids)
    catalog.forgetting.unlink()
    _tell(damaged)


def finish(catalog: Catalog) -> None:
    """Do what a crash left undone of `forget`; what is damaged stands in the run's log."""
    sample_ids = runs.read_json(catalog.forgetting).get("sample_ids", [])
    try:
        forget(catalog, VerdictLog.at(catalog.reviews), sample_ids)
    except CorruptionError as error:
        _log.warning("%s", error)


def described(catalog: Catalog, source: str | None, before: datetime | None) -> list[str]:
    """The samples of which any URI is as all that is given says, none where nothing is.

    before: when it was captured, or seen where that is unknown; see `filters.sighted`.
    """
    if source is None and before is None:
        return []
    rows = catalog.uris.read(["sample_id"], sighted(source, until=before))
    found: list[str] = rows["sample_id"].unique().to_pylist()
    return found


def remember(catalog: Catalog, sample_ids: Sequence[str]) -> None:
    """Accept these contents again, from the next ingest on."""
    # The refusals first, so that after a crash between the two it can be asked for again.
    catalog.rejects.delete("reason", ["forgotten"])
    catalog.forgotten.delete("sample_id", sample_ids)


def vacuum(catalog: Catalog, policy: Policy) -> int:
    """Remove from the disk what no newest version of a table or index names; returns the bytes.

    For the holder of the workspace, as a job may be about to commit what it staged. Open indexes
    keep their files while they are open, and `Table` says what readers of tables see. Raises
    CorruptionError, after all else is done, where an index is damaged.
    """
    before = _bytes(catalog.root)
    own = (catalog.samples, catalog.patches, catalog.uris, catalog.scores, catalog.rejects)
    for table in (*own, catalog.forgotten, *_datasets(catalog)):
        table.vacuum(kept_hours=0)
    damaged: list[str] = []
    for folder in _indexes(catalog):
        with _noting(damaged, folder):
            store = IndexStore(folder, policy)
            store.compact(forgotten=True)
            store.sweep(grace_s=0)
    _tell(damaged)
    return max(0, before - _bytes(catalog.root))  # a log may have grown meanwhile


@contextmanager
def _noting(damaged: list[str], path: Path) -> Iterator[None]:
    """Go on past what is damaged: a request to delete must not wait for a repair."""
    try:
        yield
    except (CorruptionError, FileNotFoundError) as error:
        damaged.append(f"{path} ({error})")


def _tell(damaged: Sequence[str]) -> None:
    if damaged:
        raise CorruptionError(
            f"done, but for what is damaged: {'; '.join(damaged)}; delete these: 'longtail index' "
            "makes an index anew, and 'longtail mine' a reference or a bank of patches"
        )


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
