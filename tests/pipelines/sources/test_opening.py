"""What is made of the inputs together."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.sources import open_source
from schemas.errors import NotFoundError, UsageError


def test_kinds_mix_and_an_input_given_twice_counts_once(
    listed, write, png, tar_bytes, tmp_path: Path
) -> None:
    photo = write(tmp_path / "p/a.png", png(1))
    shard = write(tmp_path / "s.tar", tar_bytes({"b.png": png(2)}))
    manifest = write(tmp_path / "m.csv", "uri\np/a.png\n")
    refs = listed([photo, shard, manifest, photo])
    assert [ref.uri for ref in refs] == [str(photo)] * 2 + [f"{shard}#b.png"]


def test_images_beside_a_shard_make_the_folder_one_of_images(
    listed, write, png, tmp_path: Path
) -> None:
    for name in ("a.png", "s.tar"):
        write(tmp_path / name, png(1))
    assert {ref.container for ref in listed([tmp_path])} == {"file"}


@pytest.mark.parametrize("given", ["none", "none/*.png", "none.csv", "no-{0..2}.png"])
def test_what_is_not_there_is_said(tmp_path: Path, given: str) -> None:
    with pytest.raises(NotFoundError, match=r"no.*; (name|check)"):
        open_source([str(tmp_path / given)])


@pytest.mark.parametrize("inputs", [[], [""], ["a.png", ""]])
def test_no_input_is_a_mistake(inputs: list[str]) -> None:
    """One that is empty would be the current folder, where a variable was not set."""
    with pytest.raises(UsageError, match="no images given"):
        open_source(inputs)
