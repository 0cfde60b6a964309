"""Which FAISS index suits, and its training.

A few vectors are scanned whole (Flat). More are split into the cells of a k-means quantizer (IVF)
and stored as one byte a dimension (SQ8), or, where that exceeds the memory, as product-quantized
codes (PQ; Jégou et al., 2011). Answers are re-ranked by the stored vectors, so that compression
costs recall, never a wrong distance.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import gpu
from schemas.errors import SettingsError

TRAINING_PER_CELL = 40
"""Training vectors for each cell; FAISS asks for 39, and more only costs time."""

PQ_TRAINING = 65_536
"""Training vectors of a product quantizer, whose codebooks have 256 entries each."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What to aim for.

    recall: share of the true 10 nearest to be found, in (0, 1].
    memory_bytes: what the searched codes may take; None for half of the machine's memory.
    factory: a FAISS factory string, `Flat` or `IVF...`, to use instead of choosing.
    flat_rows: segments of fewer vectors are scanned whole, which is faster than any index.
    segment_bytes: vectors of one merged segment; bounds what a compaction holds in memory.
    """

    recall: float = 0.95
    memory_bytes: int | None = None
    factory: str | None = None
    flat_rows: int = 20_000
    segment_bytes: int = 2 << 30

    def choose(self, vectors: int, dimension: int) -> str:
        """The factory string for an index of `vectors` x `dimension`."""
        if vectors < self.flat_rows:
            return "Flat"
        if self.factory is not None:
            return self.factory
        memory = self.memory_bytes or _half_of_memory()
        cells = 2 ** round(math.log2(2.5 * math.sqrt(vectors)))
        if vectors * dimension <= memory:
            return f"IVF{cells},SQ8"
        parts = [m for m in range(dimension // 16 or 1, dimension // 4 + 1) if dimension % m == 0]
        fitting = [m for m in parts if vectors * m <= memory] or parts[:1]
        return f"IVF{cells},PQ{fitting[-1]}x8" if fitting else f"IVF{cells},SQ8"


@dataclass(frozen=True, slots=True)
class TrainedIndex:
    """A trained, empty IVF index, and the factory string that it came from."""

    factory: str
    index: Any

    @property
    def cells(self) -> int:
        """How many cells its quantizer has."""
        return int(self.index.nlist)


def empty(factory: str, dimension: int) -> Any:
    """An untrained index. Raises SettingsError for a string that FAISS or we cannot use."""
    try:
        index = faiss.index_factory(dimension, factory)
    except RuntimeError as error:
        raise SettingsError(
            f"index factory {factory!r} does not suit {dimension} dimensions; leave it out to "
            "choose by itself, or take one such as 'IVF1024,SQ8'"
        ) from error
    if not isinstance(index, (faiss.IndexIVF, faiss.IndexFlat)):
        raise SettingsError(f"index factory {factory!r} is neither 'Flat' nor 'IVF...'")
    return index


def training_size(index: Any) -> int:
    """How many vectors `train` can make use of."""
    cells: int = index.nlist * TRAINING_PER_CELL
    return max(cells, PQ_TRAINING) if isinstance(index, faiss.IndexIVFPQ) else cells


def train(index: Any, sample: NDArray[np.float32]) -> None:
    """Train an IVF index on `sample` (m, d), on the GPUs where there are any. Seeded."""
    index.cp.max_points_per_centroid = TRAINING_PER_CELL
    index.cp.min_points_per_centroid = 1  # silences a warning; the measured recall tells instead
    with gpu.clustering(index):
        index.train(sample)


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
