"""What is left of a mining run after some of it was judged, at once: nothing is fitted again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.dataset as ds

from detectors import reasons
from detectors.duplicates import copies_of, one_of_each
from detectors.feedback import rerank
from detectors.scores import Floats
from longtail import runs
from longtail.flags import read_flags
from pipelines import notes
from schemas import arrow
from schemas.catalog import Catalog
from schemas.records import LEVELS, Flag, Verdict

if TYPE_CHECKING:
    from index.search import Snapshot


def flags_left(
    catalog: Catalog, run_id: str, verdicts: Mapping[str, Verdict], snapshot: Snapshot
) -> list[Flag]:
    """As many outliers as the run flagged, and its capture faults, that nobody has judged.

    The outliers stand in the order of `detectors.feedback.rerank`, which is that of the run where
    no verdict came since; a sample that the run did not flag may be among them, with where its
    score alone would put it as a reason, unless the run promised a rate for what it flagged. Ranks
    count from 1 anew. Where near-duplicates count once they do here, too, also those of what was
    judged.
    """
    flags = {flag.sample_id: flag for flag in read_flags(catalog, run_id)}
    of_pool = (ds.field("run_id") == run_id) & ~ds.field("of_reference")
    table = catalog.scores.read(where=of_pool)
    rows = snapshot.sample_ids.rows(table["sample_id"].to_pylist())
    table, rows = table.filter(rows >= 0), rows[rows >= 0]
    ids, score = table["sample_id"].to_pylist(), table["score"].to_numpy()
    reviewed = snapshot.sample_ids.rows(list(verdicts))
    labels = [
        given.label for given, row in zip(verdicts.values(), reviewed, strict=True) if row >= 0
    ]
    judged = snapshot.read(reviewed[reviewed >= 0])
    vectors = snapshot.read(rows)
    worth = rerank(score, vectors, judged, labels)
    kinds, copies = table["kind"].to_pylist(), table["duplicate_of"].is_valid().to_numpy()
    promised = notes.read(catalog.run(run_id)).promised
    is_open = (score > 0) & ~copies
    is_open &= np.array(
        [
            sample_id not in verdicts
            and (kind == "outlier" if promised else kind != "capture_fault")
            for sample_id, kind in zip(ids, kinds, strict=True)
        ],
        dtype=bool,
    )
    count = kinds.count("outlier")
    apart = runs.read_json(catalog.run(run_id) / runs.MINE).get("policy", {}).get("apart")
    if apart:
        is_open &= ~copies_of(vectors, judged, apart)
    places = np.flatnonzero(is_open)
    places = places[np.argsort(-worth[places], kind="stable")]
    places = one_of_each(vectors, places, count, apart)[0] if apart else places[:count]
    outliers = [
        flags.get(ids[place]) or _promoted(table.slice(place, 1).to_pylist()[0], score)
        for place in places
    ]
    faults = [
        flag
        for flag in flags.values()
        if flag.kind == "capture_fault" and flag.sample_id not in verdicts
    ]
    return [replace(flag, rank=rank) for rank, flag in enumerate([*outliers, *faults], start=1)]


def _promoted(row: dict[str, Any], score: Floats) -> Flag:
    """The flag of a sample that only the verdicts bring this far up."""
    place = 1 + int((score > row["score"]).sum())
    z: dict[str, Floats] = {
        level: np.array([row[f"z_{level}"]], dtype=np.float64) for level in LEVELS
    }
    why = [f"moved up by verdicts, from place {place:,}", *reasons.level_reasons(z, 0)]
    return arrow.flag_from_row(row | {"kind": "outlier", "rank": 0, "reasons": why})
