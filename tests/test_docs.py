"""The documentation is tested: its commands run, and no command is missing from it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detectors.baseline import fit_pool
from detectors.pool import Pool
from detectors.registry import DETECTORS
from encoders.registry import available
from encoders.sidecar import Sidecar
from longtail import Workspace
from longtail.cli import app
from schemas.records import LEVELS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def commands(text: str) -> Iterator[list[str]]:
    """The lines of a page's shell blocks that call longtail, without their comments."""
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "longtail":
                yield words[1:]


def test_every_command_stands_in_the_table() -> None:
    listed = re.findall(r"^\| `longtail (\w+)` \|", README, flags=re.MULTILINE)
    registered = [command.callback.__name__ for command in app.registered_commands]  # type: ignore[union-attr]
    registered += [group.name for group in app.registered_groups]
    assert sorted(listed) == sorted(registered)


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(((?!https?:)[^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), (page, target)


def test_the_encoders_of_the_page_are_those_that_there_are() -> None:
    page = (ROOT / "docs" / "encoders.md").read_text("utf-8")
    for line in available():
        for form in line.name.split(" or "):
            assert f"`{form}`" in page
    sidecar = page.partition("```yaml\n")[2].partition("```")[0]
    assert Sidecar.model_validate(yaml.safe_load(sidecar)).patches == 1


def test_the_detectors_of_the_page_are_those_that_there_are() -> None:
    page = (ROOT / "docs" / "detectors.md").read_text("utf-8")
    rows = "".join(re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", rows)) == set(DETECTORS)
    example: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], example)
    rng = np.random.default_rng(0)
    vectors = {level: rng.normal(size=(30, 4)).astype(np.float32) for level in LEVELS}
    pool = Pool(
        sample_ids=[str(i) for i in range(30)],
        sources=[""] * 30,
        embeddings=vectors,
        quality={},
        distances=np.ones((30, 3), np.float32),
        neighbours=rng.integers(0, 30, (30, 3)),
    )
    assert example["from_the_median"](pool, fit_pool(pool)).shape == (30,)


def results(name: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / name).read_text())
    return told


def test_every_figure_of_the_readme_is_one_of_the_results() -> None:
    """In the order in which they stand there."""
    measured = " ".join(README.partition("## Measured")[2].partition("\n## ")[0].split())
    encode, summary = results("encode.json"), results("detect.json")["summary"]
    ratios, peaks = encode["ratio_to_bare_loop"], encode["peak_memory"]["bytes"]
    torch_rates = encode["torch_fp32_images_per_s"]["all_cores"]
    rows = {
        name: row["methods"]
        for part in ("elpv", "captures")
        for name, row in results("detect.json")[part]["rows"].items()
    }

    def rival(row: str) -> float:
        return max(told["mean"] for name, told in rows[row].items() if name != "longtail")

    others = results("detect.json")["others"]
    gains = results("detect.json")["labels"]["label_gain_of"] | others["label_gain_of"]
    gain = {
        name.removesuffix(", suggested in rounds"): f"{50 * x:.0f}" for name, x in gains.items()
    }
    at_once = [
        gain[f"{name}, suggested"]
        for name in ("5% defects", "32% defects", "digits, labels", "textures, labels")
    ]
    compared = {
        name: row["methods"] for name, row in others["rows"].items() if "longtail" in row["methods"]
    }
    tables = ("elpv", "groups", "captures", "calibration", "labels", "others")
    measured_rows = [
        row for part in tables for row in results("detect.json")[part]["rows"].values()
    ]
    means = [{name: told["mean"] for name, told in row["methods"].items()} for row in measured_rows]
    above = [max(row.values()) > row["longtail"] for row in means if "longtail" in row]
    textures = compared["textures, pool AP"]
    rates = results("detect.json")["calibration"]["rows"]
    withdrawn = [
        rates[row]["methods"]["withdrawn"]["seeds"] for row in ("shifted", "a fifth shifted")
    ]
    for figure in (
        f"withdrawn in {sum(map(sum, withdrawn)) / 100:.0f} of {sum(map(len, withdrawn))} pools",
        f"an AUROC of {summary['elpv_ref_auroc']:.1f} against a reference (the best rival "
        f"{rival('ref AUROC'):.1f})",
        f"an average precision of {summary['elpv_5pct_ap']:.1f} with 5% defects in one pool "
        f"({rival('5% AP'):.1f})",
        f"{summary['group_recall']:.0f}% of groups of 10 to 100",
        f"{summary['corruption_recall']:.1f}% of 18 kinds of broken capture "
        f"({rival('mean of 18 kinds'):.1f}%)",
        f"came to at most {summary['fdr_worst']:.1f}%",
        f"holds {summary['rows_won']} of {summary['rows']} rows",
        f"Of these {summary['rows']}, {len(compared)} are of digits",
        f"In {sum(above)} of them a rival's mean lies above ours, though within the interval",
        f"cleanlab reaches an average precision of {rows['32% AP']['cleanlab']['mean']:.1f} and we "
        f"{rows['32% AP']['longtail']['mean']:.1f}",
        f"LOF on two levels {textures['PyOD LOF on two levels']['mean']:.1f} and we "
        f"{textures['longtail']['mean']:.1f}",
        f"worth {gain['5% defects']} random ones or more where 5% of the cells are defects, and "
        f"{gain['32% defects']} where 32% are; {gain['digits, labels']} for one digit of ten, "
        f"{gain['textures, labels']} for spoilt textures. Suggested all at once they are worth "
        f"{at_once[0]} or more, {at_once[1]}, {at_once[2]} and {at_once[3]}.",
        f"{encode['images_per_s']['elpv_ingest']:.0f} solar cells/s",
        f"are {ratios['elpv']:.2f} of it, JPEGs of 1.2 and 12 megapixels "
        f"{ratios['jpeg_1mp']:.2f} and {ratios['jpeg_12mp']:.2f}",
        f"{encode['images_per_s']['elpv_ingest'] / torch_rates['64']:.1f} times plain fp32 torch "
        f"at batches of 64, {encode['speedup_over_torch_fp32']:.1f} times at the batches that suit "
        f"it best, of {max(torch_rates, key=torch_rates.__getitem__)}, and "
        f"{encode['speedup_over_torch_fp32_per_core']:.1f} times with",
        f"20,000 images takes {peaks['20000'] / 1e9:.2f} GB",
        f"2,000 takes {peaks['2000'] / 1e9:.2f} GB",
    ):
        assert figure in measured, figure


def test_the_figures_of_gpus_are_those_of_the_results() -> None:
    index, vit = results("gpu_index.json"), results("gpu_encode.json")["vit-b14"]
    there, here = index["on_gpu"], index["on_cpu"]
    assert there["recall_at_10"] == here["recall_at_10"]
    for page, figures in {
        "index.md": (
            f"took {there['score_s']:.2f} s on an H100 and {here['score_s']:.2f} s on "
            f"{index['cores']} cores, with the same recall of {there['recall_at_10']} "
            f"({index['score_vs_faiss']} times FAISS",
            f"{there['compact_s']:.0f} s and {here['compact_s']:.0f} s: `python",
        ),
        "encoders.md": (
            f"{vit['images_per_s']:,.0f} images/s from memory on an H100, "
            f"{vit['share_of_ceiling']} of what",
        ),
    }.items():
        text = " ".join((ROOT / "docs" / page).read_text("utf-8").split())
        for figure in figures:
            assert figure in text, figure


def test_the_architecture_names_files_that_exist() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text("utf-8").partition("## Where to change what")[2]
    paths = re.findall(r"`([a-z_]+/[a-z_./]*)`", table)
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path


def another(workspace: Workspace, taken: list[str]) -> str:
    """A sample's id that is not taken, cut short; of a flag as long as there are any."""
    flagged = [flag.sample_id for flag in workspace.flags()]
    others = workspace.catalog.samples.read(["sample_id"])["sample_id"].to_pylist()
    return next(id_[:12] for id_ in [*flagged, *others] if id_[:12] not in taken)


def test_the_worked_example_works(
    make_photographs: Callable[[Path, int], list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    photographs = make_photographs(tmp_path / "photos", 40)
    (tmp_path / "photo.jpg").symlink_to(photographs[0])
    ran, ids = set(), {}
    for words in commands(README):
        for word in filter(re.compile("[0-9a-f]{12}").fullmatch, words):
            ids[word] = ids.get(word) or another(Workspace("my-workspace"), list(ids.values()))
        words = [ids.get(word, word) for word in words]
        done = subprocess.run(
            [sys.executable, "-m", "longtail", *words], capture_output=True, text=True
        )
        assert done.returncode == 0, (words, done.stderr)
        ran.add(words[0])
    assert {"init", "run", "flags", "query", "verdict", "curate", "export", "status"} <= ran
    assert Workspace("my-workspace").export("cracks", "again")["samples"] == 1
