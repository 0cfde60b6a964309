"""Where images come from: folders, manifests, tar shards and Parquet files -> `ImageRef`s.

One file for each kind, with a transform and the plain function that it wires. `opening` tells the
kinds apart, `reading` goes from a reference to bytes, `storage` is the only way to any file.
"""

from pipelines.sources.columns import printable
from pipelines.sources.files import ImageFiles
from pipelines.sources.manifest import Manifests
from pipelines.sources.opening import SOURCE_KINDS, OpenSource, SourceKind, open_source
from pipelines.sources.parquet import ParquetImages
from pipelines.sources.reading import DAMAGED, locate, read
from pipelines.sources.tar import TarShards
from pipelines.sources.vectors import VectorSource, open_vectors

__all__ = [
    "DAMAGED",
    "SOURCE_KINDS",
    "ImageFiles",
    "Manifests",
    "OpenSource",
    "ParquetImages",
    "SourceKind",
    "TarShards",
    "VectorSource",
    "locate",
    "open_source",
    "open_vectors",
    "printable",
    "read",
]
