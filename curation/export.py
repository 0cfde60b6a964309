"""A dataset version as files that others read: Hugging Face Parquet, or a folder of images.

Both stream record batches of `curation.dataset.DATASET`, so that a dataset may be larger than
memory. The output folder appears when it is complete, or not at all.
"""

from __future__ import annotations

import csv
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from curation.card import Summary, dataset_card
from curation.dataset import DATASET, IMAGE
from schemas.errors import UsageError

ExportFormat = Literal["hf", "imagefolder"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

SHARD_BYTES = 500_000_000
"""Size at which a new Parquet shard begins, as the Hugging Face hub recommends."""


def export_dataset(
    batches: Iterable[pa.RecordBatch],
    out: Path,
    format: ExportFormat,  # noqa: A002  the word of the command line
    *,
    name: str,
    version: int,
    shard_bytes: int = SHARD_BYTES,
) -> Summary:
    """Writes a dataset version to the folder `out` and returns what it holds.

    batches: of `DATASET`, in small batches (64 rows, say): two are held in memory at a time.
    format: `hf` writes Parquet shards and a dataset card; `imagefolder` writes `images/` and a
        `metadata.csv`, tags as a JSON list. `datasets.load_dataset(out)` reads either.

    Raises UsageError where `out` is in use or `format` is unknown.
    """
    if format not in EXPORT_FORMATS:
        raise UsageError(f"cannot export as '{format}'; take {' or '.join(EXPORT_FORMATS)}")
    summary = Summary(name, version)
    counted = (summary.count(batch.select(DATASET.names).cast(DATASET)) for batch in batches)
    with _published(out) as folder:
        if format == "hf":
            _write_shards(counted, folder / "data", shard_bytes)
            (folder / "README.md").write_text(dataset_card(summary), encoding="utf-8")
        else:
            _write_images(counted, folder)
    return summary


def _write_shards(batches: Iterator[pa.RecordBatch], folder: Path, shard_bytes: int) -> None:
    """Shards end at batches, and a dataset without rows has one, for the schema's sake."""
    folder.mkdir()
    features = {field.name: _feature(field.type) for field in DATASET}
    schema = pa.schema(  # `datasets` ignores its own metadata for a field that is not nullable
        [field.with_nullable(True) for field in DATASET],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    shards: list[Path] = []
    batch = next(batches, None)
    while batch is not None or not shards:
        shards.append(folder / f"{len(shards)}.parquet")
        written = 0
        with pq.ParquetWriter(shards[-1], schema) as writer:
            while batch is not None and written < shard_bytes:
                writer.write_batch(batch.cast(schema))
                written += batch.nbytes
                batch = next(batches, None)
    for number, shard in enumerate(shards):
        shard.rename(folder / f"train-{number:05}-of-{len(shards):05}.parquet")


def _write_images(batches: Iterator[pa.RecordBatch], folder: Path) -> None:
    images = folder / "images"
    images.mkdir()
    columns = [name for name in DATASET.names if name != "image"]
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", *columns])
        for batch in batches:
            for row in batch.to_pylist():
                path = images / Path(row["image"]["path"]).name
                path.write_bytes(row["image"]["bytes"])
                values = (_csv_value(row[column]) for column in columns)
                rows.writerow([path.relative_to(folder).as_posix(), *values])


@contextmanager
def _published(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` at the end and goes away on an error.

    An empty folder stays itself, as it may be a mount, or where a shell stands: what was written
    moves into it, what names the rest last.
    """
    out = out.resolve()
    if out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None):
        raise UsageError(f"'{out}' exists and is not an empty folder; export to a new one")
    inside = out.exists()
    name = f".{out.name}.{uuid.uuid4().hex}"
    partial = out / name if inside else out.with_name(name)
    partial.mkdir(parents=True)
    try:
        yield partial
        if inside:
            for entry in sorted(partial.iterdir(), key=lambda entry: (entry.is_file(), entry.name)):
                entry.rename(out / entry.name)
            partial.rmdir()
        else:
            partial.replace(out)
    except BaseException:  # an interrupt too must leave nothing behind
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _feature(type_: pa.DataType) -> dict[str, object]:
    """Hugging Face's feature of a column's type."""
    if type_ == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(type_):
        return {"_type": "List", "feature": _feature(type_.value_type)}
    return {"_type": "Value", "dtype": "float64" if pa.types.is_float64(type_) else str(type_)}


def _csv_value(value: object) -> object:
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return value.isoformat() if isinstance(value, datetime) else value
