"""Which samples may answer a query: by source, time, quality, flags, verdicts, datasets."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce

import pyarrow as pa
import pyarrow.dataset as ds

from longtail import runs
from longtail.verdicts import VerdictLog
from schemas.catalog import Catalog
from schemas.errors import NotFoundError, UsageError
from schemas.records import QUALITY_STATISTICS, VerdictLabel
from schemas.tables import Table

_COMPARE: dict[str, Callable[[ds.Expression, float], ds.Expression]] = {
    "<": lambda field, value: field < value,
    ">": lambda field, value: field > value,
    "<=": lambda field, value: field <= value,
    ">=": lambda field, value: field >= value,
}


@dataclass(frozen=True, slots=True)
class Filter:
    """What a sample must be; what is None or empty asks nothing.

    source: any of its URIs came from there. since, until: captured in [since, until).
    quality: comparisons such as `sharpness<0.01`, all of which hold. flagged: by the newest mining
    run, or not. verdict: its latest one. dataset: that holds it.
    """

    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    quality: tuple[str, ...] = ()
    flagged: bool | None = None
    verdict: VerdictLabel | None = None
    dataset: str | None = None

    def sample_ids(
        self, catalog: Catalog, verdicts: VerdictLog, encoder_id: str
    ) -> list[str] | None:
        """The ids of the samples that pass, None where nothing is asked.

        Raises UsageError for a comparison that is none, NotFoundError for an unknown dataset.
        """
        passing: list[list[str]] = []
        where = self._provenance()
        if where is not None:
            passing.append(_ids(catalog.uris, where))
        if self.quality:
            where = ds.field("encoder") == encoder_id
            for comparison in self.quality:
                where &= _parse(comparison)
            passing.append(_ids(catalog.samples, where))
        if self.flagged is not None:
            newest = runs.newest_mining_run(catalog)
            where = ds.field("run_id") == (newest or "")
            where &= ds.field("rank").is_valid() if self.flagged else ds.field("rank").is_null()
            passing.append(_ids(catalog.scores, where))
        if self.verdict is not None:
            latest = verdicts.latest()
            passing.append([id_ for id_, given in latest.items() if given.label == self.verdict])
        if self.dataset is not None:
            from pipelines.curate import dataset  # with Beam, which no other query waits for

            table = dataset(catalog, self.dataset)
            if table.version() is None:
                raise NotFoundError(f"no dataset '{self.dataset}'; 'longtail curate' makes one")
            passing.append(_ids(table, None))
        if not passing:
            return None
        return sorted(set.intersection(*map(set, passing)))

    def _provenance(self) -> ds.Expression | None:
        wanted: list[ds.Expression] = []
        if self.source is not None:
            wanted.append(ds.field("source") == self.source)
        if self.since is not None:
            wanted.append(ds.field("captured_at") >= _utc(self.since))
        if self.until is not None:
            wanted.append(ds.field("captured_at") < _utc(self.until))
        if not wanted:
            return None
        return reduce(operator.and_, wanted)


def _ids(table: Table, where: ds.Expression | None) -> list[str]:
    ids: list[str] = table.read(["sample_id"], where)["sample_id"].to_pylist()
    return ids


def _utc(time: datetime) -> pa.Scalar:
    return pa.scalar(time if time.tzinfo else time.replace(tzinfo=UTC))


def _parse(comparison: str) -> ds.Expression:
    parts = re.fullmatch(r"(\w+)\s*(<=|>=|<|>)\s*([-+.\deE]+)", comparison.strip())
    if parts is None or parts[1] not in QUALITY_STATISTICS:
        raise UsageError(
            f"'{comparison}' is no comparison of a quality; write one such as 'sharpness<0.01', of "
            f"{', '.join(QUALITY_STATISTICS)}"
        )
    return _COMPARE[parts[2]](ds.field(parts[1]), float(parts[3]))
