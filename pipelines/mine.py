"""The mine job: every indexed sample against its neighbours, scores and flags out.

    blocks of rows -> shuffle -> [nearest neighbours, to a file] -> score the pool -> publish

The neighbours of a block cross to the last step as a file's name. That step holds the pool's
embeddings and distances in memory: about 2.5 KB a sample at 456 dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

from detectors.mining import Findings, Policy, mine
from detectors.pool import Patches, Pool
from index.search import Snapshot
from index.store import IndexStore
from pipelines import notes, progress
from pipelines.publish import record_audit
from schemas import arrow
from schemas.catalog import Catalog
from schemas.expectations import audit_scores
from schemas.records import LEVELS, QUALITY_STATISTICS
from schemas.tables import Table

_ROWS_PER_BLOCK = 4096


@dataclass(frozen=True)
class MineOptions:
    """Which encoder's samples are mined, and how."""

    run_id: str
    catalog: Catalog
    encoder_id: str
    policy: Policy
    patches: bool = False


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


class FindNeighbours(beam.DoFn):
    """Searches the neighbours of a block of rows; in: its first row, out: file of distances."""

    def __init__(self, options: MineOptions) -> None:
        self.options = options
        self.shared = Shared()

    def setup(self) -> None:
        self.snapshot = self.shared.acquire(lambda: _open(self.options))
        self.progress = progress.of(self.options.run_id)

    def process(self, start: int) -> Iterator[str]:
        rows = self.snapshot.live_rows()[start : start + _ROWS_PER_BLOCK]
        _, distances = self.snapshot.neighbours(rows, self.options.policy.searched)
        path = _scratch(self.options) / f"{start:012d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, distances)
        self.progress.add(done=len(rows))
        yield str(path)


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
        pool, uris = read_pool(options, snapshot, sorted(gathered[1]))
        findings = mine(pool, options.policy)
        table = scores_table(findings, pool, uris, options.encoder_id, options.run_id)
        staged = [scores.stage(table)]
        audit = audit_scores(scores.stream(staged), run_id=options.run_id, samples=len(pool))
        record_audit(options.catalog.run(options.run_id), audit)
        if audit.failures:
            return
        notes.record(options.catalog.run(options.run_id), notes.of_findings(findings))
        scores.commit(staged, transaction=transaction)
        scores.vacuum()
        self.flagged.inc(len(findings.flagged))


def read_pool(
    options: MineOptions, snapshot: Snapshot, neighbour_files: Sequence[str]
) -> tuple[Pool, list[str]]:
    """The pool in the order of the snapshot's live rows, and the URI of each sample."""
    of_encoder = ds.field("encoder") == options.encoder_id
    samples = options.catalog.samples
    table = samples.read(["sample_id", "uri", "source", *QUALITY_STATISTICS], of_encoder)
    sample_ids = snapshot.sample_ids.take(snapshot.live_rows())
    wanted = pa.array(sample_ids, pa.string())
    table = table.take(pc.index_in(wanted, value_set=table["sample_id"]))
    pool = Pool(
        sample_ids=sample_ids,
        sources=table["source"].to_pylist(),
        embeddings={
            level: _read_vectors(samples, of_encoder, arrow.embedding_column(level), wanted)
            for level in LEVELS
        },
        quality={name: table[name].to_numpy() for name in QUALITY_STATISTICS},
        distances=np.concatenate([np.load(path) for path in neighbour_files]),
        patches=_read_patches(options, wanted) if options.patches else None,
    )
    return pool, table["uri"].to_pylist()


def _read_patches(options: MineOptions, wanted: pa.Array) -> Patches:
    of_encoder = ds.field("encoder") == options.encoder_id
    table = options.catalog.patches.read(["sample_id", "score", "x", "y"], of_encoder)
    table = table.take(pc.index_in(wanted, value_set=table["sample_id"]))
    return Patches(*(table[name].to_numpy() for name in ("score", "x", "y")))


def _read_vectors(
    samples: Table, of_encoder: ds.Expression, column: str, wanted: pa.Array
) -> NDArray[np.float32]:
    """One level of the wanted samples, (n, d), in their order; streamed into its place.

    A level that the encoder lacks is constant, (n, 1), and so deviates nowhere.
    """
    vectors = np.empty((0, 0), dtype=np.float32)
    for batch in samples.batches(["sample_id", column], of_encoder, rows=_ROWS_PER_BLOCK):
        rows = pc.index_in(batch["sample_id"], value_set=wanted)
        here = rows.is_valid()
        values = arrow.matrix(pa.chunked_array([batch[column].filter(here)]))
        if not vectors.size:
            vectors = np.zeros((len(wanted), max(values.shape[1], 1)), dtype=np.float32)
        if values.size:
            vectors[rows.filter(here).to_numpy()] = values
    return vectors


def scores_table(
    findings: Findings, pool: Pool, uris: Sequence[str], encoder_id: str, run_id: str
) -> pa.Table:
    """Rows of the scores table, one per sample of the pool."""
    n = len(pool)
    flags = {int(row): rank for rank, row in enumerate(findings.flagged, start=1)}

    def of_flags(values: Sequence[object]) -> list[object]:
        return [values[flags[row] - 1] if row in flags else None for row in range(n)]

    nearest = [
        [
            {"sample_id": pool.sample_ids[row], "uri": uris[row], "distance": float(distance)}
            for row, distance in zip(rows, distances, strict=True)
            if row >= 0
        ]
        for rows, distances in zip(findings.nearest, findings.nearest_distances, strict=True)
    ]
    z: Mapping[str, NDArray[np.floating]] = {f"z_{level}": findings.z[level] for level in LEVELS}
    return pa.table(
        {
            "run_id": arrow.constant(run_id, n),
            "encoder": arrow.constant(encoder_id, n),
            "sample_id": pa.array(pool.sample_ids, pa.string()),
            "uri": pa.array(uris, pa.string()),
            "source": pa.array(pool.sources, pa.string()),
            "kind": pa.array(of_flags(findings.kinds), pa.string()),
            "rank": pa.array([flags.get(row) for row in range(n)], pa.int64()),
            "score": pa.array(findings.score, pa.float64()),
            "p_value": pa.array(
                [None] * n if findings.p_value is None else findings.p_value, pa.float64()
            ),
            "level": pa.array(findings.level, pa.string()),
            **{name: pa.array(values, pa.float32()) for name, values in z.items()},
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
            "duplicate_of": pa.array(
                [pool.sample_ids[row] if row >= 0 else None for row in findings.duplicate_of],
                pa.string(),
            ),
        },
        schema=arrow.SCORES,
    )


def _open(options: MineOptions) -> Snapshot:
    snapshot = IndexStore(options.catalog.index(options.encoder_id)).open()
    if snapshot is None:
        raise ValueError("nothing is indexed, so there is nothing to mine")
    return snapshot


def _scratch(options: MineOptions) -> Path:
    return options.catalog.scratch / options.run_id
