"""What is ordinary: fitted once, saved, and held against any later pool.

    embeddings --> Gaussian per level --> Mahalanobis distances \\
    what neighbours leave of them --> the same ----------------+
    neighbours --> mean distance to 3, and relative to theirs -+-> log, centre and spread per source
    patches -----> distance of the strangest spot ------------/    = robust z of each measure
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.measures import (
    ISOLATION,
    LOCAL,
    NEIGHBOURS,
    PARTS,
    PATCH,
    SECOND,
    Measures,
    among_neighbours,
    from_pool,
    groups_heard,
    kind,
    like,
)
from detectors.minorities import far_from_most
from detectors.pool import Pool
from detectors.scores import (
    NOTABLE_Z,
    Floats,
    Gaussian,
    Mask,
    Scale,
    combined,
    consensus,
    fit_left_out,
    fit_scale,
    fit_trimmed,
    knn_distance,
)
from detectors.surroundings import COPY, MOST_STUCK, at, over, theirs_without_it, usual
from schemas.errors import CorruptionError, UsageError
from schemas.records import LEVELS, Level

BY_CHANCE = 0.85
"""What the two strangest of three weigh: chance alone makes two of them strange more often."""
SOURCE_WEIGHT = 50
"""A source of this many samples is half believed about its own centre and spread."""
MOST_FORGOTTEN = 0.1
"""Of a reference that lost a larger share what is left lies so far apart that the p-values of
ordinary samples are too small."""
MOST_MISSED = 0.005
"""A larger share that was forgotten with all that was like it: what is ordinary and of that kind
would be most of what is found."""
FORMAT = 5


@dataclass(frozen=True, slots=True)
class Scales:
    """Centre and spread of every measure, over all samples and of each source.

    A source's own are shrunk towards those of all by how few samples it has, so that a camera
    of ten thousand images is judged by itself and one of ten by the others.
    """

    pooled: Mapping[str, Scale]
    of_source: Mapping[str, Mapping[str, Scale]]

    def z(self, raw: Measures, sources: Sequence[str]) -> dict[str, Floats]:
        """Robust deviations of each sample, by its source's scale where there is one."""
        z = {name: self.pooled[name].z(values) for name, values in raw.items()}
        for source, rows in rows_by_source(sources).items():
            for name, scale in self.of_source.get(source, {}).items():
                if name in raw:
                    z[name][rows] = scale.z(raw[name][rows])
        return z

    def learned(self, raw: Measures, sources: Sequence[str], new: Sequence[str]) -> Scales:
        """With the `new` sources' scales estimated from these samples alone, whatever they were.

        Of what has moved the others' centre says nothing: a tenth of a long way is far, too.
        """
        rows_of = rows_by_source(sources)
        mine = {
            source: {name: fit_scale(values[rows_of[source]]) for name, values in raw.items()}
            for source in new
        }
        return Scales(self.pooled, {**self.of_source, **mine})


def copies(isolation: Floats, sources: Sequence[str]) -> Mask:
    """Who (n,) lies so near to its neighbours that it is a copy of these, such as a stuck camera's.

    Those of each source by themselves: a camera that sees little change is not stuck.
    """
    copied = np.zeros(len(isolation), dtype=bool)
    for rows in rows_by_source(sources).values():
        copied[rows] = isolation[rows] < COPY * np.quantile(isolation[rows], MOST_STUCK)
    return copied


def fit_scales(raw: Measures, sources: Sequence[str], moved: Sequence[str] = ()) -> Scales:
    """Scales of the samples that gave `raw`, per source and pooled; as `learned` of the moved."""
    pooled = {name: fit_scale(values) for name, values in raw.items()}
    rows_of = rows_by_source(sources)
    shrunk = {source: _shrunk(raw, rows, pooled) for source, rows in rows_of.items()}
    return Scales(pooled, shrunk).learned(raw, sources, moved)


def _shrunk(raw: Measures, rows: np.ndarray, pooled: Mapping[str, Scale]) -> dict[str, Scale]:
    scales = {}
    for name, values in raw.items():
        known = np.count_nonzero(~np.isnan(values[rows]))
        weight = SOURCE_WEIGHT / (known + SOURCE_WEIGHT)
        scales[name] = fit_scale(values[rows]).towards(pooled[name], weight)
    return scales


def rows_by_source(sources: Sequence[str]) -> dict[str, np.ndarray]:
    """The rows (int64) of each source."""
    names, member = np.unique(np.asarray(sources, dtype=str), return_inverse=True)
    order = np.argsort(member, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(member, minlength=len(names)))[:-1])
    return dict(zip(names.tolist(), parts, strict=True)) if len(names) else {}


@dataclass(frozen=True, slots=True)
class Baseline:
    """The fitted state of a reference, so that a score means the same in every later run.

    sample_ids, sources: (m,) of the reference's samples. z: (m,) each measure of theirs, every
    one held against the others; its scores calibrate p-values and its spread tells a shift.
    fitted, isolation: (f,) sample_ids of all that it was fitted on, those included that calibrate
    it no longer, and how far apart they lie; a pool's `neighbours` are rows of these.
    forgotten: how many more there were. missed: how many of these leave none like them.
    level: the one that is scored. neighbours: k of the isolation. about: what it was fitted on, for
    people and for checks (name, encoder, index snapshot).
    """

    gaussians: Mapping[str, Gaussian]
    scales: Scales
    level: Level
    neighbours: int
    sample_ids: Sequence[str]
    sources: Sequence[str]
    z: Measures
    fitted: Sequence[str]
    isolation: Floats
    about: Mapping[str, str | int]
    forgotten: int = 0
    missed: int = 0

    @property
    def thinned(self) -> str:
        """Why its scores and p-values hold no longer, a clause; empty where they do."""
        before = len(self.fitted) + self.forgotten
        if self.missed > MOST_MISSED * before:
            return (
                f"{self.missed:,} of the {before:,} samples that the reference was fitted on are "
                "forgotten with all that was like them, and what is like these looks strange now; "
                "fit it again"
            )
        if self.forgotten <= MOST_FORGOTTEN * before:
            return ""
        return (
            f"{self.forgotten:,} of the {before:,} samples that the reference was fitted on are "
            "forgotten, and held against the rest all look stranger than they are; fit it again"
        )

    def measure(self, pool: Pool) -> Measures:
        """The distances of a pool's samples to the reference, before any scale.

        Raises UsageError where the reference's patches were scored and the pool's were not.
        """
        if PATCH in self.z and pool.patches is None:
            raise UsageError(
                "the reference was fitted with patch scores; set 'patches: true', or fit it again"
            )
        raw = from_pool(pool, self.neighbours)
        for level in LEVELS:
            raw[level] = self.gaussians[level].distance(pool.embeddings[level])
        if PARTS in self.gaussians:
            raw[PARTS] = self.gaussians[PARTS].distance(*_together(pool, self.level))
            theirs = at(self.isolation, pool.neighbours[:, : self.neighbours])
            raw[LOCAL] = over(raw[ISOLATION], theirs, usual(self.isolation))
        return {name: values for name, values in raw.items() if name in self.z}

    def score(self, z: Measures) -> Floats:
        """The default score (n,) of `detectors.scores.combined`."""
        fitted = [self.level, PARTS] if PARTS in z else [*map(like, (self.level, SECOND))]
        judges = dict.fromkeys([(ISOLATION, LOCAL), *((name,) for name in fitted), (PATCH,)])
        singles = []
        for names in judges:
            # What is the same for all has nothing to say: a level that the encoder lacks, say.
            told = [z[name] for name in names if name in z and self.scales.pooled[name].spread]
            if told:
                singles.append(consensus(told))
        return combined(singles or [z[ISOLATION]], [*groups_heard(z, self.level).values()])

    def deviation(self, z: Measures) -> Floats:
        """Mean robust deviation (n,) over the levels, of each among all and for its kind.

        The first count twice, as they are known better: what is usual for a kind is told by a few
        neighbours. What leaves an image among its like, as a loss of contrast does, may show beside
        these alone, and not at every depth: where that is more, the mean of the two levels that are
        the strangest for its kind counts.
        """
        of_kind = [z[kind(level)] for level in LEVELS if kind(level) in z]
        together = consensus([*2 * [z[level] for level in LEVELS], *of_kind])
        if not of_kind:
            return together
        two: Floats = np.sort(of_kind, axis=0)[-2:].mean(axis=0)
        return np.maximum(together, BY_CHANCE * two)

    def broken(self, z: Measures, threshold: float) -> Mask:
        """Whose capture (n,) may be broken: noise, blur, exposure and dead pixels show at every
        depth, and strange content does not at the lowest.
        """
        lowest = np.max([z[name] for name in ("low", kind("low")) if name in z], axis=0)
        found: Mask = (self.deviation(z) >= threshold) & (lowest >= NOTABLE_Z)
        return found

    def without(self, sample_ids: Collection[str]) -> Baseline:
        """As if these had not calibrated it; what was fitted on all of them stays."""
        kept = _others(self.sample_ids, sample_ids)
        return replace(
            self,
            sample_ids=[self.sample_ids[row] for row in kept],
            sources=[self.sources[row] for row in kept],
            z={name: values[kept] for name, values in self.z.items()},
        )

    def forget(self, sample_ids: Collection[str], missed: int = 0) -> Baseline:
        """`without` these, which are no one's neighbours any more.

        missed: how many of them leave none like them.
        """
        kept = _others(self.fitted, sample_ids)
        return replace(
            self.without(sample_ids),
            fitted=[self.fitted[row] for row in kept],
            isolation=self.isolation[kept],
            forgotten=self.forgotten + len(self.fitted) - len(kept),
            missed=self.missed + missed,
        )

    def alone(self, sample_ids: Sequence[str], distances: NDArray[np.floating]) -> Mask:
        """Which of these (g,) of its samples are strange at such distances (g, k) to others, and
        were not before: none is like them any more.
        """
        place = {sample_id: row for row, sample_id in enumerate(self.sample_ids)}
        rows = [place[sample_id] for sample_id in sample_ids]
        isolation = {ISOLATION: knn_distance(distances, self.neighbours)}
        now = self.scales.z(isolation, [self.sources[row] for row in rows])[ISOLATION]
        found: Mask = (now >= NOTABLE_Z) & (self.z[ISOLATION][rows] < NOTABLE_Z)
        return found

    def save(self, path: Path) -> None:
        """Write a NumPy archive without pickles: arrays, and a JSON text that names them."""
        header = {
            "format": FORMAT,
            "level": self.level,
            "neighbours": self.neighbours,
            "sources": list(self.sources),
            "about": dict(self.about),
            "forgotten": self.forgotten,
            "missed": self.missed,
            "measures": list(self.z),
            "gaussians": list(self.gaussians),
            "pooled": _plain(self.scales.pooled),
            "of_source": {name: _plain(scale) for name, scale in self.scales.of_source.items()},
        }
        arrays: dict[str, Any] = {f"z.{name}": values for name, values in self.z.items()}
        arrays["isolation"] = self.isolation
        arrays["fitted"] = np.array(self.fitted, dtype="S")
        arrays["sample_ids"] = np.array(self.sample_ids, dtype="S")
        for name, gaussian in self.gaussians.items():
            arrays[f"mean.{name}"] = gaussian.mean
            arrays[f"factor.{name}"] = gaussian.factor
        with path.open("wb") as file:
            np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """What `save` wrote. Raises CorruptionError for anything else."""
        with _archive(path) as (header, archive):
            return cls(
                gaussians={
                    name: Gaussian(archive[f"mean.{name}"], archive[f"factor.{name}"])
                    for name in header["gaussians"]
                },
                scales=Scales(
                    _scales(header["pooled"]),
                    {name: _scales(plain) for name, plain in header["of_source"].items()},
                ),
                level=header["level"],
                neighbours=header["neighbours"],
                sample_ids=archive["sample_ids"].astype(str).tolist(),
                sources=header["sources"],
                z={name: archive[f"z.{name}"] for name in header["measures"]},
                fitted=archive["fitted"].astype(str).tolist(),
                isolation=archive["isolation"],
                about=header["about"],
                forgotten=header["forgotten"],
                missed=header["missed"],
            )


def _others(sample_ids: Sequence[str], left_out: Collection[str]) -> list[int]:
    rows: list[int] = np.flatnonzero(~np.isin(sample_ids, list(left_out))).tolist()
    return rows


def read_about(path: Path) -> Mapping[str, str | int]:
    """What a saved state was fitted on, without reading the rest. Raises CorruptionError."""
    with _archive(path) as (header, _):
        about: Mapping[str, str | int] = header["about"]
        return about


@contextmanager
def _archive(path: Path) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            header = json.loads(str(archive["header"]))
            if header["format"] != FORMAT:
                raise ValueError(f"its format is {header['format']}, not {FORMAT}")
            yield header, archive
    except Exception as error:  # of damaged bytes zipfile, zlib and NumPy raise many kinds
        raise CorruptionError(
            f"reference state '{path}' is damaged ({error}); "
            f"'longtail references --remove {path.parent.name}', and fit it again"
        ) from error


def fit_reference(
    reference: Pool,
    level: Level = "high",
    neighbours: int = NEIGHBOURS,
    about: Mapping[str, str | int] | None = None,
) -> Baseline:
    """Fit on samples that are known to be normal; each is measured against the others.

    Nothing is asked of groups: they cannot hide in a fit that they take no part in.
    """
    fits: dict[str, tuple[Gaussian, Floats]] = {}
    fits |= {each: fit_left_out(reference.embeddings[each]) for each in LEVELS}
    together, given = _together(reference, level)
    fits[PARTS] = fit_left_out(together, given=given)
    raw = from_pool(reference, neighbours)
    theirs = theirs_without_it(reference.distances, reference.neighbours, neighbours)
    raw[LOCAL] = over(raw[ISOLATION], theirs, usual(raw[ISOLATION]))
    return _baseline(reference, level, neighbours, fits, raw, about or {})


def fit_pool(
    pool: Pool,
    level: Level = "high",
    neighbours: int = NEIGHBOURS,
    moved: Sequence[str] = (),
) -> Baseline:
    """Fit on the pool itself, trimmed: most of it is taken for normal, and no rate is promised.

    moved: sources that are unlike the others, and judged by themselves alone.
    """
    fits: dict[str, tuple[Gaussian, Floats]] = {}
    fits |= {each: fit_trimmed(pool.embeddings[each]) for each in LEVELS}
    raw = from_pool(pool, neighbours)
    raw |= among_neighbours(pool, level, neighbours, copies(raw[ISOLATION], pool.sources))
    fitted = _baseline(pool, level, neighbours, fits, raw, {}, moved)
    far = far_from_most(pool, level, fitted.z, moved)
    return replace(fitted, z={**fitted.z, **far})


def _baseline(
    samples: Pool,
    level: Level,
    neighbours: int,
    fits: Mapping[str, tuple[Gaussian, Floats]],
    others: Measures,
    about: Mapping[str, str | int],
    moved: Sequence[str] = (),
) -> Baseline:
    raw = {**others}
    raw |= {each: distance for each, (_, distance) in fits.items()}
    copied = copies(raw[ISOLATION], samples.sources)  # else they would be what is usual
    known = {name: np.where(copied, np.nan, values) for name, values in raw.items()}
    scales = fit_scales(known, samples.sources, moved)
    return Baseline(
        gaussians={each: gaussian for each, (gaussian, _) in fits.items()},
        scales=scales,
        level=level,
        neighbours=neighbours,
        sample_ids=samples.sample_ids,
        sources=samples.sources,
        z=scales.z(raw, samples.sources),
        fitted=samples.sample_ids,
        isolation=raw[ISOLATION],
        about=about,
    )


def _together(pool: Pool, level: Level) -> tuple[NDArray[np.float32], int]:
    """All levels side by side (n, d), the scored one first, and how many dimensions that has."""
    scored = pool.embeddings[level]
    others = [pool.embeddings[each] for each in LEVELS if each != level]
    return np.concatenate([scored, *others], axis=1), scored.shape[1]


def _plain(scales: Mapping[str, Scale]) -> dict[str, list[float]]:
    return {name: [scale.centre, scale.spread] for name, scale in scales.items()}


def _scales(plain: Mapping[str, Sequence[float]]) -> dict[str, Scale]:
    return {name: Scale(*values) for name, values in plain.items()}
