"""What a row says of its image: the columns of a manifest, a Parquet file or a JSON sidecar."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime

from pipelines.sources.storage import storable
from schemas.records import ImageRef

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def printable(source: str) -> bool:
    """Whether the name of a source can stand in one line of a terminal."""
    return _CONTROL.search(source) is None


def annotated(ref: ImageRef, row: Mapping[str, object]) -> ImageRef:
    """`ref` with the `source` and `captured_at` of `row`, and its other columns as metadata.

    An empty value says nothing. A `captured_at` that is no ISO 8601 time stays in the metadata
    as it was written; one without a time zone is taken as UTC.
    """
    metadata = {storable(str(name)): _jsonable(value) for name, value in row.items()}
    metadata = {name: value for name, value in metadata.items() if value not in (None, "")}
    captured_at = _as_time(row.get("captured_at"))
    if captured_at is not None:
        del metadata["captured_at"]
    source = str(metadata.pop("source", ref.source))
    return replace(
        ref,
        source=source,
        captured_at=captured_at or ref.captured_at,
        metadata={**ref.metadata, **metadata},
    )


def _as_time(value: object) -> datetime | None:
    if not isinstance(value, str | datetime):
        return None
    text = value if isinstance(value, str) else value.isoformat(timespec="microseconds")
    try:
        time = datetime.fromisoformat(text.strip())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _jsonable(value: object) -> object:
    """`value` as JSON can hold it; None for what it cannot (bytes, NaN, infinity)."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return storable(value)
        case float():
            return value if math.isfinite(value) else None
        case bytes() | bytearray() | memoryview():
            return None
        case date():
            return value.isoformat()
        case Mapping():
            return {storable(str(name)): _jsonable(item) for name, item in value.items()}
        case list() | tuple():
            return [_jsonable(item) for item in value]
        case _:
            return str(value)
