from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.ahead import ReadAhead
from schemas.errors import ImageError
from schemas.records import ImageRef


def refs(*sizes: int) -> list[ImageRef]:
    return [ImageRef(f"image-{i}", size=size) for i, size in enumerate(sizes)]


def test_the_next_are_read_while_one_is_worked_on_and_taken_in_order() -> None:
    began = [threading.Event() for _ in range(4)]

    def read(ref: ImageRef) -> str:
        began[int(ref.uri[-1])].set()
        return ref.uri

    with ThreadPoolExecutor(2) as threads:
        ahead = ReadAhead(threads, read)
        ahead.expect(refs(1, 1))
        ahead.expect([ImageRef("image-2"), ImageRef("image-3")])
        assert all(event.wait(10) for event in began)  # none was taken yet
        assert [ahead.take() for _ in began] == ["image-0", "image-1", "image-2", "image-3"]


def test_no_more_bytes_are_read_ahead_than_allowed_but_always_one_file() -> None:
    read: list[str] = []

    def note(ref: ImageRef) -> str:
        read.append(ref.uri)
        return ref.uri

    with ThreadPoolExecutor(1) as threads:
        ahead = ReadAhead(threads, note, bytes_ahead=10)
        ahead.expect(refs(6, 4, 1, 50, 5))
        threads.submit(bool).result()  # behind all that was started
        assert read == ["image-0", "image-1"]
        assert ahead.take() == "image-0"
        threads.submit(bool).result()
        assert read == ["image-0", "image-1", "image-2"]
        assert [ahead.take() for _ in range(4)] == [f"image-{i}" for i in range(1, 5)]


def test_what_could_not_be_read_is_told_when_it_is_taken() -> None:
    def read(ref: ImageRef) -> str:
        if ref.size == 0:
            raise ImageError("unreadable", ref.uri)
        return ref.uri

    with ThreadPoolExecutor(2) as threads:
        ahead = ReadAhead(threads, read)
        ahead.expect(refs(1, 0, 1))
        assert ahead.take() == "image-0"
        with pytest.raises(ImageError, match="image-1"):
            ahead.take()
        assert ahead.take() == "image-2"
