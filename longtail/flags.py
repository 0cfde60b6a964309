"""Flags as a mining run published them, less what was forgotten since."""

from __future__ import annotations

from dataclasses import replace

import pyarrow.dataset as ds

from schemas import arrow
from schemas.catalog import Catalog
from schemas.records import Flag, FlagKind


def read_flags(catalog: Catalog, run_id: str, kind: FlagKind | None = None) -> list[Flag]:
    """The flags of a run, best first; none of them names a forgotten sample."""
    where = (ds.field("run_id") == run_id) & ds.field("rank").is_valid()
    if kind is not None:
        where &= ds.field("kind") == kind
    rows = catalog.scores.read(where=where).sort_by("rank").to_pylist()
    gone = set(catalog.forgotten.read(["sample_id"])["sample_id"].to_pylist())
    flags = [arrow.flag_from_row(row) for row in rows if row["sample_id"] not in gone]
    if not gone:
        return flags
    return [
        replace(flag, nearest=tuple(near for near in flag.nearest if near.sample_id not in gone))
        for flag in flags
    ]
