"""Images that a table names: CSV, JSON lines or Parquet, one row an image.

`uri` says where the image lies, relative to the manifest where it is not absolute; `source` and
`captured_at` may say more, and the other columns are kept as metadata.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import apache_beam as beam

from pipelines.sources import storage
from pipelines.sources.columns import annotated
from pipelines.sources.parquet import PARQUET_SUFFIX, opened
from pipelines.sources.reading import DAMAGED, locate
from schemas.records import ImageRef

_log = logging.getLogger(__name__)

STATS_AT_ONCE = 8
"""Requests under way for sizes and modification times; boto3 keeps 10 connections."""

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".ndjson", PARQUET_SUFFIX)


@dataclass
class Manifests(beam.PTransform):
    """Manifests, folders and globs of them -> `ImageRef`s.

    inputs: absolute paths, or URLs.
    source: the source of every image whose row names none.
    """

    inputs: Sequence[str]
    source: str = ""

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[ImageRef]:
        return (
            begin
            | "Inputs" >> beam.Create(self.inputs)
            | "Read rows" >> beam.FlatMap(list_manifest, self.source).with_output_types(ImageRef)
        )


def list_manifest(path: str, source: str = "") -> Iterator[ImageRef]:
    """The images that the manifests at `path` name, in their order, with their sizes and times.

    A row that names no image gives a reference `manifest#row N` that cannot be read, so that it
    is counted among the rejects; so does the place where a manifest is damaged, `manifest#damaged`.
    """
    for file in storage.find(path, lambda name: storage.suffix(name) in MANIFEST_SUFFIXES):
        with ThreadPoolExecutor(STATS_AT_ONCE) as pool:
            numbered = enumerate(read_rows(file.path), start=1)
            try:
                while rows := list(itertools.islice(numbered, 1024)):
                    yield from pool.map(functools.partial(_ref, file.path, source), rows)
            except DAMAGED as error:
                _log.warning("%s is damaged: %s", file.path, error)
                yield ImageRef(f"{file.path}#damaged", source=source)


def read_rows(path: str) -> Iterator[Mapping[str, object]]:
    """The rows of one manifest. Raises OSError, or pyarrow's errors for damaged Parquet."""
    if storage.suffix(path) == PARQUET_SUFFIX:
        with opened(path) as parquet:
            for batch in parquet.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
        return
    with io.TextIOWrapper(
        storage.open_binary(path), encoding="utf-8-sig", errors="replace", newline=""
    ) as lines:
        if storage.suffix(path) == ".csv":
            yield from _csv_rows(path, lines)
        else:
            yield from (_json_row(line) for line in lines if line.strip())


def _csv_rows(path: str, lines: Iterable[str]) -> Iterator[Mapping[str, object]]:
    try:
        yield from csv.DictReader(lines)
    except csv.Error as error:
        raise OSError(f"{path} is no CSV: {error}") from error


def _json_row(line: str) -> Mapping[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _ref(manifest: str, source: str, numbered: tuple[int, Mapping[str, object]]) -> ImageRef:
    number, row = numbered
    columns = {name: value for name, value in row.items() if name not in ("uri", None)}
    uri = row.get("uri")
    if not isinstance(uri, str) or not uri.strip():
        return annotated(ImageRef(f"{manifest}#row {number}", source=source), columns)
    path = storage.absolute(storage.storable(uri.strip()), folder=manifest.rpartition("/")[0])
    located = locate(path)
    return annotated(replace(located, source=source), columns)
