"""The mine job: every indexed sample against its neighbours, scores and flags out.

    blocks of rows -> shuffle -> [nearest neighbours, to a file] -> score the pool -> publish

A block is a slice of the snapshot's `scan_order`; what is found is put back in the order of rows.
With a reference the neighbours are those in it, the pool is every sample that it does not hold,
and only samples of the pool are flagged; the reference's own are scored by the others of it.

The neighbours of a block cross to the last step as a file's name. That step holds the pool's
embeddings, neighbours and distances in memory: about 3 KB a sample at 456 dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared
from numpy.typing import NDArray

from detectors.baseline import Baseline
from detectors.drift import Strangeness
from detectors.findings import Findings, Reviews
from detectors.measures import LOCAL, PARTS, REASONS, Measures
from detectors.mining import mine, strangest_level
from detectors.pool import Pool
from detectors.promise import contaminating
from detectors.registry import yardstick
from index.search import Snapshot
from index.store import IndexStore
from pipelines import notes, progress
from pipelines.pool import MineOptions, Vouched, read_pool, read_reference, read_reviews
from pipelines.publish import record_audit
from schemas import arrow
from schemas.expectations import audit_scores
from schemas.records import LEVELS

Strings = NDArray[np.str_]

_ROWS_PER_BLOCK = 4096


def build(pipeline: beam.Pipeline, options: MineOptions) -> beam.PCollection:
    """Add the job to `pipeline`; its output is empty, its effect the scores of the run."""
    snapshot = _open(options)
    starts = range(0, snapshot.vectors, _ROWS_PER_BLOCK)
    progress.of(options.run_id).add(todo=snapshot.vectors)
    return (
        pipeline
        | "Blocks" >> beam.Create(list(starts))
        | "Spread" >> beam.Reshuffle()
        | "Neighbours" >> beam.ParDo(FindNeighbours(options))
        | "Gather" >> beam.GroupBy(lambda _: None)
        | "Score" >> beam.ParDo(Score(options))
    )


@dataclass(frozen=True)
class _Searched:
    """A snapshot, its live rows, and these in `scan_order`: made once in a process."""

    snapshot: Snapshot
    live: NDArray[np.int64]
    order: NDArray[np.int64]


class FindNeighbours(beam.DoFn):
    """Searches the neighbours of a block; in: where it starts in `scan_order`, out: a file."""

    def __init__(self, options: MineOptions) -> None:
        self.options = options
        self.shared = Shared()
        self.reference = Shared()

    def setup(self) -> None:
        reference = self.options.reference
        self.searched: _Searched = self.shared.acquire(self.open)
        self.known: Snapshot | None = (
            None if reference is None else self.reference.acquire(reference.open)
        )
        self.progress = progress.of(self.options.run_id)

    def open(self) -> _Searched:
        snapshot = _open(self.options)
        return _Searched(snapshot, snapshot.live_rows(), snapshot.scan_order())

    def process(self, start: int) -> Iterator[str]:
        rows = self.searched.order[start : start + _ROWS_PER_BLOCK]
        nearest, distances = self.nearest(rows)
        path = _scratch(self.options) / f"{start:012d}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, places=self.places(rows), nearest=nearest, distances=distances)
        self.progress.add(done=len(rows))
        yield str(path)

    def nearest(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The nearest others of each row, and how far they are: places among the live ones, or with
        a reference rows of that.
        """
        policy, snapshot = self.options.policy, self.searched.snapshot
        if self.known is None:
            found, distances = snapshot.neighbours(rows, policy.searched)
            return np.where(found < 0, np.int32(-1), self.places(found)), distances
        sample_ids, vectors = snapshot.sample_ids.take(rows), snapshot.read(rows)
        found, distances = self.known.others(sample_ids, vectors, policy.searched_in_reference)
        return found.astype(np.int32), distances

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Where these rows are among the live ones."""
        return np.searchsorted(self.searched.live, rows).astype(np.int32)


class Score(beam.DoFn):
    """Scores the whole pool, audits and commits the result; in: (None, paths of neighbours)."""

    def __init__(self, options: MineOptions) -> None:
        self.options = options
        self.flagged = Metrics.counter("samples", "flagged")

    def process(self, gathered: tuple[None, Sequence[str]]) -> None:
        options, scores = self.options, self.options.catalog.scores
        transaction = f"mine-{options.run_id}"
        if scores.committed(transaction):
            return
        snapshot = _open(options)
        sample_ids = np.asarray(snapshot.sample_ids.take(snapshot.live_rows()))
        nearest, distances = _gather(gathered[1])
        known = np.zeros(len(sample_ids), dtype=bool)
        baseline = calibrated = vouched = None
        left_out: Collection[str] = ()
        if options.reference is not None:
            held, left_out = options.reference.open(), options.reference.left_out
            known = held.sample_ids.rows(sample_ids.tolist()) >= 0
            baseline = options.reference.saved() or options.reference.fit(
                self.read(
                    sample_ids[known],
                    _places(held, sample_ids[known].tolist(), nearest[known]),
                    distances[known],
                )[0],
                options.policy.neighbours,
            )
            calibrated = baseline.without(left_out)
            nearest = _places(held, baseline.fitted, nearest)
        normal = known & ~np.isin(sample_ids, list(left_out))
        if normal.any():
            vouched = read_reference(options, snapshot, sample_ids[normal].tolist())
        pool, uris = self.read(sample_ids[~known], nearest[~known], distances[~known])
        reviews = read_reviews(snapshot, options.verdicts)
        shown = None if vouched is None else vouched.samples
        findings = mine(pool, options.policy, calibrated, reviews, shown)
        table = scores_table(findings, pool, uris, options, vouched, reviews)
        if baseline is not None:
            table = pa.concat_tables([table, reference_table(baseline, sample_ids[known], options)])
        staged = [scores.stage(table)]
        audit = audit_scores(scores.stream(staged), run_id=options.run_id, samples=len(sample_ids))
        record_audit(options.catalog.run(options.run_id), audit)
        if audit.failures:
            return
        words, fit = _known_by(options), _fit(options, baseline)
        _, before = run_before(options, lambda earlier: earlier.reference == words)
        strangeness = drift(findings, pool, options, fit)
        said = notes.of_findings(
            findings,
            options.run_id,
            before,
            options.encoder_id,
            words,
            fit,
            strangeness,
            reviews,
        )
        if calibrated is not None:
            said = notes.with_strange(said, options.run_id, _strange(calibrated, options))
        notes.record(options.catalog.run(options.run_id), said)
        scores.commit(staged, transaction=transaction)
        scores.vacuum()
        self.flagged.inc(len(findings.flagged))

    def read(
        self, sample_ids: Strings, nearest: NDArray[np.int32], distances: NDArray[np.float32]
    ) -> tuple[Pool, list[str]]:
        return read_pool(self.options, sample_ids.tolist(), nearest, distances)


def _places(
    snapshot: Snapshot, sample_ids: Sequence[str], rows: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Where rows (n, k) of a snapshot are among these samples of it, -1 for any other."""
    place = np.full(len(snapshot.sample_ids), -1, dtype=np.int32)
    held = snapshot.sample_ids.rows(sample_ids)
    place[held[held >= 0]] = np.flatnonzero(held >= 0)
    return np.where(rows < 0, np.int32(-1), place[rows])


def _gather(paths: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """What the blocks in these files found, in the order of the live rows."""
    found: dict[str, list[np.ndarray]] = {"places": [], "nearest": [], "distances": []}
    for path in paths:
        with np.load(path) as block:
            for name, arrays in found.items():
                arrays.append(block[name])
    places, nearest, distances = map(np.concatenate, found.values())
    order = np.argsort(places)
    return nearest[order], distances[order]


def scores_table(
    findings: Findings,
    pool: Pool,
    uris: Sequence[str],
    options: MineOptions,
    vouched: Vouched | None,
    reviews: Reviews | None,
) -> pa.Table:
    """Rows of the scores table, one per sample of the pool.

    vouched: where the nearest normal samples are of the reference, that.
    """
    n = len(pool)
    normal, normal_uris = (vouched.samples, vouched.uris) if vouched else (pool, uris)
    flags = {int(row): rank for rank, row in enumerate(findings.flagged, start=1)}

    def of_flags(values: Sequence[object]) -> list[object]:
        return [values[flags[row] - 1] if row in flags else None for row in range(n)]

    nearest = [
        [
            {
                "sample_id": normal.sample_ids[row],
                "uri": normal_uris[row],
                "distance": float(distance),
            }
            for row, distance in zip(rows, distances, strict=True)
            if row >= 0
        ]
        for rows, distances in zip(findings.nearest, findings.nearest_distances, strict=True)
    ]
    z = {arrow.z_column(name): findings.z.get(name, [None] * n) for name in REASONS}
    return pa.table(
        {
            "run_id": arrow.constant(options.run_id, n),
            "encoder": arrow.constant(options.encoder_id, n),
            "sample_id": pa.array(pool.sample_ids, pa.string()),
            "uri": pa.array(uris, pa.string()),
            "source": pa.array(pool.sources, pa.string()),
            "of_reference": pa.repeat(pa.scalar(False), n),
            "kind": pa.array(of_flags(findings.kinds), pa.string()),
            "rank": pa.array([flags.get(row) for row in range(n)], pa.int64()),
            "score": pa.array(findings.score, pa.float64()),
            "p_value": pa.array(
                [None] * n if findings.p_value is None else findings.p_value,
                pa.float64(),
                from_pandas=True,  # NaN is no p-value
            ),
            "level": pa.array(findings.level, pa.string()),
            **{name: pa.array(values, arrow.SCORES.field(name).type) for name, values in z.items()},
            "isolation": pa.array(findings.isolation, pa.float32()),
            "deviation": pa.array(findings.deviation, pa.float32()),
            "broken": pa.array(findings.broken),
            "group": pa.array(
                of_flags([g + 1 if g >= 0 else None for g in findings.group]), pa.int64()
            ),
            "group_distance": pa.array(
                of_flags([None if np.isnan(d) else d for d in findings.group_distance]),
                pa.float32(),
            ),
            "reasons": pa.array(
                of_flags([list(why) for why in findings.reasons]), pa.list_(pa.string())
            ),
            "nearest": pa.array(of_flags(nearest), pa.list_(arrow.NEIGHBOUR)),
            "confirmed": pa.array(
                of_flags(_confirmed(findings, reviews, options)), arrow.NEIGHBOUR
            ),
            "duplicate_of": pa.array(
                [pool.sample_ids[row] if row >= 0 else None for row in findings.duplicate_of],
                pa.string(),
            ),
        },
        schema=arrow.SCORES,
    )


def _confirmed(
    findings: Findings, reviews: Reviews | None, options: MineOptions
) -> list[dict[str, object] | None]:
    """Of each flag the confirmed edge case that is near, with its URI."""
    if reviews is None:
        return [None] * len(findings.flagged)
    ids = [reviews.sample_ids[i] if i >= 0 else None for i in findings.confirmed.tolist()]
    where = ds.field("sample_id").isin(pa.array({*ids} - {None}, pa.string()))
    of_encoder = ds.field("encoder") == options.encoder_id
    rows = options.catalog.samples.read(["sample_id", "uri"], of_encoder & where).to_pylist()
    uris = {row["sample_id"]: row["uri"] for row in rows}
    return [
        None if one is None else {"sample_id": one, "uri": uris.get(one), "distance": float(gap)}
        for one, gap in zip(ids, findings.confirmed_distances, strict=True)
    ]


def reference_table(baseline: Baseline, sample_ids: Strings, options: MineOptions) -> pa.Table:
    """Rows of the scores table for samples of the reference, each by the others of it."""
    of_encoder = ds.field("encoder") == options.encoder_id
    wanted = pa.array(sample_ids.tolist(), pa.string())
    table = options.catalog.samples.read(["sample_id", "uri", "source"], of_encoder)
    table = table.take(pc.index_in(wanted, value_set=table["sample_id"]))
    rows = pc.index_in(wanted, value_set=pa.array(baseline.sample_ids, pa.string())).to_numpy()
    z: Measures = {level: baseline.z[level][rows] for level in LEVELS}
    measure = yardstick(options.policy.detector)
    score = np.zeros(len(rows)) if measure is None else measure(baseline.z, baseline)[rows]
    broken = baseline.broken(baseline.z, options.policy.fault_threshold)[rows]
    n = len(rows)
    told = {
        **{
            arrow.z_column(name): pa.array(baseline.z[name][rows], pa.float32())
            for name in (LOCAL, PARTS)
        },
        "deviation": pa.array(baseline.deviation(baseline.z)[rows], pa.float32()),
        "broken": pa.array(broken),
    }
    return (
        pa.table(
            {
                "run_id": arrow.constant(options.run_id, n),
                "encoder": arrow.constant(options.encoder_id, n),
                **{name: table[name] for name in ("sample_id", "uri", "source")},
                "of_reference": pa.repeat(pa.scalar(True), n),
                "score": pa.array(score, pa.float64()),
                "level": pa.array(strangest_level(z, baseline), pa.string()),
                **{f"z_{level}": pa.array(z[level], pa.float32()) for level in LEVELS},
                **{field.name: pa.nulls(n, field.type) for field in arrow.SCORES if field.nullable},
                **told,
            }
        )
        .select(arrow.SCORES.names)
        .cast(arrow.SCORES)
    )


def _strange(baseline: Baseline, options: MineOptions) -> list[str]:
    """Samples of the reference that keep it from promising a rate, the strangest first."""
    measure = yardstick(options.policy.detector)
    if measure is None or options.policy.fdr is None or options.policy.apart:
        return []
    return [baseline.sample_ids[row] for row in contaminating(measure(baseline.z, baseline))]


def run_before(
    options: MineOptions, alike: Callable[[notes.Notes], bool]
) -> tuple[str, notes.Notes]:
    """The newest run of this encoder whose notes are alike, and these; empty for none."""
    catalog = options.catalog
    runs = sorted({str(file.partition) for file in catalog.scores.files()}, reverse=True)
    told = ((run_id, notes.read(catalog.run(run_id))) for run_id in runs)
    found = ((r, n) for r, n in told if n.encoder == options.encoder_id and alike(n))
    return next(found, ("", notes.Notes()))


def drift(findings: Findings, pool: Pool, options: MineOptions, fit: str) -> notes.Drift | None:
    """How strange the samples are that the run before on this reference has not scored.

    Beside those of that run, where it went by the same fit.
    """
    if findings.tail is None:
        return None
    words = _known_by(options)
    run_id, before = run_before(options, lambda earlier: earlier.reference == words)
    scored = options.catalog.scores.read(["sample_id"], ds.field("run_id") == run_id)["sample_id"]
    ids = pa.array(pool.sample_ids, pa.string())
    new = pc.invert(pc.is_in(ids, value_set=scored.combine_chunks()))
    now = Strangeness.of(findings.tail[new.to_numpy(zero_copy_only=False)])
    return notes.Drift(words, now, before.strangeness if before.fit == fit else None)


def _fit(options: MineOptions, baseline: Baseline | None) -> str:
    """What scores against a reference hang on, whatever its name: equal for equal ones."""
    if options.reference is None or baseline is None:
        return ""
    digest = options.reference.about["digest"]
    return f"{digest} {options.policy.detector} {baseline.neighbours} {' '.join(baseline.z)}"


def _known_by(options: MineOptions) -> str:
    return "" if options.reference is None else str(options.reference.about["of"])


def _open(options: MineOptions) -> Snapshot:
    snapshot = IndexStore(options.catalog.index(options.encoder_id)).open()
    if snapshot is None:
        raise ValueError("nothing is indexed, so there is nothing to mine")
    return snapshot


def _scratch(options: MineOptions) -> Path:
    return options.catalog.scratch / options.run_id
