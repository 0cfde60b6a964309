"""What a workspace holds already, so that a run reads only what is new."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from schemas.catalog import Catalog
from schemas.records import ImageRef

STAMP = ("uri", "size", "modified_at")
# What may be mended while the image stays as it is: worth another try in the next run.
_TRY_AGAIN = ("unreadable", "bad_source")


class DigestSet:
    """A set of strings held as sorted 120-bit digests: 16 bytes each, however long they are."""

    def __init__(self, strings: Iterable[str]) -> None:
        joined = b"".join(_digest(string) for string in strings)
        self._sorted: NDArray[np.bytes_] = np.unique(np.frombuffer(joined, dtype="S16"))

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, string: str) -> bool:
        if not len(self._sorted):  # as all are in a first run, which asks of every image
            return False
        digest = np.bytes_(_digest(string))
        at = int(np.searchsorted(self._sorted, digest))
        return at < len(self._sorted) and bool(self._sorted[at] == digest)


class Known:
    """The inputs and the samples of a workspace that need no second look with an encoder.

    An input is known when its URI, size and modification time were seen before, and it either gave
    a sample that this encoder has embedded or was refused under the same limits.
    """

    def __init__(self, catalog: Catalog, encoder_id: str, limits: str) -> None:
        samples = catalog.samples.read(["sample_id"], ds.field("encoder") == encoder_id)
        self.samples = DigestSet(_column(samples, "sample_id"))
        self.forgotten = DigestSet(_column(catalog.forgotten.read(["sample_id"]), "sample_id"))
        seen = catalog.uris.read([*STAMP, "sample_id"])
        embedded = pc.is_in(seen["sample_id"], value_set=samples["sample_id"])
        passing = ds.field("reason").isin(_TRY_AGAIN)
        same_limits = ds.field("limits") == limits
        refused = catalog.rejects.read(STAMP, same_limits & ~passing)
        self.failures = DigestSet(_stamps(catalog.rejects.read(STAMP, same_limits & passing)))
        self.sightings = DigestSet(_stamps(seen))
        self.inputs = DigestSet(chain(_stamps(seen.filter(embedded)), _stamps(refused)))

    def holds(self, ref: ImageRef) -> bool:
        """Whether this input needs no reading."""
        if _stamp(ref.uri, ref.size, ref.modified_at) in self.inputs:
            return True
        hidden = unnamed(ref) if len(self.forgotten) else ref
        return _stamp(hidden.uri, hidden.size, hidden.modified_at) in self.inputs

    def failed(self, ref: ImageRef) -> bool:
        """Whether this input was refused for what may be mended, and stands in the table."""
        return _stamp(ref.uri, ref.size, ref.modified_at) in self.failures

    def sighted(self, ref: ImageRef) -> bool:
        """Whether the URIs table has this input, if perhaps embedded by another encoder only."""
        return _stamp(ref.uri, ref.size, ref.modified_at) in self.sightings


def unnamed(ref: ImageRef) -> ImageRef:
    """An input by a digest and nothing else, as one is kept whose content was forgotten."""
    stamp = _stamp(ref.uri, ref.size, ref.modified_at)
    return ImageRef(f"sha256:{hashlib.sha256(stamp.encode()).hexdigest()}")


def _column(table: pa.Table, name: str) -> Iterator[Any]:
    for chunk in table[name].chunks:
        yield from chunk.to_pylist()


def _stamps(table: pa.Table) -> Iterator[str]:
    return map(_stamp, *(_column(table, name) for name in STAMP))


def _stamp(uri: str, size: int, modified_at: float) -> str:
    return f"{uri}\n{size}\n{modified_at!r}"


def _digest(string: str) -> bytes:
    # NumPy's bytes drop trailing zeros, so a digest must not end in one.
    return hashlib.blake2b(string.encode(), digest_size=15).digest() + b"."
