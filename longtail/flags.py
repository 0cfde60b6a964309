"""Flags as a mining run published them."""

from __future__ import annotations

import pyarrow.dataset as ds

from schemas import arrow
from schemas.catalog import Catalog
from schemas.records import Flag, FlagKind


def read_flags(catalog: Catalog, run_id: str, kind: FlagKind | None = None) -> list[Flag]:
    """The flags of a run, best first."""
    where = (ds.field("run_id") == run_id) & ds.field("rank").is_valid()
    if kind is not None:
        where &= ds.field("kind") == kind
    rows = catalog.scores.read(where=where).sort_by("rank").to_pylist()
    return [arrow.flag_from_row(row) for row in rows]
