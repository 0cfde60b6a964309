"""The index job: samples that no segment holds yet into new segments, then a new snapshot.

files of the samples table -> groups -> shuffle -> [read, write a segment] -> commit snapshot
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from index.factory import Policy
from index.segments import Segment
from index.store import IndexStore
from pipelines import progress
from schemas import arrow
from schemas.catalog import Catalog
from schemas.tables import DataFile

_ROWS_PER_SEGMENT = 262_144


@dataclass(frozen=True)
class IndexOptions:
    """Which encoder's embeddings are indexed, and what the index aims for."""

    run_id: str
    catalog: Catalog
    encoder_id: str
    policy: Policy = field(default_factory=Policy)

    @property
    def store(self) -> IndexStore:
        return IndexStore(self.catalog.index(self.encoder_id), self.policy)


def is_current(options: IndexOptions) -> bool:
    """Whether the newest snapshot holds every sample of the encoder already."""
    samples = sum(file.rows for file in options.catalog.samples.files(options.encoder_id))
    snapshot = options.store.open()
    return samples == (0 if snapshot is None else snapshot.vectors)


def build(pipeline: beam.Pipeline, options: IndexOptions) -> beam.PCollection:
    """Add the job to `pipeline`; its output is empty, its effect the new snapshot."""
    files = options.catalog.samples.files(options.encoder_id)
    groups = list(_group(files))
    progress.of(options.run_id).add(todo=sum(file.rows for file in files))
    return (
        pipeline
        | "Files" >> beam.Create(groups)
        | "Spread" >> beam.Reshuffle()
        | "WriteSegments" >> beam.ParDo(WriteSegment(options))
        | "Gather" >> beam.GroupBy(lambda _: None)
        | "CommitSnapshot" >> beam.ParDo(CommitSnapshot(options))
    )


class WriteSegment(beam.DoFn):
    """Writes the samples of a group of files that are not indexed; in: DataFiles, out: Segment."""

    def __init__(self, options: IndexOptions) -> None:
        self.options = options
        self.shared = Shared()

    def setup(self) -> None:
        self.progress = progress.of(self.options.run_id)
        self.store = self.options.store
        self.snapshot = self.shared.acquire(lambda: _Opened(self.store)).snapshot

    def process(self, files: Sequence[DataFile]) -> Iterator[Segment]:
        column = arrow.embedding_column("high")
        table = self.options.catalog.samples.stream(files, ["sample_id", column]).read_all()
        if self.snapshot is not None:
            known = self.snapshot.sample_ids.rows(table["sample_id"].to_pylist())
            table = table.filter(pa.array(np.asarray(known) < 0))
        if table.num_rows:
            yield self.store.write_segment(
                table["sample_id"].to_pylist(), arrow.matrix(table[column])
            )
        self.progress.add(done=sum(file.rows for file in files))


class CommitSnapshot(beam.DoFn):
    """Publishes the segments, merges where due, and sweeps; in: (None, Segments)."""

    def __init__(self, options: IndexOptions) -> None:
        self.options = options
        self.indexed = Metrics.counter("vectors", "indexed")

    def process(self, gathered: tuple[None, Sequence[Segment]]) -> None:
        store = self.options.store
        segments = list(gathered[1])
        store.commit(segments)
        if store.is_due():
            store.compact()
        store.sweep()
        self.indexed.inc(sum(segment.vectors for segment in segments))


class _Opened:
    """A snapshot, or None, in a form that workers can share (they hold it by a weak reference)."""

    def __init__(self, store: IndexStore) -> None:
        self.snapshot = store.open()


def _group(files: Sequence[DataFile]) -> Iterator[list[DataFile]]:
    group: list[DataFile] = []
    for file in files:
        if group and sum(member.rows for member in group) + file.rows > _ROWS_PER_SEGMENT:
            yield group
            group = []
        group.append(file)
    if group:
        yield group
