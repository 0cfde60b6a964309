"""Whatever lies in an object store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.sources import locate, open_source, read
from schemas.errors import ImageError, NotFoundError, UsageError


def test_a_prefix_is_a_folder_and_reads_as_one(
    listed, png, s3: Callable[[str, bytes], str]
) -> None:
    uris = [s3("cam 1/a.png", png(1)), s3("cam 1/day/b.png", png(2))]
    s3("cam 1/", b"")  # the marker that consoles leave
    s3("cam 10/c.png", png(3))
    refs = listed(["s3://photos/cam 1"], "yard")
    assert [(ref.uri, ref.source, ref.size) for ref in refs] == [
        (uris[0], "yard", len(png(1))),
        (uris[1], "yard", len(png(2))),
    ]
    assert [read(ref) for ref in refs] == [png(1), png(2)]


def test_listing_and_asking_agree_on_size_and_time(
    listed, png, s3: Callable[[str, bytes], str]
) -> None:
    """Otherwise an image named by a manifest would look new beside the same one in a folder."""
    uri = s3("a.png", png(1))
    assert listed(["s3://photos/"]) == listed([uri]) == [locate(uri)]


def test_members_of_a_shard_are_read_in_place(
    listed, png, tar_bytes, s3: Callable[[str, bytes], str]
) -> None:
    url = s3("shard.tar", tar_bytes({"a.png": png(1), "b.png": png(2)}))
    refs = listed([url])
    assert [ref.uri for ref in refs] == [f"{url}#a.png", f"{url}#b.png"]
    assert [read(ref) for ref in refs] == [png(1), png(2)]


def test_a_manifest_names_neighbours(listed, png, s3: Callable[[str, bytes], str]) -> None:
    uri = s3("sets/1/a.png", png(1))
    s3("sets/lists/m.csv", b"uri,site\n../1/a.png,north\n../1/gone.png,north\n")
    found, gone = listed(["s3://photos/sets/lists/m.csv"])
    assert (found.uri, found.metadata, read(found)) == (uri, {"site": "north"}, png(1))
    with pytest.raises(ImageError, match="unreadable"):
        read(gone)


def test_parquet_is_read_from_the_store(
    listed, png, hf_parquet, s3: Callable[[str, bytes], str], tmp_path: Path
) -> None:
    url = s3("train.parquet", hf_parquet(tmp_path / "t.parquet", 7).read_bytes())
    assert [read(ref) for ref in listed([url])] == [png(i) for i in range(7)]


@pytest.mark.parametrize("url", ["s3://photos/none/", "s3://photos/none.png"])
def test_what_is_not_there_is_said(png, s3: Callable[[str, bytes], str], url: str) -> None:
    s3("a.png", png(1))
    with pytest.raises(NotFoundError, match=url):
        open_source([url])


def test_a_store_that_cannot_be_reached_is_the_persons_to_mend(
    s3: Callable[[str, bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"cannot read 'gopher://photos/'.*longtail\[aws\]"):
        open_source(["gopher://photos/"])
