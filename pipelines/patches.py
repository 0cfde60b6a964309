"""The patches job: how strange is the strangest spot of each sample, for all that have no answer.

    first the bank, once:  samples -> their ordinary half -> shuffle -> [read, patches] -> bank
    then the scores:       samples without one -> shuffle -> [read, patches, distances] -> publish

A score is measured from the bank of the encoder, which is made once and never changes, so that it
means the same in every later run. Patches of a few hundred references are held in memory while the
bank is made; of all other samples only three numbers leave the worker. A few threads read the next
images while one works on the present; a GPU's batches are gathered as in `pipelines.embed`.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

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
from encoders.base import EncoderInfo, PatchEncoder, batch_of
from pipelines import encoding, progress, sources
from pipelines.ahead import ReadAhead
from pipelines.known import DigestSet
from pipelines.publish import Stage, Staged, drop_repeats, of_table, record_audit
from schemas import arrow
from schemas.catalog import Catalog
from schemas.errors import ImageError
from schemas.expectations import audit_patches
from schemas.records import ImageRef
from schemas.tables import DataFile

_log = logging.getLogger(__name__)

FEWEST_SAMPLES = 50
"""Fewer do not show what is ordinary; their scores wait until there are as many."""

CANDIDATES = 512
"""So many samples are looked at for the bank, and half of them become its reference."""
_BATCH = 16
_GATHERED = 64
"""At most: the patches of an image may take ten times the memory of its pixels."""

Named = tuple[str, ImageRef]
"""A sample id, and the URI and the size of its image; the rest is found when it is read."""
_NAMED = ["sample_id", "uri", "bytes"]
Found = tuple[str, images.DecodedImage]
"""A sample id, and its image."""


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
    rows = samples.read([*_NAMED, column], wanted).sort_by("sample_id")
    ordinary = rows.take(pa.array(ordinary_half(arrow.matrix(rows[column]))))
    return _named(ordinary.select(_NAMED))


def _named(rows: pa.Table | pa.RecordBatch) -> list[Named]:
    columns = zip(*(column.to_pylist() for column in rows.columns), strict=True)
    return [(sample_id, ImageRef(uri, size=size)) for sample_id, uri, size in columns]


class _OfImages(beam.DoFn, ABC):
    """Reads and decodes samples and works on their patches; in: list of Named.

    Each list waits until the next one is being read, the last for the end of its bundle.
    """

    def __init__(self, options: PatchOptions) -> None:
        self.options = options

    @abstractmethod
    def work(self, found: Sequence[Found]) -> Any:
        """What is made of a batch; on a GPU in a thread of its own."""

    @abstractmethod
    def put_out(self, made: Sequence[Any], lost: Sequence[str]) -> Iterator[Any]:
        """What leaves the worker. lost: samples whose images are not what they were."""

    def setup(self) -> None:
        options = self.options
        self.encoder_options = encoding.of_worker(
            options.encoder_options, options.info, options.workers
        )
        self.threads = encoding.Threads()

    def teardown(self) -> None:
        self.threads.close()

    def start_bundle(self) -> None:
        self.ahead = ReadAhead(self.threads.readers, lambda ref: read_and_hash(ref.uri))
        self.waiting: Sequence[Named] = ()
        self.gathered = encoding.Gather(self.threads.encoder, self.work, self._batch)

    def process(self, named: Sequence[Named]) -> Iterator[Any]:
        self.ahead.expect([ref for _, ref in named])
        present, self.waiting = self.waiting, named
        yield from self._look(present)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for out in chain(self._look(self.waiting), self._rest()):
            yield WindowedValue(out, GlobalWindow().max_timestamp(), [GlobalWindow()])

    def patches(self, found: Sequence[Found]) -> NDArray[np.float32]:
        """Patches (n, h, w, d) of unit norm."""
        return self._encoder().encode_patches(np.stack([image.pixels for _, image in found]))

    def _look(self, named: Sequence[Named]) -> Iterator[Any]:
        options = self.options
        found, lost = [], []
        for sample_id, ref in named:
            try:
                data = proven(sample_id, ref.uri, *self.ahead.take())
                image = images.decode(data, options.info.preprocess, options.limits)
                found.append((sample_id, image))
            except ImageError as error:
                _log.warning("%s: %s", sample_id, error)
                lost.append(sample_id)
        progress.of(options.run_id).add(done=len(named), rejected=len(lost))
        yield from self.put_out(self.gathered.add(found), lost)

    def _rest(self) -> Iterator[Any]:
        yield from self.put_out(self.gathered.finish(), ())

    def _batch(self) -> int | None:
        wanted = batch_of(self._encoder())
        return wanted and min(wanted, _GATHERED)

    def _encoder(self) -> PatchEncoder:
        options = self.options
        shared = registry.share_patches(options.encoder, **self.encoder_options)
        return encoding.same(shared, options.info)


class EncodeReferences(_OfImages):
    """Encodes the patches of references; in: list of Named, out: name of a file of them."""

    def work(self, found: Sequence[Found]) -> str:
        ids = [sample_id for sample_id, _ in found]
        folder = self.options.catalog.scratch / self.options.run_id
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{ids[0]}.npz"
        np.savez(path, ids=np.array(ids), patches=self.patches(found))
        return str(path)

    def put_out(self, made: Sequence[str], lost: Sequence[str]) -> Iterator[str]:
        yield from made


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
        for batch in self.options.catalog.samples.stream([file], _NAMED):
            missing = [named for named in _named(batch) if named[0] not in self.scored]
            progress.of(self.options.run_id).add(todo=len(missing))
            yield from missing


class ScorePatches(_OfImages):
    """Scores the patches of samples; in: list of Named, out: Staged files."""

    def __init__(self, options: PatchOptions) -> None:
        super().__init__(options)
        self.shared = Shared()

    def setup(self) -> None:
        super().setup()
        self.bank = self.shared.acquire(lambda: _Held(Bank.load(self.options.bank))).bank

    def start_bundle(self) -> None:
        super().start_bundle()
        self.rows = Stage("patches", self.options.catalog.patches)

    def work(self, found: Sequence[Found]) -> pa.Table:
        return score(self.bank, self.patches(found), found, self.options)

    def put_out(self, made: Sequence[pa.Table], lost: Sequence[str]) -> Iterator[Staged]:
        for table in (*made, unknown(lost, self.options)):
            yield from self.rows.add(table)

    def _rest(self) -> Iterator[Staged]:
        yield from super()._rest()
        yield from self.rows.finish()


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


def read(sample_id: str, uri: str) -> bytes:
    """The bytes of a sample's image. Raises ImageError: unreadable, or changed."""
    return proven(sample_id, uri, *read_and_hash(uri))


def read_and_hash(uri: str) -> tuple[bytes, str]:
    """The bytes that lie at a URI now and their SHA-256 in hex. Raises ImageError: unreadable."""
    data = sources.read(sources.locate(uri))
    return data, hashlib.sha256(data).hexdigest()


def proven(sample_id: str, uri: str, data: bytes, digest: str) -> bytes:
    """The bytes, if they are the sample's. Raises ImageError: changed."""
    if digest != sample_id:
        raise ImageError("changed", f"{uri} holds other bytes than it did")
    return data


def score(
    bank: Bank, patches: NDArray[np.float32], found: Sequence[Found], options: PatchOptions
) -> pa.Table:
    """Rows of the patches table, for patches (n, h, w, d) of n samples."""
    sample_ids = [sample_id for sample_id, _ in found]
    distances = bank.distances(patches, sample_ids)
    x, y = strangest_places(distances)
    sizes = np.array([(image.width, image.height) for _, image in found], dtype=np.float64)
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
