"""Curated images as the curate job makes them: real PNG and JPEG bytes, judged and not."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from curation.dataset import CuratedImage
from curation.select import Selection
from schemas.records import Flag, Verdict

JUDGED_AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def curated(number: int) -> CuratedImage:
    pixels = np.random.default_rng(number).integers(0, 256, (20, 30 + number, 3), dtype=np.uint8)
    format_ = "jpeg" if number % 2 else "png"
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format_)
    data = stream.getvalue()
    sample_id = hashlib.sha256(data).hexdigest()
    verdict = Verdict(
        *(sample_id, "edge_case", ("crack", 'a "b", <i>|c'), "line one\nline two", "ada"),
        *(JUDGED_AT, "run-verdict"),
    )
    flag = Flag(
        *(number + 1, "outlier", sample_id, "u", "", 0.5 + number / 100, None, "high"),
        *(None, (), (), "run-flag"),
    )
    return CuratedImage(
        Selection(sample_id, verdict if number % 3 else None, flag if number % 4 else None),
        {
            "sample_id": sample_id,
            "uri": f"s3://bucket/Zürich/{number}.png",
            "source": f"line-{number % 2}|<script>",
            "captured_at": JUDGED_AT if number % 2 else None,
            "metadata": '{"lens": 3}',
            "encoder": "toy-0123456789ab",
            "score": 0.5 + number / 100 if number % 4 else None,
            "phash": "not for a dataset",
        },
        data,
        format_,
        *(30 + number, 20),
    )


@pytest.fixture
def images() -> list[CuratedImage]:
    return [curated(number) for number in range(10)]
