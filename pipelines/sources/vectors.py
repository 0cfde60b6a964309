"""Vectors of a person's own: Parquet files with a `uri` and an embedding in every row.

The column `embedding` (or the one that the settings name) holds one vector per row, a list of
floats of fixed or variable length; `embedding_low` and `embedding_mid` may stand beside it. The
other columns are read as those of a manifest are. No image is opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.sources import storage
from pipelines.sources.columns import annotated
from pipelines.sources.opening import expanded, first_files, readable
from pipelines.sources.parquet import (
    PARQUET_SUFFIX,
    find_parquet,
    holds_vectors,
    opened,
    vector_columns,
)
from schemas.errors import UsageError
from schemas.records import ImageRef, Level

_ROWS_AT_ONCE = 2048


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A piece of a Parquet file, `first` being the number of its first row. `group` -1: damaged."""

    file: storage.File
    group: int
    first: int
    rows: int


@dataclass(frozen=True, slots=True)
class VectorSource:
    """Inputs that hold vectors; made by `open_vectors`.

    column: of the `high` level. dimensions: as the first rows have them; empty if there are none.
    """

    paths: tuple[str, ...]
    column: str
    dimensions: Mapping[Level, int]


def open_vectors(inputs: Sequence[str], column: str) -> VectorSource:
    """The files, folders and globs of `inputs`, seen to hold vectors in `column`.

    Raises NotFoundError for what is not there, UsageError for what holds no vectors.
    """
    if not inputs or not all(inputs):
        raise UsageError("no vectors given; name a Parquet file, a folder or a glob of them")
    paths: list[str] = []
    dimensions: Mapping[Level, int] = {}
    for given in dict.fromkeys(inputs):
        with readable(given):
            for path in expanded(storage.absolute(given)):
                paths.append(path)
                files = [e for e in first_files(path) if storage.suffix(e) == PARQUET_SUFFIX]
                if not files:
                    raise UsageError(f"'{given}' is no Parquet file; vectors come in no other")
                dimensions = dimensions or _dimensions(files[0], column)
    return VectorSource(tuple(paths), column, dimensions)


def list_row_groups(path: str) -> Iterator[RowGroup]:
    """The pieces of every Parquet file at `path`; a damaged file is one that cannot be read."""
    for file in find_parquet(path):
        try:
            with opened(file.path) as parquet:
                metadata, first = parquet.metadata, 0
        except (OSError, pa.ArrowException):
            yield RowGroup(file, -1, 0, 1)
            continue
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            yield RowGroup(file, group, first, rows)
            first += rows


def list_rows(group: RowGroup, source: str) -> list[ImageRef]:
    """Where the images of a row group lie; of each row only its URI is read.

    A row that names none gives `file#row N`, of size -1. Raises OSError, or an error of pyarrow,
    for a file that is damaged.
    """
    with opened(group.file.path) as parquet:
        column = parquet.read_row_group(group.group, columns=["uri"])["uri"].to_pylist()
    return [_ref(group, source, at, uri) for at, uri in enumerate(column)]


def read_vectors(
    group: RowGroup, source: str, column: str
) -> Iterator[tuple[list[ImageRef], Mapping[Level, pa.Array]]]:
    """A row group in pieces: what its rows say, and the vectors of each level that it has."""
    first = 0
    with opened(group.file.path) as parquet:
        vectors = vector_columns(parquet.schema_arrow, column)
        for batch in parquet.iter_batches(_ROWS_AT_ONCE, row_groups=[group.group]):
            rows = batch.drop_columns(list(vectors.values())).to_pylist()
            refs = [_ref(group, source, at, row.pop("uri")) for at, row in enumerate(rows, first)]
            refs = [annotated(ref, row) for ref, row in zip(refs, rows, strict=True)]
            yield refs, {level: batch[name] for level, name in vectors.items()}
            first += batch.num_rows


def unit_vectors(column: pa.Array, dimension: int) -> tuple[NDArray[np.float32], list[str]]:
    """Vectors scaled to an L2 norm of 1, float32 (n, dimension), and what is wrong with each.

    '' where nothing is; the row of a vector that is missing, of another length, not finite or
    zero is zero.
    """
    n = len(column)
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    fits = lengths == dimension
    values = column.filter(pa.array(fits)).flatten().to_numpy(zero_copy_only=False)
    rows = values.reshape(-1, dimension).astype(np.float64)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
    finite = np.isfinite(rows).all(axis=1)
    sound = finite & np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
    vectors = np.zeros((n, dimension), np.float32)
    places = np.flatnonzero(fits)
    vectors[places[sound]] = rows[sound] / norms[sound]
    complaints = [
        "" if fit else "no vector" if length < 0 else f"{length} numbers, not {dimension}"
        for fit, length in zip(fits, lengths, strict=True)
    ]
    for place, is_finite in zip(places[~sound], finite[~sound], strict=True):
        complaints[place] = "all zeros, or too long" if is_finite else "not finite"
    return vectors, complaints


def _ref(group: RowGroup, source: str, at: int, uri: object) -> ImageRef:
    file = group.file
    if not isinstance(uri, str) or not uri.strip():
        return ImageRef(f"{file.path}#row {group.first + at + 1}", source=source)
    path = storage.absolute(storage.storable(uri.strip()), folder=file.path.rpartition("/")[0])
    return ImageRef(path, source=source, size=file.size, modified_at=file.modified_at)


def _dimensions(path: str, column: str) -> dict[Level, int]:
    """The length that most of the first rows have, by level."""
    with opened(path) as parquet:
        schema = parquet.schema_arrow
        columns = vector_columns(schema, column)
        there = ", ".join(schema.names)
        if "uri" not in schema.names:
            raise UsageError(
                f"'{path}' has no column 'uri' (it has: {there}); rename the column that says "
                "where the images lie"
            )
        if "high" not in columns:
            raise UsageError(
                f"'{path}' has no column '{column}' (it has: {there}); name the column of the "
                "vectors with 'vector_column' in longtail.yaml"
            )
        for name in columns.values():
            if not holds_vectors(kind := schema.field(name).type):
                raise UsageError(f"column '{name}' of '{path}' holds {kind}, not lists of floats")
        first = next(parquet.iter_batches(_ROWS_AT_ONCE, columns=list(columns.values())), None)
    if first is None:
        return {}
    dimensions: dict[Level, int] = {}
    for level, name in columns.items():
        lengths = Counter(pc.drop_null(pc.list_value_length(first[name])).to_pylist())
        dimensions[level] = max(lengths, key=lengths.__getitem__, default=0)
        if not dimensions[level]:
            raise UsageError(f"column '{name}' of '{path}' holds no vector in its first rows")
    return dimensions
