"""Images in WebDataset shards: uncompressed tar files, read in place.

The format is that of WebDataset (https://github.com/webdataset/webdataset): members that follow
one another and share the part of their path before the first dot of its name belong together, so
`0001.jpg` is described by `0001.json`.
"""

from __future__ import annotations

import functools
import itertools
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import apache_beam as beam

from pipelines.sources import storage
from pipelines.sources.columns import annotated
from pipelines.sources.files import IMAGE_SUFFIXES
from schemas.errors import ImageError
from schemas.records import ImageRef

SHARD_SUFFIX = ".tar"
COMPRESSED_SHARD_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

LONGEST_SIDECAR = 1 << 20
"""Bytes; what is longer describes no single image."""


_DAMAGE = tarfile.TarInfo()
"""Stands for the members of a damaged shard that cannot be told."""

_INDEXING = threading.Lock()


@dataclass
class TarShards(beam.PTransform):
    """Tar shards, folders and globs of them -> `ImageRef`s, the shards listed in parallel.

    inputs: absolute paths, or URLs.
    source: the source of every image whose sidecar names none.
    """

    inputs: Sequence[str]
    source: str = ""

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[ImageRef]:
        return (
            begin
            | "Inputs" >> beam.Create(self.inputs)
            | "Find shards" >> beam.FlatMap(find_shards).with_output_types(storage.File)
            | "Spread shards" >> beam.Reshuffle()
            | "List members" >> beam.FlatMap(list_tar, self.source).with_output_types(ImageRef)
        )


def find_shards(path: str) -> Iterator[storage.File]:
    return storage.find(path, lambda name: storage.suffix(name) == SHARD_SUFFIX)


def list_tar(shard: storage.File, source: str = "") -> Iterator[ImageRef]:
    """The images of one shard, in its order; only headers and JSON sidecars are read.

    A damaged shard gives the members before the damage, then one reference that cannot be read,
    so that the loss is counted among the rejects.
    """
    groups = itertools.groupby(_members(shard.path), key=lambda member: _key(member[0].name))
    for _, group in groups:
        members = list(group)
        row = {name: value for _, sidecar in members for name, value in sidecar.items()}
        for member, _ in members:
            if member is _DAMAGE:
                yield ImageRef(f"{shard.path}#", source, container="tar", path=shard.path)
            elif storage.suffix(member.name) in IMAGE_SUFFIXES:
                yield annotated(_ref(shard.path, member, source), row)


def read_member(ref: ImageRef) -> bytes:
    """The bytes of one member, by its offset. Raises OSError, or ImageError (`unreadable`)."""
    data = storage.read(ref.path, ref.position, ref.size) if ref.size >= 0 else b""
    if len(data) != ref.size:
        raise ImageError("unreadable", f"shard {ref.path} is damaged or ends before this member")
    return data


def locate_member(path: str, name: str) -> ImageRef:
    """The member `name` of the shard at `path`; not readable (size -1) if it is not there."""
    shard = storage.stat(path)
    missing = ImageRef(f"{path}#{name}", container="tar", path=path)
    if shard is None:
        return missing
    with _INDEXING:  # else each thread would list the same shard
        return _index(shard).get(name, missing)


@functools.lru_cache(maxsize=4)
def _index(shard: storage.File) -> Mapping[str, ImageRef]:
    """Members by name; of a name that occurs twice the last, as when the tar is unpacked."""
    prefix = len(shard.path) + 1
    return {
        ref.uri[prefix:]: replace(ref, captured_at=None, metadata={}) for ref in list_tar(shard)
    }


def _ref(path: str, member: tarfile.TarInfo, source: str) -> ImageRef:
    return ImageRef(
        storage.storable(f"{path}#{member.name}"),
        source=source,
        size=member.size,
        modified_at=float(member.mtime),
        container="tar",
        path=path,
        position=member.offset_data,
    )


def _members(path: str) -> Iterator[tuple[tarfile.TarInfo, Mapping[str, object]]]:
    """The regular files of a tar, each with what it says if it is a JSON sidecar."""
    try:
        with storage.open_binary(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if member.isreg() and not member.issparse():
                    yield member, _sidecar(tar, member)
    except (tarfile.TarError, OSError):
        yield _DAMAGE, {}


def _sidecar(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Mapping[str, object]:
    if storage.suffix(member.name) != ".json" or member.size > LONGEST_SIDECAR:
        return {}
    content = tar.extractfile(member)
    try:
        row = json.loads(content.read()) if content else None
    except (ValueError, RecursionError):  # no JSON, or no UTF-8
        return {}
    return row if isinstance(row, dict) else {}


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]
