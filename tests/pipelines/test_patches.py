from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from encoders import registry
from encoders.images import Limits
from pipelines.patches import EncodeReferences, Named, PatchOptions
from schemas.catalog import Catalog
from schemas.records import ImageRef

QUARTERS = """\
from encoders.base import EncoderInfo, Preprocess, unit_norm


class Quarters:
    info = EncoderInfo(
        name="quarters",
        dimensions={"high": 3},
        preprocess=Preprocess(size=64, mean=(0, 0, 0), std=(1, 1, 1)),
        backend="module",
        precision="fp32",
        weights_sha256="0" * 64,
    )

    def encode(self, pixels):
        return {"high": unit_norm(pixels.mean((1, 2)) + 1)}

    def encode_patches(self, pixels):
        return unit_norm(pixels.reshape(-1, 2, 32, 2, 32, 3).mean((2, 4)) + 1)


class OnGpu(Quarters):
    batch = 4
"""


@pytest.fixture
def encode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], EncodeReferences]:
    (tmp_path / "quarters.py").write_text(QUARTERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "quarters", raising=False)

    def make(name: str) -> EncodeReferences:
        encoder = f"module:quarters.{name}"
        info = registry.describe(encoder)
        options = PatchOptions("run", Catalog(tmp_path / "w"), encoder, info, {}, Limits())
        return EncodeReferences(options)

    return make


@pytest.mark.parametrize(
    ("encoder", "given"),
    [("Quarters", [[], [2], [2], [2]]), ("OnGpu", [[], [], [], [4, 2]])],
)
def test_a_list_waits_until_the_next_is_read_and_for_a_gpu_until_its_batch_is_full(
    encode: Callable[[str], EncodeReferences],
    make_photographs: Callable[[Path, int], list[Path]],
    tmp_path: Path,
    encoder: str,
    given: list[list[int]],
) -> None:
    named: list[Named] = [
        (hashlib.sha256(path.read_bytes()).hexdigest(), ImageRef(str(path)))
        for path in make_photographs(tmp_path / "images", 6)
    ]
    worker = encode(encoder)
    worker.setup()
    worker.start_bundle()
    files = [list(worker.process(named[at : at + 2])) for at in (0, 2, 4)]
    files.append([out.value for out in worker.finish_bundle()])
    worker.teardown()
    ids = [[ids_of(file) for file in each] for each in files]
    assert [[len(of_file) for of_file in each] for each in ids] == given
    in_order = [sample_id for of_file in chain.from_iterable(ids) for sample_id in of_file]
    assert in_order == [sample_id for sample_id, _ in named]


def ids_of(file: str) -> list[str]:
    with np.load(file) as archive:
        ids: list[str] = archive["ids"].tolist()
        return ids
