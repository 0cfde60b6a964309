"""The end of every way into the samples table: audit what was staged, and commit it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from encoders.base import EncoderInfo, Identity
from pipelines.known import STAMP
from pipelines.publish import (
    Staged,
    drop_repeats,
    of_table,
    record_audit,
    record_refusals,
    rows,
)
from schemas.catalog import Catalog
from schemas.expectations import audit_samples

# Of fewer inputs a single broken one is a large share, and says nothing of the source.
_FEW_INPUTS = 20


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """What one run of an ingesting job does.

    info: whose vectors join the table. source: of the inputs that name none.
    max_rejected_share: above it, in [0, 1], the audit fails and nothing is published.
    """

    run_id: str
    catalog: Catalog
    info: Identity
    source: str
    max_rejected_share: float = 0.5


class Publish(beam.DoFn):
    """Audits everything that was staged and commits it once; in: (None, Staged files)."""

    def __init__(self, options: IngestOptions) -> None:
        self.options = options
        self.ingested = Metrics.counter("images", "ingested")
        self.rejected = Metrics.counter("images", "rejected")

    def process(self, gathered: tuple[None, Sequence[Staged]]) -> None:
        ingested, rejected = publish(self.options, gathered[1])
        self.ingested.inc(ingested)
        self.rejected.inc(rejected)


def publish(options: IngestOptions, staged: Sequence[Staged]) -> tuple[int, int]:
    """Audit and commit what was staged; gives how many samples and rejects were published.

    A failed audit publishes nothing; validation.json and refused.json tell what failed.
    """
    catalog, run_id = options.catalog, options.run_id
    samples = drop_repeats(catalog.samples, of_table(staged, "samples"), "sample_id")
    uris = drop_repeats(catalog.uris, of_table(staged, "uris"), *STAMP)
    rejects = drop_repeats(catalog.rejects, of_table(staged, "rejects"), *STAMP)
    refused = refusals(catalog.rejects.stream(rejects, ["reason", "uri"]).read_all())
    # What was forgotten on request is no fault of a source.
    broken = sum(len(uris) for reason, uris in refused.items() if reason != "forgotten")
    attempted = rows(samples) + broken
    audit = audit_samples(
        catalog.samples.stream(samples),
        dimensions=options.info.dimensions,
        of_images=isinstance(options.info, EncoderInfo),
        rejected=broken,
        max_rejected=options.max_rejected_share if attempted >= _FEW_INPUTS else None,
    )
    record_audit(catalog.run(run_id), audit)
    if audit.failures:
        record_refusals(catalog.run(run_id), refused)
        return 0, 0
    # Samples first: a crash after them leaves inputs that the next run reads again, finds known,
    # and only notes; the other way round it would skip them.
    for table, files in (
        (catalog.samples, samples),
        (catalog.uris, uris),
        (catalog.rejects, rejects),
    ):
        if files:
            table.commit(files, transaction=f"ingest-{run_id}")
            table.vacuum()
    return rows(samples), rows(rejects)


def refusals(rejects: pa.Table) -> dict[str, list[str]]:
    """The URIs that were refused, by reason."""
    by_reason: dict[str, list[str]] = {}
    for reason, uri in zip(*rejects.to_pydict().values(), strict=True):
        by_reason.setdefault(reason, []).append(uri)
    return by_reason
