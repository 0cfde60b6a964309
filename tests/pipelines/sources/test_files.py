"""Folders, files and globs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.sources import read
from pipelines.sources.files import list_files
from schemas.errors import ImageError
from schemas.records import ImageRef


def test_a_folder_gives_every_file_below_it_with_size_and_time(
    listed, write, png, tmp_path: Path
) -> None:
    photo = write(tmp_path / "photos/a.png", png(1))
    deep = write(tmp_path / "photos/day 1/[x]/b#2.PNG", png(2))
    os.utime(photo, (0, 1_700_000_000.25))
    assert listed([tmp_path / "photos"], "line-3") == [
        ImageRef(str(photo), "line-3", size=len(png(1)), modified_at=1_700_000_000.25),
        ImageRef(str(deep), "line-3", size=len(png(2)), modified_at=deep.stat().st_mtime),
    ]


def test_annotations_and_hidden_files_are_left_out_and_other_files_are_not(
    listed, write, png, tmp_path: Path
) -> None:
    for name in ("a.png", "a.json", "b.xml", "labels.csv", ".hidden.png", ".cache/c.png"):
        write(tmp_path / name, png(1))
    write(tmp_path / "notes.txt", "not an image: it is for the decoder to say so")
    names = [Path(ref.uri).name for ref in listed([tmp_path])]
    assert names == ["a.png", "notes.txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["a.png"]),
        ("**/*.png", ["a.png", "x/b.png", "x/y/c.png"]),
        ("x/**", ["x/b.jpg", "x/b.png", "x/y/c.png"]),
        ("*/?.[jp]*g", ["x/b.jpg", "x/b.png"]),
        ("x/**/[!b].png", ["x/y/c.png"]),
        ("{a,x/b}.png", ["a.png", "x/b.png"]),
    ],
)
def test_globs_match_alike_on_disk_and_in_an_object_store(
    listed,
    write,
    png,
    tmp_path: Path,
    s3: Callable[[str, bytes], str],
    pattern: str,
    expected: list[str],
) -> None:
    for name in ("a.png", "x/b.png", "x/b.jpg", "x/y/c.png", "x/.d.png"):
        write(tmp_path / name, png(1))
        s3(f"in/{name}", png(1))
    for root in (str(tmp_path), "s3://photos/in"):
        uris = [ref.uri for ref in listed([f"{root}/{pattern}"])]
        assert uris == [f"{root}/{name}" for name in expected]


def test_a_file_is_named_the_same_from_every_working_directory(
    listed, write, png, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = write(tmp_path / "sub/a b.png", png(1))
    monkeypatch.chdir(tmp_path)
    from_above = listed(["sub/a b.png"])
    monkeypatch.chdir(tmp_path / "sub")
    assert listed(["./a b.png"]) == listed(["../sub"]) == listed([photo.as_uri()]) == from_above
    assert from_above[0].uri == str(photo)


def test_linked_folders_are_followed_once_even_in_a_loop(
    listed, write, png, tmp_path: Path
) -> None:
    write(tmp_path / "real/a.png", png(1))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "real")
    (tmp_path / "real/loop").symlink_to(tmp_path / "in")
    assert [ref.uri for ref in listed([tmp_path / "in"])] == [f"{tmp_path}/in/link/a.png"]


def test_a_link_that_leads_nowhere_is_a_reject_and_hides_nothing(
    listed, write, png, tmp_path: Path
) -> None:
    photo = write(tmp_path / "a.png", png(1))
    (tmp_path / "broken.png").symlink_to("gone.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    good, *links = listed([tmp_path])
    assert good.uri == str(photo)
    assert [Path(ref.uri).name for ref in links] == ["broken.png", "loop.png"]
    for ref in links:
        with pytest.raises(ImageError, match="unreadable"):
            read(ref)


def test_a_folder_is_listed_one_file_at_a_time(write, png, tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        write(tmp_path / name, png(1))
    refs = list_files(str(tmp_path))
    first = Path(next(refs).uri)
    other = next(folder for folder in tmp_path.iterdir() if folder != first.parent)
    (other / "1.png").unlink()
    other.rmdir()
    (lost,) = refs
    assert lost.uri == str(other)
    with pytest.raises(ImageError, match="unreadable"):
        read(lost)


def test_a_name_that_is_no_utf8_is_refused_and_ends_nothing(
    listed, write, png, tmp_path: Path
) -> None:
    write(tmp_path / "good.png", png(1))
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png")).write_bytes(png(2))
    bad, good = listed([tmp_path])
    assert read(good) == png(1)
    assert bad.uri.endswith(r"bad\udcff.png")
    with pytest.raises(ImageError, match="unreadable"):
        read(bad)


def test_a_name_that_exists_is_no_pattern(listed, write, png, tmp_path: Path) -> None:
    photo = write(tmp_path / "{a,b} [1]/c*.png", png(1))
    assert [ref.uri for ref in listed([photo.parent])] == [str(photo)]
    assert [ref.uri for ref in listed([photo])] == [str(photo)]


def test_a_workspace_among_its_images_is_none_of_them(listed, write, png, tmp_path: Path) -> None:
    """`longtail init` in a folder of images, and `longtail run .`"""
    for name in ("a.png", "b/runs/c.png", "runs/1/thumbnail.png", "tables/samples/d.png"):
        write(tmp_path / name, png(1))
    write(tmp_path / "longtail.yaml", b"version: 1")
    write(tmp_path / "reviews.db", b"verdicts")
    names = {ref.uri.removeprefix(f"{tmp_path}/") for ref in listed([tmp_path])}
    assert names == {"a.png", "b/runs/c.png"}


def test_an_empty_folder_has_nothing_new(listed, tmp_path: Path) -> None:
    assert listed([tmp_path]) == []
