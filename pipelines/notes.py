"""What a mining run has to say beside its scores, in runs/<run_id>/notes.json.

notes: one line each: a promise that is kept or withdrawn, a source that has shifted.
moved: how many outliers owe their place to verdicts.
groups: alike flags, by the number that the scores table gives them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from detectors.mining import Findings
from detectors.pool import Pool

NOTES = "notes.json"


@dataclass(frozen=True, slots=True)
class FlagGroup:
    """Alike flags. medoid: id of the sample nearest to all others, at a mean distance `spread`."""

    medoid: str
    size: int
    spread: float


@dataclass(frozen=True, slots=True)
class Notes:
    """The content of notes.json; empty for a run that mined nothing."""

    notes: tuple[str, ...] = ()
    moved: int = 0
    groups: tuple[FlagGroup, ...] = ()


def of_findings(findings: Findings, pool: Pool) -> Notes:
    """What the findings of a pool have to say."""
    groups = [
        FlagGroup(pool.sample_ids[findings.flagged[group.medoid]], group.size, group.spread)
        for group in findings.groups
    ]
    return Notes(tuple(findings.notes), findings.moved, tuple(groups))


def record(folder: Path, notes: Notes) -> None:
    """Write a run's notes whole or not at all."""
    temporary = (folder / NOTES).with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(notes), indent=2) + "\n", "utf-8")
    temporary.replace(folder / NOTES)


def read(folder: Path) -> Notes:
    """The notes of a run."""
    if not (folder / NOTES).exists():
        return Notes()
    content = json.loads((folder / NOTES).read_text("utf-8"))
    groups = tuple(FlagGroup(**group) for group in content["groups"])
    return Notes(tuple(content["notes"]), content["moved"], groups)
