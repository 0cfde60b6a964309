"""Which samples may answer a query: by source, time, quality, flags, verdicts, datasets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.dataset as ds

from longtail import runs
from longtail.verdicts import VerdictLog
from schemas.catalog import Catalog
from schemas.errors import NotFoundError, UsageError
from schemas.records import QUALITY_STATISTICS, VERDICT_LABELS, VerdictLabel
from schemas.tables import Table

_COMPARE: dict[str, Callable[[ds.Expression, float], ds.Expression]] = {
    "<": lambda field, value: field < value,
    ">": lambda field, value: field > value,
    "<=": lambda field, value: field <= value,
    ">=": lambda field, value: field >= value,
}

_COMPARISON = re.compile(r"(\w+)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")


@dataclass(frozen=True, slots=True)
class Filter:
    """What a sample must be; what is None or empty asks nothing.

    source, since, until: any of its URIs came from there, in [since, until); see `sighted`.
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

    def state(self, catalog: Catalog, verdicts: VerdictLog) -> tuple[object, ...]:
        """What changes whenever other samples might pass: versions of what the filter reads."""
        return (
            self._sighted() is not None and catalog.uris.version(),
            bool(self.quality) and catalog.samples.version(),
            self.flagged is not None and catalog.scores.version(),
            self.verdict is not None and verdicts.last(),
            self.dataset is not None and self._dataset(catalog).version(),
        )

    def samples(
        self, catalog: Catalog, verdicts: VerdictLog, encoder_id: str
    ) -> Iterator[Iterable[pa.StringArray]]:
        """For each thing asked the ids of the samples that it passes, in batches.

        Raises UsageError for a comparison or a verdict that is none, NotFoundError for an unknown
        dataset.
        """
        where = self._sighted()
        if where is not None:
            yield _ids(catalog.uris, where)
        if self.quality:
            where = ds.field("encoder") == encoder_id
            for comparison in self.quality:
                where &= _parse(comparison)
            yield _ids(catalog.samples, where)
        if self.flagged is not None:
            newest = runs.newest_mining_run(catalog)
            where = ds.field("run_id") == (newest or "")
            where &= ds.field("rank").is_valid() if self.flagged else ds.field("rank").is_null()
            yield _ids(catalog.scores, where)
        if self.verdict is not None:
            if self.verdict not in VERDICT_LABELS:
                raise UsageError(
                    f"'{self.verdict}' is no verdict; take one of {', '.join(VERDICT_LABELS)}"
                )
            latest = verdicts.latest()
            given = [id_ for id_, verdict in latest.items() if verdict.label == self.verdict]
            yield [pa.array(given, pa.string())]
        if self.dataset is not None:
            yield _ids(self._dataset(catalog), None)

    def _sighted(self) -> ds.Expression | None:
        if self.source is None and self.since is None and self.until is None:
            return None
        return sighted(self.source, self.since, self.until)

    def _dataset(self, catalog: Catalog) -> Table:
        from pipelines.curate import dataset  # with Beam, which no other query waits for

        table = dataset(catalog, self.dataset or "")
        if table.version() is None:
            raise NotFoundError(f"no dataset '{self.dataset}'; 'longtail curate' makes one")
        return table


def sighted(
    source: str | None = None, since: datetime | None = None, until: datetime | None = None
) -> ds.Expression:
    """Which rows of the URIs table are of `source` and of a time in [since, until).

    An image's time is when it was captured or, where that is unknown, when the run that saw it
    started. UTC without a time zone.
    """
    where = ds.scalar(True)
    captured, run_id = ds.field("captured_at"), ds.field("run_id")
    if source is not None:
        where &= ds.field("source") == source
    if since is not None:
        since = _utc(since)
        where &= (captured >= since) | (captured.is_null() & (run_id >= runs.id_at(since)))
    if until is not None:
        until = _utc(until)
        where &= (captured < until) | (captured.is_null() & (run_id < runs.id_at(until)))
    return where


def _ids(table: Table, where: ds.Expression | None) -> Iterator[pa.StringArray]:
    return (batch["sample_id"] for batch in table.batches(["sample_id"], where))


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError:
        raise UsageError(
            f"the time {time} is not in the years 1 to 9999 of UTC; give another, or leave it out"
        ) from None


def _parse(comparison: str) -> ds.Expression:
    parts = _COMPARISON.fullmatch(comparison.strip())
    if parts is None or parts[1] not in QUALITY_STATISTICS:
        raise UsageError(
            f"'{comparison}' is no comparison of a quality; write one such as 'sharpness<0.01', of "
            f"{', '.join(QUALITY_STATISTICS)}"
        )
    return _COMPARE[parts[2]](ds.field(parts[1]), float(parts[3]))
