"""From a reference to the bytes of its image, and from a kept URI back to a reference."""

from __future__ import annotations

import re

import pyarrow as pa

from pipelines.sources import storage
from pipelines.sources.parquet import locate_row, read_row
from pipelines.sources.tar import locate_member, read_member
from schemas.errors import ImageError
from schemas.records import ImageRef

DAMAGED = (OSError, ValueError, OverflowError, pa.ArrowException)
"""What reading tables of other people's raises: pyarrow, and Python for their texts and times."""


def read(ref: ImageRef) -> bytes:
    """The bytes of the image at `ref`, and of no other: of a tar its member, of Parquet its row.

    Safe in threads. Raises ImageError (`unreadable`) whatever the cause: gone, no permission,
    no network, a damaged container.
    """
    try:
        match ref.container:
            case "file" if ref.size < 0 and storage.is_special(ref.uri):
                raise OSError(f"{ref.uri} is no regular file")
            case "file":
                return storage.read(ref.uri)
            case "tar":
                return read_member(ref)
            case "parquet":
                return read_row(ref)
    except (OSError, pa.ArrowException) as error:
        raise ImageError("unreadable", str(error)) from error


def locate(uri: str) -> ImageRef:
    """Where the image of a URI lies now, with no source, time or metadata.

    What is no longer there gives a reference of size -1 that `read` refuses, so that its loss is
    counted like any other.
    """
    try:
        return _locate(uri)
    except (OSError, pa.ArrowException):
        return ImageRef(uri)


def _locate(uri: str) -> ImageRef:
    member = re.fullmatch(r"(.+?\.(tar|parquet))#(.*)", uri, flags=re.IGNORECASE | re.DOTALL)
    if member is not None:
        path, kind, name = member.groups()
        return locate_member(path, name) if kind.lower() == "tar" else locate_row(path, name)
    file = storage.stat(uri)
    return ImageRef(uri, size=file.size, modified_at=file.modified_at) if file else ImageRef(uri)
