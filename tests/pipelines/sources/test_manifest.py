"""Manifests: rows that name images."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources import locate, open_source, read
from pipelines.sources.manifest import list_manifest
from schemas.errors import ImageError, UsageError
from schemas.records import ImageRef

ROWS = (
    {"uri": "img/a.png", "source": "cam-1", "captured_at": "2026-05-01T12:00:00", "n": "1"},
    {"uri": "img/b.png", "source": "", "captured_at": "2026-05-01T12:00:00+02:00", "n": ""},
    {"uri": "img/c.png", "source": "", "captured_at": "last Tuesday", "n": "3"},
)
CONTENT = b"an image, as far as listing goes"


@pytest.fixture
def in_new_york() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


def make_manifest(folder: Path, form: str) -> Path:
    """A manifest of ROWS in one of its forms, beside the files that it names."""
    (folder / "img").mkdir(parents=True)
    for name in "abc":
        (folder / f"img/{name}.png").write_bytes(CONTENT)
    path = folder / f"manifest.{form}"
    match form:
        case "csv":
            lines = [",".join(ROWS[0])] + [",".join(row.values()) for row in ROWS]
            path.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())  # as a spreadsheet saves it
        case "jsonl":
            path.write_text("\n\n".join(json.dumps(row) for row in ROWS))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(list(ROWS)), path)
    return path


def expected(folder: Path) -> list[ImageRef]:
    def ref(name: str, *said: Any) -> ImageRef:
        path = folder / "img" / name
        return ImageRef(str(path), *said, size=len(CONTENT), modified_at=path.stat().st_mtime)

    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    return [
        ref("a.png", "cam-1", noon, {"n": "1"}),
        ref("b.png", "given", noon.replace(hour=10), {}),
        ref("c.png", "given", None, {"n": "3", "captured_at": "last Tuesday"}),
    ]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.usefixtures("in_new_york")  # a time without a zone is UTC everywhere
def test_every_form_says_the_same(
    listed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    manifest = make_manifest(tmp_path / "set", form)
    monkeypatch.chdir("/")
    assert listed([manifest], "given") == expected(tmp_path / "set")


def test_typed_columns_become_times_and_json(listed, write, png, tmp_path: Path) -> None:
    write(tmp_path / "a.png", png(1))
    table = pa.table(
        {
            "uri": [str(tmp_path / "a.png")],
            "captured_at": pa.array([1_777_636_800_000_000_001], pa.timestamp("ns")),
            "exposure": [float("nan")],
            "gps": [{"lat": 47.5, "fix": None}],
            "tags": [["rain", "night"]],
            "day": pa.array([20_000], pa.date32()),
            "hash": [b"\x00"],
            "gain": pa.array(["1.5"]).cast(pa.decimal128(4, 2)),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    (ref,) = listed([tmp_path / "m.parquet"])
    assert ref.captured_at == datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert type(ref.captured_at) is datetime
    assert ref.metadata == {
        "gps": {"lat": 47.5, "fix": None},
        "tags": ["rain", "night"],
        "day": "2024-10-04",
        "gain": "1.50",
    }


def test_a_row_that_names_nothing_is_a_reject_and_not_an_end(
    listed, write, png, tmp_path: Path
) -> None:
    photo = write(tmp_path / "a.png", png(1))
    rows = [f'{{"uri": "{photo}"}}', "{oops", '{"uri": "b.png"}', "[]"]
    rows += [r'{"uri": "nul\u0000.png"}', r'{"uri": "half\ud800.png", "source": "\ud800"}']
    manifest = write(tmp_path / "m.jsonl", "\n".join(rows))
    good, *bad = listed([manifest])
    assert read(good) == png(1)
    assert bad[0].uri == f"{tmp_path}/b.png"
    assert f"{manifest}#row 2" in [ref.uri for ref in bad]
    assert len(bad) == 5
    for ref in bad:
        with pytest.raises(ImageError, match="unreadable"):
            read(ref)


def test_uris_of_members_find_their_way_back(
    listed, write, png, tar_bytes, hf_parquet, tmp_path: Path
) -> None:
    write(tmp_path / "s.tar", tar_bytes({"x/a.png": png(1), "x/b.png": png(2)}))
    hf_parquet(tmp_path / "t.parquet", 5)
    uris = ["s.tar#x/b.png", "t.parquet#image/4", "s.tar#gone.png", "t.parquet#image/5"]
    manifest = write(tmp_path / "m.csv", "\n".join(["uri", *uris]))
    refs = {ref.uri.removeprefix(f"{tmp_path}/"): ref for ref in listed([manifest])}
    assert [read(refs[uri]) for uri in uris[:2]] == [png(2), png(4)]
    for uri in uris[2:]:
        with pytest.raises(ImageError, match="unreadable"):
            read(refs[uri])


def test_what_is_no_csv_is_said_at_once(write, tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.csv", "uri\n" + "x" * 200_000)
    with pytest.raises(UsageError, match=r"m\.csv is no CSV"):
        open_source([str(manifest)])


def test_a_manifest_without_uris_is_said_at_once(write, tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.csv", "path,label\na.png,1\n")
    with pytest.raises(UsageError, match=r"no column 'uri' \(it has: path, label\); rename"):
        open_source([str(manifest)])


def test_rows_that_no_reader_can_take_end_nothing(listed, write, png, tmp_path: Path) -> None:
    write(tmp_path / "a.png", png(1))
    deep = '{"uri": "b.png", "x": ' + "[" * 100_000
    (tmp_path / "a.jsonl").write_text(f'{{"uri": "a.png"}}\n{deep}\n')
    times = pa.array([10**18], pa.timestamp("us"))
    pq.write_table(pa.table({"uri": ["a.png"], "captured_at": times}), tmp_path / "b.parquet")
    refs = {Path(ref.uri).name: ref.size for ref in listed([tmp_path / "a.jsonl"])}
    assert refs["a.png"] > 0
    assert refs["a.jsonl#row 2"] == -1
    assert [Path(ref.uri).name for ref in list_manifest(str(tmp_path / "b.parquet"))] == [
        "b.parquet#damaged"
    ]


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    """A pipe that nobody writes to would be waited for without end."""
    os.mkfifo(tmp_path / "pipe.png")
    ref = locate(str(tmp_path / "pipe.png"))
    with pytest.raises(ImageError, match="no regular file"):
        read(ref)
