"""Which FAISS index suits, and its training.

A few vectors are scanned whole (Flat). More are split into the cells of a k-means quantizer (IVF)
and stored as one byte a dimension (SQ8), or, where that exceeds the memory, as product-quantized
codes (PQ; Jégou et al., 2011). Answers are re-ranked by the stored vectors, so that compression
costs recall, never a wrong distance.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import gpu
from schemas.errors import SettingsError

_log = logging.getLogger(__name__)

TRAINING_PER_CELL = 40
"""Training vectors for each cell; FAISS asks for 39, and more only costs time."""

PQ_TRAINING = 65_536
"""Training vectors of a product quantizer, whose codebooks have 256 entries each."""

BYTES_OF_ID = 8
"""What FAISS keeps beside each code in a cell: the number of its row."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What to aim for.

    recall: share of the true 10 nearest to be found, in (0, 1].
    memory_bytes: what the searched codes may take; None for half of the machine's memory.
    factory: a FAISS factory string, `Flat` or `IVF...`, to use instead of choosing, as soon as
    there are vectors enough to train it: one for each cell.
    flat_rows: fewer vectors are scanned whole. From so many on one query takes less in cells, at
    320 and at 768 dimensions alike, while making the index and finding the neighbours of all still
    takes more (measured by `python -m benchmarks.index --flat`).
    segment_bytes: vectors of one merged segment; None for a quarter of the memory, 64 MiB to 2 GiB.
    """

    recall: float = 0.95
    memory_bytes: int | None = None
    factory: str | None = None
    flat_rows: int = 20_000
    segment_bytes: int | None = None

    def check(self, dimension: int) -> None:
        """Raise SettingsError for a factory of one's own that cannot be."""
        if self.factory is not None:
            empty(self.factory, dimension)

    def choose(self, vectors: int, dimension: int) -> str:
        """The factory string for an index of `vectors` x `dimension`.

        Raises SettingsError for a factory of one's own that does not suit the dimension.
        """
        if self.factory is not None:
            index = empty(self.factory, dimension)
            return self.factory if vectors >= least_training(index) else "Flat"
        if vectors < self.flat_rows:
            return "Flat"
        cells = 2 ** round(math.log2(2.5 * math.sqrt(vectors)))
        if self._fits(vectors, dimension):
            return f"IVF{cells},SQ8"
        parts = [m for m in range(dimension // 16 or 1, dimension // 4 + 1) if dimension % m == 0]
        fitting = [m for m in parts if self._fits(vectors, m)] or parts[:1]
        return f"IVF{cells},PQ{fitting[-1]}x8" if fitting else f"IVF{cells},SQ8"

    def training_size(self, vectors: int, dimension: int) -> int:
        """How many vectors are to train an index of so many; 0 for Flat."""
        return training_size(self.choose(vectors, dimension), dimension)

    def least_in_cells(self, cells: int) -> int:
        """Merged segments of fewer vectors are scanned whole, even where there is a quantizer."""
        return self.flat_rows if self.factory is None else min(self.flat_rows, cells)

    @property
    def merged_bytes(self) -> int:
        """How many bytes of vectors a merged segment may have; merging holds them twice."""
        return self.segment_bytes or min(2 << 30, max(64 << 20, self._memory // 4))

    def warn_of_memory(self, factory: str, vectors: int, dimension: int) -> None:
        """Say so where the codes of `vectors` take more than the memory allowed."""
        needed = vectors * (empty(factory, dimension).code_size + BYTES_OF_ID)
        if needed > self._memory:
            _log.warning(
                "%s of %s vectors takes %.3g GB, index.memory_gb allows %.3g: allow more, or "
                "searches will read the disk",
                factory,
                f"{vectors:,}",
                needed / 2**30,
                self._memory / 2**30,
            )

    def _fits(self, vectors: int, code_bytes: int) -> bool:
        return vectors * (code_bytes + BYTES_OF_ID) <= self._memory

    @property
    def _memory(self) -> int:
        return self.memory_bytes or _half_of_memory()


@dataclass(frozen=True, slots=True)
class TrainedIndex:
    """A trained, empty IVF index, and the factory string that it came from."""

    factory: str
    index: Any

    @property
    def cells(self) -> int:
        """How many cells its quantizer has."""
        return cells_of(self.index)


def cells_of(index: Any) -> int:
    """How many cells an index has, 0 for Flat."""
    return int(index.nlist) if isinstance(index, faiss.IndexIVF) else 0


def empty(factory: str, dimension: int) -> Any:
    """An untrained index. Raises SettingsError for a string that FAISS or we cannot use."""
    try:
        index = faiss.index_factory(dimension, factory)
    except RuntimeError as error:
        raise SettingsError(
            f"index.factory {factory!r} does not suit {dimension} dimensions; leave it out to "
            "choose by itself, or take one such as 'IVF1024,SQ8'"
        ) from error
    if not isinstance(index, (faiss.IndexIVF, faiss.IndexFlat)) or index.d != dimension:
        raise SettingsError(f"index.factory {factory!r} is neither 'Flat' nor 'IVF...'")
    if isinstance(index, faiss.IndexIVF) and not index.nlist:
        raise SettingsError(f"index.factory {factory!r} has no cells; take 'IVF1024,SQ8', say")
    return index


def least_training(index: Any) -> int:
    """With how many vectors FAISS can train an index at all."""
    codebook = index.pq.ksub if isinstance(index, faiss.IndexIVFPQ) else 0
    return max(cells_of(index), codebook)


def training_size(factory: str, dimension: int) -> int:
    """How many vectors `train` can make use of."""
    index = empty(factory, dimension)
    cells = cells_of(index) * TRAINING_PER_CELL
    return max(cells, PQ_TRAINING) if isinstance(index, faiss.IndexIVFPQ) else cells


def train(factory: str, sample: NDArray[np.float32]) -> TrainedIndex:
    """Train an IVF index on `sample` (m, d), on the GPUs where there are any. Seeded.

    Raises SettingsError where FAISS cannot: for fewer vectors than cells, say.
    """
    index = empty(factory, sample.shape[1])
    index.cp.max_points_per_centroid = TRAINING_PER_CELL
    index.cp.min_points_per_centroid = 1  # silences a warning; the measured recall tells instead
    try:
        gpu.train(index, sample)
    except RuntimeError as error:
        raise SettingsError(
            f"index.factory {factory!r} cannot be trained on {len(sample):,} vectors; leave it out "
            "to choose by itself, or take one of fewer cells"
        ) from error
    return TrainedIndex(factory, index)


def copy_codes(source: Any, target: Any, number_of: NDArray[np.int64]) -> None:
    """Put codes of an IVF index into another of the same training, so that none is made again.

    number_of: the new number of each old one, (n,), -1 for what is to be left out.
    """
    lists, width = source.invlists, source.code_size
    for cell in range(source.nlist):
        size = lists.list_size(cell)
        if not size:
            continue
        numbers = number_of[faiss.rev_swig_ptr(lists.get_ids(cell), size)]
        codes = faiss.rev_swig_ptr(lists.get_codes(cell), size * width).reshape(size, width)
        codes, numbers = codes[numbers >= 0], numbers[numbers >= 0]
        if len(numbers):
            pointers = faiss.swig_ptr(numbers), faiss.swig_ptr(codes)
            target.invlists.add_entries(cell, len(numbers), *pointers)
    target.ntotal += int((number_of >= 0).sum())


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
