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

from schemas.errors import UsageError
from schemas.records import Flag

BUDGET = "200"
_DEFECT = 0.5


@dataclass(frozen=True)
class Hits:
    """How many of the first `flags` flags are true defects, and how many chance would give."""

    flags: int
    defects: int
    chance: float


def photographs(limit: int | None = None) -> dict[str, float]:
    """Path of each photograph, or of `limit` evenly spread ones, and its defect probability.

    Raises UsageError where the package is missing.
    """
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise UsageError("the demo's photographs are missing: pip install 'longtail[demo]'")
    folder = Path(package.origin).parent / "data"
    probabilities = {}
    for line in (folder / "labels.csv").read_text().splitlines():
        name, probability, _ = line.split()
        probabilities[str(folder / name)] = float(probability)
    if limit is None or limit >= len(probabilities):
        return probabilities
    paths = sorted(probabilities)
    chosen = [paths[i * len(paths) // limit] for i in range(limit)]
    return {path: probabilities[path] for path in chosen}


def judge(flags: Sequence[Flag], probabilities: dict[str, float]) -> Hits:
    """Compare the best flags (100, fewer in a small demo) with the labels."""
    first = [flag for flag in flags if flag.kind == "outlier"]
    first = first[: min(100, max(1, len(probabilities) // 10))]
    defects = sum(probabilities[flag.uri] > _DEFECT for flag in first)
    share = sum(p > _DEFECT for p in probabilities.values()) / len(probabilities)
    return Hits(len(first), defects, share * len(first))
