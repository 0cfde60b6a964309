"""Parquet files with images inside."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources import locate, open_source, read
from schemas.errors import ImageError, UsageError


def test_images_are_read_from_their_rows(listed, write, png, hf_parquet, tmp_path: Path) -> None:
    path = hf_parquet(tmp_path / "data/train.parquet", 10, label=list(range(10)))
    assert pq.ParquetFile(path).num_row_groups == 4
    write(tmp_path / "README.md", "a data set card")
    refs = listed([tmp_path])
    assert [(ref.uri, ref.metadata) for ref in refs] == [
        (f"{path}#image/{row}", {"label": row}) for row in range(10)
    ]
    assert {ref.size for ref in refs} == {path.stat().st_size}
    with ThreadPoolExecutor(8) as pool:
        shuffled = np.random.default_rng(0).permutation(200).tolist()
        assert list(pool.map(read, [refs[i % 10] for i in shuffled])) == [
            png(i % 10) for i in shuffled
        ]


def test_several_cameras_a_row_and_a_row_without_an_image(listed, png, tmp_path: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {
        "left": pa.array([{"bytes": png(1), "path": None}, None], kind),
        "right": pa.array([{"bytes": png(2), "path": None}] * 2, kind),
    }
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    left, empty, right, _ = listed([tmp_path / "p.parquet"])
    assert (read(left), read(right)) == (png(1), png(2))
    with pytest.raises(ImageError, match=r"row 1 of .* holds no image bytes"):
        read(empty)


def test_a_file_replaced_in_place_is_read_anew(png, hf_parquet, tmp_path: Path) -> None:
    path = hf_parquet(tmp_path / "p.parquet", 3)
    assert read(locate(f"{path}#image/0")) == png(0)
    pq.write_table(pq.read_table(path).slice(1), path)
    os.utime(path, (0, 0))
    assert read(locate(f"{path}#image/0")) == png(1)


def test_a_damaged_file_among_good_ones_is_a_reject(
    listed, write, png, hf_parquet, tmp_path: Path
) -> None:
    hf_parquet(tmp_path / "a.parquet", 2)
    write(tmp_path / "b.parquet", b"PAR1 no more")
    *good, bad = listed([tmp_path / "a.parquet", tmp_path / "*.parquet"], kind="parquet")
    assert {read(ref) for ref in good} == {png(0), png(1)}
    with pytest.raises(ImageError, match="unreadable"):
        read(bad)


def test_a_file_of_neither_images_nor_uris_is_said_at_once(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "p.parquet")
    with pytest.raises(UsageError, match=r"it has: text"):
        open_source([str(tmp_path / "p.parquet")])
    with pytest.raises(UsageError, match=r"a struct \{bytes, path\} \(it has: text\)"):
        open_source([str(tmp_path / "p.parquet")], kind="parquet")
