"""The results over size: time to build, to add, to answer, and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PANELS = {
    "build, s": {"compact_s": "train, merge and measure", "write_s": "write segments"},
    "one query, ms": {
        "workspace_ms": "Workspace.query",
        "query_ms": "the index alone",
        "faiss_query_ms": "FAISS, same index",
        "lancedb_query_ms": "LanceDB",
        "hnswlib_query_ms": "hnswlib",
    },
    "neighbours of all, s": {
        "score_s": "longtail",
        "faiss_score_s": "FAISS, same index",
        "brute_force_score_s": "scikit-learn, brute force",
        "pyod_score_s": "PyOD KNN",
    },
    "adding 10,000, s": {"add_10k_s": "longtail"},
    "memory and disk, MB": {
        "open_mb": "the index opened for a query",
        "workspace_mb": "Workspace.query",
        "build_peak_mb": "building, peak",
        "files_mb": "files",
    },
}


CROWDED = 4
"""A load average from which seconds tell of other work on the machine."""


def plot(entries: list[dict[str, Any]], file: Path) -> None:
    """Draw the clustered entries of 320 dimensions, log-log, one panel per quantity.

    Entries of a crowded machine are left out, as their ratios alone mean something.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [
        entry
        for entry in entries
        if (entry["data"], entry["dimension"]) == ("clustered", 320)
        and all(load < CROWDED for name, load in entry.items() if name.endswith("_load"))
    ]
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(20, 4), layout="constrained")
    for panel, (title, lines) in zip(panels, PANELS.items(), strict=True):
        for field, label in lines.items():
            points = [(entry["vectors"], entry[field]) for entry in shown if entry.get(field)]
            if points:
                panel.plot(*zip(*points, strict=True), "o-", label=label)
        panel.set(title=title, xlabel="vectors", xscale="log", yscale="log")
        low, high = panel.get_ylim()
        panel.set_ylim(low / 2, high * 2)  # so that a flat curve looks flat
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    figure.savefig(file, dpi=110)
