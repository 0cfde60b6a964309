"""What a model already knows: which samples a reference names, and the saved ones."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds

from longtail.filters import sighted
from schemas.catalog import Catalog
from schemas.errors import CorruptionError, EncoderError, NotFoundError, UsageError

if TYPE_CHECKING:
    from detectors.baseline import Baseline
    from index.search import Snapshot
    from longtail.verdicts import VerdictLog
    from pipelines.reference import Reference

KINDS = ("dataset", "source", "before", "verdict", "saved")
FORMS = "dataset:NAME@VERSION, source:NAME, before:DATE, verdict:normal or saved:NAME"
FEWEST = 20
"""Fewer samples do not tell what is usual."""
_SHOWN = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A reference as the settings name it: what kind, which one, of a dataset which version."""

    kind: str
    value: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Wanted:
        """Such as "dataset:roads@3". Raises UsageError for anything else."""
        kind, colon, value = text.partition(":")
        if kind not in KINDS or not colon or not value:
            raise UsageError(f"'{text}' is no reference; write {FORMS}")
        if kind == "dataset":
            value, at, version = value.partition("@")
            if at and not version.isdecimal():
                raise UsageError(f"'{text}': a version is a number, as in dataset:{value}@3")
            return cls(kind, value, int(version) if at else None)
        if kind == "before":
            _time(value)
        if kind == "verdict" and value != "normal":
            raise UsageError(
                f"'{value}' is no verdict that makes a reference; write verdict:normal"
            )
        return cls(kind, value)


@dataclass(frozen=True, slots=True)
class Found:
    """A reference, and the indexed samples to make it of; none for one that is made already."""

    reference: Reference
    sample_ids: Sequence[str] = ()

    def made(self, snapshot: Snapshot) -> Reference:
        """The reference, its folder ready for a run."""
        from pipelines.reference import prepare

        if self.sample_ids:
            prepare(self.reference.folder, snapshot, self.sample_ids)
        return self.reference


@dataclass(frozen=True, slots=True)
class References:
    """The references of a workspace: those that tables and verdicts name, and the saved ones."""

    catalog: Catalog
    verdicts: VerdictLog

    def about(self) -> list[Mapping[str, str | int]]:
        """The saved ones, by name: name, of, encoder, samples; of a damaged one only the name."""
        from detectors.baseline import read_about

        saved: list[Mapping[str, str | int]] = []
        for path in fits(self.catalog):
            try:
                about = read_about(path)
            except CorruptionError:
                about = {"of": "damaged; remove it and fit it again", "encoder": "", "samples": 0}
            saved.append({"name": path.parent.name, **about})
        return saved

    def check(self, text: str, save_as: str | None, encoder_id: str) -> None:
        """Tell at once what would fail after hours: raises UsageError, NotFoundError,
        EncoderError. A source may be empty as yet.
        """
        if save_as is not None:
            self._check_new(save_as, text)
        if not text:
            return
        wanted = Wanted.parse(text)
        if wanted.kind == "saved":
            self._saved(wanted.value, encoder_id)
        if wanted.kind == "dataset":
            self._dataset(wanted)

    def find(self, text: str, snapshot: Snapshot, folder: Path, encoder_id: str) -> Found:
        """The reference of these words: a saved one, or the samples of one to be made there.

        Samples that were judged normal join it. Those that were judged edge cases or junk leave
        it, except from a dataset: what a person chose to train on is known. A saved one gains
        none, and its fit stays as it is: those that leave it only calibrate it no longer. Raises
        NotFoundError for too few samples, EncoderError for a saved one of other vectors.
        """
        from pipelines.reference import Reference

        wanted = Wanted.parse(text)
        latest = self.verdicts.latest()
        strange = {id_ for id_, given in latest.items() if given.label in ("edge_case", "junk")}
        if wanted.kind == "saved":
            return Found(self._saved(wanted.value, encoder_id, strange))
        named = self._named(wanted)
        if wanted.kind != "dataset":
            named -= strange
        named |= {id_ for id_, given in latest.items() if given.label == "normal"}
        rows = snapshot.sample_ids.rows(list(named))
        ids = sorted(snapshot.sample_ids.take(rows[rows >= 0]))
        if len(ids) < FEWEST:
            raise NotFoundError(
                f"reference '{text}' holds {len(ids):,} indexed samples, {FEWEST} is the least; "
                f"there are {self._there(wanted, encoder_id)}"
            )
        about = {"of": text, "encoder": encoder_id, **_told(ids)}
        return Found(Reference(folder, about), ids)

    def save(self, reference: Reference, name: str) -> None:
        """Keep a fitted reference under a name, whole or not at all."""
        self.catalog.references.mkdir(exist_ok=True)
        reference.folder.rename(self.catalog.reference(name))

    def remove(self, name: str) -> None:
        """Delete a saved reference. Raises NotFoundError."""
        self._must_be_saved(name)
        shutil.rmtree(self.catalog.reference(name))

    def _check_new(self, name: str, text: str) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"'{name}' cannot name a reference; take letters, digits, '-', '_' and '.'"
            )
        if not text or text.startswith("saved:"):
            raise UsageError(f"--save-reference {name} saves what --reference fits; add that")
        if self.catalog.reference(name).exists():
            raise UsageError(
                f"reference '{name}' is there already; take it with --reference saved:{name}, or "
                f"'longtail references --remove {name}' first"
            )

    def _saved(self, name: str, encoder_id: str, strange: Set[str] = frozenset()) -> Reference:
        from detectors.baseline import Baseline, read_about
        from pipelines.reference import BASELINE, Reference

        self._must_be_saved(name)
        folder = self.catalog.reference(name)
        about = read_about(folder / BASELINE)
        if about["encoder"] != encoder_id:
            raise EncoderError(
                f"reference '{name}' was fitted on vectors of {about['encoder']}, the samples are "
                f"of {encoder_id}; fit one with --reference {about['of']} under another name"
            )
        left_out: set[str] = set()
        if strange and not str(about["of"]).startswith("dataset:"):
            left_out = set(Baseline.load(folder / BASELINE).sample_ids) & strange
        if left_out:  # no fit of the others alone, which has the digest of these
            digest = _told([str(about["digest"]), *sorted(left_out)])["digest"]
            about = {**about, "samples": int(about["samples"]) - len(left_out), "digest": digest}
        if int(about["samples"]) < FEWEST:
            raise UsageError(
                f"reference '{name}' has {about['samples']} samples left, {FEWEST} is the least; "
                f"fit one with --reference {about['of']} under another name"
            )
        return Reference(folder, about, left_out)

    def _must_be_saved(self, name: str) -> None:
        there = [path.parent.name for path in fits(self.catalog)]
        if name not in there:
            raise NotFoundError(
                f"no reference '{name}' is saved; there are: {', '.join(there) or 'none'}"
            )

    def _named(self, wanted: Wanted) -> set[str]:
        if wanted.kind == "dataset":
            return self._dataset(wanted)
        if wanted.kind == "verdict":
            return set()  # those join every reference
        if wanted.kind == "source":
            where = sighted(source=wanted.value)
        else:
            where = sighted(until=_time(wanted.value))
        return set(self.catalog.uris.read(["sample_id"], where)["sample_id"].to_pylist())

    def _dataset(self, wanted: Wanted) -> set[str]:
        from curation.dataset import check_name
        from pipelines.curate import dataset

        table = dataset(self.catalog, check_name(wanted.value))
        if table.version() is None:
            raise NotFoundError(f"no dataset '{wanted.value}'; there are: {self._datasets()}")
        return set(table.read(["sample_id"], version=wanted.version)["sample_id"].to_pylist())

    def _datasets(self) -> str:
        return ", ".join(sorted(path.name for path in self.catalog.datasets.glob("*"))) or "none"

    def _there(self, wanted: Wanted, encoder_id: str) -> str:
        """What else the reference could have been, for a person who sees that it was nothing."""
        if wanted.kind == "dataset":
            return f"datasets {self._datasets()}"
        if wanted.kind == "verdict":
            counts = self.verdicts.counts()
            return "verdicts " + ", ".join(f"{label} {count:,}" for label, count in counts.items())
        columns = ["source", "captured_at", "ingested_at"]
        table = self.catalog.samples.read(columns, ds.field("encoder") == encoder_id)
        if wanted.kind == "source":
            names = sorted(filter(None, pc.unique(table["source"]).to_pylist()))[:_SHOWN]
            return "sources " + (", ".join(names) or "none")
        if not table.num_rows:
            return "no samples"
        times = pc.min_max(pc.coalesce(table["captured_at"], table["ingested_at"])).as_py()
        return f"samples from {times['min']:%Y-%m-%d %H:%M} to {times['max']:%Y-%m-%d %H:%M}"


def fits(catalog: Catalog) -> list[Path]:
    """The files of the saved references' fits, by name."""
    from pipelines.reference import BASELINE

    return sorted(catalog.references.glob(f"*/{BASELINE}"))


def forget(fit: Path, sample_ids: Collection[str]) -> None:
    """Take samples out of a saved fit, before its index forgets them. Raises CorruptionError."""
    from detectors.baseline import Baseline

    old = Baseline.load(fit)
    gone = sorted(set(old.sample_ids) & set(sample_ids))
    if gone:
        new = old.forget(sample_ids, missed=_missed(fit, old, gone))
        temporary = fit.with_suffix(".tmp")
        replace(new, about={**new.about, **_told(sorted(new.sample_ids))}).save(temporary)
        temporary.replace(fit)


def _missed(fit: Path, baseline: Baseline, gone: Sequence[str]) -> int:
    """How many of these samples of a reference leave none like them; all where nothing can say."""
    from index.store import IndexStore
    from pipelines.reference import INDEX

    try:
        snapshot = IndexStore(fit.parent / INDEX).open()
        if snapshot is None:
            return len(gone)
        rows = snapshot.sample_ids.rows(gone)
        rest = np.setdiff1d(snapshot.live_rows(), rows)
        held: list[int] = np.flatnonzero(rows >= 0).tolist()
        vectors = snapshot.read(rows[held])
        _, distances = snapshot.search(vectors, baseline.neighbours, only=rest)
    except (CorruptionError, OSError, ValueError):  # a damaged index, which is told of later
        return len(gone)
    alone = baseline.alone([gone[place] for place in held], distances)
    return len(gone) - len(held) + int(alone.sum())


def _told(sample_ids: Sequence[str]) -> dict[str, str | int]:
    """How many samples a reference has, and a digest of their ids, which ascend."""
    digest = hashlib.sha256("".join(sample_ids).encode()).hexdigest()
    return {"samples": len(sample_ids), "digest": digest}


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"'{text}' is no date; write one such as before:2026-03-01") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
