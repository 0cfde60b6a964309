"""The dataset card: a README.md that says what a dataset version holds and where it came from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

_NONE = "*none*"
_MOST = 20

_COLUMNS = {
    "image": "the image as it was ingested",
    "sample_id": "SHA-256 of its bytes",
    "label": "the verdict; null where nobody has judged",
    "tags, note": "what the reviewer added",
    "uri, source, captured_at, metadata": "where it came from; metadata is a JSON object",
    "width, height": "in pixels, after EXIF orientation",
    "encoder, run_id, score": "the mining run that flagged it; a larger score is stranger",
    "reviewer, reviewed_at": "who judged it, and when (UTC)",
    "added_at": "when it joined the dataset (UTC)",
}


@dataclass(slots=True)
class Summary:
    """What a dataset version holds, counted batch by batch; `bytes` are those of the images."""

    name: str
    version: int
    images: int = 0
    bytes: int = 0
    label: Counter[str | None] = field(default_factory=Counter)
    tags: Counter[str | None] = field(default_factory=Counter)
    source: Counter[str | None] = field(default_factory=Counter)
    encoder: Counter[str | None] = field(default_factory=Counter)
    run_id: Counter[str | None] = field(default_factory=Counter)
    reviewer: Counter[str | None] = field(default_factory=Counter)

    def count(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Adds a batch of `DATASET` and returns it."""
        self.images += batch.num_rows
        images = pc.struct_field(batch.column("image"), "bytes")
        self.bytes += pc.sum(pc.binary_length(images)).as_py() or 0
        for name in ("label", "source", "encoder", "run_id", "reviewer"):
            _add(getattr(self, name), batch.column(name))
        _add(self.tags, pc.list_flatten(batch.column("tags")))
        return batch


def dataset_card(summary: Summary) -> str:
    """Markdown with the front matter that the Hugging Face hub reads."""
    megabytes = f"{summary.bytes / 1e6:,.1f} MB"
    counts = [
        ("Labels", "label", summary.label),
        ("Tags", "tag", summary.tags),
        ("Sources", "source", summary.source),
        ("Mining runs", "run", summary.run_id),
        ("Encoders", "encoder", summary.encoder),
        ("Reviewers", "reviewer", summary.reviewer),
    ]
    sections = [
        f"# {summary.name}",
        f"Version {summary.version} of the dataset `{summary.name}`: {summary.images:,} images, "
        f"{megabytes}, curated with longtail. The images keep the licence of their origin.",
        *(_section(title, what, counter) for title, what, counter in counts if counter),
        "## Columns\n\n| column | meaning |\n|---|---|\n"
        + "\n".join(f"| {column} | {meaning} |" for column, meaning in _COLUMNS.items()),
    ]
    return _front_matter(summary) + "\n\n".join(sections) + "\n"


def _front_matter(summary: Summary) -> str:
    return f"""---
pretty_name: {summary.name}
tags:
- image
- longtail
- edge-cases
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---

"""


def _section(title: str, what: str, counter: Counter[str | None]) -> str:
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0] or ""))
    rows = [f"| {_cell(value)} | {count:,} |" for value, count in ordered[:_MOST]]
    if others := ordered[_MOST:]:
        rows.append(f"| *{len(others):,} more* | {sum(count for _, count in others):,} |")
    return f"## {title}\n\n| {what} | images |\n|---|---:|\n" + "\n".join(rows)


def _cell(value: str | None) -> str:
    """Text of the world in a Markdown cell: nothing in it may end the cell or make a tag."""
    if not value:
        return _NONE
    text = " ".join(value.split())
    for character in "\\`*_[]|~":
        text = text.replace(character, f"\\{character}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _add(counter: Counter[str | None], values: pa.Array) -> None:
    for pair in pc.value_counts(values).to_pylist():
        counter[pair["values"]] += pair["counts"]
