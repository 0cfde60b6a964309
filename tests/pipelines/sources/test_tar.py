"""WebDataset shards, members read in place."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.sources import locate, open_source, read
from schemas.errors import ImageError, NotFoundError, UsageError


def test_members_are_described_by_their_sidecars(
    listed, write, png, tar_bytes, tmp_path: Path
) -> None:
    sidecar = {"source": "cam-7", "captured_at": "2026-05-01T12:00:00Z", "label": 3}
    shard = write(
        tmp_path / "shard.tar",
        tar_bytes(
            {
                "day.1/0001.left.png": png(1),
                "day.1/0001.right.PNG": png(2),
                "day.1/0001.json": json.dumps(sidecar).encode(),
                "day.1/0002.cls": b"5",
                "day.1/0002.json": b"{oops",
                "day.1/0002.png": png(3),
                "day.1/caf\udce9.png": png(4),
            }
        ),
    )
    left, right, plain, latin = listed([shard], "given")
    assert left.uri == f"{shard}#day.1/0001.left.png"
    assert (left.size, left.modified_at) == (len(png(1)), 1_700_000_000.0)
    assert left.captured_at == right.captured_at == datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert (left.source, left.metadata) == ("cam-7", {"label": 3})
    assert (plain.source, plain.captured_at, plain.metadata) == ("given", None, {})
    assert latin.uri.endswith(r"#day.1/caf\udce9.png")
    assert [read(ref) for ref in (left, right, plain)] == [png(1), png(2), png(3)]
    assert read(locate(latin.uri)) == read(latin) == png(4)


@pytest.mark.parametrize("given", ["shard-{000..011}.tar", "*.tar", ".", "shard-0{00..11}.tar"])
def test_shards_are_found_by_braces_globs_and_folders(
    listed, write, png, tar_bytes, tmp_path: Path, given: str
) -> None:
    for number in range(12):
        write(tmp_path / f"shard-{number:03}.tar", tar_bytes({f"{number}.png": png(number)}))
    refs = listed([tmp_path / given])
    assert [read(ref) for ref in refs] == [
        png(int(ref.uri.rpartition("#")[2].removesuffix(".png"))) for ref in refs
    ]
    assert len(refs) == 12


def test_a_missing_shard_is_named_before_the_run(write, png, tar_bytes, tmp_path: Path) -> None:
    write(tmp_path / "s-0.tar", tar_bytes({"a.png": png(1)}))
    with pytest.raises(NotFoundError, match=r"there is no '.*/s-1\.tar'"):
        open_source([f"{tmp_path}/s-{{0..1}}.tar"])


def test_a_shard_that_ends_early_loses_only_what_is_missing(
    listed, write, png, tar_bytes, tmp_path: Path
) -> None:
    whole = tar_bytes({"a.png": png(1), "b.png": b"x" * 5000, "c.png": png(3)})
    shard = write(tmp_path / "s.tar", whole[:3000])
    refs = {ref.uri.removeprefix(str(shard)): ref for ref in listed([shard])}
    assert read(refs.pop("#a.png")) == png(1)
    assert set(refs) == {"#b.png", "#"}
    for ref in refs.values():
        with pytest.raises(ImageError, match="damaged or ends before"):
            read(ref)


def test_a_compressed_shard_is_refused_before_the_run(write, tmp_path: Path) -> None:
    write(tmp_path / "s.tar.gz", b"\x1f\x8b")
    with pytest.raises(UsageError, match=r"s\.tar\.gz' is compressed.*plain \.tar"):
        open_source([str(tmp_path)])
