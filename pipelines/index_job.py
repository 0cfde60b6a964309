"""The index job: samples that no segment holds yet into new segments, then a new snapshot.

files that hold such -> [train, group] -> shuffle -> [read, write a segment] -> commit snapshot
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared
from numpy.typing import NDArray

from index.factory import Policy
from index.recall import held_out
from index.sample_ids import encode
from index.search import Snapshot
from index.segments import Segment
from index.snapshots import Trained
from index.store import IndexStore
from pipelines import progress
from schemas import arrow
from schemas.catalog import Catalog
from schemas.tables import DataFile

_ROWS_PER_SEGMENT = 262_144
_VECTOR = arrow.embedding_column("high")

Group = tuple[Trained | None, Sequence[DataFile]]
"""Files whose samples become a segment, and the quantizer of a first build."""


@dataclass(frozen=True)
class IndexOptions:
    """Which encoder's embeddings are indexed, by how many workers, and what the index aims for.

    anew: make it of all samples, whatever state its files are in.
    """

    run_id: str
    catalog: Catalog
    encoder_id: str
    policy: Policy = field(default_factory=Policy)
    workers: int = 1
    anew: bool = False

    @property
    def store(self) -> IndexStore:
        return IndexStore(self.catalog.index(self.encoder_id), self.policy)

    def open(self) -> Snapshot | None:
        """What the index holds already."""
        return None if self.anew else self.store.open()

    def refused(self) -> pa.Array:
        """Ids of the forgotten, of whom a crash may have left some in the table."""
        return self.catalog.forgotten.read(["sample_id"])["sample_id"].combine_chunks()


@dataclass(frozen=True)
class Backlog:
    """How the index differs from the samples table.

    files: those with samples that it lacks. covered: all files of the table. extra: samples that
    it holds though the table does not, or though they were forgotten.
    """

    files: tuple[DataFile, ...]
    covered: tuple[str, ...]
    extra: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.files or self.extra)

    @property
    def rows(self) -> int:
        """How many the files have, of which some may be indexed."""
        return sum(file.rows for file in self.files)


def backlog(options: IndexOptions) -> Backlog:
    """Compare the index with the table, by the ids of files that no snapshot has covered.

    Only where the counts do not agree then, after a crash say, the ids of all are read.
    """
    files = options.catalog.samples.files(options.encoder_id)
    paths = tuple(file.path for file in files)
    snapshot = options.open()
    if snapshot is None:
        return Backlog(tuple(files), paths)
    refused = options.refused()
    covered = set(snapshot.covered)
    lacking, held = _compared(
        options, [file for file in files if file.path not in covered], snapshot, refused
    )
    agreed = sum(file.rows for file in files if file.path in covered)
    if len(held) + agreed == snapshot.vectors:
        extra = snapshot.sample_ids.rows(refused.to_pylist())
    else:
        lacking, held = _compared(options, files, snapshot, refused)
        extra = np.setdiff1d(snapshot.live_rows(), held)
    return Backlog(tuple(lacking), paths, tuple(snapshot.sample_ids.take(extra[extra >= 0])))


def _compared(
    options: IndexOptions, files: Sequence[DataFile], snapshot: Snapshot, refused: pa.Array
) -> tuple[list[DataFile], NDArray[np.int64]]:
    """The files with samples that the snapshot lacks, and its rows of those that it holds."""
    lacking, held = [], [np.empty(0, np.int64)]
    for file in files:
        ids = options.catalog.samples.stream([file], ["sample_id"]).read_all()["sample_id"]
        ids = ids.filter(pc.invert(pc.is_in(ids, value_set=refused)))
        rows = snapshot.sample_ids.rows(ids.to_pylist())
        held.append(rows[rows >= 0])
        if (rows < 0).any():
            lacking.append(file)
    return lacking, np.concatenate(held)


def build(pipeline: beam.Pipeline, options: IndexOptions, work: Backlog) -> beam.PCollection:
    """Add the job to `pipeline`; its output is empty, its effect the new snapshot.

    With nothing in the backlog it does what is due: merging, training, measuring.
    """
    progress.of(options.run_id).add(todo=work.rows)
    return (
        pipeline
        | "Backlog" >> beam.Create([work])
        | "Train" >> beam.ParDo(Train(options))
        | "Spread" >> beam.Reshuffle()
        | "WriteSegments" >> beam.ParDo(WriteSegment(options))
        | "Gather" >> beam.GroupBy(lambda _: None)
        | "CommitSnapshot" >> beam.ParDo(CommitSnapshot(options, work))
    )


class Train(beam.DoFn):
    """Trains what the segments of a first build share; in: Backlog, out: Groups, at least one.

    So all workers put their vectors into cells. Where more is indexed than is new, compaction
    trains, which sees both.
    """

    def __init__(self, options: IndexOptions) -> None:
        self.options = options

    def process(self, work: Backlog) -> Iterator[Group]:
        snapshot = self.options.open()
        held = 0 if snapshot is None else snapshot.vectors
        first = work.rows > held and (snapshot is None or snapshot.trained is None)
        trained = self._trained(work.files, held + work.rows) if first else None
        for group in _groups(work, self.options) or [[]]:
            yield trained, group

    def _trained(self, files: Sequence[DataFile], vectors: int) -> Trained | None:
        """By a seeded sample of the files' vectors, without those that measure the recall."""
        random, chosen, wanted = np.random.default_rng(0), [], 0
        rows = sum(file.rows for file in files)
        for batch in self.options.catalog.samples.stream(files, ["sample_id", _VECTOR]):
            if not batch.num_rows:
                continue
            some = arrow.matrix(pa.chunked_array([batch[_VECTOR]]))
            wanted = wanted or self.options.policy.training_size(vectors, some.shape[1])
            if not wanted:
                return None
            keep = ~held_out(encode(batch["sample_id"].to_pylist()))
            chosen.append(some[keep & (random.random(len(some)) < 1.05 * wanted / rows)])
        sample = np.concatenate(chosen)
        return self.options.store.train(sample, vectors)


class WriteSegment(beam.DoFn):
    """Writes what is not indexed of a Group's files; in: Group, out: its quantizer, and a Segment.

    None stands for a segment where all was indexed.
    """

    def __init__(self, options: IndexOptions) -> None:
        self.options = options
        self.shared = Shared()

    def setup(self) -> None:
        self.progress = progress.of(self.options.run_id)
        self.store = self.options.store
        self.snapshot = self.shared.acquire(lambda: _Opened(self.options)).snapshot

    def process(self, group: Group) -> Iterator[tuple[Trained | None, Segment | None]]:
        trained, files = group
        sample_ids, vectors = self._lacking(files)
        segment = None
        if sample_ids:
            anew = self.options.anew
            segment = self.store.write_segment(sample_ids, vectors, trained, anew=anew)
        self.progress.add(done=sum(file.rows for file in files))
        yield trained, segment

    def _lacking(self, files: Sequence[DataFile]) -> tuple[list[str], NDArray[np.float32]]:
        table = self.options.catalog.samples.stream(files, ["sample_id", _VECTOR]).read_all()
        wanted = pc.invert(pc.is_in(table["sample_id"], value_set=self.options.refused()))
        table = table.filter(wanted)
        if self.snapshot is not None:
            known = self.snapshot.sample_ids.rows(table["sample_id"].to_pylist())
            table = table.filter(pa.array(known < 0))
        return table["sample_id"].to_pylist(), arrow.matrix(table[_VECTOR])


class CommitSnapshot(beam.DoFn):
    """Publishes the segments, merges where due, and sweeps; in: (None, what WriteSegment gave)."""

    def __init__(self, options: IndexOptions, work: Backlog) -> None:
        self.options = options
        self.work = work
        self.indexed = Metrics.counter("vectors", "indexed")

    def process(
        self, gathered: tuple[None, Iterable[tuple[Trained | None, Segment | None]]]
    ) -> None:
        store = self.options.store
        written = list(gathered[1])
        segments = [segment for _, segment in written if segment is not None]
        if segments:
            trained = written[0][0]
            store.commit(
                segments, trained=trained, covered=self.work.covered, anew=self.options.anew
            )
        if self.work.extra:
            store.forget(self.work.extra)
        if store.is_due():
            store.compact(forgotten=True)
        store.sweep()
        self.indexed.inc(sum(segment.vectors for segment in segments))


class _Opened:
    """A snapshot, or None, in a form that workers can share (they hold it by a weak reference)."""

    def __init__(self, options: IndexOptions) -> None:
        self.snapshot = options.open()


def _groups(work: Backlog, options: IndexOptions) -> list[list[DataFile]]:
    """A group for each worker, of as many rows as a segment may have, or as cells are worth."""
    most = min(_ROWS_PER_SEGMENT, max(options.policy.flat_rows, -(-work.rows // options.workers)))
    groups: list[list[DataFile]] = []
    rows = most
    for file in work.files:
        if rows + file.rows > most:
            groups.append([])
            rows = 0
        groups[-1].append(file)
        rows += file.rows
    return groups
