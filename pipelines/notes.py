"""What a mining run has to say beside its scores, in runs/<run_id>/notes.json.

notes: one line each: a promise that is kept or withdrawn, a source that has shifted.
promised: whether the outliers are all that is proven at a rate, so that none can stand in for one.
moved: how many outliers owe their place to verdicts.
encoder: whose samples were mined.
reference: what the pool was held against, in the words of the settings, empty for nothing.
fit: the samples of that reference and how they were fitted and scored; what differs in this cannot
be compared. strangeness: of the samples that were new to it, in the newest run that had any.
shifts: the sources that have shifted, and the run that first said so of each.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from detectors.drift import Strangeness
from detectors.findings import OUTLIER, Findings, Reviews
from detectors.shift import Shift

NOTES = "notes.json"
NAMED = 5
"""So many samples are named in one line."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notes:
    """The content of notes.json; empty for a run that mined nothing."""

    notes: tuple[str, ...] = ()
    promised: bool = False
    moved: int = 0
    encoder: str = ""
    reference: str = ""
    fit: str = ""
    strangeness: Strangeness | None = None
    shifts: Mapping[str, str] = field(default_factory=dict)


def _still(shift: Shift) -> str:
    out = f"{shift.deviations:.1f} robust deviations out at the {shift.level} level"
    if shift.of:
        return f"the newest {shift.samples} of source '{shift.source}' still lie {out}, as run"
    return f"source '{shift.source}' still lies {out}, as run"


@dataclass(frozen=True, slots=True)
class Drift:
    """The samples that are new since the run before on the reference, beside those of it."""

    reference: str
    now: Strangeness
    before: Strangeness | None

    @property
    def note(self) -> str:
        """One line for people."""
        return f"by reference {self.reference}, {self.now.against(self.before)}"


def of_findings(
    findings: Findings,
    run_id: str,
    before: Notes,
    encoder: str,
    reference: str = "",
    fit: str = "",
    drift: Drift | None = None,
    reviews: Reviews | None = None,
) -> Notes:
    """What the findings of a pool have to say.

    before: the notes of the encoder's run before on a reference of the same words, so that a shift
    is news once. reviews: the verdicts that the outliers were ranked by.
    """
    said = {shift.source: before.shifts.get(shift.source, run_id) for shift in findings.shifts}
    shifts = [
        str(shift) if said[shift.source] == run_id else f"{_still(shift)} {said[shift.source]} said"
        for shift in findings.shifts
    ]
    notes = [*([drift.note] if drift else []), *shifts, *findings.notes]
    if not len(findings.score):
        notes.append("the reference holds every sample, so that nothing is left to flag")
    strangeness = None
    if drift is not None:
        strangeness = drift.now if drift.now.samples else drift.before
    outliers = findings.kinds.count(OUTLIER)
    if reviews is not None and outliers:
        notes.append(
            f"{findings.moved:,} of {outliers:,} outliers owe their place to "
            f"{len(reviews.sample_ids):,} verdicts"
        )
    return Notes(
        notes=tuple(notes),
        promised=findings.promised,
        moved=findings.moved,
        encoder=encoder,
        reference=reference,
        fit=fit,
        strangeness=strangeness,
        shifts=said,
    )


def with_strange(notes: Notes, run_id: str, sample_ids: Sequence[str]) -> Notes:
    """The notes, with these samples that contaminate the reference, the strangest first.

    All are in the run's log, in full. A dataset is as it is; from others, what is judged leaves.
    """
    if not sample_ids:
        return notes
    _log.warning("the reference is contaminated by %s", " ".join(sample_ids))
    more, shown = len(sample_ids) - NAMED, [sample_id[:12] for sample_id in sample_ids[:NAMED]]
    rest = f" and {more:,} more, all named in runs/{run_id}/log.jsonl" if more > 0 else ""
    way = (
        "verdicts leave a dataset as it is, so take another reference"
        if notes.reference.startswith("dataset:")
        else f"if it is so: longtail verdict {shown[0]} edge_case"
    )
    line = f"strange in the reference: {', '.join(shown)}{rest}; {way}"
    return replace(notes, notes=(*notes.notes, line))


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
    found = content["strangeness"]
    return Notes(
        notes=tuple(content["notes"]),
        promised=content["promised"],
        moved=content["moved"],
        encoder=content.get("encoder", ""),
        reference=content["reference"],
        fit=content.get("fit", ""),
        strangeness=found and Strangeness(found["samples"], tuple(found["above"])),
        shifts=content["shifts"],
    )
