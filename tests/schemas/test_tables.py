from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from schemas.arrow import matrix, vectors_array
from schemas.errors import NotFoundError
from schemas.tables import GrowingFile, Table

ROWS = pa.schema(
    [
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32()), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
    ]
)


def rows(*sample_ids: str, encoder: str = "a-1", run_id: str = "r1") -> pa.Table:
    n = len(sample_ids)
    return pa.table(
        {
            "encoder": [encoder] * n,
            "sample_id": list(sample_ids),
            "embedding": vectors_array(np.arange(n * 3, dtype=np.float32).reshape(n, 3)),
            "run_id": [run_id] * n,
        },
        schema=ROWS,
    )


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "samples", ROWS, partition_by="encoder")


def ids(found: pa.Table) -> list[str]:
    return sorted(found["sample_id"].to_pylist())


def test_a_stream_of_many_rows_comes_in_small_batches(table: Table) -> None:
    staged = table.stage(rows(*map(str, range(5000))))
    batches = list(table.stream([staged]))
    assert sum(batch.num_rows for batch in batches) == 5000
    assert max(batch.num_rows for batch in batches) <= 1024  # with pictures each is megabytes


def test_nothing_is_read_before_the_commit(table: Table) -> None:
    staged = table.stage(rows("x", "y"))

    assert table.version() is None
    assert table.read().num_rows == 0
    assert table.files() == []
    assert ids(table.stream([staged]).read_all()) == ["x", "y"]

    assert table.commit([staged], transaction="t1") == 0
    assert ids(table.read()) == ["x", "y"]


def test_a_commit_tried_again_adds_nothing(table: Table) -> None:
    staged = table.stage(rows("x"))
    table.commit([staged], transaction="t1")
    assert table.commit([staged], transaction="t1") == 0
    assert table.count() == 1


def test_partitions_and_filters(table: Table) -> None:
    table.commit([table.stage(rows("x", encoder="a-1"))], transaction="t1")
    table.commit([table.stage(rows("y", encoder="b-2", run_id="r2"))], transaction="t2")

    assert ids(table.read(where=ds.field("encoder") == "b-2")) == ["y"]
    assert table.count(ds.field("run_id") == "r1") == 1
    assert [file.partition for file in table.files("b-2")] == ["b-2"]
    assert ids(table.stream(table.files("b-2")).read_all()) == ["y"]
    with pytest.raises(ValueError, match="one encoder"):
        table.stage(pa.concat_tables([rows("x"), rows("y", encoder="b-2")]))


def test_reads_as_of_a_version(table: Table) -> None:
    table.commit([table.stage(rows("x"))], transaction="t1")
    table.commit([table.stage(rows("y"))], transaction="t2")

    assert ids(table.read(version=0)) == ["x"]
    assert ids(table.read()) == ["x", "y"]
    with pytest.raises(NotFoundError, match="no version 7; versions are 0 to 1"):
        table.read(version=7)


def test_batches_give_every_row_once(table: Table) -> None:
    files = [table.stage(rows(*(f"{n}-{i}" for i in range(10)))) for n in range(3)]
    table.commit(files, transaction="t1")
    batches = list(table.batches(["sample_id"], rows=4))
    assert max(batch.num_rows for batch in batches) <= 4
    assert len({name for batch in batches for name in batch["sample_id"].to_pylist()}) == 30


def test_a_growing_file_is_staged_when_it_is_closed(table: Table) -> None:
    growing = GrowingFile(table)
    growing.write(rows("x"))
    growing.write(rows("y", "z"))
    assert growing.bytes > 0
    assert ids(table.read()) == []

    file = growing.close()

    assert file.rows == 3
    assert pq.ParquetFile(table.root / file.path).num_row_groups == 2
    table.commit([file], transaction="t1")
    assert ids(table.read()) == ["x", "y", "z"]


def test_a_growing_file_is_of_one_partition(table: Table) -> None:
    growing = GrowingFile(table)
    growing.write(rows("x"))
    with pytest.raises(ValueError, match="one encoder"):
        growing.write(rows("y", encoder="b-2"))


def test_vacuum_takes_old_orphans_only(table: Table) -> None:
    kept = table.stage(rows("x"))
    table.commit([kept], transaction="t1")
    young, old = table.stage(rows("y")), table.stage(rows("z"))
    week_ago = time.time() - 8 * 86_400
    for file in (kept, old):
        os.utime(table.root / file.path, (week_ago, week_ago))

    table.vacuum()

    assert [(table.root / file.path).exists() for file in (kept, young, old)] == [True, True, False]
    assert ids(table.read()) == ["x"]


def test_deleting_rewrites_only_the_files_that_hold_it_and_the_log_names_no_value(
    table: Table,
) -> None:
    kept, cut = table.stage(rows("x")), table.stage(rows("y", "secret"))
    table.commit([kept, cut, table.stage(rows("secret", encoder="b-2"))], transaction="t1")

    table.delete("sample_id", ["secret", "unknown"])
    table.delete("sample_id", ["secret"])

    assert ids(table.read()) == ["x", "y"]
    assert kept in table.files()
    assert [file.rows for file in table.files()] == [1, 1]
    assert table.version() == 1
    assert ids(table.read(version=0)) == ["secret", "secret", "x", "y"]
    assert not any("secret" in log.read_text() for log in table.root.glob("_delta_log/*.json"))


def test_a_vacuum_of_everything_old_keeps_the_newest_version_whole(table: Table) -> None:
    table.commit([table.stage(rows("x", "y"))], transaction="t1")
    table.delete("sample_id", ["x"])

    table.vacuum(kept_hours=0)

    assert ids(table.read()) == ["y"]
    assert len(list(table.root.rglob("*.parquet"))) == 1
    with pytest.raises(NotFoundError, match=r"version 0 of .* a vacuum removed it; the newest is"):
        table.read(version=0)


def test_a_reader_beside_deletions_and_vacuums_sees_one_version_or_the_next(table: Table) -> None:
    names = [f"{number:02}" for number in range(40)]
    table.commit([table.stage(rows(*names))], transaction="t1")
    stop = threading.Event()

    def read() -> int:
        seen = 0
        while not stop.is_set():
            held = ids(table.read())
            assert held == names[len(names) - len(held) :]
            assert table.count() <= len(held)
            seen += 1
        return seen

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for name in names[:20]:
            table.delete("sample_id", [name])
            table.vacuum(kept_hours=0)
        stop.set()
        assert reader.result() > 0


def test_vectors_survive_the_table(table: Table) -> None:
    vectors = np.random.default_rng(0).normal(size=(1000, 7)).astype(np.float32)
    names = [f"{i:04}" for i in range(1000)]
    stored = rows(*names).set_column(2, "embedding", vectors_array(vectors))
    table.commit(
        [table.stage(stored.slice(0, 400)), table.stage(stored.slice(400))], transaction="t1"
    )
    found = table.read().sort_by("sample_id")
    np.testing.assert_array_equal(matrix(found["embedding"]), vectors)
    assert matrix(found["embedding"].slice(10, 5)).shape == (5, 7)
    assert matrix(table.schema.empty_table()["embedding"]).shape == (0, 0)


def test_lists_of_different_lengths_are_no_matrix() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        matrix(pa.chunked_array([pa.array([[1.0], [1.0, 2.0]], pa.list_(pa.float32()))]))


def test_a_filter_keeps_rows_with_nulls_apart(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("run_id", pa.string()), pa.field("rank", pa.int64())])
    table = Table(tmp_path / "scores", schema, partition_by="run_id")
    staged = table.stage(pa.table({"run_id": ["r1"] * 3, "rank": [1, None, None]}, schema=schema))
    table.commit([staged], transaction="t1")
    assert table.count(ds.field("rank").is_valid()) == 1
    assert table.count((ds.field("run_id") == "r1") & ds.field("rank").is_null()) == 2


def test_a_reader_that_stops_half_way_lets_the_process_end(table: Table) -> None:
    table.commit([table.stage(rows(*map(str, range(50)))) for _ in range(20)], transaction="t1")
    code = (
        "import sys, pyarrow as pa\n"
        "from pathlib import Path\n"
        "from schemas.tables import Table\n"
        "schema = pa.schema([('encoder', pa.string()), ('sample_id', pa.string())])\n"
        "batches = Table(Path(sys.argv[1]), schema, 'encoder').batches(rows=4)\n"
        "print(next(batches).num_rows)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(table.root)], capture_output=True, text=True, timeout=60
    )
    assert ended.stdout == "4\n", ended.stderr
