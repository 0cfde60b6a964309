"""The results of the detection benchmark in one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.detect_rows import OURS

Rows = Mapping[str, Any]

SHOWN = 15
"""The best so many methods are drawn."""


def plot(results: Mapping[str, Any], file: Path) -> None:
    """Draw one panel a table; bars and whiskers are means and their 95% intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 4, figsize=(22, 10), layout="constrained")
    (first, second, loose, elsewhere), (broken, promised, worth, worth_elsewhere) = panels
    elpv, groups, captures, calibration, labels, others = (
        results[part]["rows"]
        for part in ("elpv", "groups", "captures", "calibration", "labels", "others")
    )
    _ranked(first, elpv["ref AUROC"], "solar cells against a reference: AUROC, %")
    _ranked(second, elpv["5% AP"], "5% defects in one pool: average precision, %")
    _groups(loose, groups)
    _ranked(broken, captures["mean of 18 kinds"], "18 kinds of broken capture: recall at 2%, %")
    _promises(promised, calibration)
    _labels(worth, "cells", labels)
    _beside_the_best(
        elsewhere, {name: row for name, row in others.items() if OURS in row["methods"]}
    )
    _labels(
        worth_elsewhere,
        "other images",
        {name: row for name, row in others.items() if "all" in row["methods"]},
    )
    figure.savefig(file, dpi=100)


def _ranked(panel: Any, row: Rows, title: str) -> None:
    ranked = sorted(row["methods"].items(), key=lambda item: item[1]["mean"])[-SHOWN:]
    names = [name for name, _ in ranked]
    means, intervals = ([each[key] for _, each in ranked] for key in ("mean", "interval"))
    colours = ["tab:blue" if name == OURS else "lightgrey" for name in names]
    panel.barh(names, means, xerr=intervals, color=colours, error_kw={"elinewidth": 1})
    panel.set(title=title, xlim=(max(0, min(means) - 10), 100))


def _beside_the_best(panel: Any, rows: Rows) -> None:
    """Ours and, for each row, the rival that is the best in it."""
    names = list(reversed(list(rows)))
    for i, row in enumerate(rows[name] for name in names):
        ours = row["methods"][OURS]
        rivals = [told for method, told in row["methods"].items() if method != OURS]
        best = max(rivals, key=lambda told: float(told["mean"]))
        panel.errorbar(best["mean"], i - 0.1, xerr=best["interval"], fmt="s", color="grey")
        panel.errorbar(ours["mean"], i + 0.1, xerr=ours["interval"], fmt="o", color="tab:blue")
    panel.set_yticks(range(len(names)), names)
    panel.set(title="other images: ours (blue), best rival, %", xlim=(0, 101))


def _groups(panel: Any, rows: Rows) -> None:
    sizes = sorted({int(size) for name in rows if (size := name.split()[-1]).isdigit()})
    shown = (OURS, "PyOD KNN", "cleanlab", "FiftyOne uniqueness", "Isolation Forest")
    for kind, line in (("loose", "o-"), ("tight", "s--")):
        for i, method in enumerate(shown):
            means = [rows[f"{kind} group of {n}"]["methods"][method]["mean"] for n in sizes]
            panel.plot(sizes, means, line, color=f"C{i}", label=method if kind == "loose" else None)
    panel.set(
        title="group of alike photographs: recall at 5%, %", xlabel="images in it", xscale="log"
    )
    panel.set_xticks(sizes, [str(n) for n in sizes])
    panel.legend(title="dashed: tight groups", fontsize=7, title_fontsize=7, loc=(0.55, 0.25))


def _promises(panel: Any, rows: Rows) -> None:
    for i, row in enumerate(rows.values()):
        methods = row["methods"]
        rate, power = methods["rate"], methods.get("power")
        panel.errorbar(i, rate["mean"], rate["interval"], fmt="o", color="tab:red", capsize=3)
        if power:
            panel.errorbar(i, power["mean"], power["interval"], fmt="o", color="tab:blue")
        withdrawn = f"{methods['withdrawn']['mean']:.0f}"
        panel.annotate(withdrawn, (i, 104), ha="center", fontsize=8)
    panel.axhline(10, color="tab:red", linestyle=":")
    panel.set_xticks(range(len(rows)), rows, fontsize=8, rotation=30, ha="right")
    title = "10% promised: false (red), power (blue), withdrawn"
    panel.set(title=title, ylim=(-3, 112))


def _labels(panel: Any, what: str, rows: Rows) -> None:
    for colour, (name, row) in zip(("C0", "C1"), rows.items(), strict=True):
        methods = row["methods"]
        sizes = sorted(int(m.split(" ")[1]) for m in methods if m.startswith("random "))
        curve = [methods[f"random {n}"] for n in sizes]
        means, intervals = ([each[key] for each in curve] for key in ("mean", "interval"))
        panel.errorbar(
            sizes, means, intervals, fmt="o-", color=colour, label=f"{name}: chosen by chance"
        )
        for method, mark in (("suggested", "*"), ("suggested in rounds", "D")):
            panel.plot(
                50,
                methods[method]["mean"],
                mark,
                markersize=11,
                color=colour,
                label=f"{name}: {method}",
            )
    panel.set(title=f"labels of {what}: held-out AP, %", xlabel="labels")
    panel.legend(frameon=False, fontsize=8)
