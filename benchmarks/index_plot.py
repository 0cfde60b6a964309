"""The results over size: time to build, to add, to answer, and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PANELS = {
    "build, s": {"compact_s": "train, merge and measure", "write_s": "write segments"},
    "one query, ms": {
        "ours_ms": "longtail",
        "faiss_ms": "FAISS, same index",
        "lancedb_ms": "LanceDB",
        "hnswlib_ms": "hnswlib",
    },
    "adding 10,000, s": {"add_10k_s": "longtail"},
    "opened, MB resident": {"open_mb": "longtail", "files_mb": "files on disk"},
}


def plot(entries: list[dict[str, Any]], file: Path) -> None:
    """Draw the clustered entries of 320 dimensions, log-log, one panel per quantity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [e for e in entries if (e["data"], e["dimension"]) == ("clustered", 320)]
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(16, 4), layout="constrained")
    for panel, (title, lines) in zip(panels, PANELS.items(), strict=True):
        for field, label in lines.items():
            points = [(entry["vectors"], entry[field]) for entry in shown if field in entry]
            panel.plot(*zip(*points, strict=True), "o-", label=label)
        panel.set(title=title, xlabel="vectors", xscale="log", yscale="log")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    figure.savefig(file, dpi=110)
