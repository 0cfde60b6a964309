"""A segment: some samples' vectors and ids in files that are written once.

    <name>.ids.npy         sample ids, ascending; row numbers follow this order
    <name>.vectors.faiss   the vectors: a FAISS Flat index (L2)
    <name>.cells.faiss     a large segment's IVF index of the same rows

All are memory-mapped on reading, so that opening a segment reads a few kilobytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import faiss
import numpy as np
from numpy.typing import NDArray

from index import gpu
from index.durable import Mark, mark, spots, sync
from index.factory import TrainedIndex
from index.sample_ids import ID_DTYPE, encode
from schemas.errors import CorruptionError

REMEDY = "run 'longtail index rebuild'"

RARE_ROWS = 20_000
"""A filter that leaves this many rows or fewer is answered exactly: looking at each is fast."""

NEAREST = 100
"""So many of a query's nearest tell whether a filter leaves as much near it as elsewhere."""

UNIT_TOLERANCE = 1e-3
"""How far from 1 an embedding's norm may be; half-precision encoders stay well within."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What a snapshot says of a segment.

    vectors: rows in its files. kind: `Flat`, or the factory string of its IVF index. files: each
    file's mark by name. deleted: rows that no longer count, ascending.
    """

    name: str
    vectors: int
    dimension: int
    kind: str
    files: Mapping[str, Mark]
    deleted: tuple[int, ...] = ()

    @property
    def live(self) -> int:
        """How many samples can be found in it."""
        return self.vectors - len(self.deleted)


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard to search an IVF index: cells probed, and candidates re-ranked for each answer."""

    probes: int = 1
    overfetch: int = 1

    @property
    def cost(self) -> int:
        """Grows as searches do more."""
        return self.probes * self.overfetch


def write_segment(
    folder: Path,
    sample_ids: Sequence[str],
    vectors: NDArray[np.float32],
    trained: TrainedIndex | None = None,
) -> Segment:
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
    vectors = np.asarray(vectors[order], dtype=np.float32)
    if trained is None:
        return write_sorted(folder, digests, vectors)
    places = np.arange(len(vectors))
    cells = gpu.extended(faiss.clone_index(trained.index), vectors, places)
    return write_sorted(folder, digests, vectors, trained.factory, cells)


def write_sorted(
    folder: Path,
    digests: NDArray[np.bytes_],
    vectors: NDArray[np.float32],
    kind: str = "Flat",
    cells: Any = None,
) -> Segment:
    """As `write_segment`, of checked vectors in the order of their distinct digests.

    cells: an IVF index of the factory `kind` whose numbers are those of the rows.
    """
    name = f"segment-{uuid4().hex}"
    paths = [folder / f"{name}.ids.npy", folder / f"{name}.vectors.faiss"]
    np.save(paths[0], digests, allow_pickle=False)
    flat = faiss.IndexFlatL2(vectors.shape[1])
    flat.add(vectors)
    faiss.write_index(flat, os.fspath(paths[1]))
    if cells is not None:
        paths.append(folder / f"{name}.cells.faiss")
        faiss.write_index(cells, os.fspath(paths[2]))
    for path in paths:
        sync(path)
    return Segment(
        name=name,
        vectors=len(vectors),
        dimension=vectors.shape[1],
        kind=kind,
        files={path.name: mark(path) for path in paths},
    )


def check_unit(vectors: NDArray[np.float32]) -> None:
    """Raise ValueError unless every row of `vectors` (n, d) is finite and of unit L2 norm."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    right = np.abs(norms - 1) <= UNIT_TOLERANCE
    if not right.all():
        wrong = np.argmin(right)
        raise ValueError(f"vector {wrong} has norm {norms[wrong]:.4g}, expected 1")


class OpenSegment:
    """A segment for reading. Its files stay mapped, even deleted ones, while this object lives."""

    def __init__(self, folder: Path, segment: Segment) -> None:
        """Map the files. Raises CorruptionError for one that is cut short or foreign.

        A missing file is a FileNotFoundError: it may have been swept after a compaction.
        """
        self.segment = segment
        for name, written in segment.files.items():
            found = (folder / name).stat().st_size
            if found != written.size:
                raise CorruptionError(
                    f"{folder / name} has {found} bytes, the index wrote {written.size}; {REMEDY}"
                )
            if spots(folder / name, found) != written.spots:
                raise CorruptionError(f"{folder / name} is not what the index wrote; {REMEDY}")
        self.ids = map_ids(folder, segment)
        self._flat = _map_index(folder / f"{segment.name}.vectors.faiss", segment, faiss.IndexFlat)
        self._vectors = faiss.rev_swig_ptr(
            self._flat.get_xb(), segment.vectors * segment.dimension
        ).reshape(segment.vectors, segment.dimension)
        self._cells_path = folder / f"{segment.name}.cells.faiss"
        self.cells: Any = None
        if segment.kind != "Flat":
            self.cells = _map_index(self._cells_path, segment, faiss.IndexIVF)
        self._on_gpus = {True: gpu.Copy(self.cells), False: gpu.Copy(self._flat)}
        self._live: NDArray[np.bool_] | None = None
        if segment.deleted:
            self._live = np.ones(segment.vectors, dtype=bool)
            self._live[list(segment.deleted)] = False

    def live_rows(self) -> NDArray[np.int64]:
        """The rows that count, ascending."""
        return np.arange(self.segment.vectors) if self._live is None else np.flatnonzero(self._live)

    def scan_order(self) -> NDArray[np.int64]:
        """The rows that count, those of a cell side by side."""
        if self.cells is None:
            return self.live_rows()
        lists = self.cells.invlists
        cells = ((lists.get_ids(n), lists.list_size(n)) for n in range(self.cells.nlist))
        rows = np.concatenate([faiss.rev_swig_ptr(*cell) for cell in cells if cell[1]])
        self._check(rows)
        return rows if self._live is None else rows[self._live[rows]]

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        effort: Effort | None,
        only: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Candidates for the k nearest live rows (n, m), -1 padded, in no order; squared distances.

        effort: how hard to look, None to look at every vector. only: rows to choose from.
        """
        if self.cells is None:
            effort = None
        rows = None
        if only is not None:
            rows = self._search_only(queries, k, effort, only)
        elif len(queries) >= gpu.BATCH:
            rows = self._search_on_gpus(queries, k, effort)
        if rows is None:
            rows = self._search_here(queries, k, effort, self._live)
        return rows, self._squared_distances(queries, rows)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The stored vectors (m, d) of `rows` (m,) of this segment."""
        return np.asarray(self._vectors[rows], dtype=np.float32)

    def _search_only(
        self,
        queries: NDArray[np.float32],
        k: int,
        effort: Effort | None,
        only: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Exactly, wherever cells that are near a query may lack what the filter leaves."""
        allowed = np.zeros(self.segment.vectors, dtype=bool)
        allowed[only] = True
        if self._live is not None:
            allowed &= self._live
        wide = self._widened(effort, int(allowed.sum()))
        if effort is None or wide is None:
            return self._search_here(queries, k, None, allowed)
        rows = self._search_here(queries, k, wide, allowed)
        sparse = self._sparse(queries, effort, allowed)
        if sparse.any():
            rows[sparse] = self._search_here(queries[sparse], rows.shape[1], None, allowed)
        return rows

    def _sparse(
        self, queries: NDArray[np.float32], effort: Effort, allowed: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Near which queries far fewer rows are allowed than the share of all that is."""
        nearest = self._search_here(queries, NEAREST, replace(effort, overfetch=1), self._live)
        there = nearest >= 0
        passing = (allowed[nearest] & there).sum(axis=1)
        share = allowed.sum() / self.segment.live
        return np.asarray(passing < share / 2 * there.sum(axis=1))

    def _search_here(
        self,
        queries: NDArray[np.float32],
        k: int,
        effort: Effort | None,
        allowed: NDArray[np.bool_] | None,
    ) -> NDArray[np.int64]:
        selector = {} if allowed is None else {"sel": _selector(allowed)}
        k = self._fetched(k, effort)
        if effort is None:
            _, rows = self._flat.search(queries, k, params=faiss.SearchParameters(**selector))
        elif selector:
            parameters = faiss.SearchParametersIVF(nprobe=effort.probes, **selector)
            _, rows = self.cells.search(queries, k, params=parameters)
        else:
            _, rows = self.cells.search(queries, k, params=_probing(effort.probes))
        self._check(rows)
        return np.asarray(rows)

    def _search_on_gpus(
        self, queries: NDArray[np.float32], k: int, effort: Effort | None
    ) -> NDArray[np.int64] | None:
        """The k live rows, by copies on the GPUs; None where they cannot.

        A GPU cannot leave deleted rows out: as many more are fetched, up to twice as many, and what
        is still short is searched here.
        """
        wanted = self._fetched(k, effort)
        spare = min(len(self.segment.deleted), wanted)
        fetched = min(wanted + spare, self.segment.vectors)
        probes = effort.probes if effort else None
        if max(fetched, probes or 1) > gpu.MOST:
            return None
        rows = self._on_gpus[effort is not None].search(queries, fetched, probes)
        if rows is None:
            return None
        self._check(rows)
        if self._live is not None:
            dead = (rows >= 0) & ~self._live[rows]
            rows[dead] = -1
            short = dead.sum(axis=1) > spare
            if short.any():
                rows[short] = -1
                rows[short, :wanted] = self._search_here(queries[short], k, effort, self._live)
        return rows

    def _check(self, rows: NDArray[np.int64]) -> None:
        """Raise CorruptionError for rows that there are none of: a damaged file has such."""
        if rows.size and not -1 <= rows.min() <= rows.max() < self.segment.vectors:
            raise CorruptionError(f"{self._cells_path} is not what the index wrote; {REMEDY}")

    def _fetched(self, k: int, effort: Effort | None) -> int:
        """How many candidates there are for k answers."""
        return min(k * (effort.overfetch if effort else 1), self.segment.vectors)

    def _widened(self, effort: Effort | None, chosen: int) -> Effort | None:
        """Probe as many candidates as without a filter; None, all, where those are few anyway."""
        if effort is None or chosen <= RARE_ROWS:
            return None
        probes = effort.probes * self.segment.live // chosen
        return replace(effort, probes=probes) if 2 * probes < self.cells.nlist else None

    def _squared_distances(
        self, queries: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Exact ones: FAISS's own come from codes, or from an expanded square that leaves 1e-7."""
        if len(queries) == 1:  # for which FAISS would wake all its threads
            difference = self.read(np.maximum(rows[0], 0)) - queries
            squared = np.asarray(np.vecdot(difference, difference)[None])
        else:
            squared = np.empty(rows.shape, dtype=np.float32)
            self._flat.compute_distance_subset(
                len(queries),
                faiss.swig_ptr(queries),
                rows.shape[1],
                faiss.swig_ptr(squared),
                faiss.swig_ptr(rows),
            )
        squared[rows < 0] = np.inf
        return squared


@cache  # making them anew takes a tenth of a query's time
def _probing(probes: int) -> faiss.SearchParametersIVF:
    return faiss.SearchParametersIVF(nprobe=probes)


def _selector(allowed: NDArray[np.bool_]) -> faiss.IDSelector:
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def map_ids(folder: Path, segment: Segment) -> NDArray[np.bytes_]:
    """The digests of a segment's samples, (n,), ascending. Raises as `OpenSegment`."""
    path = folder / f"{segment.name}.ids.npy"
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorruptionError(f"{path} holds no sample ids; {REMEDY}") from error
    if ids.dtype != ID_DTYPE or ids.shape != (segment.vectors,):
        raise CorruptionError(
            f"{path} holds {ids.dtype} {ids.shape}, expected {segment.vectors} sample ids; {REMEDY}"
        )
    return np.asarray(ids)


def _map_index(path: Path, segment: Segment, kind: Any) -> Any:
    try:
        index = faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        path.stat()
        raise CorruptionError(f"{path} is not a FAISS file; {REMEDY}") from error
    if not isinstance(index, kind) or (index.ntotal, index.d) != (
        segment.vectors,
        segment.dimension,
    ):
        raise CorruptionError(
            f"{path} holds {index.ntotal} x {index.d} vectors in {type(index).__name__}, expected "
            f"{segment.vectors} x {segment.dimension} in {kind.__name__}; {REMEDY}"
        )
    return index
