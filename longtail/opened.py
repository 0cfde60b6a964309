"""Vectors as queries use them: open while they are the newest, with the URI of every row."""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from longtail.filters import Filter
from schemas import arrow
from schemas.records import Level
from schemas.tables import Table

if TYPE_CHECKING:
    from encoders.base import Identity
    from index.exact import Exact
    from index.query import Searchable
    from index.search import Snapshot
    from index.store import IndexStore
    from longtail.verdicts import VerdictLog
    from schemas.catalog import Catalog

S = TypeVar("S", bound="Searchable")
T = TypeVar("T")

_ROWS_PER_BATCH = 50_000
_FILTERS_KEPT = 4
"""Of the latest ones the rows that pass are held in memory: 8 bytes a row."""


@dataclass
class Opened(Generic[S]):
    """What answers queries, and the samples table that its rows come from."""

    searched: S
    version: object
    newest: Callable[[], object]
    samples: Table
    encoder_id: str
    _uris: _Uris | None = field(default=None, init=False)
    _asked: bool = field(default=False, init=False)
    _passing: dict[object, NDArray[np.int64]] = field(default_factory=dict, init=False)

    def is_newest(self) -> bool:
        """Whether nothing was committed since; cheap enough to ask before every query."""
        return self.newest() == self.version

    def sample_ids(self, rows: NDArray[np.int64]) -> pa.StringArray:
        """The ids of rows (m,)."""
        # In Arrow's own memory: a scan may let go of it in a thread that outlives Python.
        return pa.array(self.searched.sample_ids.take(rows), pa.string())

    def uris(self, rows: NDArray[np.int64]) -> pa.Array:
        """The URIs of rows (m,) as strings, null for a sample that the table lacks by now.

        One question is answered by a scan of the table; who asks again has all URIs held in memory
        (about 60 bytes a sample), so that an answer takes microseconds.
        """
        if self._uris is None and self._asked:
            self._uris = _again(self._all_uris)
        self._asked = True
        if self._uris is None:
            return self._scanned(self.sample_ids(rows))
        return self._uris.take(rows)

    def passing(
        self, where: Filter, catalog: Catalog, verdicts: VerdictLog
    ) -> NDArray[np.int64] | None:
        """The rows (m,) that pass a filter, ascending; None where all do.

        Kept until a table that the filter reads changes. Raises as `Filter.samples`.
        """
        if where == Filter():
            return None
        key = (repr(where), where.state(catalog, verdicts))
        rows = self._passing.pop(key, None)
        if rows is None:
            rows = _again(lambda: self._rows(where, catalog, verdicts))
        latest = list(self._passing.items())[1 - _FILTERS_KEPT :]
        self._passing = {**dict(latest), key: rows}
        return None if len(rows) == self.searched.vectors else rows

    def _rows(self, where: Filter, catalog: Catalog, verdicts: VerdictLog) -> NDArray[np.int64]:
        held = self.searched.sample_ids
        passing = np.ones(len(held), dtype=bool)
        for batches in where.samples(catalog, verdicts, self.encoder_id):
            some = np.zeros(len(held), dtype=bool)
            for sample_ids in batches:
                rows = held.rows_of(_digests(sample_ids))
                some[rows[rows >= 0]] = True
            passing &= some
        return np.flatnonzero(passing)

    def _scanned(self, wanted: pa.StringArray) -> pa.Array:
        mine = (ds.field("encoder") == self.encoder_id) & ds.field("sample_id").isin(wanted)
        found = self.samples.read(["sample_id", "uri"], mine)
        uris = found["uri"].take(pc.index_in(wanted, value_set=found["sample_id"]))
        return pa.chunked_array(uris.chunks, pa.string()).combine_chunks()

    def _all_uris(self) -> _Uris:
        places, text = np.full((len(self.searched.sample_ids), 2), -1), bytearray()
        mine = ds.field("encoder") == self.encoder_id
        for batch in self.samples.batches(["sample_id", "uri"], mine, rows=_ROWS_PER_BATCH):
            rows = self.searched.sample_ids.rows_of(_digests(batch["sample_id"]))
            uris, starts = _text(batch["uri"])
            ends = len(text) - int(starts[0]) + starts.astype(np.int64)
            of_each = np.stack([ends[:-1], ends[1:]], axis=1)
            places[rows[rows >= 0]] = of_each[rows >= 0]
            text += uris
        return _Uris(text, places)


@dataclass(frozen=True, slots=True)
class _Uris:
    """URIs one behind the other, as the table has them: Arrow takes long for a few of an array.

    places: (n, 2) of each row's in the text, its start and end; -1 where it has none.
    """

    text: bytearray
    places: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> pa.StringArray:
        text, places = self.text, self.places[rows].tolist()
        found = [text[start:end].decode() if start >= 0 else None for start, end in places]
        return pa.array(found, pa.string())


def open_index(store: IndexStore, samples: Table, encoder_id: str) -> Opened[Snapshot] | None:
    """The newest snapshot, None before the first commit. Raises CorruptionError."""
    version = store.version()  # first: a commit in between is then noticed, at worst twice
    snapshot = store.open()
    if snapshot is None:
        return None
    return Opened(snapshot, version, store.version, samples, encoder_id)


def open_level(samples: Table, encoder: Identity, level: Level) -> Opened[Exact]:
    """Every sample's vector of a level, held in memory: 4 bytes a dimension and sample.

    level: one that the encoder has.
    """
    from index.exact import Exact

    version = samples.version()
    held = sum(file.rows for file in samples.files(encoder.id))
    vectors = np.empty((held, encoder.dimensions[level]), dtype=np.float32)
    sample_ids: list[str] = []
    for ids, some in embeddings(samples, encoder.id, level):
        vectors[len(sample_ids) : len(sample_ids) + len(ids)] = some
        sample_ids += ids
    exact = Exact(sample_ids, vectors[: len(sample_ids)])
    return Opened(exact, version, samples.version, samples, encoder.id)


def embeddings(
    samples: Table, encoder_id: str, level: Level
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """A level of the samples table in batches: (sample ids, vectors (n, d))."""
    column = arrow.embedding_column(level)
    mine = ds.field("encoder") == encoder_id
    for batch in samples.batches(["sample_id", column], mine, rows=_ROWS_PER_BATCH):
        if batch.num_rows:
            vectors = arrow.matrix(pa.chunked_array([batch[column]]))
            yield batch["sample_id"].to_pylist(), vectors


def _digests(sample_ids: pa.StringArray) -> NDArray[np.bytes_]:
    """Ids as `index.sample_ids` keeps them, from Arrow's buffer, without a string for each."""
    from index.sample_ids import ID_DTYPE

    text, _ = _text(sample_ids)
    return np.frombuffer(unhexlify(text), ID_DTYPE)


def _text(strings: pa.StringArray) -> tuple[memoryview, NDArray[np.int32]]:
    """The bytes of strings without nulls, and (n + 1,) where each begins, the last one's end."""
    if not len(strings):
        return memoryview(b""), np.zeros(1, np.int32)
    _, offsets, text = strings.buffers()
    starts = np.frombuffer(offsets, np.int32)[strings.offset :][: len(strings) + 1]
    return memoryview(text)[starts[0] : starts[-1]], starts


def _again(question: Callable[[], T]) -> T:
    """The answer; asked again where a vacuum took a file meanwhile, as `Table.read` does."""
    try:
        return question()
    except FileNotFoundError:
        return question()
