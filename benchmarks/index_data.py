"""Seeded vectors to index: clustered ones, and real embeddings repeated with noise."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLUSTERS = 1000
FAMILIES = 20
INTRINSIC = 16


def clustered(count: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """(count, dimension) float32 of unit norm in 1,000 clusters of very unequal size.

    Each cluster varies along 16 directions that it shares with its family, and by noise, as the
    embeddings of images of one kind do. The clusters are always the same; `seed` draws from them.
    """
    fixed, random = np.random.default_rng(1), np.random.default_rng([2, seed])
    centres = fixed.standard_normal((CLUSTERS, dimension), dtype=np.float32)
    directions = fixed.standard_normal((FAMILIES, INTRINSIC, dimension), dtype=np.float32)
    sizes = fixed.pareto(1.5, CLUSTERS) + 0.2
    vectors = np.empty((count, dimension), dtype=np.float32)
    for start in range(0, count, 50_000):
        part = vectors[start : start + 50_000]
        cluster = random.choice(CLUSTERS, len(part), p=sizes / sizes.sum())
        part[:] = 0.3 * random.standard_normal(part.shape, dtype=np.float32) + centres[cluster]
        along = random.standard_normal((len(part), INTRINSIC), dtype=np.float32) / 4
        for family in range(FAMILIES):
            members = cluster % FAMILIES == family
            part[members] += along[members] @ directions[family]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def repeated_photographs(count: int, seed: int) -> NDArray[np.float32]:
    """The high-level embeddings of the ELPV photographs, repeated with noise: (count, 320)."""
    real, random = _photographs(), np.random.default_rng([3, seed])
    vectors = real[random.integers(len(real), size=count)]
    noise = random.standard_normal(vectors.shape, dtype=np.float32)
    vectors += 0.2 * noise / np.sqrt(vectors.shape[1])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


@cache
def _photographs() -> NDArray[np.float32]:
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
