"""Files, local or remote: find them, stat them, read them. What fails raises `OSError`.

A path is absolute, or a URL of any file system that Beam knows (`s3://`, and with its extras
`gs://` and others). Names that start with a dot are hidden: they are read when asked for by name,
never found by listing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.value_provider import RuntimeValueProvider

from schemas.catalog import OWN, SETTINGS

WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class File:
    """A file as its listing tells it: `size` in bytes, `modified_at` in seconds since the epoch."""

    path: str
    size: int
    modified_at: float


def is_remote(path: str) -> bool:
    return "://" in path


def absolute(path: str, folder: str | None = None) -> str:
    """`path` in the one form that names it from everywhere, `folder` being where it is relative to.

    Symbolic links are kept: the name that a person knows is the one that stays valid.
    """
    if path.startswith("file://"):
        path = unquote(urlsplit(path).path)
    if is_remote(path):
        return path
    if folder is None or path.startswith("/"):
        return os.path.abspath(path)  # noqa: PTH100 (Path.resolve follows links, absolute keeps ..)
    if is_remote(folder):
        scheme, _, rest = folder.partition("://")
        return f"{scheme}://{posixpath.normpath(posixpath.join(rest, path))}"
    return os.path.normpath(os.path.join(folder, path))  # noqa: PTH118


def storable(text: str) -> str:
    """`text` as a table can hold it: what is not Unicode in a name from outside is escaped.

    A file under such a name is refused when it is read.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern stands for, as WebDataset and bash write them.

    `{000..009}` counts, keeping the width of zero-padded bounds; `{train,val}` lists.
    """
    braces = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if braces is None:
        return [pattern]
    first, last, names = braces.groups()
    if names is None:
        step = 1 if int(first) <= int(last) else -1
        width = len(first) if first.startswith("0") or last.startswith("0") else 0
        choices = [f"{n:0{width}}" for n in range(int(first), int(last) + step, step)]
    else:
        choices = names.split(",")
    head, tail = pattern[: braces.start()], pattern[braces.end() :]
    return [name for choice in choices for name in expand_braces(head + choice + tail)]


def stat(path: str) -> File | None:
    """The file at `path`, or None where there is none (a folder is not a file)."""
    with _as_os_error(path):
        if not is_remote(path):
            return _stat_local(path)
        if path.startswith("s3://"):
            return _stat_s3(path)
        filesystem = _filesystem(path)
        if not filesystem.exists(path):
            return None
        found = filesystem.metadata(path)
        return File(path, found.size_in_bytes, found.last_updated_in_seconds)


def is_folder(path: str) -> bool:
    """Whether `path` is a directory, or a prefix below which something lies."""
    if is_remote(path):
        with _as_os_error(path):
            return next(iter(_filesystem(path)._list(path.rstrip("/") + "/")), None) is not None
    return Path(path).is_dir()


def walk(folder: str) -> Iterator[File]:
    """Every file below `folder`, hidden ones and a workspace's own left out, in no order, one at a
    time.

    Links are followed. A local folder that cannot be listed is itself given, with size -1: reading
    it fails, which counts it among the rejects instead of losing it in silence.
    """
    return _walk_remote(folder.rstrip("/") + "/") if is_remote(folder) else _walk_local(folder)


def glob(pattern: str) -> Iterator[File]:
    """The files that match: `**` spans folders; `*`, `?` and `[...]` stay within one."""
    folder = WILDCARD.split(pattern, maxsplit=1)[0].rpartition("/")[0] + "/"
    parts = pattern[len(folder) :].split("/")
    depth = None if "**" in parts else len(parts)
    files = _walk_remote(folder) if is_remote(pattern) else _walk_local(folder, depth)
    matches = re.compile(_as_regex(parts)).fullmatch
    return (file for file in files if matches(file.path[len(folder) :]))


def find(path: str, wanted: Callable[[str], bool]) -> Iterator[File]:
    """The file `path`; or those of a folder or glob whose path is wanted."""
    file = stat(path)
    if file is not None:
        yield file
    else:
        files = walk(path) if is_folder(path) else glob(path)
        yield from (file for file in files if file.size < 0 or wanted(file.path))


def is_special(path: str) -> bool:
    """Whether a local path is a pipe, a device or a socket, which may be read without end."""
    try:
        mode = 0 if is_remote(path) else os.stat(path).st_mode  # noqa: PTH116
    except (OSError, ValueError):  # not there, or no name that a file may have
        return False
    return bool(mode) and not S_ISREG(mode) and not S_ISDIR(mode)


def suffix(path: str) -> str:
    """The extension in lower case, with its dot; empty where the name has none."""
    stem, dot, extension = path.rpartition("/")[2].rpartition(".")
    return dot + extension.lower() if stem else ""


def read(path: str, offset: int = 0, size: int = -1) -> bytes:
    """`size` bytes from `offset`, fewer at the end of the file; with -1 all that follows."""
    with _as_os_error(path):
        if path.startswith("s3://"):
            return _read_s3(path, offset, size)
        with open_binary(path) as file:
            file.seek(offset)
            return file.read(size)


def open_binary(path: str) -> BinaryIO:
    """The bytes of `path` as they are stored, for reading on and on; seekable."""
    with _as_os_error(path):
        if not is_remote(path):
            return Path(path).open("rb")
        file: BinaryIO = _filesystem(path).open(
            path, compression_type=CompressionTypes.UNCOMPRESSED
        )
        return file


def _stat_local(path: str) -> File | None:
    try:
        found = os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return None
    is_file = S_ISREG(found.st_mode)
    return File(path, found.st_size, found.st_mtime) if is_file else None


def _walk_local(folder: str, depth: int | None = None) -> Iterator[File]:
    seen: set[tuple[int, int]] = set()  # linked folders may form a loop
    waiting = [(folder, 1)]
    while waiting:
        current, level = waiting.pop()
        try:
            status = os.stat(current)  # noqa: PTH116
            identity = status.st_dev, status.st_ino
            if identity in seen:
                continue
            seen.add(identity)
            a_workspace = os.path.exists(f"{current}/{SETTINGS}")  # noqa: PTH110
            own = OWN if a_workspace else frozenset()
            with os.scandir(current) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name in own:
                        continue
                    file = _listed(entry)
                    if file is not None:
                        yield file
                    elif entry.is_dir() and (depth is None or level < depth):
                        waiting.append((entry.path, level + 1))
        except OSError:
            yield File(storable(current), -1, 0.0)


def _listed(entry: os.DirEntry[str]) -> File | None:
    """The file of an entry, of size -1 if its link leads nowhere; None for anything but a file."""
    try:
        if entry.is_file():
            status = entry.stat()
            return File(storable(entry.path), status.st_size, status.st_mtime)
        if entry.is_dir() or not entry.is_symlink():
            return None
    except OSError:  # a loop of links, or gone since it was listed
        pass
    return File(storable(entry.path), -1, 0.0)


def _as_regex(parts: list[str]) -> str:
    """The parts of a glob pattern between slashes, as one regular expression."""
    regex = ""
    for last, part in [(index == len(parts) - 1, part) for index, part in enumerate(parts)]:
        if part == "**":
            regex += r".*" if last else r"(?:[^/]+/)*"
        else:
            for token in re.findall(r"\[!?[^]]+\]|.", part):
                if token in ("*", "?"):
                    regex += "[^/]" + token.replace("?", "")
                elif len(token) > 1:
                    regex += token.replace("[!", "[^")
                else:
                    regex += re.escape(token)
            regex += "" if last else "/"
    return regex


def _walk_remote(prefix: str) -> Iterator[File]:
    # The public match() holds all that it finds in a list and cannot quote wildcards in names.
    with _as_os_error(prefix):
        for found in _filesystem(prefix)._list(prefix):
            parts = found.path[len(prefix) :].split("/")
            if parts[-1] == "" or any(part.startswith(".") for part in parts):
                continue  # the empty name is the marker of a folder
            yield File(found.path, found.size_in_bytes, found.last_updated_in_seconds)


def _options() -> PipelineOptions:
    """Those of the pipeline that runs; before there is one, the defaults and the environment."""
    return (
        FileSystems._pipeline_options or RuntimeValueProvider.runtime_options or PipelineOptions([])
    )


def _filesystem(path: str) -> Any:
    FileSystems.set_options(_options())  # without any, the file system of S3 cannot be made
    return FileSystems.get_filesystem(path)


@contextlib.contextmanager
def _as_os_error(path: str) -> Iterator[None]:
    """The stores' clients raise exceptions of their own, with no ancestor in common."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{path}: {error}") from error


@functools.cache
def _s3() -> Any:
    """One client for the process, safe in threads.

    Beam's own file system makes a client for each file that it opens, some 0.2 s of CPU each.
    """
    from apache_beam.io.aws.clients.s3 import boto3_client

    return boto3_client.Client(_options()).client


def _stat_s3(path: str) -> File | None:
    from botocore.exceptions import ClientError

    bucket, _, key = path.removeprefix("s3://").partition("/")
    if not key:
        return None
    try:
        found = _s3().head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return None
        raise
    return File(path, found["ContentLength"], found["LastModified"].timestamp())


def _read_s3(path: str, offset: int, size: int) -> bytes:
    if size == 0:
        return b""
    bucket, _, key = path.removeprefix("s3://").partition("/")
    end = "" if size < 0 else str(offset + size - 1)
    span = {"Range": f"bytes={offset}-{end}"} if offset or size > 0 else {}
    body: bytes = _s3().get_object(Bucket=bucket, Key=key, **span)["Body"].read()
    return body
