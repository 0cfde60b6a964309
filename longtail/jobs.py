"""Starts the Beam jobs of a run: settings in, options out, and what their counters say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longtail import runs
from longtail.runs import Run
from longtail.settings import Settings
from schemas.catalog import Catalog
from schemas.errors import AuditError, EncoderError

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)

if TYPE_CHECKING:
    from curation.select import Selection
    from encoders.base import EncoderInfo
    from encoders.images import Limits
    from index.store import IndexStore
    from pipelines.progress import Progress

Watch = Callable[[str, "Progress"], AbstractContextManager[object]]
"""Called as a job starts, with its name and its progress; left when the job ends."""


@dataclass(frozen=True)
class Jobs:
    """The jobs of one workspace as its settings want them. Pipelines are imported when needed."""

    catalog: Catalog
    settings: Settings
    watch: Watch

    @property
    def encoder(self) -> EncoderInfo:
        """The identity of the encoder on this machine. Raises EncoderError."""
        from encoders import registry

        return registry.describe(self.settings.encoder, **self.settings.encoder_options)

    @property
    def limits(self) -> Limits:
        """What an image may be."""
        from encoders.images import Limits

        limits = self.settings.limits
        return Limits(limits.max_bytes, limits.max_pixels, limits.min_side)

    @property
    def index_store(self) -> IndexStore:
        """The index of the encoder, as the settings want it."""
        from index.factory import Policy
        from index.store import IndexStore

        index = self.settings.index
        memory = int(index.memory_gb * 2**30) or None
        policy = Policy(index.recall, memory, index.factory or None)
        return IndexStore(self.catalog.index(self.encoder.id), policy)

    def ingest(self, run: Run, inputs: Sequence[str], source: str) -> None:
        """Embed what is new among the inputs. Raises NotFoundError for an input that is not."""
        from pipelines import embed, publish, sources

        sources.open_source(inputs, source)  # a wrong input is told before anything starts
        info = self.encoder
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
        try:
            self._start(run, "ingest", lambda pipeline: embed.build(pipeline, options))
        except AuditError as error:
            refused = publish.explain_refusals(run.folder)
            raise AuditError(f"{error}; refused: {refused}" if refused else str(error)) from None

    def index(self, run: Run) -> None:
        """Index what no segment holds."""
        from pipelines import index_job

        policy = self.index_store.policy
        options = index_job.IndexOptions(run.run_id, self.catalog, self.encoder.id, policy)
        if not index_job.is_current(options):
            self._start(run, "index", lambda pipeline: index_job.build(pipeline, options))

    def mine(self, run: Run) -> None:
        """Score what is indexed, unless the newest mining run did so by the same policy."""
        from detectors.mining import Budget, Policy
        from pipelines import mine

        encoder_id, mining = self.encoder.id, self.settings.mining
        snapshot = self.index_store.open()
        if snapshot is None:
            return
        mined = {
            "encoder": encoder_id,
            "snapshot": snapshot.number,
            "vectors": snapshot.vectors,
            "policy": mining.model_dump(),
        }
        newest = runs.newest_mining_run(self.catalog)
        if newest and runs.read_json(self.catalog.run(newest) / runs.MINE) == mined:
            return
        policy = Policy(
            budget=Budget.parse(mining.budget),
            detector=mining.detector,
            neighbours=mining.neighbours,
            fault_threshold=mining.fault_threshold,
        )
        options = mine.MineOptions(run.run_id, self.catalog, encoder_id, policy)
        runs.write_json(run.folder / runs.MINE, mined)
        self._start(run, "mine", lambda pipeline: mine.build(pipeline, options))

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

    def _admit(self, info: EncoderInfo) -> None:
        """Note the encoder, unless the samples of its name are those of another fingerprint.

        Two encoders may stand side by side; one that changed under its name is a mistake, and
        would start the workspace anew unasked. Raises EncoderError.
        """
        from encoders.base import EncoderInfo

        held = {file.partition for file in self.catalog.samples.files()}
        path = self.catalog.encoder(info.id)
        if info.id in held and path.exists():
            return
        for noted in sorted(path.parent.glob("*.json")):
            other = EncoderInfo.from_json(noted.read_text("utf-8"))
            if other.name == info.name and other.id != info.id and other.id in held:
                raise EncoderError(
                    f"the samples here are of {other.id}, encoder {info.name!r} is {info.id} now: "
                    f"{info.difference(other)}; set it back in longtail.yaml or by --set, "
                    "or make a new workspace with 'longtail init'"
                )
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(info.to_json() + "\n", "utf-8")
        temporary.replace(path)

    def _start(self, run: Run, name: str, build: Callable[[Any], Any]) -> None:
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
