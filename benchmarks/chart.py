"""Response times against the number of clients, as SVG: runs as JSON on stdin, the file as the argument.

Runs in an environment that has matplotlib. The colours are dark enough for a white page and light enough for
a black one, and nothing is painted behind them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

INK = "#7a7a7a"
COLOURS = ["#d55e00", "#a87900", "#cc5fa0", "#1a80c4", "#159a76"]
MARKERS = ["o", "s", "D", "^", "v"]
PANELS = {"p50_ms": "median", "p95_ms": "95th percentile"}
MARKS = [mark * power for power in (1, 10, 100, 1000, 10_000) for mark in (1, 2, 5)]
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    # The same figures make the same file.
    "svg.hashsalt": "response times",
}


def draw(runs: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharey=True)
    variants = list(dict.fromkeys(run["variant"] for run in sorted(runs, key=lambda run: -run["p95_ms"])))
    clients = sorted({run["clients"] for run in runs})
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        for number, variant in enumerate(variants):
            points = {
                count: [run[name] for run in runs if (run["variant"], run["clients"]) == (variant, count)]
                for count in clients
            }
            axes.plot(
                [count for count in clients if points[count]],
                [median(times) for times in points.values() if times],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=5,
                linewidth=2,
                label=variant,
            )
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("concurrent clients")
        axes.set_xlim(left=0)
        axes.set_xticks(clients)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(MARKS))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        axes.grid(axis="y", color=INK, alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("response time in ms (logarithmic)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def main() -> None:
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        draw(json.load(sys.stdin)).savefig(path, format="svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
