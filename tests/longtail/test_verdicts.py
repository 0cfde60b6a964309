"""The log keeps everything, in order, from many writers; the latest verdict counts."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from longtail.verdicts import VerdictLog
from schemas.errors import CorruptionError, SettingsError, UsageError, WorkspaceError
from schemas.records import Verdict

NOW = datetime(2026, 3, 4, 12, 30, 15, 678_901, tzinfo=UTC)


def verdict(sample_id: str, label: str = "edge_case", **fields: object) -> Verdict:
    base = Verdict(sample_id, "edge_case", ("crack", "Zürich"), "left cell", "ada", NOW, "run-1")
    return replace(base, label=label, **fields)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "odd ?name#100%.db"


@pytest.fixture
def log(path: Path) -> VerdictLog:
    return VerdictLog.at(path)


def test_a_verdict_comes_back_as_it_was_given(log: VerdictLog, path: Path) -> None:
    given = [verdict("a"), verdict("b", tags=(), note="", run_id=None)]
    assert log.append(given) == 2
    assert path.is_file()
    assert list(VerdictLog.at(path).latest().values()) == given


def test_an_empty_log_answers(log: VerdictLog) -> None:
    assert log.append([]) == 0
    assert log.latest() == {}
    assert log.history("a") == []
    assert log.counts() == {"edge_case": 0, "normal": 0, "junk": 0, "duplicate": 0}


def test_the_last_appended_counts_whatever_the_clocks_say(log: VerdictLog) -> None:
    log.append([verdict("a"), verdict("b", "junk"), verdict("a", "normal")])
    log.append([verdict("a", "duplicate", at=NOW - timedelta(days=1))])
    assert {key: value.label for key, value in log.latest().items()} == {
        "b": "junk",
        "a": "duplicate",
    }
    assert [entry.label for entry in log.history("a")] == ["edge_case", "normal", "duplicate"]
    assert log.counts() == {"edge_case": 0, "normal": 0, "junk": 1, "duplicate": 1}


def test_latest_of_more_samples_than_a_query_takes(log: VerdictLog) -> None:
    ids = [f"{number:064x}" for number in range(25_000)]
    log.append(map(verdict, ids))
    assert len(log.latest(ids)) == 25_000
    assert list(log.latest({ids[7], "unknown"})) == [ids[7]]


def test_times_come_back_in_utc(log: VerdictLog) -> None:
    tokyo = timezone(timedelta(hours=9))
    log.append([verdict("a", at=NOW.astimezone(tokyo))])
    at = log.latest()["a"].at
    assert at == NOW
    assert at.tzinfo is UTC


def test_a_time_without_a_zone_is_refused_and_nothing_is_kept(log: VerdictLog) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        log.append([verdict("a"), verdict("b", at=NOW.replace(tzinfo=None))])
    assert log.latest() == {}


def test_an_unknown_label_is_refused_with_those_that_are_known(log: VerdictLog) -> None:
    with pytest.raises(UsageError, match="'weird' is not a verdict; take one of edge_case, normal"):
        log.append([verdict("a"), verdict("b", "weird")])
    assert log.latest() == {}


def append_some(path: Path, writer: int) -> Sequence[str]:
    log = VerdictLog.at(path)
    ids = [f"{writer}-{number}" for number in range(20)]
    for sample_id in ids:
        log.append([verdict(sample_id)])
    return ids


def test_many_processes_create_and_append_at_once(path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(6, mp_context=spawn) as pool:
        written = pool.map(append_some, [path] * 6, range(6))
        expected = {sample_id for ids in written for sample_id in ids}
    assert set(VerdictLog.at(path).latest()) == expected
    assert len(expected) == 120


def test_a_long_reader_holds_up_no_writer(log: VerdictLog, path: Path) -> None:
    log.append([verdict("a")])
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        seen = reader.execute("SELECT sample_id FROM verdicts")
        log.append([verdict("b")])
        assert seen.fetchall() == [("a",)]
    assert list(log.latest()) == ["a", "b"]


def test_a_missing_folder_and_a_foreign_file_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        WorkspaceError, match=r"none/reviews\.db' cannot be reached: unable to open"
    ):
        VerdictLog.at(tmp_path / "none" / "reviews.db").latest()
    foreign = tmp_path / "reviews.db"
    foreign.write_bytes(b"not a database, but long enough to be looked at" * 20)
    with pytest.raises(CorruptionError, match=r"reviews\.db' cannot be read \(file is not a data"):
        VerdictLog.at(foreign).latest()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "'nonsense' is not a database URL; take sqlite:///reviews.db"),
        ("nodriver://host/db", "database 'nodriver://host/db' cannot be used: .*nodriver"),
        ("postgresql+pg0://ada:secret@h/db", r"'postgresql\+pg0://ada:\*\*\*@h/db' cannot be used"),
        ("sqlite://ada:secret@/reviews.db", r"'sqlite://ada:\*\*\*@/reviews.db' cannot be used"),
    ],
)
def test_an_unusable_url_is_a_setting_to_mend(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        VerdictLog(url)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)
