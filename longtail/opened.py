"""Vectors as queries use them: open while they are the newest, with the URI of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from schemas import arrow
from schemas.records import Level
from schemas.tables import Table

if TYPE_CHECKING:
    from encoders.base import Identity
    from index.exact import Exact
    from index.query import Searchable
    from index.search import Snapshot
    from index.store import IndexStore

S = TypeVar("S", bound="Searchable")

_ROWS_PER_BATCH = 50_000


@dataclass
class Opened(Generic[S]):
    """What answers queries, and the samples table that its rows come from."""

    searched: S
    version: object
    newest: Callable[[], object]
    samples: Table
    encoder_id: str
    _uris: pa.LargeStringArray | None = field(default=None, init=False)
    _asked: bool = field(default=False, init=False)

    def is_newest(self) -> bool:
        """Whether nothing was committed since; cheap enough to ask before every query."""
        return self.newest() == self.version

    def uris(self, rows: NDArray[np.int64]) -> pa.Array:
        """The URIs of rows (m,) as strings, null for a sample that the table lacks by now.

        One question is answered by a scan of the table; who asks again has all URIs held in memory
        (about 100 bytes a sample), so that an answer takes microseconds.
        """
        if self._uris is None and self._asked:
            self._uris = self._all_uris()
        self._asked = True
        if self._uris is None:
            return self._scanned(self.searched.sample_ids.take(rows))
        return self._uris.take(pa.array(rows)).cast(pa.string())

    def _scanned(self, sample_ids: list[str]) -> pa.Array:
        wanted = pa.array(sample_ids, pa.string())
        found = self._table(ds.field("sample_id").isin(wanted))
        uris = found["uri"].take(pc.index_in(wanted, value_set=found["sample_id"]))
        return pa.chunked_array(uris.chunks, pa.string()).combine_chunks()

    def _all_uris(self) -> pa.LargeStringArray:
        table = self._table(None)
        rows = self.searched.sample_ids.rows(table["sample_id"].to_pylist())
        places = np.full(len(self.searched.sample_ids), -1)
        places[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        uris = table["uri"].cast(pa.large_string()).combine_chunks()
        return uris.take(pa.array(places, mask=places < 0))

    def _table(self, where: ds.Expression | None) -> pa.Table:
        mine = ds.field("encoder") == self.encoder_id
        return self.samples.read(["sample_id", "uri"], mine if where is None else mine & where)


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
