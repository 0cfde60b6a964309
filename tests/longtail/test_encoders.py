from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from encoders import registry
from encoders.base import EncoderInfo
from longtail import Workspace
from schemas.errors import (
    EncoderError,
)


def test_two_encoders_keep_apart(workspace: Workspace, photographs: Path) -> None:
    other = Workspace(workspace.root, {"device": "cpu", "encoder": "efficientnet-lite2"})
    assert other.status()["samples"] == 0
    summary = other.run([str(photographs)])
    assert summary.ingested == 90
    assert other.status()["samples"] == workspace.status()["samples"] == 90
    assert workspace.status()["uris"] == 90
    assert {len(v) for v in other.catalog.samples.read()["embedding_high"].to_pylist()} == {
        320,
        352,
    }


def test_the_precision_of_the_settings_is_that_of_the_samples(
    empty: Workspace, tmp_path: Path, photograph: Callable[[Path, int], Path]
) -> None:
    workspace = Workspace(empty.root, {"precision": "fp32", "device": "cpu"})
    workspace.ingest([str(photograph(tmp_path / "a.png", 1))])
    expected = registry.describe(device="cpu", precision="fp32").id
    assert workspace.catalog.samples.read(["encoder"])["encoder"].to_pylist() == [expected]
    with pytest.raises(EncoderError, match="precision 'fp16' is not for"):
        Workspace(empty.root, {"precision": "fp16", "device": "cpu"}).ingest([str(tmp_path)])


def test_samples_of_a_machine_with_another_precision_are_not_added_to(
    empty: Workspace, tmp_path: Path, photograph: Callable[[Path, int], Path]
) -> None:
    workspace = Workspace(empty.root, {"precision": "fp32", "device": "cpu"})
    images = tmp_path / "images"
    images.mkdir()
    photograph(images / "a.png", 1)
    assert workspace.ingest([str(images)]).ingested == 1
    here = workspace.jobs.encoder
    assert isinstance(here, EncoderInfo)
    there = replace(here, precision="bf16")
    workspace.catalog.encoder(here.id).write_text(there.to_json())

    photograph(images / "b.png", 2)
    for job in (lambda: workspace.ingest([str(images)]), workspace.index, workspace.mine):
        with pytest.raises(EncoderError) as refused:
            job()
        for part in (here.id, there.id, "precision fp32, not bf16"):
            assert part in str(refused.value)
    assert workspace.status()["samples"] == 1


TWO_PRECISIONS = """\
from dataclasses import replace
from encoders.base import EncoderInfo, Preprocess, unit_norm


class fp32:
    info = EncoderInfo(
        name="mine",
        dimensions={"high": 192},
        preprocess=Preprocess(size=8, mean=(0, 0, 0), std=(1, 1, 1)),
        backend="module",
        precision="fp32",
        weights_sha256="0" * 64,
    )

    def encode(self, pixels):
        return {"high": unit_norm(pixels.reshape(-1, 192) + 1.0)}


class bf16(fp32):
    info = replace(fp32.info, precision="bf16")
"""


def test_a_run_resumed_with_another_precision_is_refused_with_both_named(
    empty: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photograph: Callable[[Path, int], Path],
) -> None:
    (tmp_path / "two_precisions.py").write_text(TWO_PRECISIONS)
    monkeypatch.syspath_prepend(tmp_path)
    first = Workspace(empty.root, {"encoder": "module:two_precisions.fp32"})
    second = Workspace(empty.root, {"encoder": "module:two_precisions.bf16"})
    images = tmp_path / "images"
    images.mkdir()
    photograph(images / "a.png", 1)
    assert first.ingest([str(images)]).ingested == 1
    photograph(images / "b.png", 2)

    for job in (lambda: second.ingest([str(images)]), second.index, second.mine):
        with pytest.raises(EncoderError) as refused:
            job()
        for part in (first.jobs.encoder.id, second.jobs.encoder.id, "precision bf16, not fp32"):
            assert part in str(refused.value)
        assert refused.value.exit_code == 2
    assert first.ingest([str(images)]).ingested == 1
    assert Workspace(empty.root).ingest([str(images)]).ingested == 2  # another name stands beside


GATHERING = """\
import threading

from two_precisions import fp32
from dataclasses import replace

seen = []


class batched(fp32):
    batch = 8

    def encode(self, pixels):
        seen.append((len(pixels), threading.current_thread().name))
        return super().encode(pixels)


class elsewhere(fp32):
    @property
    def info(self):
        here = threading.current_thread() is threading.main_thread()
        return fp32.info if here else replace(fp32.info, weights_sha256="1" * 64)
"""


FAILING = """\
from two_precisions import fp32


class listing(fp32):
    def encode(self, pixels):
        return list(super().encode(pixels).values())


class raising(fp32):
    def encode(self, pixels):
        return super().encode(pixels)["weights"]
"""


@pytest.fixture
def gathering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of encoders: `batched` wants 8 images at once, `elsewhere` differs."""
    (tmp_path / "two_precisions.py").write_text(TWO_PRECISIONS)
    (tmp_path / "gathering.py").write_text(GATHERING)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("two_precisions", "gathering"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "gathering"


def test_images_are_gathered_for_an_encoder_that_wants_many(
    empty: Workspace, photographs: Path, gathering: str, tmp_path: Path
) -> None:
    paths = sorted(map(str, photographs.iterdir()))[:31]
    held = []
    for root, name in ((empty.root, "batched"), (Workspace.create(tmp_path / "w").root, "fp32")):
        settings = {"encoder": f"module:{gathering}.{name}", "batch_size": 3, "workers": 1}
        workspace = Workspace(root, settings)
        assert workspace.ingest(paths).ingested == 31
        rows = workspace.catalog.samples.read(["sample_id", "embedding_high"])
        held.append(rows.sort_by("sample_id"))
    assert held[0].equals(held[1])
    seen = sys.modules[gathering].seen
    assert sorted(n for n, _ in seen) == [7, 8, 8, 8]
    assert all(thread.startswith("encode") for _, thread in seen), "beside what decodes"


def test_a_worker_with_another_encoder_is_refused_with_both_named(
    empty: Workspace, photographs: Path, gathering: str
) -> None:
    workspace = Workspace(empty.root, {"encoder": f"module:{gathering}.elsewhere", "workers": 2})
    with pytest.raises(
        EncoderError, match=r"worker has mine-.*weights_sha256 1+, not 0+; install"
    ) as refused:
        workspace.ingest([str(photographs)])
    assert "[while" not in str(refused.value)
    assert workspace.jobs.encoder.id in str(refused.value)
    assert workspace.catalog.samples.read().num_rows == 0


def test_an_encoder_that_fails_is_one_line(
    empty: Workspace,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    longtail,
) -> None:
    (tmp_path / "two_precisions.py").write_text(TWO_PRECISIONS)
    (tmp_path / "failing.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    for name, said in (("listing", "gave list in encode"), ("raising", "KeyError: 'weights'")):
        encoder = f"encoder=module:failing.{name}"
        told = longtail("ingest", "-w", empty.root, photographs, "--set", encoder)
        assert told.code == 2
        assert told.err.startswith(f"longtail: encoder 'module:failing.{name}' ")
        assert said in told.err
        assert told.err.count("\n") == 1
    logs = [log.read_text() for log in empty.root.glob("runs/*/log.jsonl")]
    assert any("Traceback" in log and "weights" in log for log in logs)


def test_an_encoder_of_one_level_is_mined(
    empty: Workspace, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two_precisions.py").write_text(TWO_PRECISIONS)
    monkeypatch.syspath_prepend(tmp_path)
    one_level = {"encoder": "module:two_precisions.fp32", "mining": {"budget": "5"}}
    workspace = Workspace(empty.root, one_level)
    workspace.run([str(photographs)])
    assert {flag.level for flag in workspace.flags(kind="outlier")} == {"high"}
