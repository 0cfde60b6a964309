"""Scores of patches beside those of pooled vectors, on ELPV: `python -m benchmarks.patches`.

Three settings, as in `benchmarks.detect`: a clean reference, one pool with 5% true defects, and all
cells as the pool. In the last two the bank is made as a workspace makes it: from the more ordinary
half of 512 random cells, and no cell is held against its own patches. Prints the table and writes
`benchmarks/results/patches.json`, means and 95% intervals over seeds, in percent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from benchmarks.detect_images import cells
from detectors.baseline import fit_pool, fit_reference
from detectors.findings import Policy
from detectors.mining import mine
from detectors.patches import Bank, fit_bank, ordinary_half, patch_scores
from detectors.pool import Patches, Pool
from detectors.registry import knn, mahalanobis, patch
from encoders.images import Limits, decode
from encoders.registry import DEFAULT, load, load_patches
from pipelines.patches import CANDIDATES

RESULTS = Path(__file__).parent / "results" / "patches.json"
SEEDS = 3
_AT_ONCE = 64

Rows = NDArray[np.int64]
Scores = NDArray[np.floating]


class Cells:
    """ELPV, embedded whole and by patches (2,624, 14, 14, 152)."""

    def __init__(self) -> None:
        paths, self.probability, _ = cells()
        whole, patches = load(DEFAULT, threads=2), load_patches(DEFAULT, threads=2)
        preprocess = whole.info.preprocess
        pixels = np.stack(
            [decode(path.read_bytes(), preprocess, Limits()).pixels for path in paths]
        )
        self.embedded = whole.encode(pixels)
        begun = time.perf_counter()
        parts = range(0, len(pixels), _AT_ONCE)
        self.patches = np.concatenate(
            [patches.encode_patches(pixels[at : at + _AT_ONCE]) for at in parts]
        )
        self.patches_per_s = len(pixels) / (time.perf_counter() - begun)

    def bank(self, rows: Rows) -> Bank:
        return fit_bank(self.patches[rows], rows.astype(str).tolist())

    def with_patches(self, pool: Pool, bank: Bank, rows: Rows) -> Pool:
        """The pool of the cells `rows` and how strange their strangest spots are."""
        distances = bank.distances(self.patches[rows], rows.astype(str).tolist())
        place = np.full(len(rows), np.nan)
        return replace(pool, patches=Patches(patch_scores(distances), x=place, y=place))

    def pool(self, rows: Rows, among: Rows | None = None) -> Pool:
        high = self.embedded["high"]
        model = NearestNeighbors(n_neighbors=100).fit(high[rows if among is None else among])
        distances, neighbours = model.kneighbors(None if among is None else high[rows])
        return Pool(
            sample_ids=[str(i) for i in rows],
            sources=[""] * len(rows),
            embeddings={level: vectors[rows] for level, vectors in self.embedded.items()},
            quality={},
            distances=distances.astype(np.float32),
            neighbours=neighbours,
        )


def scores(elpv: Cells, rows: Rows, reference: Rows | None, chosen: Rows) -> Mapping[str, Scores]:
    """Every score of the cells `rows`; the bank is made of the cells `chosen`."""
    bank, pool = elpv.bank(chosen), elpv.pool(rows, reference)
    patched = elpv.with_patches(pool, bank, rows)
    known = patched_known = None
    if reference is not None:
        samples = elpv.pool(reference)
        known = fit_reference(samples)
        patched_known = fit_reference(elpv.with_patches(samples, bank, reference))
    baseline = known or fit_pool(pool)
    return {
        "knn": knn(pool, baseline),
        "mahalanobis": mahalanobis(pool, baseline),
        "patch": patch(patched, baseline),
        "default": mine(pool, Policy(), known).score,
        "default with patches": mine(patched, Policy(), patched_known).score,
    }


def ordinary(elpv: Cells, rows: Rows) -> Rows:
    """What a workspace makes its bank of, where `rows` are a random sample of it."""
    return rows[ordinary_half(elpv.embedded["high"][rows])]


def measure(elpv: Cells) -> dict[str, dict[str, list[float]]]:
    """AUROC and average precision in percent, per setting and score, one value a seed."""
    measured: dict[str, dict[str, list[float]]] = {}
    clean = np.flatnonzero(elpv.probability == 0)
    defects = np.flatnonzero(elpv.probability == 1)
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        good, bad = rng.permutation(clean), rng.permutation(defects)
        half = len(good) // 2
        few = np.concatenate([good, bad[: len(good) // 19]])
        everything = np.arange(len(elpv.probability))
        settings: dict[str, tuple[Rows, Rows | None, Rows]] = {
            "reference": (np.concatenate([good[half:], bad]), good[:half], good[:CANDIDATES]),
            "5% defects": (few, None, ordinary(elpv, rng.permutation(few)[:CANDIDATES])),
            "all": (everything, None, ordinary(elpv, rng.permutation(everything)[:CANDIDATES])),
            "all, no cell left out": (everything, None, rng.permutation(everything)[:CANDIDATES]),
        }
        for name, (rows, reference, chosen) in settings.items():
            decided = np.isin(elpv.probability[rows], (0, 1))
            truth = elpv.probability[rows][decided] == 1
            for score, values in scores(elpv, rows, reference, chosen).items():
                for metric, value in (
                    ("AUROC", roc_auc_score(truth, values[decided])),
                    ("AP", average_precision_score(truth, values[decided])),
                ):
                    row = measured.setdefault(f"{name}: {metric}", {})
                    row.setdefault(score, []).append(100 * float(value))
            print(f"seed {seed}, {name}", flush=True)
    return measured


def main() -> None:
    elpv = Cells()
    measured = measure(elpv)
    table = {
        row: {
            score: {
                "mean": round(float(np.mean(values)), 1),
                "interval": round(1.96 * float(np.std(values)) / (SEEDS - 1) ** 0.5, 1),
            }
            for score, values in of_scores.items()
        }
        for row, of_scores in measured.items()
    }
    for row, of_scores in table.items():
        print(f"\n{row}")
        for score, value in sorted(of_scores.items(), key=lambda item: -item[1]["mean"]):
            print(f"  {score:20} {value['mean']:5.1f} +- {value['interval']:.1f}")
    written = {
        "seeds": SEEDS,
        "bank_patches": elpv.bank(np.arange(CANDIDATES // 2)).patches.shape[0],
        "candidates": CANDIDATES,
        "patches_images_per_s": round(elpv.patches_per_s, 1),
        "percent": table,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    print(json.dumps({row: of_scores["patch"]["mean"] for row, of_scores in table.items()}))


if __name__ == "__main__":
    main()
