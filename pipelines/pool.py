"""What a mining run looks at, read from the tables: the pool, what is vouched for, verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from detectors.disagreement import DOUBTS, doubt
from detectors.findings import Policy, Reviews
from detectors.pool import Patches, Pool
from index.search import Snapshot
from pipelines.reference import Reference
from schemas import arrow
from schemas.catalog import Catalog
from schemas.records import LEVELS, QUALITY_STATISTICS, VerdictLabel
from schemas.tables import Table

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class MineOptions:
    """Which encoder's samples are mined, how, and against which reference if any.

    verdicts: what counts of each judged sample.
    """

    run_id: str
    catalog: Catalog
    encoder_id: str
    policy: Policy
    patches: bool = False
    reference: Reference | None = None
    verdicts: Mapping[str, VerdictLabel] = field(default_factory=dict)


def read_reviews(snapshot: Snapshot, verdicts: Mapping[str, VerdictLabel]) -> Reviews | None:
    """The verdicts on indexed samples with their stored vectors; None where there are none."""
    rows = snapshot.sample_ids.rows(list(verdicts))
    known = rows >= 0
    if not known.any():
        return None
    return Reviews(
        sample_ids=snapshot.sample_ids.take(rows[known]),
        vectors=snapshot.read(rows[known]),
        labels=[label for label, here in zip(verdicts.values(), known, strict=True) if here],
    )


def read_pool(
    options: MineOptions,
    sample_ids: Sequence[str],
    neighbours: NDArray[np.int32],
    distances: NDArray[np.float32],
) -> tuple[Pool, list[str]]:
    """The pool of these samples, in their order, and the URI of each."""
    of_encoder = ds.field("encoder") == options.encoder_id
    samples = options.catalog.samples
    detector = options.policy.detector
    asked = ["metadata"] * (detector in DOUBTS)
    times = ["captured_at", "ingested_at"]
    table = samples.read(
        ["sample_id", "uri", "source", *times, *QUALITY_STATISTICS, *asked], of_encoder
    )
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
        distances=distances,
        neighbours=neighbours,
        times=pc.coalesce(*(table[name] for name in times)).to_numpy(),
        undated=table["captured_at"].is_null().to_numpy(),
        uncertainty=doubt([*map(json.loads, table["metadata"].to_pylist())], detector)
        if asked
        else None,
        patches=_read_patches(options, wanted) if options.patches else None,
    )
    return pool, table["uri"].to_pylist()


@dataclass(frozen=True, slots=True)
class Vouched:
    """What is left of a reference's samples, to show beside flags, and the URI of each.

    samples: of these only the vectors of the scored level and the quality are read.
    """

    samples: Pool
    uris: Sequence[str]


def read_reference(options: MineOptions, snapshot: Snapshot, sample_ids: Sequence[str]) -> Vouched:
    """The reference's samples of these ids, which are indexed."""
    columns = ["sample_id", "uri", "source", *QUALITY_STATISTICS]
    table = options.catalog.samples.read(columns, ds.field("encoder") == options.encoder_id)
    table = table.take(pc.index_in(pa.array(sample_ids, pa.string()), table["sample_id"]))
    vectors = snapshot.read(snapshot.sample_ids.rows(sample_ids))
    samples = Pool(
        sample_ids=sample_ids,
        sources=table["source"].to_pylist(),
        embeddings={options.policy.level: vectors},
        quality={name: table[name].to_numpy() for name in QUALITY_STATISTICS},
        distances=np.empty((len(sample_ids), 0), dtype=np.float32),
        neighbours=np.empty((len(sample_ids), 0), dtype=np.int32),
    )
    return Vouched(samples, table["uri"].to_pylist())


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
    for batch in samples.batches(["sample_id", column], of_encoder, rows=_ROWS_AT_ONCE):
        rows = pc.index_in(batch["sample_id"], value_set=wanted)
        here = rows.is_valid()
        values = arrow.matrix(pa.chunked_array([batch[column]]))
        if not vectors.shape[1]:
            vectors = np.zeros((len(wanted), max(values.shape[1], 1)), dtype=np.float32)
        if values.size:
            vectors[rows.filter(here).to_numpy()] = values[here.to_numpy(zero_copy_only=False)]
    return vectors
