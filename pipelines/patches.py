"""The patches job: how strange is the strangest spot of each sample, for all that have no answer.

    first the bank, once:  samples -> their ordinary half -> shuffle -> [read, patches] -> bank
    then the scores:       samples without one -> shuffle -> [read, patches, distances] -> publish

A score is measured from the bank of the encoder, which is made once and never changes, so that it
means the same in every later run. Patches of a few hundred references are held in memory while the
bank is made; of all other samples only three numbers leave the worker.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue
from numpy.typing import NDArray

from detectors.patches import Bank, fit_bank, ordinary_half, patch_scores, strangest_places
from encoders import images, registry
from encoders.base import EncoderInfo
from pipelines import progress, sources
from pipelines.known import DigestSet
from pipelines.publish import Stage, Staged, drop_repeats, of_table, record_audit
from schemas import arrow
from schemas.catalog import Catalog
from schemas.errors import ImageError
from schemas.expectations import audit_patches
from schemas.tables import DataFile

_log = logging.getLogger(__name__)

FEWEST_SAMPLES = 50
"""Fewer do not show what is ordinary; their scores wait until there are as many."""

CANDIDATES = 512
"""So many samples are looked at for the bank, and half of them become its reference."""
_BATCH = 16

Named = tuple[str, str]
"""A sample id, and the URI of its image."""


@dataclass(frozen=True)
class PatchOptions:
    """Whose patches are scored, and how its images are read; encoder as the settings name it."""

    run_id: str
    catalog: Catalog
    encoder: str
    info: EncoderInfo
    encoder_options: registry.Options
    limits: images.Limits
    workers: int = 1

    @property
    def bank(self) -> Path:
        return self.catalog.bank(self.info.id)

    @property
    def of_encoder(self) -> ds.Expression:
        return ds.field("encoder") == self.info.id


def needs_bank(options: PatchOptions) -> bool:
    """Whether there is no bank yet, and enough samples to make one."""
    samples = options.catalog.samples.files(options.info.id)
    return not options.bank.exists() and sum(file.rows for file in samples) >= FEWEST_SAMPLES


def needs_scores(options: PatchOptions) -> bool:
    """Whether there is a bank, and a sample without a score."""
    catalog = options.catalog
    samples, scored = (
        sum(file.rows for file in table.files(options.info.id))
        for table in (catalog.samples, catalog.patches)
    )
    return options.bank.exists() and scored < samples


def build_bank(pipeline: beam.Pipeline, options: PatchOptions) -> beam.PCollection:
    """Add the making of the bank to `pipeline`; its output is empty, its effect the file."""
    references = choose_references(options)
    progress.of(options.run_id).add(todo=len(references))
    return (
        pipeline
        | "References" >> beam.Create(references)
        | "Batch" >> beam.BatchElements(_BATCH, _BATCH)
        | "Spread" >> beam.Reshuffle()
        | "Encode" >> beam.ParDo(EncodeReferences(options))
        | "Gather" >> beam.GroupBy(lambda _: None)
        | "Fit" >> beam.ParDo(FitBank(options))
    )


def build(pipeline: beam.Pipeline, options: PatchOptions) -> beam.PCollection:
    """Add the scoring to `pipeline`; its output is empty, its effect the commit."""
    return (
        pipeline
        | "Files" >> beam.Create(options.catalog.samples.files(options.info.id))
        | "Unscored" >> beam.ParDo(Unscored(options))
        | "Batch" >> beam.BatchElements(_BATCH, _BATCH)
        | "Spread" >> beam.Reshuffle()
        | "Score" >> beam.ParDo(ScorePatches(options))
        | "Gather" >> beam.GroupBy(lambda _: None)
        | "Publish" >> beam.ParDo(PublishPatches(options))
    )


def choose_references(options: PatchOptions) -> list[Named]:
    """The samples that the bank is made of: the more ordinary half of a random few hundred.

    Sample ids are digests, so that the smallest of them are a random sample, and the same again.
    """
    samples = options.catalog.samples
    ids = samples.read(["sample_id"], options.of_encoder)["sample_id"]
    chosen = pc.take(ids, pc.select_k_unstable(ids, CANDIDATES, [("", "ascending")]))
    column = arrow.embedding_column("high")
    wanted = options.of_encoder & ds.field("sample_id").isin(chosen.combine_chunks())
    rows = samples.read(["sample_id", "uri", column], wanted).sort_by("sample_id")
    ordinary = rows.take(pa.array(ordinary_half(arrow.matrix(rows[column]))))
    return list(zip(ordinary["sample_id"].to_pylist(), ordinary["uri"].to_pylist(), strict=True))


class EncodeReferences(beam.DoFn):
    """Encodes the patches of references; in: list of Named, out: name of a file of them."""

    def __init__(self, options: PatchOptions) -> None:
        self.options = options

    def process(self, named: Sequence[Named]) -> Iterator[str]:
        options = self.options
        found = read_all(named, options)
        progress.of(options.run_id).add(done=len(named), rejected=len(named) - len(found))
        if not found:
            return
        ids = [sample_id for sample_id, _ in found]
        patches = encode([image for _, image in found], options)
        folder = options.catalog.scratch / options.run_id
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{ids[0]}.npz"
        np.savez(path, ids=np.array(ids), patches=patches)
        yield str(path)


class FitBank(beam.DoFn):
    """Fits the bank and writes it; in: (None, names of files of patches)."""

    def __init__(self, options: PatchOptions) -> None:
        self.options = options

    def process(self, gathered: tuple[None, Sequence[str]]) -> None:
        ids, patches = [], []
        for path in sorted(gathered[1]):
            with np.load(path, allow_pickle=False) as archive:
                ids += archive["ids"].tolist()
                patches.append(archive["patches"])
        fit_bank(np.concatenate(patches), ids).save(self.options.bank)


class Unscored(beam.DoFn):
    """Lists the samples of a file that have no score; in: DataFile, out: Named."""

    def __init__(self, options: PatchOptions) -> None:
        self.options = options
        self.shared = Shared()

    def setup(self) -> None:
        options = self.options

        def scored() -> DigestSet:
            table = options.catalog.patches.read(["sample_id"], options.of_encoder)
            return DigestSet(table["sample_id"].to_pylist())

        self.scored = self.shared.acquire(scored)

    def process(self, file: DataFile) -> Iterator[Named]:
        for batch in self.options.catalog.samples.stream([file], ["sample_id", "uri"]):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            missing = [(sample_id, uri) for sample_id, uri in rows if sample_id not in self.scored]
            progress.of(self.options.run_id).add(todo=len(missing))
            yield from missing


class ScorePatches(beam.DoFn):
    """Scores the patches of samples; in: list of Named, out: Staged files."""

    def __init__(self, options: PatchOptions) -> None:
        self.options = options
        self.shared = Shared()

    def setup(self) -> None:
        self.bank = self.shared.acquire(lambda: _Held(Bank.load(self.options.bank))).bank

    def start_bundle(self) -> None:
        self.rows = Stage("patches", self.options.catalog.patches)

    def process(self, named: Sequence[Named]) -> Iterator[Staged]:
        options = self.options
        found = read_all(named, options)
        lost = sorted({sample_id for sample_id, _ in named} - {name for name, _ in found})
        progress.of(options.run_id).add(done=len(named), rejected=len(lost))
        if found:
            ids, decoded = zip(*found, strict=True)
            yield from self.rows.add(score(self.bank, ids, decoded, options))
        yield from self.rows.add(unknown(lost, options))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for staged in self.rows.finish():
            yield WindowedValue(staged, GlobalWindow().max_timestamp(), [GlobalWindow()])


class PublishPatches(beam.DoFn):
    """Audits the scores that were staged and commits them once; in: (None, Staged files)."""

    def __init__(self, options: PatchOptions) -> None:
        self.options = options
        self.scored = Metrics.counter("patches", "scored")

    def process(self, gathered: tuple[None, Sequence[Staged]]) -> None:
        options, table = self.options, self.options.catalog.patches
        files = drop_repeats(table, of_table(gathered[1], "patches"), "sample_id")
        audit = audit_patches(table.stream(files))
        record_audit(options.catalog.run(options.run_id), audit)
        if files and not audit.failures:
            table.commit(files, transaction=f"patches-{options.run_id}")
            table.vacuum()
            self.scored.inc(sum(file.rows for file in files))


class _Held:
    """A bank in a form that workers can share (they hold it by a weak reference)."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank


def read_all(
    named: Sequence[Named], options: PatchOptions
) -> list[tuple[str, images.DecodedImage]]:
    """The samples whose images are still where they lay, decoded as they were ingested."""
    found = []
    for sample_id, uri in named:
        try:
            found.append((sample_id, read(sample_id, uri, options.info, options.limits)))
        except ImageError as error:
            _log.warning("%s: %s", sample_id, error)
    return found


def read(sample_id: str, uri: str, info: EncoderInfo, limits: images.Limits) -> images.DecodedImage:
    """A sample's image as the encoder sees it. Raises ImageError: unreadable, or changed."""
    data = sources.read(sources.locate(uri))
    if hashlib.sha256(data).hexdigest() != sample_id:
        raise ImageError("changed", f"{uri} holds other bytes than it did")
    return images.decode(data, info.preprocess, limits)


def encode(decoded: Sequence[images.DecodedImage], options: PatchOptions) -> NDArray[np.float32]:
    """Patches (n, h, w, d) of unit norm."""
    encoder = registry.share_patches(
        options.encoder, **options.encoder_options, workers=options.workers
    )
    return encoder.encode_patches(np.stack([image.pixels for image in decoded]))


def score(
    bank: Bank,
    sample_ids: Sequence[str],
    decoded: Sequence[images.DecodedImage],
    options: PatchOptions,
) -> pa.Table:
    """Rows of the patches table."""
    distances = bank.distances(encode(decoded, options), sample_ids)
    x, y = strangest_places(distances)
    sizes = np.array([(image.width, image.height) for image in decoded], dtype=np.float64)
    x, y = of_image(x, y, sizes, options.info.preprocess.crop)
    return _rows(sample_ids, patch_scores(distances), x, y, options)


def unknown(sample_ids: Sequence[str], options: PatchOptions) -> pa.Table:
    """Rows of samples whose images could not be read: they are not tried again."""
    none = pa.nulls(len(sample_ids), pa.float32())
    return _rows(sample_ids, none, none, none, options)


def of_image(
    x: NDArray[np.float64], y: NDArray[np.float64], sizes: NDArray[np.float64], crop: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places in the square that an encoder sees, as shares of the whole images (n, 2) wide, high.

    crop: as `encoders.base.Preprocess` says.
    """
    if crop is None:
        return x, y
    side = crop * sizes.min(axis=1)
    return 0.5 + (x - 0.5) * side / sizes[:, 0], 0.5 + (y - 0.5) * side / sizes[:, 1]


def _rows(
    sample_ids: Sequence[str],
    scores: NDArray[np.float32] | pa.Array,
    x: NDArray[np.float64] | pa.Array,
    y: NDArray[np.float64] | pa.Array,
    options: PatchOptions,
) -> pa.Table:
    n = len(sample_ids)
    return pa.table(
        {
            "encoder": arrow.constant(options.info.id, n),
            "sample_id": pa.array(sample_ids, pa.string()),
            **{
                name: pa.array(values, pa.float32())
                for name, values in (("score", scores), ("x", x), ("y", y))
            },
            "run_id": arrow.constant(options.run_id, n),
        },
        schema=arrow.PATCHES,
    )
