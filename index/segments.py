"""A segment: some samples' vectors and ids in files that are written once.

`<name>.vectors.faiss` is a FAISS Flat index (L2), `<name>.ids.npy` the sample ids. Both are ordered
by sample id and memory-mapped on reading, so that opening a segment reads a few hundred bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import faiss
import numpy as np
from numpy.typing import NDArray

from index.durable import sync
from index.sample_ids import ID_DTYPE, encode
from schemas.errors import CorruptionError

REMEDY = "run 'longtail index rebuild'"

UNIT_TOLERANCE = 1e-3
"""How far from 1 an embedding's norm may be; half-precision encoders stay well within."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What a snapshot says of a segment. `files` gives each file's name and size in bytes."""

    name: str
    vectors: int
    dimension: int
    files: Mapping[str, int]


def write_segment(folder: Path, sample_ids: Sequence[str], vectors: NDArray[np.float32]) -> Segment:
    """Write a segment that no snapshot names yet; safe beside any number of other writers.

    sample_ids: n distinct ids, n > 0. vectors: (n, d) float32, finite, of unit L2 norm.
    Raises ValueError where that does not hold.
    """
    if not len(sample_ids) or vectors.shape != (len(sample_ids), vectors.shape[-1]):
        raise ValueError(f"{len(sample_ids)} sample ids do not go with vectors {vectors.shape}")
    check_unit(vectors)
    digests = encode(sample_ids)
    order = np.argsort(digests, kind="stable")
    digests = digests[order]
    if (digests[1:] == digests[:-1]).any():
        raise ValueError("a segment holds each sample once, got a sample_id twice")

    name = f"segment-{uuid4().hex}"
    ids_path = folder / f"{name}.ids.npy"
    vectors_path = folder / f"{name}.vectors.faiss"
    np.save(ids_path, digests, allow_pickle=False)
    flat = faiss.IndexFlatL2(vectors.shape[1])
    flat.add(np.ascontiguousarray(vectors[order], dtype=np.float32))
    faiss.write_index(flat, os.fspath(vectors_path))
    files = {}
    for path in (ids_path, vectors_path):
        sync(path)
        files[path.name] = path.stat().st_size
    return Segment(name, len(digests), vectors.shape[1], files)


def check_unit(vectors: NDArray[np.float32]) -> None:
    """Raise ValueError unless every row of `vectors` (n, d) is finite and of unit L2 norm."""
    norms = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE))
    if len(wrong):
        raise ValueError(f"vector {wrong[0]} has norm {norms[wrong[0]]:.4g}, expected 1")


class OpenSegment:
    """A segment for reading. Its files stay mapped, even deleted ones, while this object lives."""

    def __init__(self, folder: Path, segment: Segment) -> None:
        """Map the files. Raises CorruptionError for one that is cut short or foreign.

        A missing file is a FileNotFoundError: it may have been swept after a compaction.
        """
        self.segment = segment
        for name, size in segment.files.items():
            found = (folder / name).stat().st_size
            if found != size:
                raise CorruptionError(
                    f"{folder / name} has {found} bytes, the index wrote {size}; {REMEDY}"
                )
        self.ids = _map_ids(folder / f"{segment.name}.ids.npy", segment)
        self._flat: Any = _map_vectors(folder / f"{segment.name}.vectors.faiss", segment)

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The nearest k of this segment: its rows (n, k), -1 padded, and squared distances."""
        k = min(k, self.segment.vectors)
        _, rows = self._flat.search(queries, k)
        # FAISS expands the square for batches, and cancellation leaves 1e-7 where it should be 0.
        squared = np.empty(rows.shape, dtype=np.float32)
        self._flat.compute_distance_subset(
            len(queries), faiss.swig_ptr(queries), k, faiss.swig_ptr(squared), faiss.swig_ptr(rows)
        )
        return rows, squared

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The stored vectors (m, d) of `rows` (m,) of this segment."""
        return np.asarray(self._flat.reconstruct_batch(rows), dtype=np.float32)


def _map_ids(path: Path, segment: Segment) -> NDArray[np.bytes_]:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise CorruptionError(f"{path} holds no sample ids; {REMEDY}") from error
    if ids.dtype != ID_DTYPE or ids.shape != (segment.vectors,):
        raise CorruptionError(
            f"{path} holds {ids.dtype} {ids.shape}, expected {segment.vectors} sample ids; {REMEDY}"
        )
    return np.asarray(ids)


def _map_vectors(path: Path, segment: Segment) -> faiss.IndexFlat:
    try:
        flat = faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise CorruptionError(f"{path} is not a FAISS file; {REMEDY}") from error
    if not isinstance(flat, faiss.IndexFlat) or (flat.ntotal, flat.d) != (
        segment.vectors,
        segment.dimension,
    ):
        raise CorruptionError(
            f"{path} holds {flat.ntotal} x {flat.d} vectors in a {type(flat).__name__}, expected "
            f"{segment.vectors} x {segment.dimension} in a Flat index; {REMEDY}"
        )
    return flat
