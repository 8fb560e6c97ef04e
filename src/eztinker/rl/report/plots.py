"""The curves of a run as PNG files, for slides and notes."""

from __future__ import annotations

from pathlib import Path

from eztinker.rl.report.charts import Chart
from eztinker.rl.report.curves import curves
from eztinker.rl.state import RunState

_COLOURS = ("#2563a8", "#b4641a")


def save_plots(directory: Path, state: RunState) -> list[Path]:
    """Write one PNG per curve into `directory`; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    return [_save(directory / f"{name}.png", chart) for name, chart in curves(state).items()]


def _save(path: Path, chart: Chart) -> Path:
    from matplotlib.figure import Figure  # 0.3 s: only whoever finishes a run pays it

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for colour, series in zip(_COLOURS, chart.series, strict=False):
        places = range(len(series.ys))
        axes.plot(places, series.ys, color=colour, marker="o", markersize=4, label=series.name)
        for place, (low, high) in zip(places, series.intervals, strict=False):
            axes.plot([place, place], [low, high], color=colour, alpha=0.5)
    if chart.reference:
        name, value = chart.reference
        axes.axhline(value, color="grey", linestyle="--", linewidth=1, label=name)
    if len(chart.series) > 1 or chart.reference:
        axes.legend(frameon=False, fontsize=8)
    every = max(1, len(chart.x_labels) // 10)
    axes.set_xticks(range(0, len(chart.x_labels), every), chart.x_labels[::every])
    axes.set_ylim(0, chart.top)
    axes.set_title(chart.title, loc="left", fontsize=11)
    axes.set_ylabel(chart.unit.strip())
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    return path
