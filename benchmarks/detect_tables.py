"""The tables of the detection benchmark: each a function of the cells that fills rows."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.detect_cells import (
    SOURCE,
    Cells,
    Embedded,
    Ints,
    joined,
    ours,
    pool_of,
)
from benchmarks.detect_images import corruptions, crops, luma, near_copies, png
from benchmarks.detect_rivals import cleanvision
from benchmarks.detect_rows import (
    OURS,
    Floats,
    Mask,
    Row,
    auroc,
    average_precision,
    mean_of,
    recall_at,
    resampled,
)
from detectors.baseline import Baseline, fit_reference
from detectors.findings import Budget, Policy
from detectors.mining import mine
from detectors.pool import Pool
from detectors.suggest import suggest
from schemas.records import LEVELS

Rows = dict[str, Row]

RATE = 0.1
GROUPS = (3, 10, 30, 100)
RANDOM_LABELS = (50, 100, 150, 200, 300, 400)
SUGGESTED = 50
BROKEN = 0.015
BUDGET_FOR_BROKEN = 0.02


@dataclass(frozen=True)
class Size:
    """How much is measured. seeds: of each table but those of its own. cells: clean ones in a pool
    with broken captures; None for all."""

    seeds: int
    rate_seeds: int
    label_seeds: int
    cells: int | None


def elpv(cells: Cells, size: Size) -> Rows:
    """`ref`: half of the clean cells are the reference. `5%`: a pool of its own with as many
    defects. `32%`: all cells, the doubtful ones in the pool and not in the figures."""
    rows: Rows = defaultdict(Row)
    for seed in range(size.seeds):
        rng, clean, defects = cells.split(seed)
        known, fresh = np.array_split(clean, 2)
        tested = np.concatenate([fresh, defects])
        settings = {"ref": (cells.of(known), tested), "5%": (None, cells.with_few_defects(seed))}
        if seed == 0 and (cells.probability % 1).any():
            settings["32%"] = (None, np.arange(len(cells.paths)))
        for name, (reference, pool) in settings.items():
            decided = np.isin(cells.probability[pool], (0, 1))
            truth = cells.probability[pool][decided] == 1
            weights = resampled(truth, rng)
            for method, scores in cells.every_score(reference, cells.of(pool)):
                shown = scores[decided]
                rows[f"{name} AUROC"].add(method, auroc(shown, truth, weights))
                rows[f"{name} AP"].add(method, average_precision(shown, truth, weights))
                if name == "5%":
                    recall = recall_at(len(pool) // 20)(shown, truth, weights)
                    rows["5% recall"].add(method, recall)
    return rows


def groups(cells: Cells, size: Size) -> Rows:
    """A group of alike foreign photographs among the clean cells and 5% defects, at a budget of
    5%: loose (crops of one photograph) and tight (nearly the same picture)."""
    rows: Rows = defaultdict(Row)
    for seed in range(size.seeds):
        for kind, photographs in (("loose", crops), ("tight", near_copies)):
            rng = np.random.default_rng(seed)
            group = cells.embed(photographs(max(GROUPS), rng))
            for count in GROUPS:
                some = {level: group[level][:count] for level in LEVELS}
                pool = joined(cells.of(cells.with_few_defects(seed)), some)
                truth = np.arange(len(pool["high"])) >= len(pool["high"]) - count
                weights = resampled(truth, rng)
                measure = recall_at(len(truth) // 20)
                for method, scores in cells.every_score(None, pool):
                    rows[f"{kind} group of {count}"].add(method, measure(scores, truth, weights))
    return rows


def captures(cells: Cells, size: Size) -> Rows:
    """Each of 18 kinds of broken capture at 1.5% of the clean cells, recall at a budget of 2%.

    Our alarm looks at three levels, so the rivals get all three side by side; cleanvision looks at
    the images.
    """
    rows: Rows = defaultdict(Row)
    for seed in range(size.seeds):
        rng, clean, _ = cells.split(seed)
        clean = clean[: size.cells]
        count = round(BROKEN * len(clean))
        broken, rest = clean[:count], clean[count:]
        images = [luma(cells.paths[row]) for row in broken]
        made = {
            kind: [png(corrupt(x)) for x in images] for kind, corrupt in corruptions(rng).items()
        }
        faulty = _looked_at(made, [cells.paths[row] for row in rest])
        truth = np.arange(len(clean)) >= len(rest)
        weights = resampled(truth, rng)
        measure = recall_at(round(BUDGET_FOR_BROKEN * len(truth)))
        for kind, files in made.items():
            pool = joined(cells.of(rest), cells.embed(files))
            together = np.concatenate([pool[level] for level in LEVELS], axis=1).astype(np.float64)
            scores = {OURS: ours(None, pool).deviation, "cleanvision": faulty[kind]}
            scores |= {method: rival(None, together) for method, rival in cells.rivals.items()}
            for method, values in scores.items():
                rows[kind].add(method, measure(values, truth, weights))
    rows["mean of 18 kinds"] = mean_of(rows)
    return rows


def _looked_at(
    broken: Mapping[str, Sequence[bytes]], clean: Sequence[Path]
) -> Mapping[str, Floats]:
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


@dataclass(frozen=True)
class Reference:
    """Cells that a pool is held against, and what was fitted on them."""

    embedded: Embedded
    baseline: Baseline

    @classmethod
    def of(cls, embedded: Embedded) -> Reference:
        return cls(embedded, fit_reference(pool_of(embedded)))


@dataclass(frozen=True)
class Setting:
    """Rows of cells, to promise a rate for. moved: clean ones of another kind than the reference's,
    in the source `named` so."""

    reference: Reference
    normal: Ints
    defects: Ints
    moved: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    named: str = SOURCE


def calibration(cells: Cells, size: Size) -> Rows:
    """What a promise of a false discovery rate of 10% came to.

    `rate`: false alarms among the flags, 0 where the promise was withdrawn. `withdrawn`: how often
    it was, with a line that says so. `power`: found defects, where there was a promise. The other
    cell type is the whole pool's half, a fifth of it, or 24 cells; a false alarm is any clean cell.
    """
    rows: Rows = defaultdict(Row)
    for seed in range(size.rate_seeds):
        _, clean, defects = cells.split(seed)
        known, fresh = np.array_split(clean, 2)
        mono = cells.types[clean] == "mono"
        one, same = np.array_split(clean[mono], 2)
        other = clean[~mono]
        few, some, many = (defects[: round(share * len(fresh))] for share in (0.05, 0.25, 0.47))
        dirty = np.concatenate([known, defects[-round(0.03 * len(known)) :]])
        half, mixed, monos = (Reference.of(cells.of(rows)) for rows in (known, dirty, one))
        fifth = other[: round(0.25 * len(same))]
        settings = {
            "exchangeable, 5% defects": Setting(half, fresh, few),
            "exchangeable, 20% defects": Setting(half, fresh, some),
            "exchangeable, 32% defects": Setting(half, fresh, many),
            "contaminated by 3%": Setting(mixed, fresh, some),
            "shifted": Setting(monos, same, few, other),
            "a fifth shifted": Setting(monos, same, few, fifth),
            "a fifth shifted, by name": Setting(monos, same, few, fifth, "new"),
            "24 shifted, by name": Setting(monos, same, few, other[:24], "new"),
        }
        for name, setting in settings.items():
            pool = np.concatenate([setting.normal, setting.moved, setting.defects])
            promised, flagged = _promised(cells, setting, pool)
            truth = cells.probability[pool] == 1
            wrong = np.mean(~truth[flagged]) if promised and len(flagged) else 0.0
            rows[name].add("rate", float(wrong))
            rows[name].add("withdrawn", float(not promised))
            if promised:
                rows[name].add("power", float(truth[flagged].sum() / truth.sum()))
    return rows


def _promised(cells: Cells, setting: Setting, pool: Ints) -> tuple[bool, Ints]:
    """Whether a run promised the rate, and the outliers it flagged."""
    sources = np.where(np.isin(pool, setting.moved), setting.named, SOURCE).tolist()
    policy = Policy(Budget(count=1), fdr=RATE)
    samples = pool_of(cells.of(pool), setting.reference.embedded, sources)
    findings = mine(samples, policy, setting.reference.baseline)
    outliers = [kind == "outlier" for kind in findings.kinds]
    return findings.promised, findings.flagged[outliers]


def labels(cells: Cells, size: Size) -> Rows:
    """Held-out average precision of a logistic regression on what was labelled.

    Half of a pool is labelled, the other half is held out. `suggested`: 50 at once.
    `suggested in rounds`: five times 10, with the verdicts in between.
    """
    rows: Rows = defaultdict(Row)
    features = np.concatenate([cells.embedded["mid"], cells.embedded["high"]], axis=1)
    everything = np.concatenate([cells.clean, cells.defects])
    for seed in range(size.label_seeds):
        rng = np.random.default_rng(seed)
        for name, pool in (("5%", cells.with_few_defects(seed)), ("32%", everything)):
            train, test = np.array_split(rng.permutation(pool), 2)
            X, y = features[train], cells.probability[train] == 1
            held_out = features[test], cells.probability[test] == 1
            scores = ours(None, cells.of(train)).score
            rounds: list[int] = []
            while len(rounds) < SUGGESTED:
                rounds += [each.row for each in suggest(10, X, scores, rounds, y[rounds])]
            chosen: dict[str, Sequence[int] | Ints] = {
                "suggested": [each.row for each in suggest(SUGGESTED, X, scores)],
                "suggested in rounds": rounds,
                "strangest": np.argsort(-scores, kind="stable")[:SUGGESTED],
                **{f"random {n}": rng.permutation(len(train))[:n] for n in RANDOM_LABELS},
                "all": np.arange(len(train)),
            }
            for method, picked in chosen.items():
                rows[f"{name} defects"].add(method, _worth(X, y, picked, held_out))
    return rows


def _worth(
    X: np.ndarray, y: Mask, rows: Sequence[int] | Ints, held_out: tuple[np.ndarray, Mask]
) -> Floats:
    """Average precision (1,) on the held-out samples; chance without labels of both kinds."""
    if y[rows].all() or not y[rows].any():
        return np.array([held_out[1].mean()])
    model = LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced").fit(X[rows], y[rows])
    scores = model.decision_function(held_out[0])
    return average_precision(scores, held_out[1], np.ones((1, len(scores))))


def label_gain(row: Row, method: str = "suggested") -> float:
    """How many random labels are worth one suggested label; at most the most that were tried.

    Between two numbers of random labels the average precision is taken for linear.
    """
    curve = np.maximum.accumulate([row.mean(f"random {n}") for n in RANDOM_LABELS])
    return float(np.interp(row.mean(method), curve, RANDOM_LABELS)) / SUGGESTED


def scoring_seconds(samples: int = 100_000) -> dict[str, float]:
    """Time to mine so many samples whose neighbours are known, of the default dimensions.

    `cpu_s` is the processor's time, to be read where the machine is busy with other things.
    """
    rng = np.random.default_rng(0)
    embeddings = {}
    for level, d in zip(LEVELS, (24, 112, 320), strict=True):
        X = np.eye(d, dtype=np.float32)[0] + 0.1 * rng.standard_normal((samples, d), np.float32)
        embeddings[level] = X / np.linalg.norm(X, axis=1, keepdims=True)
    pool = Pool(
        sample_ids=[f"{i:064x}" for i in range(samples)],
        sources=[f"line-{i % 3}" for i in range(samples)],
        embeddings=embeddings,
        quality={},
        distances=np.sort(rng.random((samples, 100), np.float32), axis=1),
        neighbours=rng.integers(0, samples, (samples, 100)),
    )
    wall, cpu = time.perf_counter(), time.process_time()
    mine(pool, Policy(Budget(share=0.01)))
    took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    return {"samples": samples, **{name: round(value, 1) for name, value in took.items()}}
