"""Delta tables: stage files where no reader looks, commit them once, read as of a version.

The one place that touches Delta. A staged file lies in the table's folder but in no commit, so no
reader sees it; `Table.commit` names all of them in one atomic log entry. What a crash leaves
behind is in no commit either, and goes at a later `Table.vacuum`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from schemas.errors import NotFoundError

# A dataset made from the bounds of some columns drops rows with nulls.
_NO_BOUNDS = {"delta.dataSkippingNumIndexedCols": "0"}
_ORPHANS_KEPT_HOURS = 7 * 24
# Of what is streamed; Arrow's own 65,536 rows with their pictures would be hundreds of megabytes.
_ROWS_PER_BATCH = 1024
_ROWS_PER_GROUP = 4096

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DataFile:
    """A Parquet file in a table's folder, staged or committed; `path` is relative to the folder."""

    path: str
    rows: int
    bytes: int
    partition: str | None = None


class GrowingFile:
    """A staged file that is still being written: `write` adds a row group, `close` ends it.

    Left unclosed, by a crash say, it is in no commit, and goes at a later `Table.vacuum`.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._writer: pq.ParquetWriter | None = None
        self._file = DataFile("", 0, 0)

    @property
    def bytes(self) -> int:
        """How many were written."""
        return self._file.bytes

    def write(self, rows: pa.Table) -> None:
        """Add a row group. Raises ValueError for rows of several partitions."""
        table = self._table
        rows = rows.select(table.schema.names).cast(table.schema)
        folder, partition = "", None
        if table.partition_by is not None:
            values = pc.unique(rows[table.partition_by]).to_pylist()
            if len(values) != 1 or self._file.partition not in (None, values[0]):
                raise ValueError(f"a staged file holds one {table.partition_by}, not {values}")
            partition = values[0]
            folder = f"{table.partition_by}={partition}/"
            rows = rows.drop_columns([table.partition_by])
        if self._writer is None:
            self._file = DataFile(f"{folder}part-{uuid.uuid4().hex}.parquet", 0, 0, partition)
            target = table.root / self._file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            # Of vectors and pictures no two are alike: a dictionary costs time and space.
            strings = [field.name for field in rows.schema if field.type == pa.string()]
            self._writer = pq.ParquetWriter(
                target, rows.schema, compression="zstd", use_dictionary=strings
            )
        self._writer.write_table(rows)
        written = (table.root / self._file.path).stat().st_size
        self._file = replace(self._file, rows=self._file.rows + rows.num_rows, bytes=written)

    def close(self) -> DataFile:
        """End the file, to which something was written."""
        if self._writer is None:
            raise ValueError("nothing was written")
        self._writer.close()
        return replace(self._file, bytes=(self._table.root / self._file.path).stat().st_size)


@dataclass(frozen=True)
class Table:
    """A Delta table of one schema, partitioned by at most one string column.

    Picklable, and cheap: nothing is opened until it is read or written.
    """

    root: Path
    schema: pa.Schema
    partition_by: str | None = None

    def version(self) -> int | None:
        """The newest version, or None while nothing was committed."""
        table = self._open()
        return None if table is None else int(table.version())

    def stage(self, rows: pa.Table, *, rows_per_group: int = _ROWS_PER_GROUP) -> DataFile:
        """Write `rows` (all of one partition) as a Parquet file that no reader sees yet."""
        growing = GrowingFile(self)
        for group in range(0, max(rows.num_rows, 1), rows_per_group):
            growing.write(rows.slice(group, rows_per_group))
        return growing.close()

    def files(self, partition: str | None = None, version: int | None = None) -> list[DataFile]:
        """The committed files, of one partition and of an older version where they are given.

        Raises NotFoundError when `version` does not exist, or not wholly: a vacuum took what was
        deleted since.
        """
        table = self._open()
        newest = -1 if table is None else table.version()
        if version is not None:
            if not 0 <= version <= newest:
                there = f"versions are 0 to {newest}" if table else "it is empty"
                raise NotFoundError(f"{self.root.name} has no version {version}; {there}")
            table = self._open(version)
        if table is None:
            return []
        actions = pa.table(table.get_add_actions(flatten=True)).to_pylist()
        files = [
            DataFile(
                path=unquote(action["path"]),
                rows=action["num_records"],
                bytes=action["size_bytes"],
                partition=action.get(f"partition.{self.partition_by}"),
            )
            for action in actions
        ]
        if version not in (None, newest) and not all((self.root / f.path).exists() for f in files):
            raise NotFoundError(
                f"version {version} of {self.root.name} held what was deleted since, and a vacuum "
                f"removed it; the newest is {newest}"
            )
        return [file for file in files if partition is None or file.partition == partition]

    def stream(
        self, files: Sequence[DataFile], columns: Sequence[str] | None = None
    ) -> pa.RecordBatchReader:
        """Stream files, staged or committed, one after another, the partition column included.

        A column that a file lacks, as one of an older release does, is null there.
        """
        names = list(self.schema.names if columns is None else columns)
        schema = pa.schema([self.schema.field(name) for name in names])

        def batches() -> Iterator[pa.RecordBatch]:
            stored = [name for name in names if name != self.partition_by]
            for file in files:
                parquet = pq.ParquetFile(self.root / file.path)
                for batch in parquet.iter_batches(_ROWS_PER_BATCH, columns=stored):
                    table = pa.Table.from_batches([batch])
                    if self.partition_by in names:
                        values = pa.repeat(pa.scalar(file.partition), batch.num_rows)
                        table = table.append_column(self.partition_by, values)
                    for name in set(names) - set(table.column_names):
                        table = table.append_column(name, pa.nulls(len(table)))
                    yield from table.select(names).cast(schema).to_batches()

        return pa.RecordBatchReader.from_batches(schema, batches())

    def committed(self, transaction: str) -> bool:
        """Whether the commit of this name is in the log."""
        table = self._open()
        return table is not None and table.transaction_version(transaction) is not None

    def commit(self, files: Sequence[DataFile], *, transaction: str) -> int:
        """Publish `files` in one commit and return the table's version.

        `transaction` names this commit: when it is in the log already (a retry), nothing is added.
        """
        table = self._open()
        if table is not None and self.committed(transaction):
            return int(table.version())
        actions = [self._added(file) for file in files]
        properties = CommitProperties(app_transactions=[Transaction(transaction, 1)])
        schema = Schema.from_arrow(self.schema)
        partition_by = [self.partition_by] if self.partition_by else []
        if table is None:
            self.root.mkdir(parents=True, exist_ok=True)
            create_table_with_add_actions(
                str(self.root),
                schema,
                actions,
                mode="error",
                partition_by=partition_by,
                configuration=_NO_BOUNDS,
                commit_properties=properties,
            )
        else:
            table.create_write_transaction(
                [*actions],
                mode="append",
                schema=schema,
                partition_by=partition_by,
                commit_properties=properties,
            )
        return int(DeltaTable(self.root).version())

    def read(
        self,
        columns: Sequence[str] | None = None,
        where: ds.Expression | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """The rows that match `where`; an empty table while nothing was committed.

        Raises NotFoundError when `version` does not exist.
        """
        return self._ask(lambda dataset: dataset.to_table(_names(columns), filter=where), version)

    def batches(
        self,
        columns: Sequence[str] | None = None,
        where: ds.Expression | None = None,
        version: int | None = None,
        rows: int = 4096,
    ) -> Iterator[pa.RecordBatch]:
        """Like `read`, but streamed: at most a few batches are held at a time."""
        scanner = self._dataset(self.files(version=version)).scanner(
            columns=_names(columns),
            filter=where,
            batch_size=rows,
            batch_readahead=1,
            fragment_readahead=1,
        )
        return iter(scanner.to_batches())

    def count(self, where: ds.Expression | None = None) -> int:
        """How many rows match."""
        return int(self._ask(lambda dataset: dataset.count_rows(filter=where)))

    def delete(self, column: str, values: Sequence[str]) -> None:
        """Remove the rows whose string `column` is one of `values`, in a version of its own.

        Older versions keep them until a vacuum.
        """
        wanted = pa.array(values, pa.string())
        self.rewrite(
            lambda rows: rows.filter(pc.invert(pc.is_in(rows[column], value_set=wanted))),
            where=ds.field(column).isin(wanted),
        )

    def rewrite(self, edit: Callable[[pa.Table], pa.Table], *, where: ds.Expression) -> None:
        """Put what `edit` makes of their rows in place of the files that hold a match of `where`.

        edit: gets some rows with all columns; gives them changed, or fewer. In one commit, which
        names no value. Older versions keep the files until a vacuum.
        """
        table = self._open()
        actions: list[AddAction | RemoveAction] = []
        now = int(time.time() * 1000)
        for file in self.files():
            if not self._dataset([file]).count_rows(filter=where):
                continue
            actions.append(
                RemoveAction(
                    file.path, True, now, size=file.bytes, partition_values=self._partition(file)
                )
            )
            growing = GrowingFile(self)
            for batch in self.stream([file]):
                if (rows := edit(pa.Table.from_batches([batch]))).num_rows:
                    growing.write(rows)
            if growing.bytes:
                actions.append(self._added(growing.close()))
        if table is not None and actions:
            table.create_write_transaction(
                actions,
                mode="append",
                schema=Schema.from_arrow(self.schema),
                partition_by=[self.partition_by] if self.partition_by else [],
            )

    def vacuum(self, kept_hours: int = _ORPHANS_KEPT_HOURS) -> None:
        """Remove files that the newest version does not name, and that are older than a week.

        kept_hours: fewer, down to 0, where no other process is about to commit what it staged. A
        reader of a version that was the newest asks again; one of an older version finds it gone.
        """
        table = self._open()
        if table is None:
            return
        sweep = partial(table.vacuum, kept_hours, enforce_retention_duration=False, full=True)
        if sweep(dry_run=True):  # else it would make a version for nothing
            sweep(dry_run=False)

    def _added(self, file: DataFile) -> AddAction:
        return AddAction(
            path=file.path,
            size=file.bytes,
            partition_values=self._partition(file),
            modification_time=int(time.time() * 1000),
            data_change=True,
            stats=json.dumps({"numRecords": file.rows}),
        )

    def _partition(self, file: DataFile) -> dict[str, str | None]:
        return {self.partition_by: file.partition} if self.partition_by else {}

    def _ask(self, question: Callable[[ds.Dataset], T], version: int | None = None) -> T:
        """The answer of a version; of the newest again where a vacuum took it meanwhile."""
        try:
            return question(self._dataset(self.files(version=version)))
        except FileNotFoundError:
            return question(self._dataset(self.files(version=version)))

    def _open(self, version: int | None = None) -> DeltaTable | None:
        try:
            return DeltaTable(self.root, version=version)
        except TableNotFoundError:
            return None

    def _dataset(self, files: Sequence[DataFile]) -> ds.Dataset:
        """Files as Arrow reads them by itself.

        Not through Delta's own file system: a scan of it that is left unfinished hangs the
        interpreter at its exit, and its bounds drop rows with nulls.
        """
        partitioning = None
        if self.partition_by is not None:
            by = pa.schema([self.schema.field(self.partition_by)])
            partitioning = ds.partitioning(by, flavor="hive")
        return ds.dataset(
            [str(self.root / file.path) for file in files],
            schema=self.schema,
            format="parquet",
            partitioning=partitioning,
            partition_base_dir=str(self.root),
        )


def _names(columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)
