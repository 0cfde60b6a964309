"""What a person points at, as vectors to search with: files, samples, words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from longtail.jobs import Jobs
from schemas.errors import ImageError, NotFoundError, UsageError
from schemas.records import Level

if TYPE_CHECKING:
    from index.query import Searchable

Vector = NDArray[np.float32]
"""(1, d) float32 of unit norm."""


@dataclass(frozen=True)
class Examples:
    """Examples for a search among the vectors of a level, embedded as those were.

    resolve: gives the sample id that a prefix means, or raises NotFoundError.
    """

    searched: Searchable
    level: Level
    jobs: Jobs
    resolve: Callable[[str], str]

    def of_sample(self, prefix: str) -> Vector:
        """The stored vector of a sample. Raises NotFoundError for one that is not indexed."""
        vector = self._stored(prefix) if re.fullmatch("[0-9a-f]{64}", prefix) else None
        if vector is None:
            sample_id = self.resolve(prefix)
            vector = self._stored(sample_id)
            if vector is None:
                raise NotFoundError(f"sample {sample_id} is not indexed; 'longtail index' adds it")
        return vector

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
