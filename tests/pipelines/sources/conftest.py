"""What tests of sources are made of: listing through a pipeline, and small files to list."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import datasets
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image

from pipelines.sources import open_source
from schemas.records import ImageRef


@pytest.fixture(scope="session")
def listed() -> Callable[..., list[ImageRef]]:
    """The references that a pipeline gives for inputs, by URI."""

    def references(inputs: Sequence[str | Path], source: str = "", **options: Any) -> Any:
        with tempfile.NamedTemporaryFile() as collected:
            p = beam.Pipeline(runner=FnApiRunner())
            _ = (
                p
                | open_source([str(path) for path in inputs], source, **options)
                | beam.combiners.ToList()
                | beam.Map(
                    lambda refs, path: Path(path).write_bytes(pickle.dumps(refs)), collected.name
                )
            )
            p.run().wait_until_finish()
            refs: list[ImageRef] = pickle.load(collected)
        for ref in refs:
            json.dumps(ref.metadata, allow_nan=False)
            ref.uri.encode()
        return sorted(refs, key=lambda ref: ref.uri)

    return references


@pytest.fixture(scope="session")
def png() -> Callable[[int], bytes]:
    """An image of one shade of grey."""

    def encoded(shade: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("L", (8, 8), shade).save(buffer, "PNG")
        return buffer.getvalue()

    return encoded


@pytest.fixture(scope="session")
def write() -> Callable[[Path, bytes | str], Path]:
    """Writes a file and the folders above it."""

    def written(path: Path, data: bytes | str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return written


@pytest.fixture(scope="session")
def tar_bytes() -> Callable[[Mapping[str, bytes]], bytes]:
    """A shard of these members."""

    def packed(members: Mapping[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), 1_700_000_000
                tar.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    return packed


@pytest.fixture(scope="session")
def hf_parquet(png: Callable[[int], bytes]) -> Callable[..., Path]:
    """Images as Hugging Face datasets writes them, three to a row group."""

    def written(path: Path, count: int, **columns: list[Any]) -> Path:
        images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(count)]
        features = datasets.Features(
            {"image": datasets.Image()} | {name: datasets.Value("int64") for name in columns}
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        data = datasets.Dataset.from_dict({"image": images, **columns}, features=features)
        data.to_parquet(path, batch_size=3)
        return path

    return written
