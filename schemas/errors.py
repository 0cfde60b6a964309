"""Everything that longtail raises on purpose.

LongtailError                   exit code 1
├── UsageError                  exit code 2: a value the person can mend; one line says how
│   ├── SettingsError           longtail.yaml, LONGTAIL_* or a flag holds a wrong value
│   ├── WorkspaceError          no workspace here, or one of another kind
│   ├── NotFoundError           no such sample, run, dataset or source of images
│   └── EncoderError            unknown or unusable encoder, or fingerprints that must not meet
├── CorruptionError             a file of ours is truncated or foreign; the message says the remedy
├── AuditError                  exit code 3: staged data failed its expectations; none is published
└── WorkspaceBusyError          exit code 4: another run holds the workspace

ImageError                      one input could not become an image; counted, never ends a job
"""

from __future__ import annotations

from typing import Literal, get_args

RejectReason = Literal[
    "unreadable",  # the bytes could not be fetched: missing, no permission, a network fault
    "empty",  # zero bytes
    "not_an_image",  # no format that we decode
    "truncated",  # an image that ends before its pixels do
    "corrupt",  # an image whose data cannot be decoded
    "too_large",  # more bytes or more pixels than the limits allow
    "too_small",  # a side shorter than the limits allow, 0 x 0 included
    "changed",  # the bytes are no longer those that were ingested
    "forgotten",  # deleted on request; refused unless asked for
    "bad_source",  # a source whose name holds control characters
    "bad_vector",  # a vector of one's own that is not finite, or of the wrong length
]
REJECT_REASONS: tuple[RejectReason, ...] = get_args(RejectReason)


class LongtailError(Exception):
    """Base of all errors whose message is meant for the person at the keyboard."""

    exit_code = 1


class UsageError(LongtailError):
    """A value that the person gave; the message shows it and the way out."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting is unknown or out of range."""


class WorkspaceError(UsageError):
    """The workspace is missing or cannot be used."""


class NotFoundError(UsageError):
    """A sample, run, dataset or input that does not exist."""


class EncoderError(UsageError):
    """An encoder that cannot be used here, or vectors of different fingerprints that would meet."""


class CorruptionError(LongtailError):
    """A file of the workspace is damaged; the message names it and the command that mends it."""


class AuditError(LongtailError):
    """Staged data failed its audit; nothing was published."""

    exit_code = 3


class WorkspaceBusyError(LongtailError):
    """Another run holds the workspace."""

    exit_code = 4


class ImageError(Exception):
    """One input that is refused, with a reason from a closed set.

    Not a `LongtailError`: it never reaches a person as an error, but is counted and kept in
    the rejects table.
    """

    def __init__(self, reason: RejectReason, detail: str = "") -> None:
        super().__init__(reason, detail)  # both positional, so that it survives pickling
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
