"""The files that every room's tests draw on: broken ones are refused, each format decodes alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from encoders.base import Preprocess
from encoders.images import Limits, check_whole, decode
from schemas.errors import ImageError, RejectReason

PREPROCESS = Preprocess(size=64, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_each_broken_file_is_refused_for_its_own_reason(
    tmp_path: Path, make_broken: Callable[[Path], Mapping[str, RejectReason]]
) -> None:
    expected = make_broken(tmp_path)
    found = {}
    for path in tmp_path.iterdir():
        try:
            check_whole(path.read_bytes(), Limits())
        except ImageError as error:
            found[path.name] = error.reason
    assert found == expected
    assert len(expected) == 20


def test_each_format_gives_the_same_picture(
    tmp_path: Path, make_formats: Callable[[Path], Mapping[str, tuple[int, int]]]
) -> None:
    sizes = make_formats(tmp_path)
    decoded = {name: decode((tmp_path / name).read_bytes(), PREPROCESS, Limits()) for name in sizes}
    assert {name: (image.width, image.height) for name, image in decoded.items()} == sizes
    green = {name: image.pixels[..., 1].ravel() for name, image in decoded.items()}
    for name, pixels in green.items():  # darker towards the bottom, however it is stored
        assert np.corrcoef(pixels, green["rgb.png"])[0, 1] > 0.5, name


def test_photographs_are_real_and_distinct(
    tmp_path: Path, make_photographs: Callable[[Path, int], list[Path]]
) -> None:
    photographs = make_photographs(tmp_path / "photos", 12)
    assert sorted((tmp_path / "photos").iterdir()) == sorted(photographs)
    contents = {path.read_bytes() for path in photographs}
    assert len(contents) == 12
    assert {check_whole(data, Limits()) for data in contents} == {("png", 300, 300)}
