"""Write, audit, publish: the end of every job.

Workers stage Parquet files in which no reader looks and pass on only their names. The last step of
the job, one element, audits all of them and commits them, table by table, in an order that makes a
crash in between harmless: what was committed is known to the next run, the rest is done again. A
runner may try that step again: it removes nothing, and a commit is made once by its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from schemas.audit import Audit, Outcome
from schemas.tables import DataFile, GrowingFile, Table

VALIDATION = "validation.json"
REFUSED = "refused.json"
_BYTES_PER_FILE = 256 * 2**20
# A worker holds at most this much of each table in memory.
_BYTES_PER_GROUP = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Staged:
    """A staged file and the table that it is for: all that crosses a shuffle."""

    table: str
    file: DataFile


@dataclass
class Stage:
    """Writes rows for a table as they come, row group by row group, into files of a good size."""

    name: str
    table: Table
    rows_per_group: int = 4096
    _rows: list[pa.Table] = field(default_factory=list)
    _bytes: int = 0
    _file: GrowingFile | None = None

    def add(self, rows: pa.Table) -> Iterator[Staged]:
        """Take rows; gives the file that this filled."""
        if rows.num_rows:
            self._rows.append(rows)
            self._bytes += rows.nbytes
        held = sum(part.num_rows for part in self._rows)
        if held >= self.rows_per_group or self._bytes >= _BYTES_PER_GROUP:
            self._write()
        if self._file is not None and self._file.bytes >= _BYTES_PER_FILE:
            yield from self.finish()

    def finish(self) -> Iterator[Staged]:
        """Stage what is left."""
        if self._rows:
            self._write()
        if self._file is not None:
            file, self._file = self._file.close(), None
            yield Staged(self.name, file)

    def _write(self) -> None:
        self._file = self._file or GrowingFile(self.table)
        self._file.write(pa.concat_tables(self._rows))
        self._rows, self._bytes = [], 0


def of_table(staged: Sequence[Staged], name: str) -> list[DataFile]:
    """The files that are for one table."""
    return [item.file for item in staged if item.table == name]


def drop_repeats(table: Table, files: Sequence[DataFile], *key: str) -> list[DataFile]:
    """Rewrite the files that hold a `key` which an earlier row holds too, without those rows.

    Two workers that met the same content at the same time both staged it; only here is it seen.
    The old files stay, so that this can be done again, and go at a later vacuum.
    """
    taken: set[tuple[object, ...]] = set()
    kept: list[DataFile] = []
    for file in files:
        fresh = []
        for row in zip(*table.stream([file], key).read_all().to_pydict().values(), strict=True):
            fresh.append(row not in taken)
            taken.add(row)
        if all(fresh):
            kept.append(file)
            continue
        if any(fresh):
            kept.append(table.stage(table.stream([file]).read_all().filter(pa.array(fresh))))
    return kept


def rows(files: Sequence[DataFile]) -> int:
    """How many rows the files hold."""
    return sum(file.rows for file in files)


def record_audit(folder: Path, audit: Audit) -> None:
    """Add an audit to the run's validation.json, made on first use."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / VALIDATION
    audits = json.loads(path.read_text()) if path.exists() else []
    audits = [entry for entry in audits if entry["suite"] != audit.suite]
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps([*audits, audit.to_json()], indent=2) + "\n")
    temporary.replace(path)


def record_refusals(folder: Path, refused: Mapping[str, Sequence[str]]) -> None:
    """Keep what a run refused, by reason, where its audit failed and no table will tell."""
    (folder / REFUSED).write_text(json.dumps(refused, indent=2) + "\n")


def explain_refusals(folder: Path) -> str:
    """Such as "19 not_an_image (photos/a.jpg, ...)", most first; empty where none is kept."""
    path = folder / REFUSED
    refused = json.loads(path.read_text()) if path.exists() else {}
    return "; ".join(
        f"{len(uris):,} {reason} ({uris[0]}{', ...' if len(uris) > 1 else ''})"
        for reason, uris in sorted(refused.items(), key=lambda item: -len(item[1]))
    )


def read_audits(folder: Path) -> list[Audit]:
    """The audits of a run; none for a run that committed nothing."""
    path = folder / VALIDATION
    entries = json.loads(path.read_text()) if path.exists() else []
    return [
        Audit(entry["suite"], entry["rows"], tuple(Outcome(**o) for o in entry["outcomes"]))
        for entry in entries
    ]
