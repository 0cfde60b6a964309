"""The standing queries of a workspace: what can be done with `workspace.triggers`."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.dataset as ds

from longtail import triggers
from longtail.finding import Finder
from longtail.jobs import Jobs
from longtail.runs import Run
from longtail.triggers import Match, StandingQuery
from longtail.verdicts import VerdictLog
from schemas.errors import NotFoundError


class Triggers:
    """Makes, teaches and asks triggers; samples are named by their ids or unique prefixes."""

    def __init__(self, jobs: Jobs, finder: Finder, verdicts: VerdictLog) -> None:
        self._jobs = jobs
        self._finder = finder
        self._verdicts = verdicts

    def add(
        self,
        name: str,
        sample_ids: Sequence[str] = (),
        *,
        unlike: Sequence[str] = (),
        text: str | None = None,
    ) -> StandingQuery:
        """Ask every later run for more like these samples, or like a text.

        unlike: samples of what is not meant. Raises NotFoundError for an unknown sample,
        EncoderError for a text where the encoder embeds images only, UsageError for a name that is
        none or is taken, and without an example.
        """
        query = StandingQuery(
            name,
            self._jobs.encoder.id,
            self._resolved(sample_ids),
            self._resolved(unlike),
            text,
        )
        return triggers.add(self._jobs.catalog, query, self._finder.vector_of_text)

    def teach(
        self, name: str, sample_ids: Sequence[str] = (), *, unlike: Sequence[str] = ()
    ) -> StandingQuery:
        """Give a trigger more examples, and more of what is not meant; the latest word counts.

        A trigger made from a text learns from them how far to reach. Raises NotFoundError for an
        unknown trigger or sample, UsageError without an example, EncoderError for a trigger of
        another encoder.
        """
        return triggers.teach(
            self._jobs.catalog,
            name,
            self._jobs.encoder.id,
            self._resolved(sample_ids),
            self._resolved(unlike),
        )

    def all(self) -> list[StandingQuery]:
        """All of them, by name."""
        return triggers.read(self._jobs.catalog)

    def remove(self, name: str) -> None:
        """Ask no longer. Raises NotFoundError."""
        triggers.remove(self._jobs.catalog, name)

    def matches(self, name: str) -> list[Match]:
        """What matches a trigger now, nearest first. Raises NotFoundError, EncoderError."""
        query, snapshot = triggers.named(self._jobs.catalog, name), self._finder.index().searched
        return triggers.matches(query, snapshot, self._jobs.encoder.id, self._verdicts.latest())

    def record_new(self, run: Run) -> None:
        """Note what matches anew, and in the run's details what could not be asked."""
        snapshot = self._jobs.index_store.open()
        if snapshot is not None:
            encoder_id, latest = self._jobs.encoder.id, self._verdicts.latest()
            run.details[triggers.SKIPPED] = triggers.record_new(
                self._jobs.catalog, run.run_id, snapshot, encoder_id, latest
            )

    def _resolved(self, prefixes: Sequence[str]) -> tuple[str, ...]:
        """Each sample once, in order. Raises NotFoundError for one without a vector."""
        found, encoder_id = self._finder.resolve_all(prefixes), self._jobs.encoder.id
        wanted = ds.field("sample_id").isin(pa.array(found, pa.string()))
        embedded = wanted & (ds.field("encoder") == encoder_id)
        there = set(
            self._jobs.catalog.samples.read(["sample_id"], embedded)["sample_id"].to_pylist()
        )
        for sample_id in found:
            if sample_id not in there:
                raise NotFoundError(
                    f"encoder {encoder_id} has not embedded sample {sample_id[:12]}; "
                    "'longtail ingest' its image again"
                )
        return tuple(dict.fromkeys(found))
