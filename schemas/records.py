"""The nouns of longtail, one frozen dataclass each. Tables of them are in `schemas.arrow`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

from schemas.errors import RejectReason

Level = Literal["low", "mid", "high"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""Texture and exposure, parts, and whole-object meaning: the three depths of an encoder."""

FlagKind = Literal["outlier", "capture_fault"]
FLAG_KINDS: tuple[FlagKind, ...] = get_args(FlagKind)

VerdictLabel = Literal["edge_case", "normal", "junk", "duplicate"]
VERDICT_LABELS: tuple[VerdictLabel, ...] = get_args(VerdictLabel)

Container = Literal["file", "tar", "parquet"]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where one image lies: a few hundred bytes that may be shuffled, never the image itself.

    `uri` names the image; for a member of a container it is `container-path#member`. `size` (bytes)
    and `modified_at` (seconds since the epoch, 0 where the store does not tell) are those of the
    file or tar member, for Parquet those of the whole file: together with `uri` they tell whether
    an input has been seen. `position` is the byte offset in a tar, the row in a Parquet file.
    """

    uri: str
    source: str = ""
    captured_at: datetime | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    size: int = -1
    modified_at: float = 0.0
    container: Container = "file"
    path: str = ""
    position: int = 0


@dataclass(frozen=True, slots=True)
class Quality:
    """Statistics of an image's pixels as encoded (after orientation and resizing).

    brightness, contrast: mean and standard deviation of the luma, in [0, 1].
    sharpness: variance of the Laplacian of the luma, >= 0.
    saturation: mean of HSV saturation, in [0, 1].
    entropy: of the luma's 256-bin histogram, in bits, in [0, 8].
    clipped: share of pixels at 0 or 255 in the luma, in [0, 1].
    phash: 64-bit perceptual hash of the luma's low frequencies, 16 hex digits.
    """

    brightness: float
    contrast: float
    sharpness: float
    saturation: float
    entropy: float
    clipped: float
    phash: str


QUALITY_STATISTICS = ("brightness", "contrast", "sharpness", "saturation", "entropy", "clipped")


@dataclass(frozen=True, slots=True)
class Reject:
    """An input that was refused, with the reason; `ref` is where it lay."""

    ref: ImageRef
    reason: RejectReason
    detail: str


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A sample near another. `distance` is Euclidean between unit-norm embeddings, in [0, 2]."""

    sample_id: str
    uri: str
    distance: float


@dataclass(frozen=True, slots=True)
class Hit:
    """One row of a query's answer, nearest first; `rank` starts at 1."""

    rank: int
    sample_id: str
    uri: str
    distance: float


@dataclass(frozen=True, slots=True)
class Group:
    """Alike flags of one run and kind; `number` starts at 1, with the group of the best flag.

    medoid: sample_id of the member nearest to all others. spread: their mean distance to it.
    """

    number: int
    size: int
    medoid: str
    spread: float


@dataclass(frozen=True, slots=True)
class Flag:
    """A sample called an edge case by one mining run. `rank` starts at 1, outliers before faults.

    score: larger is stranger; its meaning is that of the run's detector.
    p_value: in (0, 1], or None where the run makes no promise.
    level: the level that deviates most.
    nearest: the closest normal samples, nearest first: of the reference where there is one.
    """

    rank: int
    kind: FlagKind
    sample_id: str
    uri: str
    source: str
    score: float
    p_value: float | None
    level: Level
    group: Group | None
    reasons: tuple[str, ...]
    nearest: tuple[Neighbour, ...]
    run_id: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person said of a sample. The log only grows; the latest verdict counts."""

    sample_id: str
    label: VerdictLabel
    tags: tuple[str, ...]
    note: str
    reviewer: str
    at: datetime
    run_id: str | None = None
