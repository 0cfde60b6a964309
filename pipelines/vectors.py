"""The vectors job: vectors of a person's own into the samples table, as if we had encoded them.

    inputs -> row groups -> shuffle -> [read, check, scale, stage] -> publish

No image is read: a sample is named by the SHA-256 of its URI, not of bytes that nobody has seen. A
vector that changed under its URI is therefore that of another model, and wants another name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue
from numpy.typing import NDArray

from pipelines import progress, sources
from pipelines.known import Known, unnamed
from pipelines.publish import Stage, Staged
from pipelines.samples import IngestOptions, Publish
from pipelines.sources.columns import printable
from pipelines.sources.vectors import (
    RowGroup,
    VectorSource,
    list_row_groups,
    list_rows,
    read_vectors,
    unit_vectors,
)
from schemas import arrow
from schemas.records import ImageRef, Level, Reject


@dataclass(frozen=True, kw_only=True)
class VectorOptions(IngestOptions):
    """What one run of the job does; `info` names the model and the length of its vectors."""

    vectors: VectorSource

    @property
    def limits(self) -> str:
        """What a vector must be, beside finite: a file that was refused is not read again."""
        return f"vectors {dict(self.info.dimensions)}"


def build(pipeline: beam.Pipeline, options: VectorOptions) -> beam.PCollection:
    """Add the job to `pipeline`; its output is empty, its effect the commit."""
    return (
        pipeline
        | "Inputs" >> beam.Create(options.vectors.paths)
        | "List" >> beam.FlatMap(list_row_groups).with_output_types(RowGroup)
        | "Spread" >> beam.Reshuffle()
        | "Take" >> beam.ParDo(TakeVectors(options))
        | "Gather" >> beam.GroupBy(lambda _: None)
        | "Publish" >> beam.ParDo(Publish(options))
    )


class TakeVectors(beam.DoFn):
    """Reads and checks row groups of vectors; in: RowGroup, out: Staged files."""

    def __init__(self, options: VectorOptions) -> None:
        self.options = options
        self.shared_known = Shared()
        self.listed = Metrics.counter("images", "listed")

    def setup(self) -> None:
        options = self.options
        self.known = self.shared_known.acquire(
            lambda: Known(options.catalog, options.info.id, options.limits)
        )
        self.progress = progress.of(options.run_id)

    def start_bundle(self) -> None:
        catalog = self.options.catalog
        self.samples = Stage("samples", catalog.samples)
        self.uris = Stage("uris", catalog.uris)
        self.rejects = Stage("rejects", catalog.rejects)
        self.taken: set[str] = set()

    def process(self, group: RowGroup) -> Iterator[Staged]:
        source = self.options.source
        self.listed.inc(group.rows)
        self.progress.add(todo=group.rows)
        try:
            # The URIs alone are a small part of the file, and most often all are known.
            if not all(map(self.known.holds, list_rows(group, source))):
                for refs, columns in read_vectors(group, source, self.options.vectors.column):
                    yield from self._take(refs, columns)
        except (*sources.DAMAGED, KeyError) as error:
            yield from self._refuse(
                [Reject(ref, "unreadable", str(error)) for ref in self._lost(group)]
            )
        self.progress.add(done=group.rows)

    def _lost(self, group: RowGroup) -> Iterator[ImageRef]:
        """The inputs of a damaged row group that gave nothing; one for all if none can be read."""
        source = self.options.source
        try:
            for ref in list_rows(group, source):
                if not self.known.holds(ref) and sample_id(ref.uri) not in self.taken:
                    yield ref
        except (*sources.DAMAGED, KeyError):
            yield ImageRef(f"{group.file.path}#damaged", source=source)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for staged in chain(self.samples.finish(), self.uris.finish(), self.rejects.finish()):
            yield WindowedValue(staged, GlobalWindow().max_timestamp(), [GlobalWindow()])

    def _take(
        self, refs: Sequence[ImageRef], columns: Mapping[Level, pa.Array]
    ) -> Iterator[Staged]:
        vectors, complaints = check_vectors(columns, self.options.info.dimensions, len(refs))
        rows: list[int] = []
        sightings: list[tuple[ImageRef, str]] = []
        rejects: list[Reject] = []
        sample_ids = [sample_id(ref.uri) for ref in refs]
        for row, (ref, name) in enumerate(zip(refs, sample_ids, strict=True)):
            if self.known.holds(ref):
                continue
            if ref.size < 0:
                rejects.append(Reject(ref, "unreadable", "the row names no image"))
            elif not printable(ref.source):
                detail = f"{ref.source!r} holds control characters"
                rejects.append(Reject(ref, "bad_source", detail))
            elif name in self.known.forgotten:
                rejects.append(Reject(unnamed(ref), "forgotten", name))
            elif complaints[row]:
                rejects.append(Reject(ref, "bad_vector", complaints[row]))
            else:
                sightings.append((ref, name))
                if name not in self.taken and name not in self.known.samples:
                    self.taken.add(name)
                    rows.append(row)
        yield from self.samples.add(
            samples_table(
                [refs[row] for row in rows],
                [sample_ids[row] for row in rows],
                {level: matrix[rows] for level, matrix in vectors.items()},
                self.options,
            )
        )
        yield from self.uris.add(arrow.uris_table(sightings, self.options.run_id))
        yield from self._refuse(rejects)

    def _refuse(self, rejects: Sequence[Reject]) -> Iterator[Staged]:
        new = [reject for reject in rejects if not self.known.failed(reject.ref)]
        self.progress.add(rejected=len(new))
        options = self.options
        yield from self.rejects.add(arrow.rejects_table(new, options.limits, options.run_id))


def sample_id(uri: str) -> str:
    """What a sample of which nobody has seen the bytes is named by: the SHA-256 of its URI."""
    return hashlib.sha256(uri.encode()).hexdigest()


def check_vectors(
    columns: Mapping[Level, pa.Array], dimensions: Mapping[Level, int], rows: int
) -> tuple[dict[Level, NDArray[np.float32]], list[str]]:
    """Unit vectors (rows, d) of every level, and what is wrong with each row, '' where nothing."""
    vectors: dict[Level, NDArray[np.float32]] = {}
    complaints = [""] * rows
    for level, dimension in dimensions.items():
        column = columns.get(level, pa.nulls(rows, pa.list_(pa.float32())))
        vectors[level], found = unit_vectors(column, dimension)
        complaints = [
            before or (f"{level}: {complaint}" if complaint else "")
            for before, complaint in zip(complaints, found, strict=True)
        ]
    return vectors, complaints


def samples_table(
    refs: Sequence[ImageRef],
    sample_ids: Sequence[str],
    vectors: Mapping[Level, NDArray[np.float32]],
    options: VectorOptions,
) -> pa.Table:
    """Rows of the samples table, null in all that only an image tells."""
    n = len(refs)
    columns = {
        "encoder": arrow.constant(options.info.id, n),
        "sample_id": pa.array(sample_ids, pa.string()),
        **arrow.input_columns(refs),
        **{
            arrow.embedding_column(level): arrow.vectors_array(matrix)
            for level, matrix in vectors.items()
        },
        "run_id": arrow.constant(options.run_id, n),
        "ingested_at": arrow.constant(datetime.now(UTC), n, pa.timestamp("us", tz="UTC")),
    }
    return pa.table(
        [columns.get(field.name, pa.nulls(n, field.type)) for field in arrow.SAMPLES],
        schema=arrow.SAMPLES,
    )
