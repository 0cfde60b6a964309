"""Images that are files of their own: a folder, a glob, or one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam

from pipelines.sources import storage
from schemas.records import ImageRef

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)

COMPANION_SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".tsv", ".xml", ".xmp", ".yaml", ".yml"})
"""Annotations that lie beside images. All else in a folder is tried, and refused if it is none."""


@dataclass
class ImageFiles(beam.PTransform):
    """Folders, globs and files -> `ImageRef`s.

    inputs: absolute paths, or URLs.
    source: the source of every image.
    """

    inputs: Sequence[str]
    source: str = ""

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[ImageRef]:
        return (
            begin
            | "Inputs" >> beam.Create(self.inputs)
            | "List files" >> beam.FlatMap(list_files, self.source).with_output_types(ImageRef)
        )


def list_files(path: str, source: str = "") -> Iterator[ImageRef]:
    """The images at `path`, as the listing gives them, one at a time and in no order.

    Size and modification time come from the listing itself: no file is opened.
    """
    for file in storage.find(path, lambda name: storage.suffix(name) not in COMPANION_SUFFIXES):
        yield ImageRef(file.path, source=source, size=file.size, modified_at=file.modified_at)
