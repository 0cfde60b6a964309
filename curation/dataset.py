"""The rows of a dataset: an image whole, what people said of it, and where it came from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from curation.select import Selection
from schemas.errors import UsageError

_TIMESTAMP = pa.timestamp("us", tz="UTC")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""An image as Hugging Face datasets store it."""

DATASET = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("image", IMAGE, nullable=False),
        pa.field("label", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("note", pa.string()),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("captured_at", _TIMESTAMP),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("run_id", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("reviewer", pa.string()),
        pa.field("reviewed_at", _TIMESTAMP),
        pa.field("added_at", _TIMESTAMP, nullable=False),
    ]
)
"""One row per sample of a dataset; a sample joins once and never changes.

image: its bytes as ingested, under the name `<sample_id>.<extension of its format>`.
label: the verdict when the sample joined; null, like reviewer and reviewed_at, without one.
encoder, run_id, score: the mining run that flagged it, or under which it was judged, its score
    there and the encoder that gave it; run_id and score are null where there is no such run.
"""

_EXTENSIONS = {"jpeg": "jpg", "tiff": "tif"}
_CARRIED = ("uri", "source", "captured_at", "metadata", "encoder", "score")


@dataclass(frozen=True, slots=True)
class CuratedImage:
    """A selected sample with its image, read again and proven whole.

    sample: its row of the samples table (without embeddings and thumbnail), with its score in the
        run that the row names, or None.
    data: the bytes whose SHA-256 is the sample id.
    format: as decoded, in lower case: `jpeg`, `png`, ...
    width, height: in pixels, after EXIF orientation.
    """

    selection: Selection
    sample: Mapping[str, object]
    data: bytes
    format: str
    width: int
    height: int


def dataset_table(images: Sequence[CuratedImage], *, added_at: datetime) -> pa.Table:
    """Rows of `DATASET`, in the order given."""
    return pa.Table.from_pylist([_row(image, added_at) for image in images], schema=DATASET)


def check_name(name: str) -> str:
    """`name` itself, where it can name a dataset; else raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot name a dataset; take letters, digits, '-', '_' and '.', "
            "a letter or digit first, 100 at most"
        )
    return name


def _row(image: CuratedImage, added_at: datetime) -> dict[str, object]:
    chosen = image.selection
    verdict, flag = chosen.verdict, chosen.flag
    extension = _EXTENSIONS.get(image.format, image.format)
    return {
        "sample_id": chosen.sample_id,
        "image": {"bytes": image.data, "path": f"{chosen.sample_id}.{extension}"},
        **{name: image.sample[name] for name in _CARRIED},
        "width": image.width,
        "height": image.height,
        "run_id": flag.run_id if flag else verdict and verdict.run_id,
        "label": verdict.label if verdict else None,
        "tags": list(verdict.tags) if verdict else [],
        "note": verdict.note if verdict else None,
        "reviewer": verdict.reviewer if verdict else None,
        "reviewed_at": verdict.at if verdict else None,
        "added_at": added_at,
    }
