"""The index as queries use it: open while it is the newest, with the URI of every row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from schemas.tables import Table

if TYPE_CHECKING:
    from index.search import Snapshot
    from index.store import IndexStore


@dataclass
class OpenIndex:
    """A snapshot of an encoder's index, and the samples table that its rows come from."""

    store: IndexStore
    version: tuple[int, int]
    snapshot: Snapshot
    samples: Table
    encoder_id: str
    _uris: pa.LargeStringArray | None = field(default=None, init=False)
    _asked: bool = field(default=False, init=False)

    @classmethod
    def of(cls, store: IndexStore, samples: Table, encoder_id: str) -> OpenIndex | None:
        """The newest snapshot, None before the first commit. Raises CorruptionError."""
        version = store.version()  # first: a commit in between is then noticed, at worst twice
        snapshot = store.open()
        if version is None or snapshot is None:
            return None
        return cls(store, version, snapshot, samples, encoder_id)

    def is_newest(self) -> bool:
        """Whether nothing was committed since; cheap enough to ask before every query."""
        return self.store.version() == self.version

    def uris(self, rows: NDArray[np.int64]) -> pa.Array:
        """The URIs of rows (m,) as strings, null for a sample that the table lacks by now.

        One question is answered by a scan of the table; who asks again has all URIs held in memory
        (about 100 bytes a sample), so that an answer takes microseconds.
        """
        if self._uris is None and self._asked:
            self._uris = self._all_uris()
        self._asked = True
        if self._uris is None:
            return self._scanned(self.snapshot.sample_ids.take(rows))
        return self._uris.take(pa.array(rows)).cast(pa.string())

    def _scanned(self, sample_ids: list[str]) -> pa.Array:
        wanted = pa.array(sample_ids, pa.string())
        found = self._table(ds.field("sample_id").isin(wanted))
        uris = found["uri"].take(pc.index_in(wanted, value_set=found["sample_id"]))
        return pa.chunked_array(uris.chunks, pa.string()).combine_chunks()

    def _all_uris(self) -> pa.LargeStringArray:
        table = self._table(None)
        rows = self.snapshot.sample_ids.rows(table["sample_id"].to_pylist())
        places = np.full(len(self.snapshot.sample_ids), -1)
        places[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        uris = table["uri"].cast(pa.large_string()).combine_chunks()
        return uris.take(pa.array(places, mask=places < 0))

    def _table(self, where: ds.Expression | None) -> pa.Table:
        mine = ds.field("encoder") == self.encoder_id
        return self.samples.read(["sample_id", "uri"], mine if where is None else mine & where)
