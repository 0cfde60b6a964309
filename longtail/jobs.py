"""Starts the Beam jobs of a run: settings in, options out, and what their counters say."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.dataset as ds

from longtail import references, runs
from longtail.references import References
from longtail.runs import Run
from longtail.settings import Settings
from longtail.verdicts import VerdictLog
from schemas.catalog import Catalog
from schemas.errors import AuditError, UsageError

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)

if TYPE_CHECKING:
    from curation.select import Selection
    from encoders.base import Identity
    from encoders.images import Limits
    from index.factory import Policy
    from index.store import IndexStore
    from pipelines.progress import Progress

Build = Callable[[Any], Any]
"""Adds a job to a pipeline."""

Watch = Callable[[str, "Progress"], AbstractContextManager[object]]
"""Called as a job starts, with its name and its progress; left when the job ends."""


@dataclass(frozen=True)
class Jobs:
    """The jobs of one workspace as its settings want them. Pipelines are imported when needed."""

    catalog: Catalog
    settings: Settings
    watch: Watch

    @property
    def encoder(self) -> Identity:
        """Whose vectors the settings ask for. Raises EncoderError."""
        from longtail import identity

        return identity.of_settings(self.settings, self.catalog)

    @property
    def references(self) -> References:
        """What the pool may be held against."""
        return References(self.catalog, VerdictLog.at(self.catalog.reviews))

    def check_encoder(self) -> None:
        """See that the encoder is what it was when its samples came. Raises EncoderError."""
        from longtail import identity

        identity.check(self.encoder, self.catalog)

    @property
    def limits(self) -> Limits:
        """What an image may be."""
        from encoders.images import Limits

        limits = self.settings.limits
        return Limits(limits.max_bytes, limits.max_pixels, limits.min_side)

    @property
    def index_store(self) -> IndexStore:
        """The index of the encoder, as the settings want it. Raises SettingsError."""
        from index.store import IndexStore

        encoder = self.encoder
        return IndexStore(self.catalog.index(encoder.id), self._policy(encoder))

    def ingest(self, run: Run, inputs: Sequence[str], source: str) -> None:
        """Embed what is new among the inputs.

        Raises NotFoundError for an input that is not, SettingsError for an index that cannot be,
        UsageError for a source with control characters in its name.
        """
        from encoders import registry
        from pipelines import publish, sources

        if not sources.printable(source):
            raise UsageError(f"source {source!r} holds control characters; give it another name")
        if self.settings.patches:
            registry.check_patches(self.settings.encoder)
        brought = registry.brings_vectors(self.settings.encoder)
        build = (self._take_vectors if brought else self._embed)(run, inputs, source)
        try:
            self._start(run, "ingest", build)
        except AuditError as error:
            refused = publish.explain_refusals(run.folder)
            raise AuditError(f"{error}; refused: {refused}" if refused else str(error)) from None
        if self.settings.patches:
            self._score_patches(run)

    def _score_patches(self, run: Run) -> None:
        """Score the patches of all samples that lack it, once there are enough for a bank."""
        from encoders import registry
        from pipelines import patches

        options = patches.PatchOptions(
            run_id=run.run_id,
            catalog=self.catalog,
            encoder=self.settings.encoder,
            info=registry.describe(self.settings.encoder, **self.settings.encoder_options),
            encoder_options=self.settings.encoder_options,
            limits=self.limits,
            workers=self.settings.worker_count,
        )
        if patches.needs_bank(options):
            self._start(run, "bank", lambda pipeline: patches.build_bank(pipeline, options))
        if patches.needs_scores(options):
            self._start(run, "patches", lambda pipeline: patches.build(pipeline, options))

    def _embed(self, run: Run, inputs: Sequence[str], source: str) -> Build:
        from encoders import registry
        from pipelines import embed, sources

        sources.open_source(inputs, source)  # a wrong input is told before anything starts
        info = registry.describe(self.settings.encoder, **self.settings.encoder_options)
        self._admit(info)
        options = embed.EmbedOptions(
            run_id=run.run_id,
            catalog=self.catalog,
            inputs=tuple(inputs),
            source=source,
            encoder=self.settings.encoder,
            info=info,
            encoder_options=self.settings.encoder_options,
            compile_encoder=self.settings.compile,
            workers=self.settings.worker_count,
            batch_size=self.settings.batch_size,
            limits=self.limits,
            max_rejected_share=self.settings.limits.max_rejected_share,
        )
        return lambda pipeline: embed.build(pipeline, options)

    def _take_vectors(self, run: Run, inputs: Sequence[str], source: str) -> Build:
        from encoders.base import Identity
        from pipelines import sources, vectors

        opened = sources.open_vectors(inputs, self.settings.vector_column)
        # Files without rows say nothing of a length: they are of whatever is there.
        named = Identity(self.settings.encoder, opened.dimensions)
        info = named if opened.dimensions else self.encoder
        self._admit(info)
        options = vectors.VectorOptions(
            run_id=run.run_id,
            catalog=self.catalog,
            vectors=opened,
            source=source,
            info=info,
            max_rejected_share=self.settings.limits.max_rejected_share,
        )
        return lambda pipeline: vectors.build(pipeline, options)

    def index(self, run: Run, *, anew: bool = False) -> None:
        """Index what no segment holds, or all anew, and see to what is due.

        Raises EncoderError for one that changed, SettingsError for a factory that cannot be.
        """
        from pipelines import index_job

        self.check_encoder()
        store = self.index_store
        options = index_job.IndexOptions(
            run_id=run.run_id,
            catalog=self.catalog,
            encoder_id=self.encoder.id,
            policy=store.policy,
            workers=self.settings.worker_count,
            anew=anew,
        )
        work = index_job.backlog(options)
        if work or (not anew and store.is_due()):
            self._start(run, "index", lambda pipeline: index_job.build(pipeline, options, work))

    def check_mining(self, save_reference: str | None = None) -> None:
        """Tell what mining would refuse before anything is ingested. Raises UsageError."""
        from detectors.findings import Budget
        from detectors.registry import yardstick

        mining = self.settings.mining
        Budget.parse(mining.budget)
        if mining.detector == "patch" and not self.settings.patches:
            raise UsageError("mining.detector is 'patch': it needs 'patches: true' too")
        if mining.fdr and not mining.reference:
            raise UsageError(
                f"fdr {mining.fdr:g} is a promise about samples like those of a reference; add "
                f"--reference, one of {references.FORMS}"
            )
        if mining.reference:
            yardstick(mining.detector)
        self.references.check(mining.reference, save_reference, self.encoder.id)

    def mine(self, run: Run, save_reference: str | None = None) -> None:
        """Score what is indexed, unless the newest run did so by the same policy and verdicts, and
        by this version, of which scores are comparable.

        save_reference: keep the fit of the reference under this name. Raises EncoderError for an
        encoder that changed, UsageError as `check_mining` does.
        """
        from detectors.disagreement import DOUBTS
        from detectors.findings import Budget, Policy
        from longtail import __version__
        from pipelines import mine
        from pipelines.pool import MineOptions

        self.check_encoder()
        self.check_mining(save_reference)
        encoder_id, mining = self.encoder.id, self.settings.mining
        if mining.detector in DOUBTS:
            self._check_doubt(encoder_id, mining.detector)
        snapshot = self.index_store.open()
        if snapshot is None:
            return
        found = None
        if mining.reference:
            folder = self.catalog.scratch / f"{run.run_id}-reference"
            found = self.references.find(mining.reference, snapshot, folder, encoder_id)
        log = VerdictLog.at(self.catalog.reviews)
        mined = {
            "version": __version__,
            "encoder": encoder_id,
            "snapshot": snapshot.number,
            "vectors": snapshot.vectors,
            "policy": mining.model_dump(),
            "neighbours": found.reference.neighbours(mining.neighbours)
            if found
            else mining.neighbours,
            "patches": self._patch_scores(encoder_id),
            "reference": found and dict(found.reference.about),
            "verdicts": log.last(),  # before they are read: what comes between is mined again
        }
        newest = runs.newest_mining_run(self.catalog)
        unchanged = newest and runs.read_json(self.catalog.run(newest) / runs.MINE) == mined
        if unchanged and save_reference is None:
            return
        reference = None if found is None else found.made(snapshot)
        policy = Policy(
            budget=Budget.parse(mining.budget),
            fdr=mining.fdr or None,
            detector=mining.detector,
            neighbours=reference.neighbours(mining.neighbours) if reference else mining.neighbours,
            fault_threshold=mining.fault_threshold,
            apart=mining.apart,
        )
        options = MineOptions(
            run_id=run.run_id,
            catalog=self.catalog,
            encoder_id=encoder_id,
            policy=policy,
            patches=self.settings.patches,
            reference=reference,
            verdicts={sample_id: verdict.label for sample_id, verdict in log.latest().items()},
        )
        runs.write_json(run.folder / runs.MINE, mined)
        self._start(run, "mine", lambda pipeline: mine.build(pipeline, options))
        if reference is not None and save_reference is not None:
            self.references.save(reference, save_reference)

    def _patch_scores(self, encoder_id: str) -> int:
        """How many scores of patches mining has."""
        if not self.settings.patches:
            return 0
        return sum(file.rows for file in self.catalog.patches.files(encoder_id))

    def _check_doubt(self, encoder_id: str, how: str) -> None:
        """See that a model of the user's has said something of some sample. Raises UsageError."""
        from detectors.disagreement import doubt, none_said

        of_encoder = ds.field("encoder") == encoder_id
        told = self.catalog.samples.read(["metadata"], of_encoder)["metadata"].to_pylist()
        said = [*map(json.loads, told)]
        if doubt(said, how) is None:
            raise UsageError(none_said(said))

    def curate(self, run: Run, name: str, selections: Sequence[Selection]) -> None:
        """Write the selected samples into the dataset, unless there are none."""
        from pipelines import curate

        if selections:
            options = curate.CurateOptions(
                run_id=run.run_id,
                catalog=self.catalog,
                dataset=name,
                selections=tuple(selections),
                limits=self.limits,
            )
            self._start(run, "curate", lambda pipeline: curate.build(pipeline, options))

    def _policy(self, encoder: Identity) -> Policy:
        """How its vectors are indexed. Raises SettingsError for a factory that cannot be."""
        from index.factory import Policy

        index = self.settings.index
        memory = int(index.memory_gb * 2**30) or None
        policy = Policy(index.recall, memory, index.factory or None)
        if "high" in encoder.dimensions:
            policy.check(encoder.dimensions["high"])
        return policy

    def _admit(self, info: Identity) -> None:
        """Tell what indexing would refuse before anything is ingested, and note the encoder."""
        from longtail import identity

        identity.check(info, self.catalog)
        if self.settings.index.factory:  # else FAISS is loaded for nothing
            self._policy(info)
        identity.note(info, self.catalog)

    def _start(self, run: Run, name: str, build: Build) -> None:
        """Run a pipeline to its end. Raises AuditError if it staged what must not be published."""
        from pipelines import progress, publish
        from pipelines.runner import Runner

        settings = self.settings
        runner = Runner(settings.runner, settings.worker_count, settings.runner_options)
        try:
            with run.timed(name), self.watch(name, progress.of(run.run_id)):
                counters = runner.run(build)
        finally:
            progress.forget(run.run_id)
        _log.info("%s ended in %.1f s: %s", name, run.seconds[name], counters)
        run.count(counters)
        for audit in publish.read_audits(run.folder):
            audit.require()
