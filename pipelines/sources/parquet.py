"""Images inside Parquet files, as Hugging Face `datasets` writes them.

An image column is a struct {bytes: binary, path: string}; a file may have several. The URI of an
image is `file.parquet#column/row`.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources import storage
from pipelines.sources.columns import annotated
from schemas.errors import ImageError
from schemas.records import LEVELS, ImageRef, Level

PARQUET_SUFFIX = ".parquet"
VECTOR_COLUMN = "embedding"
"""What the column of vectors is called, unless the settings say otherwise."""

ROW_GROUPS_HELD = 4
"""References reach a worker in the order of their file, so that each thread needs the one or two
row groups that it is at; Hugging Face writes groups of 100 images."""


@dataclass
class ParquetImages(beam.PTransform):
    """Parquet files with images in them, folders and globs of them -> `ImageRef`s.

    inputs: absolute paths, or URLs.
    source: the source of every image whose row names none.
    """

    inputs: Sequence[str]
    source: str = ""

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[ImageRef]:
        return (
            begin
            | "Inputs" >> beam.Create(self.inputs)
            | "Find files" >> beam.FlatMap(find_parquet).with_output_types(storage.File)
            | "Spread files" >> beam.Reshuffle()
            | "List rows" >> beam.FlatMap(list_parquet, self.source).with_output_types(ImageRef)
        )


def find_parquet(path: str) -> Iterator[storage.File]:
    return storage.find(path, lambda name: storage.suffix(name) == PARQUET_SUFFIX)


def list_parquet(file: storage.File, source: str = "") -> Iterator[ImageRef]:
    """The images of one file, in its order; the image bytes are not read.

    A damaged file gives one reference that cannot be read, so that it is counted as a reject.
    """
    try:
        with opened(file.path) as parquet:
            columns = image_columns(parquet.schema_arrow)
            others = [name for name in parquet.schema_arrow.names if name not in columns]
            for position, row in enumerate(_rows(parquet, others)):
                for column in columns:
                    yield annotated(_ref(file, column, position, source), row)
    except (pa.ArrowException, OSError):
        yield _ref(file, "", -1, source)


def read_row(ref: ImageRef) -> bytes:
    """The bytes of one image. Raises OSError, ArrowException or ImageError (`unreadable`)."""
    column = ref.uri.removeprefix(f"{ref.path}#").rpartition("/")[0]
    file = storage.File(ref.path, ref.size, ref.modified_at)
    starts = _row_group_starts(file)
    if not column or not 0 <= ref.position < starts[-1]:
        raise ImageError("unreadable", f"{ref.path} has no such image")
    group = bisect.bisect_right(starts, ref.position) - 1
    value: bytes | None = _images(file, group, column)[ref.position - starts[group]].as_py()
    if value is None:
        raise ImageError("unreadable", f"row {ref.position} of {ref.path} holds no image bytes")
    return value


def locate_row(path: str, member: str) -> ImageRef:
    """The image `column/row` of the file at `path`; not readable if it is not there."""
    file = storage.stat(path)
    column, _, row = member.rpartition("/")
    if file is None or not row.isdecimal():
        return ImageRef(f"{path}#{member}", container="parquet", path=path, position=-1)
    return _ref(file, column, int(row), "")


def image_columns(schema: pa.Schema) -> list[str]:
    """The names of the columns of type struct {bytes: binary, path: string}."""
    return [field.name for field in schema if _holds_images(field.type)]


def vector_columns(schema: pa.Schema, column: str) -> dict[Level, str]:
    """The name of each level's column of vectors, for the levels that there are."""
    named = {level: f"{column}_{level}" for level in LEVELS}
    if column in schema.names:
        named["high"] = column
    return {level: name for level, name in named.items() if name in schema.names}


def holds_vectors(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists of floats, of fixed or variable length."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_list(kind) for is_list in lists) and pa.types.is_floating(kind.value_type)


@contextlib.contextmanager
def opened(path: str) -> Iterator[pq.ParquetFile]:
    with storage.open_binary(path) as file, pq.ParquetFile(file) as parquet:
        yield parquet


def _holds_images(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or {field.name for field in kind} != {"bytes", "path"}:
        return False
    return kind.field("bytes").type in (pa.binary(), pa.large_binary())


def _rows(parquet: pq.ParquetFile, columns: list[str]) -> Iterator[Mapping[str, object]]:
    if not columns:
        yield from itertools.repeat({}, parquet.metadata.num_rows)
    else:
        for batch in parquet.iter_batches(batch_size=1024, columns=columns):
            yield from batch.to_pylist()


def _ref(file: storage.File, column: str, position: int, source: str) -> ImageRef:
    return ImageRef(
        f"{file.path}#{column}/{position}",
        source=source,
        size=file.size,
        modified_at=file.modified_at,
        container="parquet",
        path=file.path,
        position=position,
    )


@functools.lru_cache(maxsize=16)
def _row_group_starts(file: storage.File) -> Sequence[int]:
    """The first row of each row group, then the number of rows."""
    with opened(file.path) as parquet:
        groups = parquet.metadata
        sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    return list(itertools.accumulate(sizes, initial=0))


@functools.lru_cache(maxsize=ROW_GROUPS_HELD)
def _images(file: storage.File, group: int, column: str) -> Any:
    """The bytes of a row group's images, as a pyarrow chunked array."""
    with opened(file.path) as parquet:
        table = parquet.read_row_group(group, columns=[f"{column}.bytes"])
    return table.column(0).combine_chunks().field("bytes")
