"""Small pictures of samples: as ingest kept them, else drawn from where the images lie now."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.dataset as ds

from encoders import images
from encoders.base import Preprocess
from pipelines import sources
from schemas.catalog import Catalog
from schemas.errors import ImageError

_READING_THREADS = 8
_ENOUGH = Preprocess(224, mean=(0.0,) * 3, std=(1.0,) * 3)


def thumbnails(catalog: Catalog, encoder_id: str, sample_ids: Iterable[str]) -> dict[str, bytes]:
    """JPEG bytes by sample id; a sample that came as a vector and whose image is gone has none."""
    wanted = pa.array(sorted(sample_ids), pa.string())
    where = ds.field("sample_id").isin(wanted) & (ds.field("encoder") == encoder_id)
    kept: dict[str, tuple[bytes | None, str]] = {}
    for batch in catalog.samples.batches(["sample_id", "uri", "thumbnail"], where):
        kept |= {row["sample_id"]: (row["thumbnail"], row["uri"]) for row in batch.to_pylist()}
    with ThreadPoolExecutor(_READING_THREADS) as pool:
        pictures = pool.map(lambda row: row[0] or _drawn(row[1]), kept.values())
        return {name: picture for name, picture in zip(kept, pictures, strict=True) if picture}


def _drawn(uri: str) -> bytes | None:
    try:
        data = sources.read(sources.locate(uri))
        return images.decode(data, _ENOUGH, images.Limits()).thumbnail
    except ImageError:
        return None
