"""What a person points at, as vectors to search with: files, samples, words."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from longtail.jobs import Jobs
from schemas.errors import ImageError, NotFoundError, UsageError

if TYPE_CHECKING:
    from index.search import Snapshot

Vector = NDArray[np.float32]
"""(1, d) float32 of unit norm."""


@dataclass(frozen=True)
class Examples:
    """Examples for a search of `snapshot`, embedded as its samples were."""

    snapshot: Snapshot
    jobs: Jobs

    def of_sample(self, sample_id: str) -> Vector:
        """The stored vector of a sample. Raises NotFoundError for one that is not indexed."""
        row = self.snapshot.sample_ids.rows([sample_id])
        if row[0] < 0:
            raise NotFoundError(f"sample {sample_id} is not indexed; 'longtail index' adds it")
        return self.snapshot.read(row)

    def of_file(self, file: Path) -> Vector:
        """The vector of an image file: the stored one where the workspace holds its content.

        Raises NotFoundError for a file that cannot be read, UsageError for one that is no image.
        """
        from encoders import images, registry

        try:
            data = file.read_bytes()
        except OSError as error:
            raise NotFoundError(f"{file} cannot be read: {error.strerror}") from None
        row = self.snapshot.sample_ids.rows([hashlib.sha256(data).hexdigest()])
        if row[0] >= 0:
            return self.snapshot.read(row)
        settings = self.jobs.settings
        preprocess = registry.describe(settings.encoder, **settings.encoder_options).preprocess
        try:
            image = images.decode(data, preprocess, self.jobs.limits)
        except ImageError as error:
            raise UsageError(f"{file} is not an image to query by: {error}") from None
        encoder = registry.share(settings.encoder, **settings.encoder_options)
        return encoder.encode(image.pixels[np.newaxis])["high"]

    def of_text(self, text: str) -> Vector:
        """The vector of words. Raises EncoderError where the encoder embeds images only."""
        from encoders import registry

        settings = self.jobs.settings
        tower = registry.load_text(settings.encoder, trust_remote_code=settings.trust_remote_code)
        return tower.encode_text([text])
