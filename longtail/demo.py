"""The demo: 2,624 photographs of solar cells, some cracked, mined without their labels.

The photographs and the defect probabilities that experts gave them come with the package
elpv-dataset (Buerhop-Lutz et al., 2018; CC BY-NC-SA). The labels are read after mining, only to
count how many of the first flags are true defects.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.dataset as ds

from schemas.catalog import Catalog
from schemas.errors import UsageError
from schemas.records import Flag

SOURCE = "elpv"
BUDGET = "200"
_DEFECT = 0.5


@dataclass(frozen=True)
class Hits:
    """How many of the first `flags` flags are true defects, and how many chance would give."""

    flags: int
    defects: int
    chance: float


def photographs(limit: int | None = None) -> list[str]:
    """The folder of the photographs, or the paths of `limit` evenly spread ones.

    Raises UsageError where the package is missing.
    """
    folder = _data() / "images"
    paths = sorted(map(str, folder.glob("*.png")))
    if limit is None or limit >= len(paths):
        return [str(folder)]
    return [paths[i * len(paths) // limit] for i in range(limit)]


def check_own(catalog: Catalog) -> None:
    """Raise UsageError for a workspace that holds other images than the demo's."""
    if catalog.uris.count(ds.field("source") != SOURCE):
        raise UsageError(
            f"{catalog.root} holds images of your own; give the demo a folder of its own: "
            "longtail demo FOLDER"
        )


def judge(flags: Sequence[Flag], pool: Sequence[str]) -> Hits:
    """Compare the best flags (100, fewer in a small demo) with the labels.

    pool: the URIs of what was mined; photographs are known by their file names, wherever they lie.
    """
    defective = _defective()
    outliers = [flag.uri for flag in flags if flag.kind == "outlier"]
    first = outliers[: min(100, max(1, len(pool) // 10))]
    defects, all_defects = (
        sum(Path(uri).name in defective for uri in uris) for uris in (first, pool)
    )
    return Hits(len(first), defects, len(first) * all_defects / max(1, len(pool)))


def _defective() -> set[str]:
    labels = (line.split() for line in (_data() / "labels.csv").read_text().splitlines())
    return {Path(name).name for name, probability, _ in labels if float(probability) > _DEFECT}


def _data() -> Path:
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise UsageError("the demo's photographs are missing: pip install 'longtail[demo]'")
    return Path(package.origin).parent / "data"
