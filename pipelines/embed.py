"""The embed job: images in, samples with embeddings at three levels out.

    inputs -> ImageRef -> skip known -> shuffle -> [read, hash, decode, encode, stage] -> publish

What stands in brackets is one fused stage: bytes and tensors never leave it. A few threads read and
hash the next batch while one decodes and encodes the present; for a GPU, batches of its size are
gathered, and encoded in one more thread. It ends in staged files that no reader sees; one element
at the end audits all of them and commits them once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from encoders import images, registry
from encoders.base import Encoder, EncoderInfo, batch_of
from pipelines import encoding, progress, sources
from pipelines.ahead import ReadAhead
from pipelines.known import Known, unnamed
from pipelines.publish import Stage, Staged
from pipelines.samples import IngestOptions, Publish
from schemas import arrow
from schemas.errors import ImageError
from schemas.records import LEVELS, QUALITY_STATISTICS, ImageRef, Reject

Decoded = tuple[ImageRef, str, int, images.DecodedImage]
"""Where an image lay, its sample id, its bytes, its pixels."""


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(IngestOptions):
    """What one run of the job does.

    encoder, encoder_options: as the settings name it; `info` is its identity on this machine.
    """

    info: EncoderInfo
    inputs: tuple[str, ...]
    encoder: str
    limits: images.Limits
    encoder_options: registry.Options
    compile_encoder: bool = False
    workers: int = 1
    batch_size: int = 16


def build(pipeline: beam.Pipeline, options: EmbedOptions) -> beam.PCollection:
    """Add the job to `pipeline`; its output is empty, its effect the commit."""
    known = Shared()
    return (
        pipeline
        | "List" >> sources.open_source(options.inputs, options.source)
        | "SkipKnown" >> beam.ParDo(SkipKnown(options, known))
        # Batched before the shuffle: neighbours in a shard stay together, and it moves less.
        | "Batch" >> beam.BatchElements(options.batch_size, options.batch_size)
        | "Spread" >> beam.Reshuffle()
        | "Embed" >> beam.ParDo(Embed(options, known))
        | "Gather" >> beam.GroupBy(lambda _: None)
        | "Publish" >> beam.ParDo(Publish(options))
    )


class SkipKnown(beam.DoFn):
    """Passes on the inputs that the workspace has not seen, in -> out: ImageRef."""

    def __init__(self, options: EmbedOptions, known: Shared) -> None:
        self.options = options
        self.shared_known = known
        self.listed = Metrics.counter("images", "listed")
        self.skipped = Metrics.counter("images", "skipped")

    def setup(self) -> None:
        self.known = self.shared_known.acquire(lambda: _known(self.options))
        self.progress = progress.of(self.options.run_id)

    def process(self, ref: ImageRef) -> Iterator[ImageRef]:
        self.listed.inc()
        if self.known.holds(ref):
            self.skipped.inc()
            return
        self.progress.add(todo=1)
        yield ref


class Embed(beam.DoFn):
    """Reads, decodes and encodes batches of images; in: list of ImageRef, out: Staged files.

    Each batch waits until the next one is being read, the last for the end of its bundle. Of the
    counters, `read_us` and `encode_us` are the times that reading and encoding were waited for.
    """

    def __init__(self, options: EmbedOptions, known: Shared) -> None:
        self.options = options
        self.shared_known = known
        self.clocks = {
            name: Metrics.counter("time", f"{name}_us") for name in ("read", "decode", "encode")
        }

    def setup(self) -> None:
        options = self.options
        self.encoder_options = encoding.of_worker(
            options.encoder_options, options.info, options.workers
        )
        self.known = self.shared_known.acquire(lambda: _known(options))
        self.progress = progress.of(options.run_id)
        self.threads = encoding.Threads()

    def teardown(self) -> None:
        self.threads.close()

    def start_bundle(self) -> None:
        catalog, limits = self.options.catalog, self.options.limits
        self.samples = Stage("samples", catalog.samples)
        self.uris = Stage("uris", catalog.uris)
        self.rejects = Stage("rejects", catalog.rejects)
        # Of this bundle only: a bundle that is tried again starts from nothing.
        self.taken: set[str] = set()
        self.ahead = ReadAhead(self.threads.readers, lambda ref: read_and_hash(ref, limits))
        self.waiting: Sequence[ImageRef] = ()
        self.encoder: Encoder | None = None
        self.gathered: encoding.Gather[Decoded, pa.Table] = encoding.Gather(
            self.threads.encoder, self._encode, lambda: batch_of(self._loaded())
        )

    def process(self, refs: Sequence[ImageRef]) -> Iterator[Staged]:
        self.ahead.expect(refs)
        present, self.waiting = self.waiting, refs
        yield from self._embed(present)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        everything = chain(
            self._embed(self.waiting),
            self._encode_rest(),
            self.samples.finish(),
            self.uris.finish(),
            self.rejects.finish(),
        )
        for staged in everything:
            yield WindowedValue(staged, GlobalWindow().max_timestamp(), [GlobalWindow()])

    def _embed(self, refs: Sequence[ImageRef]) -> Iterator[Staged]:
        options = self.options
        decoded: list[Decoded] = []
        sightings: list[tuple[ImageRef, str]] = []
        rejects: list[Reject] = []
        for ref in refs:
            try:
                begun = time.perf_counter()
                data, sample_id = self.ahead.take()
                self._clock("read", begun)
                if sample_id in self.known.forgotten:
                    raise ImageError("forgotten", sample_id)
                if sample_id not in self.taken and sample_id not in self.known.samples:
                    begun = time.perf_counter()
                    image = images.decode(data, options.info.preprocess, options.limits)
                    self._clock("decode", begun)
                    decoded.append((ref, sample_id, len(data), image))
                    self.taken.add(sample_id)
                if not self.known.sighted(ref):
                    sightings.append((ref, sample_id))
            except ImageError as error:
                if not self.known.failed(ref):  # else it stands among the rejects already
                    told = unnamed(ref) if error.reason == "forgotten" else ref
                    rejects.append(Reject(told, error.reason, error.detail))
        self.progress.add(done=len(refs), rejected=len(rejects))
        if decoded:
            self._loaded()  # only now: a run with nothing new must not pay for it
            begun = time.perf_counter()
            tables = self.gathered.add(decoded)
            self._clock("encode", begun)
            for table in tables:
                yield from self.samples.add(table)
        yield from self.uris.add(arrow.uris_table(sightings, options.run_id))
        if rejects:
            table = arrow.rejects_table(rejects, str(options.limits), options.run_id)
            yield from self.rejects.add(table)

    def _encode_rest(self) -> Iterator[Staged]:
        begun = time.perf_counter()
        tables = self.gathered.finish()
        self._clock("encode", begun)
        for table in tables:
            yield from self.samples.add(table)

    def _encode(self, decoded: Sequence[Decoded]) -> pa.Table:
        return embed_images(self._loaded(), decoded, self.options.run_id)

    def _loaded(self) -> Encoder:
        if self.encoder is None:
            options = self.options
            shared = registry.share(
                options.encoder, **self.encoder_options, compile_=options.compile_encoder
            )
            self.encoder = encoding.same(shared, options.info)
        return self.encoder

    def _clock(self, name: str, begun: float) -> None:
        self.clocks[name].inc(int((time.perf_counter() - begun) * 1e6))


def read(ref: ImageRef, limits: images.Limits) -> bytes:
    """The bytes of one image.

    Raises ImageError: unreadable, or bad_source or too_large before it is read.
    """
    if not sources.printable(ref.source):
        raise ImageError("bad_source", f"{ref.source!r} holds control characters")
    if ref.container != "parquet" and ref.size > limits.max_bytes:
        raise ImageError("too_large", f"{ref.size} bytes, the limit is {limits.max_bytes}")
    return sources.read(ref)


def read_and_hash(ref: ImageRef, limits: images.Limits) -> tuple[bytes, str]:
    """The bytes of one image and their SHA-256 in hex. Raises ImageError as `read` does."""
    data = read(ref, limits)
    return data, hashlib.sha256(data).hexdigest()


def embed_images(encoder: Encoder, decoded: Sequence[Decoded], run_id: str) -> pa.Table:
    """Encode images into rows of the samples table."""
    refs = [ref for ref, *_ in decoded]
    pictures = [image for *_, image in decoded]
    n = len(decoded)
    embeddings = encoder.encode(np.stack([picture.pixels for picture in pictures]))
    columns = {
        "encoder": arrow.constant(encoder.info.id, n),
        "sample_id": pa.array([sample_id for _, sample_id, *_ in decoded]),
        **arrow.input_columns(refs),
        "width": pa.array([picture.width for picture in pictures], pa.int32()),
        "height": pa.array([picture.height for picture in pictures], pa.int32()),
        "format": pa.array([picture.format for picture in pictures]),
        "bytes": pa.array([size for _, _, size, _ in decoded], pa.int64()),
        **{
            name: pa.array([getattr(picture.quality, name) for picture in pictures], pa.float32())
            for name in QUALITY_STATISTICS
        },
        "phash": pa.array([picture.quality.phash for picture in pictures]),
        "thumbnail": pa.array([picture.thumbnail for picture in pictures], pa.binary()),
        **{
            arrow.embedding_column(level): arrow.vectors_array(embeddings[level])
            if level in embeddings
            else pa.nulls(n, pa.list_(pa.float32()))
            for level in LEVELS
        },
        "run_id": arrow.constant(run_id, n),
        "ingested_at": arrow.constant(datetime.now(UTC), n, pa.timestamp("us", tz="UTC")),
    }
    return pa.table(columns, schema=arrow.SAMPLES)


def _known(options: EmbedOptions) -> Known:
    return Known(options.catalog, options.info.id, str(options.limits))
