"""Patch scores and heat maps: a small local defect, from the photograph to the picture of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from longtail import Workspace
from schemas.errors import EncoderError, NotFoundError, UsageError
from schemas.records import Flag

PATCHES = {"patches": True, "mining": {"detector": "patch", "budget": 5}}
SPOT = (0.75, 0.25)
"""Where the spot is, in shares across and down."""


@pytest.fixture(scope="session")
def spotted(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    """A folder of photographs of which one has a small bright square pasted in."""
    folder = tmp_path_factory.mktemp("spotted")
    for path in sorted(photographs.iterdir())[::30]:
        with Image.open(path) as image:
            pixels = np.array(image.convert("L"))
        x, y = (round(share * side) for share, side in zip(SPOT, pixels.shape[::-1], strict=True))
        pixels[y - 16 : y + 16, x - 16 : x + 16] = 255 * (np.indices((32, 32)).sum(0) // 8 % 2)
        Image.fromarray(pixels).save(folder / path.name)
    return folder


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory, photographs: Path, spotted: Path) -> Workspace:
    root = tmp_path_factory.mktemp("scored") / "workspace"
    workspace = Workspace(Workspace.create(root).root, PATCHES)
    workspace.run([str(photographs), str(spotted)])
    return workspace


@pytest.fixture
def patched(scored: Workspace, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(scored.root, tmp_path / "patched"), PATCHES)


@pytest.fixture
def flag(scored: Workspace, spotted: Path) -> Flag:
    """The first flag of a photograph with a spot."""
    return next(flag for flag in scored.flags() if Path(flag.uri).parent == spotted)


def test_a_spot_is_found_and_said_where(scored: Workspace, flag: Flag, spotted: Path) -> None:
    found = [each.uri for each in scored.flags() if Path(each.uri).parent == spotted]
    assert len(found) == len(list(spotted.iterdir()))
    (why,) = (reason for reason in flag.reasons if reason.startswith("spot at"))
    across, down, *_ = (float(number) / 100 for number in re.findall(r"(\d+)%", why))
    assert abs(across - SPOT[0]) < 0.1
    assert abs(down - SPOT[1]) < 0.1


def test_the_spot_of_an_unflagged_sample_is_said_too(patched: Workspace, flag: Flag) -> None:
    patched.verdict([flag.sample_id], "normal")
    patched.mine()
    told = patched.explain(flag.sample_id)
    assert told.rank is None
    assert [why for why in told.reasons if why.startswith("spot at")] == [
        why for why in flag.reasons if why.startswith("spot at")
    ]
    assert "from every ordinary patch" in " ".join(told.reasons)


def test_every_sample_has_a_score(scored: Workspace) -> None:
    rows = scored.catalog.patches.read()
    assert set(rows["sample_id"].to_pylist()) == set(
        scored.catalog.samples.read(["sample_id"])["sample_id"].to_pylist()
    )
    assert rows["score"].null_count == 0


def test_the_bank_stays_so_that_scores_mean_the_same(
    patched: Workspace, photographs: Path, tmp_path: Path
) -> None:
    (bank,) = patched.catalog.banks()
    before, scores = bank.read_bytes(), patched.catalog.patches.read().sort_by("sample_id")
    # The same pixels in other bytes: another sample, and the score is that of the first.
    first = min(photographs.iterdir())
    with Image.open(first) as image:
        image.save(tmp_path / "again.bmp")

    patched.run([str(tmp_path / "again.bmp")])

    assert bank.read_bytes() == before
    after = patched.catalog.patches.read()
    assert after.num_rows == scores.num_rows + 1
    assert patched.run([str(tmp_path / "again.bmp")]).flagged == 0, "nothing is done twice"


def test_patches_can_be_turned_on_later(workspace: Workspace, photographs: Path) -> None:
    later = Workspace(workspace.root, PATCHES)
    later.run([str(photographs)])
    assert later.catalog.patches.count() == 90
    assert later.notes() == []


def test_few_samples_wait_for_a_bank(empty: Workspace, photographs: Path, tmp_path: Path) -> None:
    few = Workspace(empty.root, PATCHES)
    images = sorted(map(str, photographs.iterdir()))
    with pytest.raises(UsageError, match="needs patch scores, and no sample has one"):
        few.run(images[:10])
    few.run(images[10:60])
    assert few.catalog.patches.count() == 60


def test_an_image_that_is_gone_has_no_score(workspace: Workspace, tmp_path: Path) -> None:
    image = tmp_path / "gone.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(image)
    workspace.ingest([str(image)])
    image.unlink()
    patched = Workspace(workspace.root, PATCHES)
    folder = tmp_path / "other"
    folder.mkdir()
    Image.fromarray(noise.T).save(folder / "b.png")
    patched.run([str(folder)])
    assert patched.catalog.patches.read()["score"].null_count == 1
    assert patched.notes() == ["1 of 92 samples have no patch score"]


def test_what_is_forgotten_leaves_the_bank(patched: Workspace) -> None:
    (path,) = patched.catalog.banks()
    with np.load(path) as bank:
        owner = str(bank["owners"][0])
    patched.forget([owner])
    with np.load(path) as bank:
        assert owner not in bank["owners"]
    assert owner not in patched.catalog.patches.read()["sample_id"].to_pylist()


def test_the_heat_map_is_hot_where_the_spot_is(scored: Workspace, flag: Flag) -> None:
    drawn = scored.heatmap(flag.sample_id)
    assert (abs(drawn.x - SPOT[0]) < 0.1, abs(drawn.y - SPOT[1]) < 0.1) == (True, True)
    stored = scored.catalog.patches.read().to_pylist()
    (kept,) = (row["score"] for row in stored if row["sample_id"] == flag.sample_id)
    assert drawn.score == pytest.approx(kept, abs=1e-3)
    with Image.open(flag.uri) as original:
        assert drawn.picture.size == original.size
    red, green, _ = np.asarray(drawn.picture, dtype=float).transpose(2, 0, 1)
    reddened = red - green
    hottest = np.unravel_index(reddened.argmax(), reddened.shape)
    shares = np.array(hottest) / reddened.shape
    np.testing.assert_allclose(shares, [SPOT[1], SPOT[0]], atol=0.12)
    assert np.median(reddened) < 20, "most of the image is left as it was"


def test_explain_draws(
    scored: Workspace, flag: Flag, longtail: Callable[..., Any], tmp_path: Path
) -> None:
    given = ("explain", "-w", scored.root, flag.sample_id[:12], "--heatmap")
    said = longtail(*given, tmp_path / "out.png")
    assert said.code == 0
    assert f"heat map   {tmp_path / 'out.png'}: strangest spot at 7" in said.out
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.format == "PNG"
    assert longtail(*given, tmp_path / "out.jpg").code == 2
    nowhere = longtail(*given, tmp_path / "no" / "out.png")
    assert (nowhere.code, nowhere.err.count("\n")) == (2, 1)


def test_without_patches_a_heat_map_says_how_to_have_them(workspace: Workspace) -> None:
    with pytest.raises(NotFoundError, match="patches: true"):
        workspace.heatmap(workspace.flags(top=1)[0].sample_id)


def test_an_image_that_changed_has_no_heat_map(patched: Workspace, tmp_path: Path) -> None:
    image = tmp_path / "cell.png"
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(image)
    patched.ingest([str(image)])
    (row,) = (
        row
        for row in patched.catalog.samples.read(["sample_id", "uri"]).to_pylist()
        if row["uri"] == str(image)
    )
    image.write_bytes(b"other")
    with pytest.raises(NotFoundError, match=r"is lost: changed"):
        patched.heatmap(row["sample_id"])


def test_the_detector_needs_the_setting(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match=r"'patch'.*'patches: true'"):
        Workspace(workspace.root, {"mining": {"detector": "patch"}}).mine()


@pytest.mark.parametrize("encoder", ["onnx:model.onnx", "vectors:mine"])
def test_an_encoder_without_patches_is_told(empty: Workspace, encoder: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"gives no patches; efficientnet-lite0, hf:, timm:"):
        Workspace(empty.root, {"patches": True, "encoder": encoder}).ingest([str(tmp_path)])
