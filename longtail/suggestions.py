"""What to label next, of the samples that a mining run scored and nobody has judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from detectors.suggest import suggest
from schemas import arrow
from schemas.catalog import Catalog
from schemas.records import Level, Verdict

Why = Literal["outlier", "representative", "uncertain"]
_LEVELS: tuple[Level, ...] = ("mid", "high")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A sample to label, and why: among the strangest, one that stands for many, or in doubt.

    score: of the mining run; larger is stranger.
    """

    sample_id: str
    uri: str
    source: str
    score: float
    why: Why


def suggestions(
    catalog: Catalog, run_id: str, verdicts: Mapping[str, Verdict], count: int
) -> list[Suggestion]:
    """`count` samples of a mining run, or all that are left; see `detectors.suggest.suggest`.

    What a reference holds is known, and teaches only by its verdicts; a duplicate teaches nothing.
    """
    columns = ["encoder", "sample_id", "uri", "source", "score"]
    duplicates = [one for one, given in verdicts.items() if given.label == "duplicate"]
    asked = (
        ~ds.field("of_reference") | ds.field("sample_id").isin(pa.array([*verdicts], pa.string()))
    ) & ~ds.field("sample_id").isin(pa.array(duplicates, pa.string()))
    table = catalog.scores.read(columns, (ds.field("run_id") == run_id) & asked)
    if not table.num_rows:
        return []
    stored = catalog.samples.read(
        ["sample_id", *map(arrow.embedding_column, _LEVELS)],
        ds.field("encoder") == table["encoder"][0],
    )
    places = pc.index_in(table["sample_id"], value_set=stored["sample_id"].combine_chunks())
    table, stored = table.filter(places.is_valid()), stored.take(places.drop_null())
    ids: list[str] = table["sample_id"].to_pylist()
    judged = [row for row, sample_id in enumerate(ids) if sample_id in verdicts]
    chosen = suggest(
        count,
        np.hstack([_vectors(stored, level) for level in _LEVELS]),
        table["score"].to_numpy(),
        judged,
        [verdicts[ids[row]].label == "edge_case" for row in judged],
    )
    rows = (
        table.drop_columns(["encoder"])
        .take(pa.array([one.row for one in chosen], pa.int64()))
        .to_pylist()
    )
    return [
        Suggestion(**row, why=cast("Why", one.why)) for row, one in zip(rows, chosen, strict=True)
    ]


def _vectors(stored: pa.Table, level: Level) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The embeddings of a level, (n, d); (n, 0) for a level that the encoder lacks."""
    column = stored[arrow.embedding_column(level)]
    if column.null_count == len(column):
        return np.empty((len(column), 0), dtype=np.float32)
    return arrow.matrix(column)
