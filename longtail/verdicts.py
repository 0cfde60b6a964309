"""The log of verdicts: what people said of samples, appended and never changed.

SQLite (`reviews.db` of a workspace) or, for a team, any database that SQLAlchemy reaches. The log's
order is that of appending, not of the reviewers' clocks: the last verdict appended for a sample is
the one that counts. Forgetting a sample erases what was said of it.
"""

from __future__ import annotations

import getpass
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Dialect, make_url
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateIndex, CreateTable

from schemas.errors import CorruptionError, SettingsError, UsageError, WorkspaceError
from schemas.records import VERDICT_LABELS, Verdict, VerdictLabel

_BUSY_SECONDS = 30.0
_IDS_PER_QUERY = 10_000  # SQLite takes 32,766 parameters


class _UtcTime(sa.types.TypeDecorator[datetime]):
    """An aware time, stored in UTC in a column without a time zone (SQLite knows none)."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.replace(tzinfo=UTC)


_verdicts = sa.Table(
    "verdicts",
    sa.MetaData(),
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("sample_id", sa.String(64), nullable=False),
    sa.Column("label", sa.String(16), nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("reviewer", sa.Text, nullable=False),
    sa.Column("at", _UtcTime, nullable=False),
    sa.Column("run_id", sa.Text),
    sqlite_autoincrement=True,  # never gives an id twice
)
_by_sample = sa.Index("verdicts_by_sample", _verdicts.c.sample_id, _verdicts.c.id)
_fields = [column for column in _verdicts.c if column.name != "id"]


class VerdictLog:
    """An append-only log of verdicts at a database URL; safe to share by threads and processes.

    The tables are created on first use. Each call opens a connection and closes it, so that there
    is nothing to close and nothing that a fork could share.

    Raises SettingsError for an unusable URL, WorkspaceError where the database cannot be reached,
    CorruptionError where it is damaged.
    """

    def __init__(self, url: str | URL) -> None:
        try:
            self._url = make_url(url)
        except sa.exc.ArgumentError as error:
            raise SettingsError(
                f"'{url}' is not a database URL; take sqlite:///reviews.db"
            ) from error
        self._where = self._url.render_as_string(hide_password=True)
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        try:
            self._engine = sa.create_engine(
                self._url,
                poolclass=NullPool,
                connect_args={"timeout": _BUSY_SECONDS} if self._is_sqlite else {},
            )
        except (sa.exc.ArgumentError, ImportError) as error:
            reason = str(error).splitlines()[0]
            raise SettingsError(
                f"database '{self._where}' cannot be used: {reason}; "
                "install its driver, or take sqlite:///reviews.db"
            ) from error
        self._created = False

    @classmethod
    def at(cls, path: Path) -> VerdictLog:
        """The log in the SQLite file `path`."""
        return cls(URL.create("sqlite", database=str(path)))

    def append(self, verdicts: Iterable[Verdict]) -> int:
        """Appends all of `verdicts` or, on an error, none; returns how many.

        Raises UsageError for an unknown label, ValueError for a time without a time zone.
        """
        rows = [_row(verdict) for verdict in verdicts]
        if rows:
            with self._transaction() as connection:
                connection.execute(sa.insert(_verdicts), rows)
        return len(rows)

    def latest(self, sample_ids: Collection[str] | None = None) -> dict[str, Verdict]:
        """The verdict that counts of each sample, by sample id in the log's order.

        Of `sample_ids` only those that have a verdict; None asks for all of the log.
        """
        with self._transaction() as connection:
            if sample_ids is None:
                return _by_id(connection.execute(_latest()))
            ids = list(sample_ids)
            found: dict[str, Verdict] = {}
            for start in range(0, len(ids), _IDS_PER_QUERY):
                some = ids[start : start + _IDS_PER_QUERY]
                found |= _by_id(connection.execute(_latest(some)))
            return found

    def erase(self, sample_ids: Collection[str]) -> None:
        """Remove all that was said of these samples; SQLite overwrites it in its file."""
        ids = list(sample_ids)
        with self._transaction() as connection:
            if self._is_sqlite:
                connection.exec_driver_sql("PRAGMA secure_delete=ON")
            for start in range(0, len(ids), _IDS_PER_QUERY):
                some = ids[start : start + _IDS_PER_QUERY]
                connection.execute(sa.delete(_verdicts).where(_verdicts.c.sample_id.in_(some)))

    def history(self, sample_id: str) -> list[Verdict]:
        """Every verdict on one sample, oldest first."""
        query = sa.select(*_fields).where(_verdicts.c.sample_id == sample_id)
        with self._transaction() as connection:
            return [_verdict(row) for row in connection.execute(query.order_by(_verdicts.c.id))]

    def last(self) -> int:
        """The number of the last verdict appended, 0 before any: it grows with the log."""
        with self._transaction() as connection:
            return int(connection.scalar(sa.select(sa.func.max(_verdicts.c.id))) or 0)

    def counts(self) -> dict[VerdictLabel, int]:
        """How many samples each label counts for now; all labels are there."""
        newest = _latest().subquery()
        query = sa.select(newest.c.label, sa.func.count()).group_by(newest.c.label)
        with self._transaction() as connection:
            found = {row[0]: int(row[1]) for row in connection.execute(query)}
        return {label: found.get(label, 0) for label in VERDICT_LABELS}

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                if not self._created:
                    self._create(connection)
                yield connection
        except sa.exc.OperationalError as error:
            raise WorkspaceError(
                f"verdicts at '{self._where}' cannot be reached: {error.orig}"
            ) from error
        except sa.exc.DatabaseError as error:
            raise CorruptionError(
                f"verdicts at '{self._where}' cannot be read ({error.orig}); "
                "restore them from a backup"
            ) from error
        self._created = True

    def _create(self, connection: Connection) -> None:
        if self._is_sqlite:  # readers and a writer do not block each other
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.execute(CreateTable(_verdicts, if_not_exists=True))
        connection.execute(CreateIndex(_by_sample, if_not_exists=True))


def _latest(sample_ids: list[str] | None = None) -> sa.Select[Any]:
    newest = sa.select(sa.func.max(_verdicts.c.id)).group_by(_verdicts.c.sample_id)
    if sample_ids is not None:
        newest = newest.where(_verdicts.c.sample_id.in_(sample_ids))
    return sa.select(*_fields).where(_verdicts.c.id.in_(newest)).order_by(_verdicts.c.id)


def _row(verdict: Verdict) -> Mapping[str, object]:
    if verdict.label not in VERDICT_LABELS:
        raise UsageError(
            f"'{verdict.label}' is not a verdict; take one of {', '.join(VERDICT_LABELS)}"
        )
    if verdict.at.utcoffset() is None:
        raise ValueError(f"the verdict's time {verdict.at} has no time zone")
    values = {column.name: getattr(verdict, column.name) for column in _fields}
    return values | {"tags": list(verdict.tags)}


def _verdict(row: sa.Row[Any]) -> Verdict:
    return Verdict(**row._asdict() | {"tags": tuple(row.tags)})


def _by_id(rows: Iterable[sa.Row[Any]]) -> dict[str, Verdict]:
    return {verdict.sample_id: verdict for verdict in map(_verdict, rows)}


def this_user() -> str:
    """Who says so where nobody is named. Raises UsageError for a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # as in a container that runs under a number of its own
        raise UsageError("this user has no name here; pass --reviewer NAME") from None
