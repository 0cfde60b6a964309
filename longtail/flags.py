"""Flags as a mining run published them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow.dataset as ds

from schemas import arrow
from schemas.catalog import Catalog
from schemas.errors import UsageError
from schemas.records import Flag, FlagKind, Group


def read_flags(catalog: Catalog, run_id: str, kind: FlagKind | None = None) -> list[Flag]:
    """The flags of a run, best first."""
    where = (ds.field("run_id") == run_id) & ds.field("rank").is_valid()
    if kind is not None:
        where &= ds.field("kind") == kind
    rows = catalog.scores.read(where=where).sort_by("rank").to_pylist()
    groups = _groups(rows)
    return [arrow.flag_from_row(row, groups.get(row["group"])) for row in rows]


def alike(flags: Iterable[Flag]) -> list[tuple[Flag, ...]]:
    """The members of each group, and each other flag by itself; best first, as the flags are."""
    together: dict[object, list[Flag]] = {}
    for flag in flags:
        key = flag.group.number if flag.group else flag.sample_id
        together.setdefault(key, []).append(flag)
    return [tuple(members) for members in together.values()]


def with_alike(flags: Iterable[Flag], sample_ids: Iterable[str]) -> list[str]:
    """The ids of every member of the groups that these samples are in.

    Raises UsageError for one that is in none.
    """
    members = {flag.sample_id: group for group in alike(flags) if group[0].group for flag in group}
    found: dict[str, None] = {}
    for sample_id in sample_ids:
        if sample_id not in members:
            raise UsageError(
                f"sample {sample_id[:12]} is in no group of that run; 'longtail flags' shows "
                "groups, and without --group the verdict is on the sample alone"
            )
        found |= dict.fromkeys(flag.sample_id for flag in members[sample_id])
    return list(found)


def _groups(rows: Iterable[Mapping[str, Any]]) -> dict[int, Group]:
    """The groups of flags by number, as the members that are left make them."""
    distances: dict[int, dict[str, float]] = {}
    for row in rows:
        if row["group"] is not None:
            distances.setdefault(row["group"], {})[row["sample_id"]] = row["group_distance"]
    return {
        number: Group(
            number,
            size=len(members),
            medoid=min(members, key=members.__getitem__),
            spread=sum(members.values()) / (len(members) - 1),
        )
        for number, members in distances.items()
        if len(members) > 1
    }
