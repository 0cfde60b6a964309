"""Detection beside its rivals on the same embeddings: seeded, in one run.

    python -m benchmarks.detect --quick      under a minute; ends in one JSON line
    python -m benchmarks.detect              10 seeds and more, for benchmarks/results/detect.json
    python -m benchmarks.detect --part elpv  a piece of it: elpv, groups, captures, calibration,
                                             labels, others or speed

A row is won if no rival's mean lies above ours and its 95% interval: over seeds, or over resampled
samples where there are few seeds. `behind` names rivals that are better in the paired comparison,
which is stricter.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from benchmarks import detect_tables as tables
from benchmarks.detect_captures import captures
from benchmarks.detect_cells import Cells
from benchmarks.detect_labels import label_gain, label_gains, labels
from benchmarks.detect_others import others
from benchmarks.detect_plot import plot
from benchmarks.detect_rivals import warm_up
from benchmarks.detect_rows import OURS, Row, Rows
from benchmarks.detect_tables import Size

RESULTS = Path(__file__).parent / "results" / "detect.json"
FULL = Size(10, rate_seeds=40, label_seeds=40, other_seeds=3, twice=True)
QUICK = Size(1, rate_seeds=16, label_seeds=3, other_seeds=1, in_groups=900, in_captures=400)
QUICK_CELLS = 1_300, 120
"""Clean ones and defects."""

TABLES: Mapping[str, Callable[[Cells, Size], Rows]] = {
    "elpv": tables.elpv,
    "groups": tables.groups,
    "captures": captures,
    "calibration": tables.calibration,
    "labels": labels,
    "others": others,
}
QUICK_TABLES = [part for part in TABLES if part != "others"]


def summary(results: Mapping[str, Any]) -> dict[str, float]:
    """The line of figures, in percent; `label_gain` is random labels over suggested ones."""
    measured = [results[part]["rows"] for part in TABLES if part in results]
    rows = {name: row for part in measured for name, row in part.items()}

    def mean(row: str, method: str = OURS) -> float:
        return float(rows[row]["methods"][method]["mean"])

    compared = [row for row in rows.values() if OURS in row["methods"]]
    sizes = ("10", "30", "100", "a tenth")
    found = [mean(f"{kind} group of {size}") for kind in ("loose", "tight") for size in sizes]
    return {
        "elpv_ref_auroc": mean("ref AUROC"),
        "elpv_5pct_auroc": mean("5% AUROC"),
        "elpv_5pct_ap": mean("5% AP"),
        "group_recall": min(found),
        "corruption_recall": mean("mean of 18 kinds"),
        "fdr_worst": max(mean(name, "rate") for name in results["calibration"]["rows"]),
        "label_gain": results["labels"]["label_gain"],
        "rows_won": sum(not row["lost_to"] for row in compared),
        "rows": len(compared),
    }


def measure(part: str, cells: Cells, size: Size) -> dict[str, Any]:
    """One table, as it stands in the results."""
    started = time.perf_counter()
    rows = TABLES[part](cells, size)
    entry: dict[str, Any] = {"rows": {name: row.plain() for name, row in rows.items()}}
    if part == "labels":
        entry["label_gain"] = round(label_gain(rows["5% defects"]), 1)
    if gains := label_gains(rows):
        entry["label_gain_of"] = gains
    show(part, rows, time.perf_counter() - started)
    return entry


def show(part: str, rows: Mapping[str, Row], seconds: float) -> None:
    print(f"\n{part} ({seconds:.0f} s)")
    for name, row in rows.items():
        lost = "".join(
            f"  {word} {', '.join(rivals)}"
            for word, rivals in (("LOST to", row.lost_to()), ("behind", row.behind()))
            if rivals
        )
        ranked = sorted(row.values, key=lambda method: -row.mean(method))
        figures = [f"{m} {row.mean(m):.1f}±{row.interval(m):.1f}" for m in ranked]
        print(f"  {name:24} {', '.join(figures)}{lost}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, fewer cells, no files")
    parser.add_argument("--part", action="append", choices=[*TABLES, "speed"])
    options = parser.parse_args()
    asked = QUICK_TABLES if options.quick else list(TABLES)
    parts = options.part or [*asked, "speed"]
    size = QUICK if options.quick else FULL
    kept = {} if options.quick or not RESULTS.exists() else json.loads(RESULTS.read_text())
    results: dict[str, Any] = {part: kept[part] for part in (*TABLES, "speed") if part in kept}
    compared = set(parts) & set(TABLES)
    with ThreadPoolExecutor(1) as thread:
        warm = thread.submit(warm_up)  # else each forked process does
        cells = Cells(QUICK_CELLS if options.quick else None) if compared else None
        warm.result()
    for part in parts:
        if cells is not None and part in TABLES:
            with threadpool_limits(1):  # quicker for thousands of samples
                results[part] = measure(part, cells, size)
    if "speed" in parts and not options.quick:
        with threadpool_limits(1):
            results["speed"] = tables.scoring_seconds()
        print("\nspeed", results["speed"])
    whole = set(asked) <= set(results)
    if whole:
        results["summary"] = summary(results)
    if not options.quick:
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        if whole:
            plot(results, RESULTS.with_suffix(".png"))
    if whole:
        print(json.dumps(results["summary"]))


if __name__ == "__main__":
    main()
