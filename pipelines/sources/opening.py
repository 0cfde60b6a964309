"""From what a person typed to transforms: what each input is, and what is wrong with it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import apache_beam as beam
import pyarrow as pa

from pipelines.sources import storage
from pipelines.sources.files import IMAGE_SUFFIXES, ImageFiles
from pipelines.sources.manifest import MANIFEST_SUFFIXES, Manifests, read_rows
from pipelines.sources.parquet import (
    PARQUET_SUFFIX,
    VECTOR_COLUMN,
    ParquetImages,
    holds_vectors,
    image_columns,
    opened,
    vector_columns,
)
from pipelines.sources.reading import DAMAGED
from pipelines.sources.tar import COMPRESSED_SHARD_SUFFIXES, SHARD_SUFFIX, TarShards
from schemas.errors import NotFoundError, UsageError
from schemas.records import ImageRef

SourceKind = Literal["files", "manifest", "tar", "parquet"]
SOURCE_KINDS: tuple[SourceKind, ...] = get_args(SourceKind)

TRANSFORMS: dict[SourceKind, Callable[[Sequence[str], str], beam.PTransform]] = {
    "files": ImageFiles,
    "manifest": Manifests,
    "tar": TarShards,
    "parquet": ParquetImages,
}

FILES_LOOKED_AT = 1000
"""How far a folder's listing is followed to tell what it holds."""


@dataclass
class OpenSource(beam.PTransform):
    """All images of several inputs -> `ImageRef`s; made by `open_source`.

    inputs: the absolute paths or URLs of each kind.
    source: the source of every image for which its container names none.
    """

    inputs: dict[SourceKind, list[str]]
    source: str

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[ImageRef]:
        listed = [
            begin | kind.capitalize() >> TRANSFORMS[kind](paths, self.source)
            for kind, paths in self.inputs.items()
        ]
        return listed | "Flatten" >> beam.Flatten()


def open_source(
    inputs: Sequence[str], source: str = "", kind: SourceKind | Literal["auto"] = "auto"
) -> OpenSource:
    """A transform that lists the images of `inputs`, each a path, a URL, a glob or a brace pattern.

    With `auto` each input is what it looks like: a manifest, a tar shard, a Parquet file of images,
    a folder or glob of these, else image files. Nothing is listed in full before the pipeline runs,
    yet what can be told of a mistake is told here: NotFoundError for what is not there, UsageError
    for what cannot be used.
    """
    if not inputs or not all(inputs):
        raise UsageError("no images given; name a folder, a glob, a manifest or a shard")
    by_kind: dict[SourceKind, list[str]] = {}
    for given in dict.fromkeys(inputs):
        with readable(given):
            for path in expanded(storage.absolute(given)):
                by_kind.setdefault(_recognise(path, kind), []).append(path)
    return OpenSource(by_kind, source)


@contextlib.contextmanager
def readable(given: str) -> Iterator[None]:
    """Looking into the input `given`, whose faults are told as a person can mend them."""
    try:
        yield
    except DAMAGED as error:
        raise UsageError(
            f"cannot read '{given}': {error}; check the file and its permissions and, for an "
            "object store, its credentials and that 'longtail[aws]' is installed"
        ) from error


def expanded(path: str) -> list[str]:
    """The paths that an input stands for: those of its braces, unless it is there as it is."""
    names = storage.expand_braces(path)
    exists = len(names) > 1 and (storage.stat(path) or storage.is_folder(path))
    return [path] if exists else names


def _recognise(path: str, kind: SourceKind | Literal["auto"]) -> SourceKind:
    """The kind of one input, found to be usable as such."""
    examples = first_files(path)
    if kind == "auto":
        kind = _looks_like(path, examples)
    _check(kind, examples)
    return kind


def first_files(path: str) -> list[str]:
    """The file itself, or the first of a folder or a glob. Raises NotFoundError."""
    if storage.stat(path) is not None:
        return [path]
    if storage.is_folder(path):
        return sorted(f.path for f in itertools.islice(storage.walk(path), FILES_LOOKED_AT))
    if storage.WILDCARD.search(path) is None:
        raise NotFoundError(f"there is no '{path}'; name a folder, a file or a glob")
    matches = [file.path for file in itertools.islice(storage.glob(path), FILES_LOOKED_AT)]
    if not matches:
        raise NotFoundError(f"nothing matches '{path}'; check the pattern, or name its folder")
    return sorted(matches)


def _looks_like(path: str, examples: list[str]) -> SourceKind:
    suffixes = {storage.suffix(example) for example in examples}
    if suffixes & IMAGE_SUFFIXES:
        return "files"
    if SHARD_SUFFIX in suffixes or _first(examples, COMPRESSED_SHARD_SUFFIXES):
        return "tar"
    if PARQUET_SUFFIX in suffixes:
        return "parquet" if image_columns(_schema(examples)) else "manifest"
    # Tables among other files are annotations; alone, or asked for by name, they are manifests.
    return "manifest" if suffixes and suffixes <= set(MANIFEST_SUFFIXES) else "files"


def _check(kind: SourceKind, examples: list[str]) -> None:
    """UsageError if the first container among `examples` cannot be used as `kind`."""
    match kind:
        case "manifest" if path := _first(examples, MANIFEST_SUFFIXES):
            row = next(iter(read_rows(path)), None)
            if row is not None and "uri" not in row:
                raise UsageError(
                    f"manifest '{path}' has no column 'uri' (it has: {', '.join(map(str, row))}); "
                    "rename the column that says where the images lie"
                )
            _refuse_vectors(path)
        case "parquet" if path := _first(examples, (PARQUET_SUFFIX,)):
            schema = _schema(examples)
            if not image_columns(schema):
                raise UsageError(
                    f"'{path}' has no column of images, a struct {{bytes, path}} (it has: "
                    f"{', '.join(schema.names)}); write it with Hugging Face datasets, or name "
                    "the images in a column 'uri'"
                )
        case "tar" if path := _first(examples, COMPRESSED_SHARD_SUFFIXES):
            raise UsageError(
                f"'{path}' is compressed, so that its members cannot be read in place; "
                "unpack it to a plain .tar"
            )
        case _:
            pass


def _refuse_vectors(manifest: str) -> None:
    """UsageError for a manifest with vectors in it, of which the settings know nothing."""
    if storage.suffix(manifest) != PARQUET_SUFFIX:
        return
    with opened(manifest) as parquet:
        schema = parquet.schema_arrow
    for name in vector_columns(schema, VECTOR_COLUMN).values():
        if holds_vectors(schema.field(name).type):
            raise UsageError(
                f"'{manifest}' holds vectors in its column '{name}'; take them with 'encoder: "
                "vectors:NAME_OF_THEIR_MODEL' in longtail.yaml, or leave the column out to have "
                "the images embedded here"
            )


def _schema(examples: list[str]) -> pa.Schema:
    """Of the first Parquet file that is whole: a damaged one among others is but a reject."""
    paths = [path for path in examples if storage.suffix(path) == PARQUET_SUFFIX]
    for path in paths:
        with contextlib.suppress(OSError, pa.ArrowException), opened(path) as parquet:
            return parquet.schema_arrow
    raise UsageError(f"'{paths[0]}' is no Parquet file, or a damaged one; write it again")


def _first(paths: list[str], suffixes: Sequence[str]) -> str | None:
    return next((path for path in paths if path.lower().endswith(tuple(suffixes))), None)
