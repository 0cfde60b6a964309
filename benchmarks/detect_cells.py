"""The cells of ELPV and other images, embedded once a process, and pools made of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from benchmarks.detect_images import cells
from benchmarks.detect_rivals import rivals_scores
from benchmarks.detect_rows import OURS, Floats
from detectors.baseline import Baseline, fit_reference
from detectors.findings import Budget, Findings, Policy
from detectors.mining import mine
from detectors.pool import Pool
from encoders.images import Limits, decode
from encoders.registry import DEFAULT, load
from schemas.records import LEVELS, Level

Embedded = Mapping[Level, NDArray[np.float32]]
Ints = NDArray[np.int64]
Result = TypeVar("Result")

BATCH = 16
THREADS = 2
SOURCE = "elpv"
POLICY = Policy(Budget(count=1))


class Cells:
    """ELPV: paths, defect probabilities (0, 1/3, 2/3, 1) and types of n cells, and the encoder.

    few: how many clean cells and certain defects to keep, without the doubtful ones; None for all.
    """

    def __init__(self, few: tuple[int, int] | None) -> None:
        self.encoder = load(DEFAULT, workers=THREADS)
        paths, probability, types = cells()
        kept = np.arange(len(paths))
        if few is not None:
            rng = np.random.default_rng(0)
            both = zip((0, 1), few, strict=True)
            some = [rng.permutation(np.flatnonzero(probability == of))[:n] for of, n in both]
            kept = np.sort(np.concatenate(some))
        self.paths = [paths[row] for row in kept]
        self.probability, self.types = probability[kept], types[kept]
        self.clean = np.flatnonzero(self.probability == 0)
        self.defects = np.flatnonzero(self.probability == 1)
        # At once: the encoder does not work in forked processes.
        self.embedded = self.embed(path.read_bytes() for path in self.paths)

    def of(self, rows: Ints) -> Embedded:
        return {level: self.embedded[level][rows] for level in LEVELS}

    def embed(self, images: Iterable[bytes]) -> Embedded:
        """Encoded image files; as many batches at a time as there are processors."""
        preprocess, limits = self.encoder.info.preprocess, Limits()
        left = iter(images)

        def vectors(files: Sequence[bytes]) -> Embedded:
            pixels = [decode(data, preprocess, limits).pixels for data in files]
            return self.encoder.encode(np.stack(pixels))

        with ThreadPoolExecutor(THREADS) as threads:
            return joined(*threads.map(vectors, iter(lambda: [*islice(left, BATCH)], [])))

    def split(self, seed: int) -> tuple[np.random.Generator, Ints, Ints]:
        """A generator, and the clean and the defective rows in its order."""
        rng = np.random.default_rng(seed)
        return rng, rng.permutation(self.clean), rng.permutation(self.defects)

    def with_few_defects(self, seed: int, kind: str | None = None, most: int | None = None) -> Ints:
        """Clean cells, all or the `most`, and 5% defects. kind: of cells, None for both."""
        _, clean, defects = self.split(seed)
        if kind is not None:
            clean, defects = (rows[self.types[rows] == kind] for rows in (clean, defects))
        clean = clean[:most]
        return np.concatenate([clean, defects[: len(clean) // 19]])


def every_score(
    reference: Embedded | None, pool: Embedded, *, twice: bool = False
) -> Mapping[str, Floats]:
    """The scores of a pool by our default and by each rival, on the high level.

    Our default looks at the mid level, too. twice: so does each rival, a second time.
    """
    scores = {OURS: ours(reference, pool).score}
    forms: list[tuple[str, list[Level]]] = [("", ["high"]), (" on two levels", ["mid", "high"])]
    for form, levels in forms[: 1 + twice]:
        known = None if reference is None else beside(reference, levels)
        theirs = rivals_scores(known, beside(pool, levels))
        scores |= {name + form: values for name, values in theirs.items()}
    return scores


def at_once(jobs: Sequence[Callable[[], Result]]) -> list[Result]:
    """What each job gives; as many run at a time as there are processors.

    They run in processes forked from this one, as many a rival never lets go of Python's lock, and
    know all that is known here. The encoder does not work there.
    """
    forked = get_context("fork")
    with ProcessPoolExecutor(THREADS, forked, _jobs.extend, (jobs,)) as processes:
        return list(processes.map(_done, range(len(jobs))))


_jobs: list[Callable[[], Any]] = []
"""In a forked process: what there is to do."""


def _done(job: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rivals' are none of ours
        return _jobs[job]()


def beside(embedded: Embedded, levels: Sequence[Level]) -> Floats:
    return np.concatenate([embedded[level] for level in levels], axis=1).astype(np.float64)


def joined(*parts: Embedded) -> Embedded:
    return {level: np.concatenate([part[level] for part in parts]) for level in LEVELS}


def pool_of(
    embedded: Embedded,
    near: Embedded | None = None,
    sources: Sequence[str] | None = None,
    searched: int = POLICY.searched,
) -> Pool:
    """A pool with its exact neighbours, `searched` of them, on the high level.

    near: where these are looked for, None for the pool itself. sources: (n,); one for all if they
    are not named.
    """
    high = embedded["high"]
    among = high if near is None else near["high"]
    model = NearestNeighbors(n_neighbors=min(searched, len(among) - 1)).fit(among)
    distances, neighbours = model.kneighbors(None if near is None else high)
    n = len(high)
    return Pool(
        sample_ids=[f"{i:064x}" for i in range(n)],
        sources=[SOURCE] * n if sources is None else sources,
        embeddings=embedded,
        quality={},
        distances=distances.astype(np.float32),
        neighbours=neighbours,
    )


def baseline_of(reference: Embedded) -> Baseline:
    return fit_reference(pool_of(reference, searched=POLICY.searched_in_reference))


def ours(
    reference: Embedded | None, pool: Embedded, sources: Sequence[str] | None = None
) -> Findings:
    """What a run finds by default."""
    if reference is None:
        return mine(pool_of(pool, None, sources), POLICY)
    samples = pool_of(pool, reference, sources, POLICY.searched_in_reference)
    return mine(samples, POLICY, baseline_of(reference))
