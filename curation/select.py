"""Which samples join a dataset: those with the chosen verdicts, and top flags nobody has judged."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from schemas.records import Flag, Verdict, VerdictLabel

EDGE_CASES: tuple[VerdictLabel, ...] = ("edge_case",)


@dataclass(frozen=True, slots=True)
class Selection:
    """One sample to curate, and why: the verdict that counts, or the flag, or both."""

    sample_id: str
    verdict: Verdict | None
    flag: Flag | None


def select(
    verdicts: Mapping[str, Verdict],
    flags: Iterable[Flag],
    *,
    labels: Collection[VerdictLabel] = EDGE_CASES,
    top: int = 0,
    existing: Collection[str] = (),
) -> list[Selection]:
    """Selects the samples that a dataset lacks.

    verdicts: the latest of each sample, by sample id.
    flags: of one mining run, best first; they say why a sample was looked at.
    labels: the verdicts to take; no sample with another verdict is selected.
    top: also takes, of the `top` first outliers, those without a verdict. Flags taken already
        keep their places, so that the same call twice selects nothing new. Capture faults tell of
        the camera, not of the world, and join a dataset by a verdict only.
    existing: ids of the samples that the dataset holds.

    Returns them ordered: judged ones by verdict, then unjudged flags by rank.
    """
    known = frozenset(existing)
    by_id = {flag.sample_id: flag for flag in flags}
    judged = [
        Selection(sample_id, verdict, by_id.get(sample_id))
        for sample_id, verdict in verdicts.items()
        if verdict.label in labels
    ]
    outliers = sorted(
        (flag for flag in by_id.values() if flag.kind == "outlier"), key=lambda flag: flag.rank
    )
    unjudged = [
        Selection(flag.sample_id, None, flag)
        for flag in outliers[:top]
        if flag.sample_id not in verdicts
    ]
    return [chosen for chosen in judged + unjudged if chosen.sample_id not in known]
