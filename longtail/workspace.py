"""The public API: a workspace and everything that can be done in it.

Open this file first; the whole product is in view. Each method is a few lines that call one room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import ArrayLike

from longtail import maintenance, runs, settings, triggers
from longtail.filters import Filter
from longtail.finding import Finder, Question, resolve
from longtail.flags import read_flags, with_alike
from longtail.jobs import Jobs, Watch
from longtail.runs import RunSummary
from longtail.standing import Triggers
from longtail.verdicts import VerdictLog, this_user
from schemas.catalog import Catalog
from schemas.errors import NotFoundError, UsageError, WorkspaceError
from schemas.records import Flag, FlagKind, Level, Verdict, VerdictLabel

if TYPE_CHECKING:
    from curation.export import ExportFormat
    from index.verification import Verification
    from longtail.explanation import Explanation
    from longtail.heatmap import Heatmap
    from longtail.suggestions import Suggestion
    from pipelines.progress import Progress

ANY = Filter()

_IMAGES_PER_BATCH = 64


def _unwatched(name: str, progress: Progress) -> AbstractContextManager[object]:
    return nullcontext()


class Workspace:
    """A folder that holds the samples, the index, the runs, the verdicts and the datasets.

    root: the folder, as `Workspace.create` made it.
    overrides: settings above the environment and the file, nested as in longtail.yaml.
    watch: told of every job as it starts, to show its progress.
    Its `triggers` are the standing queries.
    Raises WorkspaceError where there is no workspace, SettingsError for a wrong setting.
    """

    def __init__(
        self,
        root: str | Path,
        overrides: Mapping[str, Any] | None = None,
        watch: Watch = _unwatched,
    ) -> None:
        self.root = Path(root).absolute()
        if not (self.root / settings.FILE).exists():
            raise WorkspaceError(
                f"{root} holds no {settings.FILE}; make a workspace with 'longtail init {root}'"
            )
        self.settings = settings.load(self.root, overrides)
        self.catalog = Catalog(self.root)
        self.verdicts = VerdictLog.at(self.catalog.reviews)
        self.jobs = Jobs(self.catalog, self.settings, watch)
        self._finder = Finder(self.jobs, self.verdicts)
        self.triggers = Triggers(self.jobs, self._finder, self.verdicts)

    @classmethod
    def create(cls, root: str | Path, **kwargs: Any) -> Workspace:
        """Make a workspace with default settings. Raises WorkspaceError where one is already."""
        if "://" in str(root):
            raise WorkspaceError(f"{root} is not a folder on this machine; a workspace must be one")
        file = Path(root) / settings.FILE
        if file.exists():
            raise WorkspaceError(f"{file} exists already; edit it, or choose another folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(settings.template(), "utf-8")
        return cls(root, **kwargs)

    def run(
        self, inputs: Sequence[str], source: str = "", save_reference: str | None = None
    ) -> RunSummary:
        """Ingest, index, mine and report: safe to repeat, and does only what is new.

        inputs: folders, files, globs, manifests or shards, local or s3://. source: where they came
        from, unless a manifest says. save_reference: as for `mine`. Raises NotFoundError,
        SettingsError, AuditError, WorkspaceBusyError.
        """
        with runs.start(self.catalog, command="run", inputs=list(inputs)) as run:
            self.jobs.check_mining(save_reference)
            self.jobs.ingest(run, inputs, source)
            self.jobs.index(run)
            self.jobs.mine(run, save_reference)
            self.triggers.record_new(run)
            summary = run.finish()
            self.report()
            return summary

    def ingest(self, inputs: Sequence[str], source: str = "") -> RunSummary:
        """Embed the images that are new; the first step of `run`."""
        with runs.start(self.catalog, command="ingest", inputs=list(inputs)) as run:
            self.jobs.ingest(run, inputs, source)
            return run.finish()

    def index(self) -> RunSummary:
        """Index the samples that no segment holds; the second step of `run`."""
        with runs.start(self.catalog, command="index") as run:
            self.jobs.index(run)
            return run.finish()

    def mine(self, save_reference: str | None = None) -> RunSummary:
        """Flag what is strange among the indexed samples and report; the last step of `run`.

        save_reference: keep what the reference of the settings says, for later runs, by this name.
        """
        with runs.start(self.catalog, command="mine") as run:
            self.jobs.mine(run, save_reference)
            self.triggers.record_new(run)
            summary = run.finish()
            self.report()
            return summary

    def report(self) -> Path | None:
        """The report of the newest mining run, written if it is not there; None before any."""
        from longtail.report.collect import write_report

        run_id = runs.newest_mining_run(self.catalog)
        if run_id is None:
            return None
        path = self.catalog.run(run_id) / runs.REPORT
        if not path.exists():
            write_report(path, self.catalog, run_id)
        return path

    def references(self) -> list[Mapping[str, str | int]]:
        """The saved references, by name: name, of, encoder, samples, digest of their ids."""
        return self.jobs.references.about()

    def remove_reference(self, name: str) -> None:
        """Delete a saved reference. Raises NotFoundError."""
        with runs.start(self.catalog, command="references") as run:
            self.jobs.references.remove(name)
            run.finish()

    def notes(self, run_id: str | None = None) -> list[str]:
        """What a mining run (the newest one) has to say beside its flags, one line each.

        A promise kept or withdrawn, a source that shifted, new matches of triggers.
        """
        from pipelines import notes

        run_id = run_id or runs.newest_mining_run(self.catalog)
        if run_id is None:
            return []
        said = notes.read(self.catalog.run(run_id)).notes
        return [*said, *triggers.told(self.catalog, run_id, self._flagged_at(run_id))]

    def flags(
        self,
        run_id: str | None = None,
        kind: FlagKind | None = None,
        top: int | None = None,
        *,
        left: bool = False,
    ) -> list[Flag]:
        """The flags of a mining run (the newest one), best first. Raises NotFoundError.

        left: what nobody has judged, in the order that the verdicts so far give the run's samples.
        """
        from longtail.reranking import flags_left

        run_id = runs.mining_run(self.catalog, run_id)
        if run_id is None:
            return []
        if not left:
            return read_flags(self.catalog, run_id, kind)[:top]
        snapshot = self._finder.index().searched
        flags = flags_left(self.catalog, run_id, self.verdicts.latest(), snapshot)
        return [flag for flag in flags if kind in (None, flag.kind)][:top]

    def explain(self, sample_id: str, run_id: str | None = None) -> Explanation:
        """Why a sample, flagged or not, stands where it does in a mining run (the newest one).

        sample_id: an id or a unique prefix. Raises NotFoundError for a sample that is unknown or
        that the run did not mine, and for an unknown run.
        """
        from longtail.explanation import explain

        found = self.resolve(sample_id)
        return explain(self.catalog, self.verdicts, self._mining_run(run_id), found)

    def heatmap(self, sample_id: str) -> Heatmap:
        """Where the image of a sample is strange; `.picture.save(...)` keeps it.

        sample_id: an id or a unique prefix. Raises NotFoundError for an unknown sample, one whose
        image is gone, or where no patches were scored yet; EncoderError for an encoder without.
        """
        from longtail.heatmap import heatmap

        return heatmap(self.jobs, self.resolve(sample_id))

    def query(
        self,
        image: str | Path | Sequence[str | Path] = (),
        *,
        sample_id: str | Sequence[str] = (),
        text: str | None = None,
        vector: ArrayLike = (),
        unlike: str | Path | Sequence[str | Path] = (),
        k: int = 12,
        within: float = 2.0,
        where: Filter = ANY,
        apart: float = 0.0,
        level: Level = "high",
    ) -> pa.Table:
        """The k samples most like any of the examples: rank, sample_id, uri, distance.

        image, sample_id: one example or several, files and samples together. text: an example in
        words, for an encoder that embeds text. vector: one (d,) or several (p, d) as the encoder
        gives them, of any length. unlike: files or sample ids, one or several, of what is not
        meant; samples nearer to these are left out. within: largest distance, in [0, 2]. where:
        what an answer must be. apart: of samples within this distance of each other only the best.
        level: `low`, alike in texture and exposure, `mid`, in parts, or `high`, as whole objects;
        only that is indexed, and the others compare all samples. Raises NotFoundError for an
        unknown sample or file, UsageError for a file that is no image, a vector of another length,
        a number out of range or no example, EncoderError for a text where the encoder embeds
        images only.
        """
        return self._finder.query(
            Question(
                image=image,
                sample_id=sample_id,
                vector=vector,
                text=text,
                unlike=unlike,
                k=k,
                within=within,
                where=where,
                apart=apart,
                level=level,
            )
        )

    def query_each(
        self,
        image: str | Path | Sequence[str | Path] = (),
        *,
        sample_id: str | Sequence[str] = (),
        vector: ArrayLike = (),
        k: int = 12,
        within: float = 2.0,
        where: Filter = ANY,
        level: Level = "high",
    ) -> pa.Table:
        """As `query` of every example by itself: query, rank, sample_id, uri, distance.

        query: which example, from 0: files first, then samples, then vectors, as they are given.
        All are searched at once, so that thousands take a fraction of the time of as many queries.
        """
        return self._finder.query_each(
            Question(
                image=image,
                sample_id=sample_id,
                vector=vector,
                k=k,
                within=within,
                where=where,
                level=level,
            )
        )

    def duplicates(self, within: float = 0.1) -> list[list[dict[str, Any]]]:
        """Groups of near-duplicates, largest first: {sample_id, uri, distance} of each member.

        A group's first member stands for it; distances, at most `within`, are to that one.
        """
        return self._finder.duplicates(within)

    def forget(
        self,
        sample_ids: Sequence[str] = (),
        *,
        source: str | None = None,
        before: datetime | None = None,
        undo: bool = False,
    ) -> list[str]:
        """Delete samples from tables, datasets, index, reports and verdicts; returns their ids.

        Those named by `sample_ids` (ids or unique prefixes), and those that all of `source` and
        `before` (captured, or seen where that is unknown) say of any of their URIs. Their content
        is refused later, unless `undo` has it accepted again: that takes ids alone. `vacuum` takes
        their bytes off the disk. Raises NotFoundError, WorkspaceBusyError, and CorruptionError,
        after all else is done, for what is damaged.
        """
        from longtail import forgetting

        if undo and (source is not None or before is not None):
            raise UsageError("what was forgotten is known by its id alone: undo takes sample ids")
        with runs.start(self.catalog, command="forget") as run:
            if undo:
                gone = list(
                    dict.fromkeys(resolve(self.catalog.forgotten, sample_ids, "forgotten sample"))
                )
                forgetting.remember(self.catalog, gone)
            else:
                named = self._finder.resolve_all(sample_ids)
                named += forgetting.described(self.catalog, source, before)
                gone = list(dict.fromkeys(named))
                forgetting.forget(self.catalog, self.verdicts, gone)
            run.finish()
        return gone

    def vacuum(self) -> int:
        """Remove from the disk what was deleted or replaced; returns how many bytes were freed.

        Older versions of tables and datasets that held any of it cannot be read afterwards.
        """
        from longtail import forgetting

        with runs.start(self.catalog, command="vacuum") as run:
            freed = forgetting.vacuum(self.catalog, self.jobs.index_store.policy)
            run.finish()
        return freed

    def compact_index(self) -> dict[str, Any]:
        """Merge the index's segments, without the forgotten, and train it anew where that suits."""
        maintenance.compact(self.jobs)
        return self.index_status()

    def rebuild_index(self) -> dict[str, Any]:
        """Make the index anew from the samples table, whatever state its files are in."""
        maintenance.rebuild(self.jobs)
        return self.index_status()

    def verify_index(self) -> Verification:
        """Compare every file and vector of the index with the samples table."""
        return maintenance.verify(self.jobs)

    def verdict(
        self,
        sample_ids: Sequence[str],
        label: VerdictLabel,
        tags: Sequence[str] = (),
        note: str = "",
        reviewer: str | None = None,
        *,
        group: bool = False,
        run_id: str | None = None,
    ) -> list[Verdict]:
        """Record what a person says of samples, each named by its id or a unique prefix.

        group: the verdict is on every flag that is in a group with one of them. run_id: the mining
        run that was looked at (the newest one). All or none are recorded. Raises NotFoundError for
        an unknown sample or run, UsageError where no reviewer is given and the user has no name,
        and with `group` for a sample that is in none.
        """
        now, reviewer = datetime.now(UTC), reviewer or this_user()
        run_id = runs.mining_run(self.catalog, run_id)
        ids = self._finder.resolve_all(sample_ids)
        if group:
            ids = with_alike(self.flags(run_id), ids)
        verdicts = [Verdict(id_, label, tuple(tags), note, reviewer, now, run_id) for id_ in ids]
        self.verdicts.append(verdicts)
        return verdicts

    def suggest(self, count: int = 50) -> list[Suggestion]:
        """What to judge next of the newest mining run, for the verdicts to be worth the most.

        Half are the strangest, half stand for many others; after 20 verdicts, of which some say
        edge case and some not, those that they leave in doubt and that differ. None was judged.
        Ten at a time teach more than all at once. Raises NotFoundError before the first mining run.
        """
        from longtail.suggestions import suggestions

        return suggestions(self.catalog, self._mining_run(None), self.verdicts.latest(), count)

    def curate(
        self, name: str, verdicts: Sequence[VerdictLabel] = ("edge_case",), top: int = 0
    ) -> dict[str, Any]:
        """Append samples with these verdicts to a dataset, as its next version.

        top: also take, of the `top` first outliers of the newest run, those nobody has judged.
        Samples that the dataset holds are left out. Returns {dataset, version, added, rejected,
        samples}: version is None while the dataset is empty, rejected counts by reason the images
        that could not be read whole. Raises UsageError for an unknown verdict.
        """
        from longtail import curating

        flags, latest = self.flags(), self.verdicts.latest()
        return curating.curate(self.jobs, name, flags, latest, labels=verdicts, top=top)

    def export(
        self, name: str, out: str | Path, format_: ExportFormat = "hf", version: int | None = None
    ) -> dict[str, Any]:
        """Write a version of a dataset (the newest one) as files that training code reads.

        format_: `hf`, Hugging Face Parquet, or `imagefolder`, images and a metadata.csv. Raises
        NotFoundError for an unknown dataset or version, UsageError for an output folder in use.
        """
        from longtail import curating

        return curating.export(self.catalog, name, Path(out), format_, version)

    def status(self) -> dict[str, Any]:
        """Counts, index, last run and failure; the fields are a contract with other programs."""
        encoder_id = self.jobs.encoder.id
        newest = runs.newest_mining_run(self.catalog)
        flagged = (ds.field("run_id") == newest) & ds.field("rank").is_valid()
        uris, rejects = self.catalog.uris, self.catalog.rejects
        return {
            "workspace": str(self.root),
            "encoder": encoder_id,
            "samples": self.catalog.samples.count(ds.field("encoder") == encoder_id),
            "uris": pc.count_distinct(uris.read(["uri"])["uri"]).as_py(),
            "rejects": pc.count_distinct(rejects.read(["uri"])["uri"]).as_py(),
            "flags": self.catalog.scores.count(flagged) if newest else 0,
            "runs": len(runs.finished(self.catalog)),
            "index": self.index_status(),
            "last_run": runs.last_summary(self.catalog, ("run", "ingest", "index", "mine")),
            "last_failure": runs.last_failure(self.catalog),
        }

    def index_status(self) -> dict[str, Any]:
        """What the index holds, which FAISS index it is, and the recall at 10 measured for it."""
        return maintenance.status(self.jobs)

    def resolve(self, prefix: str) -> str:
        """The sample id that starts so. Raises NotFoundError unless there is exactly one."""
        (sample_id,) = self._finder.resolve_all([prefix])
        return sample_id

    def _flagged_at(self, run_id: str) -> list[str]:
        """What stood flagged when a run ended, whether it mined or found nothing new."""
        mined = [earlier for earlier in runs.mining_runs(self.catalog) if earlier <= run_id]
        return [flag.sample_id for flag in self.flags(mined[-1])] if mined else []

    def _mining_run(self, run_id: str | None) -> str:
        found = runs.mining_run(self.catalog, run_id)
        if found is None:
            raise NotFoundError(f"{self.root} has no mining run yet; 'longtail run' makes one")
        return found
