"""What a person points at, as vectors to search with: files, samples, words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from longtail.jobs import Jobs
from schemas.errors import ImageError, NotFoundError, UsageError
from schemas.records import Level

if TYPE_CHECKING:
    from index.query import Searchable

WHOLE_ID = re.compile("[0-9a-f]{64}")

Vector = NDArray[np.float32]
"""(1, d) float32 of unit norm."""


def as_numbers(vectors: ArrayLike) -> NDArray[np.float64]:
    """What a person gives as vectors. Raises UsageError for what is no array of real numbers."""
    try:
        given = np.asarray(vectors)
        if given.dtype.kind == "c":  # whose imaginary part a cast drops
            raise UsageError(f"the vector is of {given.dtype} numbers; give real ones")
        return given.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the vector is not of numbers alone: {error}") from None


@dataclass(frozen=True)
class Examples:
    """Examples for a search among the vectors of a level, embedded as those were.

    resolve: gives the sample id that each prefix means, or raises NotFoundError.
    """

    searched: Searchable
    level: Level
    jobs: Jobs
    resolve: Callable[[Sequence[str]], Sequence[str]]

    def of_samples(self, prefixes: Sequence[str]) -> NDArray[np.float32]:
        """The stored vectors (p, d) of samples. Raises NotFoundError for one not indexed."""
        held = self.searched.sample_ids
        rows = np.array([-1])
        if all(WHOLE_ID.fullmatch(prefix) for prefix in prefixes):
            rows = held.rows(prefixes)
        if rows.min() < 0:  # else nothing but the index is asked
            sample_ids = self.resolve(prefixes)
            rows = held.rows(sample_ids)
            if rows.min() < 0:
                missing = sample_ids[int(rows.argmin())]
                raise NotFoundError(f"sample {missing} is not indexed; 'longtail index' adds it")
        return self.searched.read(rows)

    def of_vectors(self, vectors: ArrayLike) -> NDArray[np.float32]:
        """A vector (d,) or several (p, d), scaled to unit length as those of samples are.

        Raises UsageError for another length, for what is no number or not finite, and for zeros.
        """
        given = as_numbers(vectors)
        dimension = self.searched.dimension
        given = given[None] if given.ndim == 1 else given
        if given.ndim != 2 or given.shape[1] != dimension:
            raise UsageError(
                f"a vector of shape {given.shape} is no example; those of level '{self.level}' "
                f"have {dimension} numbers"
            )
        norms = np.sqrt(np.einsum("ij,ij->i", given, given))
        right = (norms > 0) & (norms < np.inf)
        if not right.all():
            wrong = int(np.argmin(right))
            raise UsageError(
                f"vector {wrong} has length {norms[wrong]:g}; give numbers that are finite and not "
                "all zero"
            )
        return np.asarray(given / norms[:, None], dtype=np.float32)

    def of_file(self, file: Path) -> Vector:
        """The vector of an image file: the stored one where the workspace holds its content.

        Raises NotFoundError for a file that cannot be read, UsageError for one that is no image.
        """
        from encoders import images, registry

        try:
            data = file.read_bytes()
        except OSError as error:
            raise NotFoundError(f"{file} cannot be read: {error.strerror}") from None
        stored = self._stored(hashlib.sha256(data).hexdigest())
        if stored is not None:
            return stored
        settings = self.jobs.settings
        preprocess = registry.describe(settings.encoder, **settings.encoder_options).preprocess
        try:
            image = images.decode(data, preprocess, self.jobs.limits)
        except ImageError as error:
            raise UsageError(f"{file} is not an image to query by: {error}") from None
        encoder = registry.share(settings.encoder, **settings.encoder_options)
        return encoder.encode(image.pixels[np.newaxis])[self.level]

    def of_text(self, text: str) -> Vector:
        """The vector of words. Raises EncoderError where the encoder embeds images only.

        UsageError at another level than the highest: words name whole objects.
        """
        from encoders import registry

        if self.level != "high":
            raise UsageError(
                f"words are compared at level 'high', not '{self.level}'; leave out the level"
            )
        settings = self.jobs.settings
        tower = registry.load_text(settings.encoder, trust_remote_code=settings.trust_remote_code)
        return tower.encode_text([text])

    def _stored(self, sample_id: str) -> Vector | None:
        row = self.searched.sample_ids.rows([sample_id])
        return self.searched.read(row) if row[0] >= 0 else None
