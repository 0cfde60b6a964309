"""Gathers what a report shows from the tables and the run's folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from longtail import runs, triggers
from longtail.flags import alike, read_flags
from longtail.report.data import (
    MOST_ALIKE,
    Card,
    Histogram,
    LevelSpread,
    Matched,
    Matches,
    Rejected,
    ReportData,
    Share,
    Stage,
)
from longtail.report.render import render
from longtail.thumbnails import thumbnails
from pipelines import notes
from pipelines.publish import read_audits
from schemas.catalog import Catalog
from schemas.records import LEVELS, Neighbour

MOST_CARDS = 60
MOST_FAULT_CARDS = 18
MOST_SOURCES = 8
MOST_MATCHES = 12
"""What bounds a report's size: 1 MB with 4 thumbnails a card, and 3 KB for each alike flag or match
of a trigger."""

_EXAMPLES = 3
_STEPS = {"ingest": "ingested", "index": "indexed", "mine": "mined"}
_PARTS = ("read", "decode", "encode")
_DEVIATIONS = (-4.0, 12.0)


def write_report(path: Path, catalog: Catalog, run_id: str) -> None:
    """Writes the report of a mining run to `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(render(collect(catalog, run_id)), "utf-8")
    temporary.replace(path)


def collect(catalog: Catalog, run_id: str) -> ReportData:
    """Reads what the run `run_id` found, did and refused."""
    folder = catalog.run(run_id)
    metrics, mined = runs.metrics(catalog, run_id), runs.read_json(folder / runs.MINE)
    columns = [
        "encoder",
        "of_reference",
        "kind",
        "rank",
        "score",
        "level",
        "source",
        *(f"z_{level}" for level in LEVELS),
    ]
    scores = catalog.scores.read(columns, ds.field("run_id") == run_id)
    encoder = scores["encoder"][0].as_py()
    scores = scores.filter(pc.invert(scores["of_reference"]))
    flags = read_flags(catalog, run_id)
    outliers = [flag for flag in flags if flag.kind == "outlier"]
    faults = [flag for flag in flags if flag.kind == "capture_fault"]
    near = _confirmed(catalog, run_id)
    cards = tuple(Card.of(one, near) for one in alike(outliers)[:MOST_CARDS])
    fault_cards = tuple(Card.of(one, near) for one in alike(faults)[:MOST_FAULT_CARDS])
    matches = _matches(catalog, run_id, encoder, {flag.sample_id for flag in flags})
    # A run may be killed after it published its scores and before it wrote its metrics.
    summary = metrics.get("summary", {})
    return ReportData(
        run_id=run_id,
        started_at=runs.started_at(run_id),
        seconds=summary.get("seconds"),
        command=metrics.get("command", "mine"),
        inputs=tuple(metrics.get("inputs", ())),
        settings=_settings(encoder, mined),
        notes=(
            *notes.read(folder).notes,
            *triggers.told(catalog, run_id, [flag.sample_id for flag in flags], since=True),
        ),
        samples=scores.num_rows,
        ingested=summary.get("ingested", 0),
        skipped=summary.get("skipped", 0),
        rejected=summary.get("rejected", 0),
        outliers=len(outliers),
        capture_faults=len(faults),
        stages=_stages(metrics, scores.num_rows),
        rejects=_rejects(catalog, run_id),
        audits=tuple(read_audits(folder)),
        scores=_score_histogram(scores),
        levels=_levels(scores),
        sources=_sources(scores),
        cards=cards,
        fault_cards=fault_cards,
        matches=matches,
        thumbnails=thumbnails(catalog, encoder, _pictured([*cards, *fault_cards], matches)),
    )


def _settings(encoder: str, mined: Mapping[str, Any]) -> dict[str, str]:
    settings = {"encoder": encoder}
    if mined:  # else the run's folder was removed, or never came
        settings["index snapshot"] = str(mined["snapshot"])
        settings |= {
            name.replace("_", " "): str(value)
            for name, value in mined["policy"].items()
            if value is not None
        }
    return settings


def _stages(metrics: Mapping[str, Any], mined: int) -> tuple[Stage, ...]:
    """Each job that did something; under ingest, what its workers spent their time on."""
    counters = {"mined": mined, **metrics.get("counters", {})}
    stages: list[Stage] = []
    for job, seconds in metrics.get("seconds", {}).items():
        images = counters.get(_STEPS.get(job, job), 0)
        if not images:
            continue
        stages.append(Stage(job, images, seconds))
        if job == "ingest":
            stages += [
                Stage(part, images, counters[f"{part}_us"] / 1e6, parallel=True)
                for part in _PARTS
                if counters.get(f"{part}_us")
            ]
    return tuple(stages)


def _rejects(catalog: Catalog, run_id: str) -> tuple[Rejected, ...]:
    table = catalog.rejects.read(["reason", "uri"], ds.field("run_id") == run_id)
    rejected = []
    for count in pc.value_counts(table["reason"]).to_pylist():
        uris = table.filter(pc.equal(table["reason"], count["values"]))["uri"]
        shown = 0 if count["values"] == "forgotten" else _EXAMPLES
        examples = tuple(uris.slice(0, shown).to_pylist())
        rejected.append(Rejected(count["values"], count["counts"], examples))
    return tuple(sorted(rejected, key=lambda entry: -entry.count))


def _score_histogram(scores: pa.Table) -> Histogram:
    outlier = pc.fill_null(pc.equal(scores["kind"], "outlier"), False).to_numpy()
    values = scores["score"].to_numpy()
    low, high = _bounds(values)
    cut = None
    if outlier.any() and values[outlier].min() >= values[~outlier].max(initial=-np.inf):
        cut = float(values[outlier].min())  # else verdicts or near-duplicates had their say
    return Histogram.of(values, outlier, low=low, high=high, cut=cut)


def _bounds(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """From 0 to 1 for a score that is a share, else whole numbers around them all."""
    if not len(values) or (values.min() >= 0 and values.max() <= 1):
        return 0.0, 1.0
    return float(np.floor(values.min())), float(np.ceil(values.max()))


def _levels(scores: pa.Table) -> tuple[LevelSpread, ...]:
    flagged = scores["rank"].is_valid().to_numpy()
    strangest = scores.filter(pa.array(flagged))["level"].to_pylist()
    low, high = _DEVIATIONS
    return tuple(
        LevelSpread(
            level,
            strangest.count(level),
            Histogram.of(scores[f"z_{level}"].to_numpy(), flagged, low=low, high=high, bins=48),
        )
        for level in LEVELS
    )


def _sources(scores: pa.Table) -> tuple[Share, ...]:
    """Samples and flags by source, most flags first; what is past the bound as one."""
    counts = scores.group_by("source").aggregate([("source", "count"), ("rank", "count")])
    shares = sorted(
        (
            Share(row["source"] or "(no source)", row["rank_count"], row["source_count"])
            for row in counts.to_pylist()
        ),
        key=lambda share: (-share.flags, share.name),
    )
    shown, rest = shares[:MOST_SOURCES], shares[MOST_SOURCES:]
    if rest:
        flags, samples = sum(s.flags for s in rest), sum(s.samples for s in rest)
        shown.append(Share(f"{len(rest):,} more sources", flags, samples))
    return tuple(shown)


def _matches(
    catalog: Catalog, run_id: str, encoder: str, flagged: Collection[str]
) -> tuple[Matches, ...]:
    """What is new to each trigger since the run began: the report is of the newest one."""
    found = triggers.new_matches(catalog, run_id, since=True)
    shown = {name: new[:MOST_MATCHES] for name, new in found.items()}
    wanted = pa.array([one for some in shown.values() for one in some], pa.string())
    where = ds.field("sample_id").isin(wanted) & (ds.field("encoder") == encoder)
    rows = catalog.samples.read(["sample_id", "uri"], where)
    uris = dict(zip(rows["sample_id"].to_pylist(), rows["uri"].to_pylist(), strict=True))
    return tuple(
        Matches(
            name,
            len(new),
            tuple(Matched(one, uris[one], one in flagged) for one in shown[name] if one in uris),
        )
        for name, new in found.items()
    )


def _confirmed(catalog: Catalog, run_id: str) -> dict[str, Neighbour]:
    """The confirmed edge case that is nearer to a flag than any normal sample, by the flag's id."""
    has_one = (ds.field("run_id") == run_id) & ds.field("confirmed").is_valid()
    rows = catalog.scores.read(["sample_id", "confirmed"], has_one).to_pylist()
    return {row["sample_id"]: Neighbour(**row["confirmed"]) for row in rows}


def _pictured(cards: Iterable[Card], matches: Iterable[Matches]) -> set[str]:
    ids = {match.sample_id for each in matches for match in each.shown}
    for card in cards:
        ids |= {card.flag.sample_id, *(near.sample_id for near in card.flag.nearest)}
        ids |= {flag.sample_id for flag in card.others[:MOST_ALIKE]}
        if card.confirmed:
            ids.add(card.confirmed.sample_id)
    return ids
