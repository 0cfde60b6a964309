"""What a mining run knows of one sample, flagged or not, beside what people said of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from detectors import reasons
from detectors.measures import REASONS
from detectors.pool import Patches
from detectors.registry import DEFAULT
from detectors.scores import NOTABLE_Z
from index.search import Snapshot
from index.store import IndexStore
from longtail import runs
from longtail.flags import read_flags
from longtail.opened import Opened, open_index
from longtail.verdicts import VerdictLog
from schemas import arrow
from schemas.catalog import Catalog
from schemas.errors import NotFoundError
from schemas.records import LEVELS, QUALITY_STATISTICS, FlagKind, Group, Level, Neighbour, Verdict

_SHOWN = 3
_COLUMNS = [
    *("sample_id", "source", "of_reference", "score", "rank", "duplicate_of"),
    *("isolation", "deviation", "broken", *map(arrow.z_column, REASONS)),
]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a sample is where it is among the `samples` that a run mined.

    of_reference: it is one of the reference, those are the `samples`, and none of them is flagged.
    position: by score alone, from 1, the strangest. kind, rank: of its flag, None without one.
    z: robust deviations per level, of those by which the run's samples differ: vectors of one's own
    have one. quality: its pixel statistics; none of a vector that came without its image.
    reasons: as the run gave them to a flag; for another sample by the same rules.
    nearest: the closest normal samples: of the reference where there is one, else those that are
    unremarkable; none that was judged an edge case or junk.
    confirmed: the closest samples that the verdicts call edge cases. verdicts: oldest first.
    """

    sample_id: str
    uri: str
    source: str
    run_id: str
    of_reference: bool
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
    mined = catalog.scores.read(_COLUMNS, of_run)
    pool = mined.filter(pc.equal(mined["of_reference"], row["of_reference"]))
    verdicts = log.latest()
    edge_cases = [id_ for id_, given in verdicts.items() if given.label == "edge_case"]
    junk = [id_ for id_, given in verdicts.items() if given.label == "junk"]
    opened = open_index(IndexStore(catalog.index(row["encoder"])), catalog.samples, row["encoder"])
    nearest = _closest(opened, sample_id, _normal(mined).difference(edge_cases, junk))
    confirmed = _closest(opened, sample_id, edge_cases)
    quality, usual = _quality(catalog, row, mined)
    why = row["reasons"] or [
        *_reasons(catalog, row, pool),
        *_near_case(confirmed, nearest),
        *usual,
    ]
    return Explanation(
        **{name: row[name] for name in ("sample_id", "uri", "source", "run_id")},
        of_reference=row["of_reference"],
        samples=pool.num_rows,
        position=1 + pc.sum(pc.greater(pool["score"], row["score"])).as_py(),
        **{name: row[name] for name in ("score", "p_value", "kind", "rank", "level")},
        z={name: row[f"z_{name}"] for name in LEVELS if mined[f"z_{name}"].to_numpy().any()},
        quality=quality,
        reasons=tuple(why),
        group=_group(catalog, row),
        nearest=nearest,
        confirmed=confirmed,
        verdicts=tuple(log.history(sample_id)),
    )


def _group(catalog: Catalog, row: Mapping[str, Any]) -> Group | None:
    if row["group"] is None:
        return None
    flags = read_flags(catalog, row["run_id"])
    return next((flag.group for flag in flags if flag.sample_id == row["sample_id"]), None)


def _normal(mined: pa.Table) -> set[str]:
    """The ids of what a run's flags are shown beside, as `detectors.mining` chooses them."""
    known = mined["of_reference"].to_numpy()
    if not known.any():
        unremarkable = pc.and_(mined["rank"].is_null(), mined["duplicate_of"].is_null())
        known = pc.and_(unremarkable, pc.less(mined["score"], NOTABLE_Z)).to_numpy()
    return set(mined.filter(known)["sample_id"].to_pylist())


def _quality(
    catalog: Catalog, row: Mapping[str, Any], mined: pa.Table
) -> tuple[dict[str, float], list[str]]:
    """The pixel statistics of a sample, and which lie outside what the run calls usual."""
    table = catalog.samples.read(
        ["sample_id", *QUALITY_STATISTICS], ds.field("encoder") == row["encoder"]
    )
    mined = mined.filter(pc.is_in(mined["sample_id"], table["sample_id"].combine_chunks()))
    table = table.take(pc.index_in(mined["sample_id"], table["sample_id"].combine_chunks()))
    place = pc.index(mined["sample_id"], row["sample_id"]).as_py()
    columns = {name: table[name].to_numpy() for name in QUALITY_STATISTICS}
    usual = reasons.UsualRange(
        mined["source"].to_pylist(), columns, mined["of_reference"].to_numpy()
    )
    own = {name: float(values[place]) for name, values in columns.items()}
    known = {name: value for name, value in own.items() if not np.isnan(value)}
    return known, usual.reasons(place)


def _reasons(catalog: Catalog, row: Mapping[str, Any], pool: pa.Table) -> list[str]:
    """What a run says of a flag, said of another sample of its pool."""
    measured = {
        name: arrow.z_column(name) for name in REASONS if row[arrow.z_column(name)] is not None
    }
    z = {name: pool[column].to_numpy() for name, column in measured.items()}
    place = pc.index(pool["sample_id"], row["sample_id"]).as_py()
    score = pool["score"].to_numpy()
    mined = runs.read_json(catalog.run(row["run_id"]) / runs.MINE)
    if not mined:
        raise NotFoundError(
            f"the folder of run '{row['run_id']}' is gone, and with it how samples were scored; "
            "mine again: longtail mine"
        )
    detector, of = mined["policy"]["detector"], "reference" if row["of_reference"] else "pool"
    by_default = detector == DEFAULT
    told = [
        reasons.score_reason(score, place, of, by="" if by_default else detector),
        *(reasons.group_reasons(z, score, place, mined["neighbours"]) if by_default else []),
        *reasons.level_reasons(z, place),
    ]
    if row["isolation"] is not None:
        reference = mined.get("reference")
        others = reference["samples"] if reference else pool.num_rows - 1
        k = min(mined["neighbours"], others)
        told += reasons.isolation_reasons(pool["isolation"].to_numpy(), place, k)
    patches = _patches(catalog, row["encoder"], pool)
    if patches is not None:
        told += reasons.patch_reasons(patches, place)
    if row["broken"]:
        told += reasons.fault_reasons(
            pool["broken"].to_numpy(), pool["deviation"].to_numpy(), place
        )
    return told


def _patches(catalog: Catalog, encoder_id: str, pool: pa.Table) -> Patches | None:
    """The strangest spots of a pool's samples, None where nobody looked."""
    columns = ["score", "x", "y"]
    table = catalog.patches.read(["sample_id", *columns], ds.field("encoder") == encoder_id)
    if not table.num_rows:
        return None
    places = pc.index_in(pool["sample_id"], table["sample_id"].combine_chunks())
    return Patches(*(table[name].take(places).to_numpy() for name in columns))


def _near_case(confirmed: Sequence[Neighbour], nearest: Sequence[Neighbour]) -> list[str]:
    """Says which confirmed edge case is nearer than any normal sample, if one is."""
    if not confirmed or (nearest and confirmed[0].distance >= nearest[0].distance):
        return []
    return [reasons.confirmed_reason(confirmed[0].sample_id, confirmed[0].distance)]


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
