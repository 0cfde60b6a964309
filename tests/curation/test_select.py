"""Verdicts decide; flags that nobody has judged fill up; nothing joins twice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from curation.select import select
from schemas.records import Flag, FlagKind, Verdict, VerdictLabel


def flag(rank: int, kind: FlagKind = "outlier") -> Flag:
    return Flag(rank, kind, f"s{rank}", f"{rank}.png", "", 1.0, None, "high", None, (), (), "run")


def verdicts(**labels: VerdictLabel) -> dict[str, Verdict]:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    return {key: Verdict(key, label, (), "", "ada", now) for key, label in labels.items()}


FLAGS = [*(flag(rank) for rank in range(1, 6)), flag(6, "capture_fault")]


def ids(selections: Sequence[object]) -> list[str]:
    return [selection.sample_id for selection in selections]  # type: ignore[attr-defined]


def test_edge_cases_are_selected_with_their_flags() -> None:
    judged = verdicts(s4="edge_case", s2="normal", elsewhere="edge_case", s6="junk")
    first, second = select(judged, FLAGS)
    assert (first.sample_id, first.verdict, first.flag) == ("s4", judged["s4"], FLAGS[3])
    assert (second.sample_id, second.flag) == ("elsewhere", None)


def test_other_verdicts_on_request() -> None:
    judged = verdicts(s1="edge_case", s2="normal", s6="junk")
    assert ids(select(judged, FLAGS, labels=["junk", "normal"])) == ["s2", "s6"]


def test_top_flags_join_where_nobody_has_judged() -> None:
    judged = verdicts(s1="normal", s3="edge_case")
    chosen = select(judged, reversed(FLAGS), top=4)
    assert ids(chosen) == ["s3", "s2", "s4"]
    assert [entry.verdict and entry.verdict.label for entry in chosen] == ["edge_case", None, None]


def test_a_capture_fault_joins_by_a_verdict_only() -> None:
    assert ids(select({}, FLAGS, top=100)) == ["s1", "s2", "s3", "s4", "s5"]
    assert "s6" in ids(select(verdicts(s6="edge_case"), FLAGS, top=100))


def test_the_same_call_twice_selects_nothing_new() -> None:
    judged = verdicts(s5="edge_case")
    once = ids(select(judged, FLAGS, top=3))
    assert once == ["s5", "s1", "s2", "s3"]
    assert select(judged, FLAGS, top=3, existing=once) == []
    assert ids(select(judged, FLAGS, top=4, existing=once)) == ["s4"]
