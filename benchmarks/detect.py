"""Detection, side by side with its rivals on the same embeddings: `make bench-detect [QUICK=1]`.

Prints the tables, ends with one JSON line, and in its full form writes
`benchmarks/results/detect.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from benchmarks.detect_images import cells, corruptions, foreign_groups, luma, png
from benchmarks.detect_rivals import RIVALS, cleanvision
from detectors.baseline import Baseline, fit_pool, fit_reference
from detectors.calibration import benjamini_hochberg, conformal_p_values, promise
from detectors.pool import Pool
from detectors.registry import levels
from detectors.suggest import suggest
from encoders.images import Limits, decode
from encoders.registry import DEFAULT, load
from schemas.records import LEVELS

RESULTS = Path(__file__).parent / "results"
OURS = "longtail"
RATE = 0.1

Embedded = Mapping[str, NDArray[np.float32]]
Row = dict[str, list[float]]
"""Percent per method, one value a seed."""


class Bench:
    """The embedded images, and the rows measured so far."""

    def __init__(self, seeds: int, quick: bool) -> None:
        self.seeds = seeds
        self.quick = quick
        self.encoder = load(DEFAULT, threads=2)
        self.paths, self.probability, self.types = cells()
        self.embedded = self.embed(path.read_bytes() for path in self.paths)
        self.clean = np.flatnonzero(self.probability == 0)
        self.defects = np.flatnonzero(self.probability == 1)
        self.rows: dict[str, Row] = {}

    def embed(self, images: Iterable[bytes]) -> Embedded:
        preprocess, limits = self.encoder.info.preprocess, Limits()
        pixels = np.stack([decode(data, preprocess, limits).pixels for data in images])
        return self.encoder.encode(pixels)

    def cells_of(self, rows: NDArray[np.int64]) -> Embedded:
        return {level: self.embedded[level][rows] for level in LEVELS}

    def record(self, row: str, method: str, value: float) -> None:
        self.rows.setdefault(row, {}).setdefault(method, []).append(100 * value)

    def compare(
        self, row: str, truth: NDArray[np.bool_], reference: Embedded | None, pool: Embedded
    ) -> None:
        """AUROC and average precision of every method on one pool."""
        for method, scores in every_score(reference, pool):
            self.record(f"{row} AUROC", method, roc_auc_score(truth, scores))
            self.record(f"{row} AP", method, average_precision_score(truth, scores))


def stack(*parts: Embedded) -> Embedded:
    return {level: np.concatenate([part[level] for part in parts]) for level in LEVELS}


def pool_of(embedded: Embedded, near: Embedded | None = None) -> Pool:
    high = embedded["high"]
    among = high if near is None else near["high"]
    model = NearestNeighbors(n_neighbors=min(100, len(among) - 1)).fit(among)
    distances, _ = model.kneighbors(None if near is None else high)
    n = len(high)
    return Pool([str(i) for i in range(n)], [""] * n, embedded, {}, distances.astype(np.float32))


def our_score(reference: Embedded | None, pool: Embedded) -> tuple[NDArray[np.float64], Baseline]:
    samples = pool_of(pool, reference)
    baseline = fit_pool(samples) if reference is None else fit_reference(pool_of(reference))
    z = baseline.scales.z(baseline.measure(samples), samples.sources)
    return baseline.score(z), baseline


def every_score(
    reference: Embedded | None, pool: Embedded
) -> Iterable[tuple[str, NDArray[np.float64]]]:
    yield OURS, our_score(reference, pool)[0]
    known = None if reference is None else reference["high"].astype(np.float64)
    for method, rival in RIVALS.items():
        yield method, rival(known, pool["high"].astype(np.float64))


def recall_at(scores: NDArray[np.float64], truth: NDArray[np.bool_], budget: int) -> float:
    """Share of the positives among the `budget` best, of those that could be there."""
    best = np.argsort(-scores, kind="stable")[:budget]
    return float(truth[best].sum() / min(truth.sum(), budget))


def defects_in_three_settings(bench: Bench) -> None:
    for seed in range(bench.seeds):
        rng = np.random.default_rng(seed)
        clean, defects = rng.permutation(bench.clean), rng.permutation(bench.defects)
        half = len(clean) // 2
        tested = np.concatenate([clean[half:], defects])
        truth = bench.probability[tested] == 1
        bench.compare("ref", truth, bench.cells_of(clean[:half]), bench.cells_of(tested))
        few = np.concatenate([clean, defects[: len(clean) // 19]])
        bench.compare("5%", bench.probability[few] == 1, None, bench.cells_of(few))
    decided = np.isin(bench.probability, (0, 1))
    whole = np.arange(len(bench.paths))
    for method, scores in every_score(None, bench.cells_of(whole)):
        truth = bench.probability[decided] == 1
        bench.record("32% AUROC", method, roc_auc_score(truth, scores[decided]))
        first = np.argsort(-scores, kind="stable")[:100]
        bench.record("32% first 100", method, float((bench.probability[first] > 0.5).mean()))


def masked_groups(bench: Bench) -> None:
    """A group of alike foreign photographs among all cells, at a budget of 5%."""
    for size in (3, 10, 30, 100):
        for seed in range(bench.seeds):
            group = bench.embed(foreign_groups(size, np.random.default_rng(seed)))
            pool = stack(bench.embedded, group)
            truth = np.arange(len(pool["high"])) >= len(bench.paths)
            for method, scores in every_score(None, pool):
                recall = recall_at(scores, truth, len(truth) // 20)
                bench.record(f"group of {size} recall", method, recall)


def broken_captures(bench: Bench) -> None:
    """Each kind at 1.5% of the clean cells, recall at a budget of 2%; cleanvision on the pixels.

    The rivals are the mean over 18 kinds; a quick run leaves out the slowest two of them here.
    """
    slow = {"PyOD HBOS", "PyOD CBLOF"} if bench.quick else set()
    for seed in range(bench.seeds):
        rng = np.random.default_rng(seed)
        clean = rng.permutation(bench.clean)
        count = int(0.015 * len(clean))
        broken, rest = clean[:count], clean[count:]
        images = [luma(bench.paths[row]) for row in broken]
        made = {
            kind: [png(corrupt(x)) for x in images] for kind, corrupt in corruptions(rng).items()
        }
        faulty = looked_at(made, [bench.paths[row] for row in rest])
        truth = np.arange(len(clean)) >= len(rest)
        budget = int(0.02 * len(truth))
        for kind, files in made.items():
            pool = stack(bench.cells_of(rest), bench.embed(files))
            samples = pool_of(pool)
            ours = recall_at(levels(samples, fit_pool(samples)), truth, budget)
            bench.record(f"corruption: {kind}", OURS, ours)
            bench.record("corruptions recall", OURS, ours)
            theirs = recall_at(faulty[kind], truth, budget)
            bench.record("corruptions recall", "cleanvision", theirs)
            for method, rival in RIVALS.items():
                if method not in slow:
                    scores = rival(None, pool["high"].astype(np.float64))
                    bench.record("corruptions recall", method, recall_at(scores, truth, budget))


def looked_at(
    broken: Mapping[str, Sequence[bytes]], clean: Sequence[Path]
) -> Mapping[str, NDArray[np.float64]]:
    """cleanvision's scores of the clean images and then those of each kind."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i, path in enumerate(clean):
            (folder / f"clean-{i}.png").write_bytes(path.read_bytes())
        for kind, files in broken.items():
            for i, data in enumerate(files):
                (folder / f"{kind}-{i}.png").write_bytes(data)
        scores = cleanvision(folder)
    normal = [scores[f"clean-{i}.png"] for i in range(len(clean))]
    return {
        kind: np.array([*normal, *(scores[f"{kind}-{i}.png"] for i in range(len(files)))])
        for kind, files in broken.items()
    }


def calibration(bench: Bench) -> dict[str, list[float]]:
    """Realised false discovery rates at a promise of 10%; 0 where the promise was withdrawn."""
    realised: dict[str, list[float]] = {}
    for seed in range(bench.seeds):
        rng = np.random.default_rng(seed)
        clean, defects = rng.permutation(bench.clean), rng.permutation(bench.defects)
        known, fresh = np.array_split(clean, 2)
        mono = bench.types[clean] == "mono"
        half = mono.sum() // 2
        settings = {
            "exchangeable, 5%": (known, fresh, 40),
            "exchangeable, 20%": (known, fresh, 180),
            "exchangeable, 32%": (known, fresh, 350),
            "contaminated by 3%": (np.concatenate([known, defects[-24:]]), fresh, 180),
            "shifted": (clean[mono][:half], np.concatenate([clean[mono][half:], clean[~mono]]), 40),
        }
        for name, (reference, normal, odd) in settings.items():
            tested = np.concatenate([normal, defects[:odd]])
            scores, baseline = our_score(bench.cells_of(reference), bench.cells_of(tested))
            held = baseline.score(baseline.z)
            p_values = conformal_p_values(scores, held)
            truth = bench.probability[tested] == 1
            for kind, found in (
                ("unchecked", benjamini_hochberg(p_values, RATE)),
                ("promised", promise(p_values, held, RATE).found),
            ):
                wrong = 0.0 if found is None else (found & ~truth).sum() / max(found.sum(), 1)
                realised.setdefault(f"{name}, {kind}", []).append(float(wrong))
            found = benjamini_hochberg(p_values, RATE)
            realised.setdefault(f"{name}, power", []).append(float(found[truth].mean()))
    return realised


def labels_worth(bench: Bench) -> tuple[dict[str, list[float]], float]:
    """Held-out average precision by the number of labels, and how many random ones 50 are worth."""
    features = np.concatenate([bench.embedded["mid"], bench.embedded["high"]], axis=1)
    sizes = (50, 100, 150, 200, 300)
    curves: dict[str, list[float]] = {}
    for seed in range(bench.seeds):
        rng = np.random.default_rng(seed)
        few = rng.permutation(bench.defects)[: len(bench.clean) // 19]
        rows = rng.permutation(np.concatenate([bench.clean, few]))
        train, test = np.array_split(rows, 2)
        X, y = features[train], bench.probability[train] == 1
        held_out = features[test], bench.probability[test] == 1
        scores, _ = our_score(None, bench.cells_of(train))
        chosen = [each.row for each in suggest(50, X, scores)]
        curves.setdefault("suggested 50", []).append(worth(X, y, chosen, held_out))
        order = rng.permutation(len(train))
        for size in sizes:
            value = worth(X, y, order[:size], held_out)
            curves.setdefault(f"random {size}", []).append(value)
    means = [float(np.mean(curves[f"random {size}"])) for size in sizes]
    target = float(np.mean(curves["suggested 50"]))
    reached = [size for size, mean in zip(sizes, means, strict=True) if mean >= target]
    return curves, (reached[0] if reached else sizes[-1]) / 50


def worth(
    X: NDArray[np.floating],
    y: NDArray[np.bool_],
    rows: Sequence[int] | NDArray[np.int64],
    held_out: tuple[NDArray[np.floating], NDArray[np.bool_]],
) -> float:
    if y[rows].all() or not y[rows].any():
        return float(held_out[1].mean())
    model = LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced").fit(X[rows], y[rows])
    return float(average_precision_score(held_out[1], model.decision_function(held_out[0])))


def interval(values: Sequence[float]) -> float:
    """Half the width of the 95% interval of the mean over seeds."""
    return 1.96 * float(np.std(values)) / max(len(values) - 1, 1) ** 0.5


def won(row: Row) -> bool:
    """Whether our mean is no worse than each rival's, or within our interval of it."""
    ours = float(np.mean(row[OURS])) + interval(row[OURS])
    return all(ours >= float(np.mean(v)) for method, v in row.items() if method != OURS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, no files")
    quick = parser.parse_args().quick
    bench = Bench(1 if quick else 10, quick)
    started = time.perf_counter()
    for part in (defects_in_three_settings, masked_groups, broken_captures):
        part(bench)
        print(f"{part.__name__}: {time.perf_counter() - started:.0f} s", flush=True)
    realised = calibration(bench)
    curves, gain = labels_worth(bench)
    for name, row in bench.rows.items():
        print(f"\n{name}{'' if len(row) == 1 or won(row) else '  LOST'}")
        for method, values in sorted(row.items(), key=lambda item: -np.mean(item[1])):
            print(f"  {method:22} {np.mean(values):5.1f} +- {interval(values):.1f}")
    for table in (realised, curves):
        print()
        for name, shares in table.items():
            print(f"{name:32} {np.mean(shares):.3f} +- {interval(shares):.3f}")

    def mean(row: str) -> float:
        return round(float(np.mean(bench.rows[row][OURS])), 1)

    compared = [row for row in bench.rows.values() if len(row) > 1]
    promised = [np.mean(v) for name, v in realised.items() if name.endswith("promised")]
    summary = {
        "elpv_ref_auroc": mean("ref AUROC"),
        "elpv_5pct_auroc": mean("5% AUROC"),
        "elpv_5pct_ap": mean("5% AP"),
        "group_recall": min(mean(f"group of {size} recall") for size in (10, 30, 100)),
        "corruption_recall": mean("corruptions recall"),
        "fdr_worst": round(100 * float(max(promised)), 1),
        "label_gain": round(gain, 1),
        "rows_won": sum(map(won, compared)),
        "rows": len(compared),
    }
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        written = {"summary": summary, "rows": bench.rows, "fdr": realised, "labels": curves}
        (RESULTS / "detect.json").write_text(json.dumps(written, indent=1))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
