"""What is ordinary: fitted once, saved, and held against any later pool.

    embeddings --> Gaussian per level --> Mahalanobis distances \\
    neighbours --> mean distance to 5, to a crowd ------------> log, centre and spread per source
                                                                = robust z of each measure
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detectors.pool import Pool
from detectors.scores import (
    Floats,
    Gaussian,
    Scale,
    as_matrix,
    combined,
    fit_directions,
    fit_left_out,
    fit_scale,
    fit_trimmed,
    knn_distance,
)
from schemas.errors import CorruptionError
from schemas.records import LEVELS, Level

Measures = Mapping[str, Floats]
"""(n,) per name: the three levels, "isolation", and those of `GROUPS`."""

GROUPS = ("crowd", "direction", "centre")
"""What tells a group of alike oddities: the mean distance to a crowd of neighbours, the distance
to a Gaussian of directions, the plain distance to its centre. All 0 against a reference."""

CROWD = 100
"""At most so many neighbours tell a group of oddities; a tenth of a smaller pool."""
SOURCE_WEIGHT = 50
"""A source of this many samples is half believed about its own centre and spread."""
FORMAT = 1


def crowd_of(samples: int, neighbours: int) -> int:
    """How many neighbours make a crowd in a pool of this size, never fewer than `neighbours`."""
    return max(neighbours, min(samples // 10, CROWD))


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
                z[name][rows] = scale.z(raw[name][rows])
        return z

    def learned(self, raw: Measures, sources: Sequence[str], new: Sequence[str]) -> Scales:
        """With the `new` sources' scales estimated from these samples, whatever they were."""
        rows_of = rows_by_source(sources)
        mine = {source: _shrunk(raw, rows_of[source], self.pooled) for source in new}
        return Scales(self.pooled, {**self.of_source, **mine})


def fit_scales(raw: Measures, sources: Sequence[str]) -> Scales:
    """Scales of the samples that gave `raw`, per source and pooled."""
    pooled = {name: fit_scale(values) for name, values in raw.items()}
    rows_of = rows_by_source(sources)
    return Scales(pooled, {source: _shrunk(raw, rows, pooled) for source, rows in rows_of.items()})


def _shrunk(raw: Measures, rows: np.ndarray, pooled: Mapping[str, Scale]) -> dict[str, Scale]:
    weight = SOURCE_WEIGHT / (len(rows) + SOURCE_WEIGHT)
    return {
        name: fit_scale(values[rows]).towards(pooled[name], weight) for name, values in raw.items()
    }


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
    level: the one that is scored. neighbours: k of the isolation. crowd: how many neighbours are
    one, 0 where none is asked. directions: of the scored level, None where no group can hide.
    about: what it was fitted on, for people and for checks (name, encoder, index snapshot).
    """

    gaussians: Mapping[Level, Gaussian]
    scales: Scales
    level: Level
    neighbours: int
    crowd: int
    directions: Gaussian | None
    sample_ids: Sequence[str]
    sources: Sequence[str]
    z: Measures
    about: Mapping[str, str | int]

    def measure(self, pool: Pool) -> Measures:
        """The distances of a pool's samples, before any scale."""
        raw = _neighbourhood(pool, self.level, self.neighbours, self.crowd, self.directions)
        for level, gaussian in self.gaussians.items():
            raw[level] = gaussian.distance(pool.embeddings[level])
        return raw

    def score(self, z: Measures) -> Floats:
        """The default score (n,) of `detectors.scores.combined`."""
        return combined(z["isolation"], z[self.level], *(z[name] for name in GROUPS))

    def save(self, path: Path) -> None:
        """Write a NumPy archive without pickles: arrays, and a JSON text that names them."""
        header = {
            "format": FORMAT,
            "level": self.level,
            "neighbours": self.neighbours,
            "crowd": self.crowd,
            "sources": list(self.sources),
            "about": dict(self.about),
            "pooled": _plain(self.scales.pooled),
            "of_source": {name: _plain(scale) for name, scale in self.scales.of_source.items()},
        }
        arrays: dict[str, Any] = {f"z.{name}": values for name, values in self.z.items()}
        arrays["sample_ids"] = np.array(self.sample_ids, dtype="S")
        for name, gaussian in (*self.gaussians.items(), ("directions", self.directions)):
            if gaussian is not None:
                arrays[f"mean.{name}"] = gaussian.mean
                arrays[f"factor.{name}"] = gaussian.factor
        with path.open("wb") as file:
            np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """What `save` wrote. Raises CorruptionError for anything else."""
        with _archive(path) as (header, archive):
            return cls(
                gaussians={level: _gaussian(archive, level) for level in LEVELS},
                directions=_gaussian(archive, "directions")
                if "mean.directions" in archive
                else None,
                scales=Scales(
                    _scales(header["pooled"]),
                    {name: _scales(plain) for name, plain in header["of_source"].items()},
                ),
                level=header["level"],
                neighbours=header["neighbours"],
                crowd=header["crowd"],
                sample_ids=archive["sample_ids"].astype(str).tolist(),
                sources=header["sources"],
                z={name: archive[f"z.{name}"] for name in (*LEVELS, "isolation", *GROUPS)},
                about=header["about"],
            )


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
                raise ValueError(f"format {header['format']}, not {FORMAT}")
            yield header, archive
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptionError(
            f"reference state '{path}' is damaged ({error}); delete it and fit it again"
        ) from error


def fit_reference(
    reference: Pool,
    level: Level = "high",
    neighbours: int = 5,
    about: Mapping[str, str | int] | None = None,
) -> Baseline:
    """Fit on samples that are known to be normal; each is measured against the others.

    Nothing is asked of groups: they cannot hide in a fit that they take no part in.
    """
    gaussians, distances = {}, {}
    for each in LEVELS:
        gaussians[each], distances[each] = fit_left_out(reference.embeddings[each])
    return _baseline(reference, level, neighbours, gaussians, distances, about or {})


def fit_pool(pool: Pool, level: Level = "high", neighbours: int = 5) -> Baseline:
    """Fit on the pool itself, trimmed: most of it is taken for normal, and no rate is promised."""
    gaussians, distances = {}, {}
    for each in LEVELS:
        gaussians[each], distances[each] = fit_trimmed(pool.embeddings[each])
    crowd = crowd_of(len(pool), neighbours)
    directions = fit_directions(pool.embeddings[level])
    return _baseline(pool, level, neighbours, gaussians, distances, {}, crowd, directions)


def _baseline(
    samples: Pool,
    level: Level,
    neighbours: int,
    gaussians: Mapping[Level, Gaussian],
    distances: Mapping[Level, Floats],
    about: Mapping[str, str | int],
    crowd: int = 0,
    directions: Gaussian | None = None,
) -> Baseline:
    raw = _neighbourhood(samples, level, neighbours, crowd, directions)
    for each in LEVELS:
        raw[each] = distances[each]
    scales = fit_scales(raw, samples.sources)
    return Baseline(
        gaussians=gaussians,
        scales=scales,
        level=level,
        neighbours=neighbours,
        crowd=crowd,
        directions=directions,
        sample_ids=samples.sample_ids,
        sources=samples.sources,
        z=scales.z(raw, samples.sources),
        about=about,
    )


def _neighbourhood(
    pool: Pool, level: Level, neighbours: int, crowd: int, directions: Gaussian | None
) -> dict[str, Floats]:
    raw = {
        "isolation": knn_distance(pool.distances, neighbours),
        "crowd": knn_distance(pool.distances, crowd),
        "direction": np.zeros(len(pool)),
        "centre": np.zeros(len(pool)),
    }
    if directions is not None:
        X = as_matrix(pool.embeddings[level])
        raw["direction"] = directions.distance(X)
        raw["centre"] = np.linalg.norm(X - directions.mean, axis=1)
    return raw


def _gaussian(archive: Mapping[str, Any], name: str) -> Gaussian:
    return Gaussian(archive[f"mean.{name}"], archive[f"factor.{name}"])


def _plain(scales: Mapping[str, Scale]) -> dict[str, list[float]]:
    return {name: [scale.centre, scale.spread] for name, scale in scales.items()}


def _scales(plain: Mapping[str, Sequence[float]]) -> dict[str, Scale]:
    return {name: Scale(*values) for name, values in plain.items()}
