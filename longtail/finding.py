"""Answers to what a person asks of the samples: more like these, what stands there twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from longtail.examples import Examples
from longtail.filters import Filter
from longtail.jobs import Jobs
from longtail.opened import Opened, open_index, open_level
from longtail.verdicts import VerdictLog
from schemas import arrow
from schemas.errors import NotFoundError, UsageError
from schemas.records import LEVELS, Level

if TYPE_CHECKING:
    from index.exact import Exact
    from index.search import Snapshot

HITS = pa.schema([pa.field("rank", pa.int64()), *arrow.NEIGHBOUR])
"""A query's answer, nearest first; distances are Euclidean between unit vectors, in [0, 2]."""

_SHORTEST_PREFIX = 6


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of `Finder.query`; its fields are the parameters of `Workspace.query`."""

    images: Sequence[str | Path]
    sample_ids: Sequence[str]
    text: str | None
    unlike: Sequence[str | Path]
    k: int
    within: float
    where: Filter
    apart: float
    level: Level


@dataclass
class Finder:
    """Searches one workspace; what it has opened stays open while it is the newest."""

    jobs: Jobs
    verdicts: VerdictLog
    _index: Opened[Snapshot] | None = field(default=None, init=False)
    _levels: dict[Level, Opened[Exact]] = field(default_factory=dict, init=False)

    def query(self, asked: Question) -> pa.Table:
        """The answer as a table of `HITS`. Raises as `Workspace.query`."""
        from index.query import query

        if not asked.images and not asked.sample_ids and asked.text is None:
            raise UsageError("give an image file, a sample id or a text to query by")
        opened = self._at(asked.level)
        examples = Examples(opened.searched, asked.level, self.jobs, self.resolve)
        positives = [examples.of_file(Path(file)) for file in asked.images]
        positives += [examples.of_sample(prefix) for prefix in asked.sample_ids]
        if asked.text is not None:
            positives.append(examples.of_text(asked.text))
        negatives = [
            examples.of_file(Path(one)) if Path(one).exists() else examples.of_sample(str(one))
            for one in asked.unlike
        ]
        allowed = asked.where.sample_ids(self.jobs.catalog, self.verdicts, opened.encoder_id)
        only = None if allowed is None else opened.searched.sample_ids.rows(allowed)
        rows, distances = query(
            opened.searched,
            np.concatenate(positives),
            np.concatenate(negatives) if negatives else None,
            k=min(asked.k, opened.searched.vectors),
            within=asked.within,
            only=None if only is None else np.sort(only[only >= 0]),
            apart=asked.apart,
        )
        return _hits(opened, rows, distances)

    def vector_of_text(self, text: str) -> NDArray[np.float32]:
        """The embedding (d,) of words. Raises EncoderError where there is none."""
        examples = Examples(self.index().searched, "high", self.jobs, self.resolve)
        return examples.of_text(text).reshape(-1)

    def duplicates(self, within: float) -> list[list[dict[str, Any]]]:
        """Groups of near-duplicates, as `Workspace.duplicates` gives them."""
        from index.duplicates import near_duplicates

        opened = self.index()
        groups = near_duplicates(opened.searched, within)
        found = [_hits(opened, group.rows, group.distances) for group in groups]
        return [table.drop_columns(["rank"]).to_pylist() for table in found]

    def resolve(self, prefix: str) -> str:
        """The sample id that starts so. Raises NotFoundError unless there is exactly one."""
        if len(prefix) < _SHORTEST_PREFIX:
            raise NotFoundError(f"'{prefix}' is too short: give {_SHORTEST_PREFIX} digits or more")
        starts = pc.starts_with(ds.field("sample_id"), prefix.lower())
        samples = self.jobs.catalog.samples
        found = samples.read(["sample_id"], starts)["sample_id"].unique().to_pylist()
        if len(found) != 1:
            what = (
                f"are {len(found)} samples whose ids start"
                if found
                else "is no sample whose id starts"
            )
            raise NotFoundError(f"there {what} with '{prefix}'; 'longtail flags' shows ids")
        return str(found[0])

    def index(self) -> Opened[Snapshot]:
        """The newest snapshot.

        Raises NotFoundError before the first, EncoderError where the encoder changed.
        """
        if self._index is None or not self._index.is_newest():
            catalog = self.jobs.catalog
            self._index = open_index(self.jobs.index_store, catalog.samples, self.jobs.encoder.id)
        if self._index is None:
            self.jobs.check_encoder()
            raise NotFoundError(
                f"{self.jobs.catalog.root} has no indexed samples; 'longtail run' adds some"
            )
        return self._index

    def _at(self, level: Level) -> Opened[Snapshot] | Opened[Exact]:
        """What to search at a level: the index of the highest, of others the table itself."""
        index = self.index()
        if level == "high":
            return index
        encoder = self.jobs.encoder
        if level not in encoder.dimensions:
            there = ", ".join(each for each in LEVELS if each in encoder.dimensions)
            raise UsageError(f"encoder {encoder.name!r} has no level {level!r}; it has {there}")
        if level not in self._levels or not self._levels[level].is_newest():
            self._levels[level] = open_level(self.jobs.catalog.samples, encoder, level)
        return self._levels[level]


def _hits(
    opened: Opened[Snapshot] | Opened[Exact],
    rows: NDArray[np.int64],
    distances: NDArray[np.float32],
) -> pa.Table:
    columns = [
        pa.array(np.arange(1, len(rows) + 1)),
        pa.array(opened.searched.sample_ids.take(rows), pa.string()),
        opened.uris(rows),
        pa.array(distances),
    ]
    return pa.Table.from_arrays(columns, schema=HITS)
