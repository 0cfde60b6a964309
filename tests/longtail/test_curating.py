"""From flags and verdicts to a dataset, and from that to files for training."""

from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import pytest

from longtail import Workspace
from pipelines.curate import dataset


def test_from_flag_to_dataset_and_back(longtail, workspace: Workspace, tmp_path: Path) -> None:
    w = workspace.root
    ids = [flag.sample_id for flag in workspace.flags()[:4]]
    given = longtail("verdict", "-w", w, ids[0][:12], ids[1], "edge_case", "--tag", "crack")
    assert given.out.startswith("2 recorded as edge_case")
    longtail("verdict", "-w", w, ids[2], "edge_case", "--reviewer", "ada", "--note", "odd")
    longtail("verdict", "-w", w, ids[2], "junk")  # the latest counts
    assert workspace.verdicts.latest()[ids[2]].label == "junk"

    curated = longtail("curate", "-w", w, "cracks", "--json").json
    assert curated == {
        **{"dataset": "cracks", "version": 0, "added": 2, "rejected": {}, "samples": 2},
    }
    assert longtail("curate", "-w", w, "cracks", "--json").json == {**curated, "added": 0}
    more = longtail("curate", "-w", w, "cracks", "--top", 4, "--json").json
    assert (more["version"], more["added"], more["samples"]) == (1, 1, 3)

    exported = longtail("export", "-w", w, "cracks", tmp_path / "hf", "--format", "hf", "--json")
    assert exported.json["samples"] == 3
    rows = datasets.load_dataset(
        str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache")
    )
    by_id = {row["sample_id"]: row for row in rows}
    assert set(by_id) == {ids[0], ids[1], ids[3]}
    assert by_id[ids[0]]["tags"] == ["crack"]
    assert by_id[ids[0]]["label"] == "edge_case"
    assert by_id[ids[3]]["label"] is None
    assert by_id[ids[0]]["image"].size == (300, 300)
    assert by_id[ids[0]]["run_id"] == workspace.flags()[0].run_id
    assert by_id[ids[0]]["uri"] == workspace.flags()[0].uri

    old = longtail("export", "-w", w, "cracks", tmp_path / "old", "--version", 0, "--json").json
    assert old["samples"] == 2
    folder = longtail("export", "-w", w, "cracks", tmp_path / "if", "--format", "imagefolder")
    assert folder.code == 0
    assert len(list((tmp_path / "if" / "images").iterdir())) == 3
    assert longtail("export", "-w", w, "cracks", tmp_path / "if").code == 2
    assert (
        "versions are 0 to 1"
        in longtail(*("export", "-w", w, "cracks", tmp_path / "new", "--version", 9)).err
    )


def test_a_verdict_keeps_the_score_of_its_run(longtail, workspace: Workspace) -> None:
    flag = workspace.flags(kind="outlier")[-1]
    longtail("verdict", "-w", workspace.root, flag.sample_id, "edge_case")
    longtail("mine", "-w", workspace.root, "--budget", 1)
    assert flag.sample_id not in {other.sample_id for other in workspace.flags()}

    longtail("curate", "-w", workspace.root, "kept")

    row = dataset(workspace.catalog, "kept").read().to_pylist()[0]
    assert (row["run_id"], row["score"]) == (flag.run_id, pytest.approx(flag.score))


def test_curate_refuses_what_is_no_longer_there(
    longtail, empty: Workspace, photographs: Path, tmp_path: Path
) -> None:
    images = []
    for name, path in zip("abcd", sorted(photographs.iterdir()), strict=False):
        images.append(shutil.copy(path, tmp_path / f"{name}.png"))
    shutil.copy(images[3], tmp_path / "second-name.png")
    longtail("run", "-w", empty.root, *sorted(tmp_path.glob("*.png")))
    ids = empty.catalog.samples.read(["uri", "sample_id"]).to_pylist()
    longtail("verdict", "-w", empty.root, *(row["sample_id"] for row in ids), "edge_case")
    Path(images[0]).unlink()
    shutil.copy(images[2], images[1])
    Path(images[3]).unlink()  # its other name still holds it

    curated = longtail("curate", "-w", empty.root, "all", "--json").json

    assert curated["rejected"] == {"unreadable": 1, "changed": 1}
    assert curated["added"] == 2
