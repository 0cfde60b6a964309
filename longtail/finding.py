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
from numpy.typing import ArrayLike, NDArray

from longtail.examples import WHOLE_ID, Examples, as_numbers
from longtail.filters import Filter
from longtail.jobs import Jobs
from longtail.opened import Opened, open_index, open_level
from longtail.verdicts import VerdictLog
from schemas import arrow
from schemas.errors import NotFoundError, UsageError
from schemas.records import LEVELS, Level
from schemas.tables import Table

if TYPE_CHECKING:
    from index.exact import Exact
    from index.search import Snapshot

HITS = pa.schema([pa.field("rank", pa.int64()), *arrow.NEIGHBOUR])
"""A query's answer, nearest first; distances are Euclidean between unit vectors, in [0, 2]."""

HITS_OF_EACH = pa.schema([pa.field("query", pa.int64()), *HITS])
"""The answers of several queries, one after another; `query` counts from 0."""

_SHORTEST_PREFIX = 6


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of `Finder.query`; its fields are the parameters of `Workspace.query`."""

    image: str | Path | Sequence[str | Path]
    sample_id: str | Sequence[str]
    vector: ArrayLike
    text: str | None = None
    unlike: str | Path | Sequence[str | Path] = ()
    k: int
    within: float
    where: Filter
    apart: float = 0.0
    level: Level

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k is {self.k}; ask for 1 or more")
        _check_distance("within", self.within)
        _check_distance("apart", self.apart)


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

        opened = self._at(asked.level)
        examples = Examples(opened.searched, asked.level, self.jobs, self.resolve_all)
        negatives = [
            examples.of_file(Path(one)) if Path(one).exists() else examples.of_samples([str(one)])
            for one in _several(asked.unlike)
        ]
        rows, distances = query(
            opened.searched,
            _positives(asked, examples),
            np.concatenate(negatives) if negatives else None,
            k=min(asked.k, opened.searched.vectors),
            within=asked.within,
            only=opened.passing(asked.where, self.jobs.catalog, self.verdicts),
            apart=asked.apart,
        )
        return _hits(opened, rows, distances)

    def query_each(self, asked: Question) -> pa.Table:
        """The answers to each example by itself, as a table of `HITS_OF_EACH`."""
        from index.query import query_each

        opened = self._at(asked.level)
        examples = Examples(opened.searched, asked.level, self.jobs, self.resolve_all)
        rows, distances = query_each(
            opened.searched,
            _positives(asked, examples),
            k=min(asked.k, opened.searched.vectors),
            within=asked.within,
            only=opened.passing(asked.where, self.jobs.catalog, self.verdicts),
        )
        numbers, places = np.nonzero(rows >= 0)
        hits = _hits(opened, rows[numbers, places], distances[numbers, places])
        columns = [pa.array(numbers), pa.array(places + 1), *hits.columns[1:]]
        return pa.Table.from_arrays(columns, schema=HITS_OF_EACH)

    def vector_of_text(self, text: str) -> NDArray[np.float32]:
        """The embedding (d,) of words. Raises EncoderError where there is none."""
        examples = Examples(self.index().searched, "high", self.jobs, self.resolve_all)
        return examples.of_text(text).reshape(-1)

    def duplicates(self, within: float) -> list[list[dict[str, Any]]]:
        """Groups of near-duplicates, as `Workspace.duplicates` gives them."""
        from index.duplicates import near_duplicates

        _check_distance("within", within)
        opened = self.index()
        groups = near_duplicates(opened.searched, within)
        found = [_hits(opened, group.rows, group.distances) for group in groups]
        return [table.drop_columns(["rank"]).to_pylist() for table in found]

    def resolve_all(self, prefixes: Sequence[str]) -> list[str]:
        """The sample ids that start so. Raises NotFoundError unless there is exactly one each."""
        return resolve(self.jobs.catalog.samples, prefixes)

    def index(self) -> Opened[Snapshot]:
        """The newest snapshot.

        Raises NotFoundError where there is none with samples, EncoderError where the encoder
        changed.
        """
        if self._index is None or not self._index.is_newest():
            catalog = self.jobs.catalog
            self._index = open_index(self.jobs.index_store, catalog.samples, self.jobs.encoder.id)
        if self._index is None or not self._index.searched.vectors:
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


def resolve(samples: Table, prefixes: Sequence[str], what: str = "sample") -> list[str]:
    """The id in the column `sample_id` of a table that each prefix starts.

    Whole ids are looked up in one scan. what: such an id is of. Raises NotFoundError for a prefix
    that starts none or several.
    """
    whole = pa.array(filter(WHOLE_ID.fullmatch, prefixes), pa.string())
    there: set[str] = set()
    if len(whole):
        rows = samples.read(["sample_id"], ds.field("sample_id").isin(whole))
        there = set(rows["sample_id"].to_pylist())
    return [one if one in there else _started_by(samples, one, what) for one in prefixes]


def _started_by(samples: Table, prefix: str, what: str) -> str:
    if len(prefix) < _SHORTEST_PREFIX:
        raise NotFoundError(f"'{prefix}' is too short: give {_SHORTEST_PREFIX} digits or more")
    starts = pc.starts_with(ds.field("sample_id"), prefix.lower())
    found = samples.read(["sample_id"], starts)["sample_id"].unique().to_pylist()
    if len(found) != 1:
        there = (
            f"are {len(found)} {what}s whose ids start"
            if found
            else f"is no {what} whose id starts"
        )
        way_out = "; 'longtail flags' shows ids" if what == "sample" else ""
        raise NotFoundError(f"there {there} with '{prefix}'{way_out}")
    return str(found[0])


def _positives(asked: Question, examples: Examples) -> NDArray[np.float32]:
    """The examples (p, d), p > 0: files, then samples, words and vectors."""
    ids = [asked.sample_id] if isinstance(asked.sample_id, str) else asked.sample_id
    found = [examples.of_file(Path(file)) for file in _several(asked.image)]
    if len(ids):
        found.append(examples.of_samples(ids))
    if asked.text is not None:
        found.append(examples.of_text(asked.text))
    vectors = as_numbers(asked.vector)
    if vectors.size:
        found.append(examples.of_vectors(vectors))
    if not found:
        raise UsageError("give an image file, a sample id, a vector or a text to query by")
    return found[0] if len(found) == 1 else np.concatenate(found)


def _several(given: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [given] if isinstance(given, str | Path) else given


def _check_distance(name: str, distance: float) -> None:
    if not 0 <= distance <= 2:
        raise UsageError(f"{name} is {distance}; distances between unit vectors lie in [0, 2]")


def _hits(
    opened: Opened[Snapshot] | Opened[Exact],
    rows: NDArray[np.int64],
    distances: NDArray[np.float32],
) -> pa.Table:
    columns = [
        pa.array(np.arange(1, len(rows) + 1)),
        opened.sample_ids(rows),
        opened.uris(rows),
        pa.array(distances),
    ]
    return pa.Table.from_arrays(columns, schema=HITS)
