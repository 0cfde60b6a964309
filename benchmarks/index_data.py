"""Seeded vectors to index, in batches: clustered ones, and real embeddings repeated with noise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""(n, d) float32 of unit norm."""

BATCH = 50_000
CLUSTERS = 1000
FAMILIES = 20
INTRINSIC = 16


def clustered(count: int, dimension: int, seed: int) -> Iterator[Vectors]:
    """`count` vectors in 1,000 clusters of very unequal size.

    Each cluster varies along 16 directions that it shares with its family, and by noise, as the
    embeddings of images of one kind do. The clusters are always the same; `seed` draws from them.
    """
    fixed, random = np.random.default_rng(1), np.random.default_rng([2, seed])
    centres = fixed.standard_normal((CLUSTERS, dimension), dtype=np.float32)
    directions = fixed.standard_normal((FAMILIES, INTRINSIC, dimension), dtype=np.float32)
    sizes = fixed.pareto(1.5, CLUSTERS) + 0.2
    for start in range(0, count, BATCH):
        cluster = random.choice(CLUSTERS, min(BATCH, count - start), p=sizes / sizes.sum())
        vectors = 0.3 * random.standard_normal((len(cluster), dimension), dtype=np.float32)
        vectors += centres[cluster]
        along = random.standard_normal((len(cluster), INTRINSIC), dtype=np.float32) / 4
        for family in range(FAMILIES):
            members = cluster % FAMILIES == family
            vectors[members] += along[members] @ directions[family]
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def photographs(count: int, dimension: int, seed: int) -> Iterator[Vectors]:
    """High-level embeddings of the ELPV photographs, of 320 dimensions, repeated with noise."""
    real, random = _photographs(), np.random.default_rng([3, seed])
    for start in range(0, count, BATCH):
        vectors = real[random.integers(len(real), size=min(BATCH, count - start))]
        noise = random.standard_normal(vectors.shape, dtype=np.float32)
        vectors += 0.2 * noise / np.sqrt(dimension)
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


SOURCES: dict[str, Callable[[int, int, int], Iterator[Vectors]]] = {
    "clustered": clustered,
    "photographs": photographs,
}


@cache
def _photographs() -> Vectors:
    import elpv_dataset

    from encoders import images, registry

    encoder = registry.load("efficientnet-lite0")
    folder = Path(elpv_dataset.__file__).parent / "data" / "images"
    limits = images.Limits()
    pixels = [
        images.decode(path.read_bytes(), encoder.info.preprocess, limits).pixels
        for path in sorted(folder.iterdir())
    ]
    return np.concatenate(
        [
            encoder.encode(np.stack(pixels[start : start + 16]))["high"]
            for start in range(0, len(pixels), 16)
        ]
    )


def sample_ids(count: int, start: int = 0) -> list[str]:
    """Distinct ids, as hashes of contents are."""
    numbers = range(start, start + count)
    return [hashlib.sha256(number.to_bytes(8, "big")).hexdigest() for number in numbers]
