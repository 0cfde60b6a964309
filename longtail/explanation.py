"""What a mining run knows of one sample, flagged or not, beside what people said of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds

from detectors import reasons
from detectors.scores import Floats
from index.search import Snapshot
from index.store import IndexStore
from longtail.flags import read_flags
from longtail.opened import Opened, open_index
from longtail.verdicts import VerdictLog
from schemas.catalog import Catalog
from schemas.errors import NotFoundError
from schemas.records import LEVELS, QUALITY_STATISTICS, FlagKind, Group, Level, Neighbour, Verdict

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a sample is where it is among the `samples` that a run mined.

    position: by score alone, from 1, the strangest. kind, rank: of its flag, None without one.
    z: robust deviations per level. quality: its pixel statistics; none of a vector
    that came without its image.
    reasons: as the run gave them to a flag; for another sample by the same rules.
    nearest: the closest samples that are no flags and no confirmed edge cases.
    confirmed: the closest samples that the verdicts call edge cases. verdicts: oldest first.
    """

    sample_id: str
    uri: str
    source: str
    run_id: str
    samples: int
    position: int
    score: float
    p_value: float | None
    kind: FlagKind | None
    rank: int | None
    level: Level
    z: Mapping[Level, float]
    quality: Mapping[str, float]
    reasons: tuple[str, ...]
    group: Group | None
    nearest: tuple[Neighbour, ...]
    confirmed: tuple[Neighbour, ...]
    verdicts: tuple[Verdict, ...]


def explain(catalog: Catalog, log: VerdictLog, run_id: str, sample_id: str) -> Explanation:
    """Explains one sample of a mining run; its neighbours are those of the index as it is now.

    Raises NotFoundError for a sample that the run did not mine.
    """
    of_run = ds.field("run_id") == run_id
    found = catalog.scores.read(where=of_run & (ds.field("sample_id") == sample_id)).to_pylist()
    if not found:
        raise NotFoundError(
            f"run {run_id} did not mine sample {sample_id[:12]}; it came later, or belongs to "
            "another encoder: 'longtail mine' scores what is indexed"
        )
    row = found[0]
    pool = catalog.scores.read(
        ["sample_id", "score", "rank"], of_run & (ds.field("of_reference") == row["of_reference"])
    )
    edge_cases = [id_ for id_, given in log.latest().items() if given.label == "edge_case"]
    normal = pool.filter(pool["rank"].is_null())["sample_id"].to_pylist()
    opened = open_index(IndexStore(catalog.index(row["encoder"])), catalog.samples, row["encoder"])
    quality, usual = _quality(catalog, row)
    return Explanation(
        **{name: row[name] for name in ("sample_id", "uri", "source", "run_id")},
        samples=pool.num_rows,
        position=1 + pc.sum(pc.greater(pool["score"], row["score"])).as_py(),
        **{name: row[name] for name in ("score", "p_value", "kind", "rank", "level")},
        z={level: row[f"z_{level}"] for level in LEVELS},
        quality=quality,
        reasons=tuple(row["reasons"] or _reasons(row, pool["score"].to_numpy(), usual)),
        group=_group(catalog, row),
        nearest=_closest(opened, sample_id, set(normal).difference(edge_cases)),
        confirmed=_closest(opened, sample_id, edge_cases),
        verdicts=tuple(log.history(sample_id)),
    )


def _group(catalog: Catalog, row: Mapping[str, Any]) -> Group | None:
    if row["group"] is None:
        return None
    flags = read_flags(catalog, row["run_id"])
    return next((flag.group for flag in flags if flag.sample_id == row["sample_id"]), None)


def _quality(catalog: Catalog, row: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """The pixel statistics of a sample, and which lie outside the usual range of its source."""
    table = catalog.samples.read(
        ["sample_id", "source", *QUALITY_STATISTICS], ds.field("encoder") == row["encoder"]
    )
    place = pc.index(table["sample_id"], row["sample_id"]).as_py()
    columns = {name: table[name].to_numpy() for name in QUALITY_STATISTICS}
    usual = reasons.UsualRange(table["source"].to_pylist(), columns)
    own = {name: float(values[place]) for name, values in columns.items()}
    known = {name: value for name, value in own.items() if not np.isnan(value)}
    return known, usual.reasons(place)


def _reasons(row: Mapping[str, Any], scores: Floats, usual: list[str]) -> list[str]:
    z: dict[str, Floats] = {level: np.array([row[f"z_{level}"]], np.float64) for level in LEVELS}
    place = int(np.flatnonzero(scores == row["score"])[0])
    return [reasons.score_reason(scores, place), *reasons.level_reasons(z, 0), *usual]


def _closest(
    opened: Opened[Snapshot] | None, sample_id: str, among: Collection[str]
) -> tuple[Neighbour, ...]:
    """The samples nearest to one, itself left out; fewer where the index holds no more."""
    if opened is None:
        return ()
    snapshot = opened.searched
    own = snapshot.sample_ids.rows([sample_id])
    rows = snapshot.sample_ids.rows(sorted(among))
    rows = np.sort(rows[(rows >= 0) & (rows != own)])
    if own[0] < 0 or not len(rows):
        return ()
    found, distances = snapshot.search(snapshot.read(own), min(_SHOWN, len(rows)), only=rows)
    ids, uris = snapshot.sample_ids.take(found[0]), opened.uris(found[0]).to_pylist()
    return tuple(map(Neighbour, ids, uris, distances[0].tolist()))
