"""The tables of the detection benchmark: each a function of the cells that fills rows."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from benchmarks.detect_cells import (
    POLICY,
    SOURCE,
    Cells,
    Embedded,
    Ints,
    at_once,
    baseline_of,
    every_score,
    joined,
    ours,
    pool_of,
)
from benchmarks.detect_images import crops, near_copies
from benchmarks.detect_rows import (
    OURS,
    Row,
    Rows,
    auroc,
    average_precision,
    merged,
    recall_at,
    resampled,
)
from detectors.baseline import Baseline
from detectors.findings import Budget, Policy
from detectors.mining import mine
from detectors.pool import Pool
from schemas.records import LEVELS

RATE = 0.1
GROUPS = (3, 10, 30, 100)


@dataclass(frozen=True)
class Size:
    """How much is measured. seeds: of what has none of its own. other_seeds: of broken captures
    among other images. in_groups, in_captures: clean cells in a pool with a group, and with broken
    captures; None for all. twice: whether rivals look at the two levels that ours does, too."""

    seeds: int
    rate_seeds: int
    label_seeds: int
    other_seeds: int
    in_groups: int | None = None
    in_captures: int | None = None
    twice: bool = False


def elpv(cells: Cells, size: Size) -> Rows:
    """`ref`: half of the clean cells are the reference. `5%`: a pool of its own with as many
    defects. `32%`: all cells, the doubtful ones in the pool and not in the figures. `5% of mono`,
    `5% of poly`: as `5%`, of one type of cell. `5% by source`: each type is a source by name."""
    jobs = []
    for seed in range(size.seeds):
        _, clean, defects = cells.split(seed)
        known, fresh = np.array_split(clean, 2)
        few = cells.with_few_defects
        pools = {"ref": np.concatenate([fresh, defects]), "5%": few(seed)}
        if seed == 0 and (cells.probability % 1).any():
            pools["32%"] = np.arange(len(cells.paths))
        pools |= {f"5% of {kind}": few(seed, kind) for kind in ("mono", "poly")}
        for name, pool in pools.items():
            reference = cells.of(known) if name == "ref" else None
            jobs.append(partial(_found, cells, seed, name, reference, pool, size.twice))
    return merged(at_once(jobs))


def _found(
    cells: Cells, seed: int, name: str, reference: Embedded | None, rows: Ints, twice: bool
) -> Rows:
    """How well each method tells defects from clean cells in a pool of these rows."""
    pool = cells.of(rows)
    decided = np.isin(cells.probability[rows], (0, 1))
    truth = cells.probability[rows][decided] == 1
    weights = resampled(truth, np.random.default_rng(seed))
    scored = {name: every_score(reference, pool, twice=twice)}
    if name == "5%":  # no rival asks for sources
        by_source = ours(None, pool, cells.types[rows].tolist()).score
        scored["5% by source"] = {**scored[name], OURS: by_source}
    found: Rows = defaultdict(Row)
    for title, methods in scored.items():
        for method, scores in methods.items():
            of_decided = scores[decided]
            found[f"{title} AUROC"].add(method, auroc(of_decided, truth, weights))
            found[f"{title} AP"].add(method, average_precision(of_decided, truth, weights))
            if title == "5%":
                recall = recall_at(len(rows) // 20)(of_decided, truth, weights)
                found["5% recall"].add(method, recall)
    return found


def groups(cells: Cells, size: Size) -> Rows:
    """A group of alike foreign photographs among the clean cells and 5% defects, at a budget of
    5%: loose (crops of one photograph) and tight (nearly the same picture). `a tenth`: the largest
    group, among so many of the cells that it is one."""
    jobs = []
    for seed in range(size.seeds):
        for kind, photographs in (("loose", crops), ("tight", near_copies)):
            rng = np.random.default_rng(seed)
            group = cells.embed(photographs(max(GROUPS), rng))
            usual = cells.with_few_defects(seed, most=size.in_groups)
            tenth = rng.choice(usual, 9 * max(GROUPS), replace=False)
            pools = {f"of {count}": (usual, count) for count in GROUPS}
            for name, (others, count) in {**pools, "of a tenth": (tenth, max(GROUPS))}.items():
                some = {level: group[level][:count] for level in LEVELS}
                jobs.append(
                    partial(_found_group, seed, f"{kind} group {name}", cells.of(others), some)
                )
    return merged(at_once(jobs))


def _found_group(seed: int, name: str, usual: Embedded, group: Embedded) -> Rows:
    pool = joined(usual, group)
    truth = np.arange(len(pool["high"])) >= len(usual["high"])
    weights = resampled(truth, np.random.default_rng(seed))
    measure, row = recall_at(len(truth) // 20), Row()
    for method, scores in every_score(None, pool).items():
        row.add(method, measure(scores, truth, weights))
    return {name: row}


@dataclass(frozen=True)
class Reference:
    """Cells that a pool is held against, and what was fitted on them."""

    embedded: Embedded
    baseline: Baseline

    @classmethod
    def of(cls, embedded: Embedded) -> Reference:
        return cls(embedded, baseline_of(embedded))


@dataclass(frozen=True)
class Setting:
    """Rows of cells, to promise a rate for. moved: clean ones of another kind than the reference's,
    in the source `named` so."""

    reference: Reference
    normal: Ints
    defects: Ints
    moved: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    named: str = SOURCE

    @property
    def pool(self) -> Ints:
        return np.concatenate([self.normal, self.moved, self.defects])


def calibration(cells: Cells, size: Size) -> Rows:
    """What a promise of a false discovery rate of 10% came to.

    `rate`: false alarms among the flags, 0 where the promise was withdrawn. `withdrawn`: how often
    it was, with a line that says so. `power`: found defects, where there was a promise. The other
    cell type is the whole pool's half, a fifth of it, or 24 cells; a false alarm is any clean cell.
    """
    return merged(at_once([partial(_kept, cells, seed) for seed in range(size.rate_seeds)]))


def _kept(cells: Cells, seed: int) -> Rows:
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
    rows: Rows = defaultdict(Row)
    for name, setting in settings.items():
        promised, flagged = _promised(cells, setting)
        truth = cells.probability[setting.pool] == 1
        wrong = np.mean(~truth[flagged]) if promised and len(flagged) else 0.0
        rows[name].add("rate", float(wrong))
        rows[name].add("withdrawn", float(not promised))
        if promised:
            rows[name].add("power", float(truth[flagged].sum() / truth.sum()))
    return rows


def _promised(cells: Cells, setting: Setting) -> tuple[bool, Ints]:
    """Whether a run promised the rate, and the outliers it flagged."""
    pool = setting.pool
    sources = np.where(np.isin(pool, setting.moved), setting.named, SOURCE).tolist()
    policy = replace(POLICY, fdr=RATE)
    known = setting.reference.embedded
    samples = pool_of(cells.of(pool), known, sources, policy.searched_in_reference)
    findings = mine(samples, policy, setting.reference.baseline)
    outliers = [kind == "outlier" for kind in findings.kinds]
    return findings.promised, findings.flagged[outliers]


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
