"""What of the GPU path needs no GPU: the size of a batch, and what happens when it is too large."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from encoders.cuda import Batch, best_batch


def test_a_batch_that_does_not_fit_is_halved_for_good() -> None:
    tried = []

    def work(parts: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
        tried.append(len(parts[0]))
        if len(parts[0]) > 20:
            raise torch.OutOfMemoryError
        return [torch.cat(parts).numpy()]

    batch = Batch(size=256)
    images = torch.arange(100)
    for _ in range(2):
        (out,) = batch.run(images, work)
        assert (out == images.numpy()).all()
    assert tried == [100, 50, 25, 12, 12]


@pytest.mark.parametrize("batch", [Batch(size=1), Batch(size=64, exact=True)])
def test_what_cannot_be_halved_is_raised(batch: Batch) -> None:
    def work(parts: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        batch.run(torch.zeros(64), work)


def test_probing_stops_where_memory_ends() -> None:
    tried = []

    def run(images: int) -> None:
        tried.append(images)
        if images > 32:
            raise torch.OutOfMemoryError

    assert best_batch(run, largest=1024) <= 32
    assert max(tried) <= 64
