"""The curate job: selected samples, their raw images read once, into a new dataset version.

selection -> shuffle -> [read, prove whole, stage] -> publish
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.dataset as ds
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from curation.dataset import DATASET, CuratedImage, dataset_table
from curation.select import Selection
from encoders import images
from pipelines import progress, sources
from pipelines.publish import Stage, Staged, of_table, record_audit, rows
from schemas.catalog import Catalog
from schemas.errors import ImageError
from schemas.expectations import audit_dataset
from schemas.tables import Table

_log = logging.getLogger(__name__)
_IMAGES_PER_GROUP = 64
_SAMPLE_COLUMNS = ("sample_id", "uri", "source", "captured_at", "metadata", "encoder")
_SCORE_COLUMNS = ("run_id", "sample_id", "score", "encoder")


@dataclass(frozen=True)
class CurateOptions:
    """Which samples join which dataset."""

    run_id: str
    catalog: Catalog
    dataset: str
    selections: tuple[Selection, ...]
    limits: images.Limits

    @property
    def table(self) -> Table:
        return dataset(self.catalog, self.dataset)


@dataclass(frozen=True)
class Chosen:
    """A selected sample, its row of the samples table and every URI that held it."""

    selection: Selection
    sample: Mapping[str, object]
    uris: tuple[str, ...]


def dataset(catalog: Catalog, name: str) -> Table:
    """The Delta table of a dataset."""
    return Table(catalog.dataset(name), DATASET)


def build(pipeline: beam.Pipeline, options: CurateOptions) -> beam.PCollection:
    """Add the job to `pipeline`; its output is empty, its effect the new version."""
    chosen = choose(options)
    progress.of(options.run_id).add(todo=len(chosen))
    return (
        pipeline
        | "Selected" >> beam.Create(chosen)
        | "Spread" >> beam.Reshuffle()
        | "ReadWhole" >> beam.ParDo(ReadWhole(options))
        | "Gather" >> beam.GroupBy(lambda _: None)
        | "Publish" >> beam.ParDo(Publish(options))
    )


def choose(options: CurateOptions) -> list[Chosen]:
    """Join the selections with their provenance, their scores and every URI that held them.

    The score, and the encoder that gave it, are those of the run that flagged the sample or, for
    another, of the run that its verdict was given under.
    """
    ids = [chosen.sample_id for chosen in options.selections]
    wanted = ds.field("sample_id").isin(ids)
    catalog = options.catalog
    samples = {row["sample_id"]: row for row in _rows(catalog.samples, _SAMPLE_COLUMNS, wanted)}
    runs = {run for chosen in options.selections if (run := _run(chosen)) is not None}
    in_runs = wanted & ds.field("run_id").isin(pa.array(sorted(runs), pa.string()))
    scores = {
        (row.pop("run_id"), row.pop("sample_id")): row
        for row in _rows(catalog.scores, _SCORE_COLUMNS, in_runs)
    }
    uris: dict[str, list[str]] = {}
    for row in _rows(catalog.uris, ("sample_id", "uri"), wanted):
        uris.setdefault(row["sample_id"], []).append(row["uri"])
    return [
        Chosen(
            selection,
            {**sample, "score": None, **scores.get((_run(selection), selection.sample_id), {})},
            tuple(dict.fromkeys([sample["uri"], *uris.get(selection.sample_id, ())])),
        )
        for selection in options.selections
        if (sample := samples.get(selection.sample_id)) is not None
    ]


def _run(chosen: Selection) -> str | None:
    if chosen.flag is not None:
        return chosen.flag.run_id
    return None if chosen.verdict is None else chosen.verdict.run_id


def _rows(table: Table, columns: Sequence[str], where: ds.Expression) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.read(columns, where).to_pylist()
    return rows


class ReadWhole(beam.DoFn):
    """Reads each chosen image again and proves it whole; in: Chosen, out: Staged files."""

    def __init__(self, options: CurateOptions) -> None:
        self.options = options

    def setup(self) -> None:
        self.progress = progress.of(self.options.run_id)

    def start_bundle(self) -> None:
        self.rows = Stage("dataset", self.options.table, _IMAGES_PER_GROUP)

    def process(self, chosen: Chosen) -> Iterator[Staged]:
        options = self.options
        try:
            image = read_whole(chosen, options.limits)
        except ImageError as error:
            _log.warning("%s: %s", chosen.selection.sample_id, error)
            Metrics.counter("refused", error.reason).inc()
            self.progress.add(done=1, rejected=1)
            return
        self.progress.add(done=1)
        yield from self.rows.add(dataset_table([image], added_at=datetime.now(UTC)))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for staged in self.rows.finish():
            yield WindowedValue(staged, GlobalWindow().max_timestamp(), [GlobalWindow()])


class Publish(beam.DoFn):
    """Audits the staged rows and commits them as one version; in: (None, Staged files)."""

    def __init__(self, options: CurateOptions) -> None:
        self.options = options
        self.added = Metrics.counter("samples", "added")

    def process(self, gathered: tuple[None, Sequence[Staged]]) -> None:
        options = self.options
        transaction = f"curate-{options.run_id}"
        table, files = options.table, of_table(gathered[1], "dataset")
        existing = table.read(["sample_id"])["sample_id"].to_pylist()
        audit = audit_dataset(table.stream(files), existing=existing)
        record_audit(options.catalog.run(options.run_id), audit)
        if audit.failures:
            return
        table.commit(files, transaction=transaction)
        self.added.inc(rows(files))


def read_whole(chosen: Chosen, limits: images.Limits) -> CuratedImage:
    """The image of a chosen sample, from the first of its URIs that still holds it.

    Raises ImageError, of the last URI tried: unreadable, changed, or what decoding found.
    """
    refused = ImageError("unreadable", "no URI is known")
    for uri in chosen.uris:
        try:
            data = sources.read(sources.locate(uri))
            # A sample that came as a vector is named by its URI: its bytes were never seen.
            names = {hashlib.sha256(named).hexdigest() for named in (data, uri.encode())}
            if chosen.selection.sample_id not in names:
                raise ImageError("changed", f"{uri} holds other bytes than it did")
            format_, width, height = images.check_whole(data, limits)
        except ImageError as error:
            refused = error
            continue
        return CuratedImage(
            selection=chosen.selection,
            sample={**chosen.sample, "uri": uri},
            data=data,
            format=format_,
            width=width,
            height=height,
        )
    raise refused
