"""What a mining run has to say beside its scores, in runs/<run_id>/notes.json.

notes: one line each: a promise that is kept or withdrawn, a source that has shifted.
moved: how many outliers owe their place to verdicts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from detectors.mining import Findings

NOTES = "notes.json"


@dataclass(frozen=True, slots=True)
class Notes:
    """The content of notes.json; empty for a run that mined nothing."""

    notes: tuple[str, ...] = ()
    moved: int = 0


def of_findings(findings: Findings) -> Notes:
    """What the findings of a pool have to say."""
    return Notes(tuple(findings.notes), findings.moved)


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
    return Notes(tuple(content["notes"]), content["moved"])
