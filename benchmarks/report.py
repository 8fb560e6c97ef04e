"""Reports of measurements as a table, a CSV file and a plot."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.measurement import Measurement

COLUMNS = ("work", "setting", "unit", "ours", "peer", "ratio", "limit", "share_of_limit", "goal", "is_met")
_FILE_WIDTH = 110
"""Width of the table in characters where there is no terminal."""


def print_table(measurements: Sequence[Measurement], title: str) -> None:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in ("work", "setting"):
        table.add_column(name, no_wrap=True)
    for name in ("ours", "peer", "limit"):
        table.add_column(name, justify="right")
    table.add_column("unit")
    for name in ("ours / peer", "of limit"):
        table.add_column(name, justify="right")
    table.add_column("goal", no_wrap=True)
    for each in measurements:
        table.add_row(
            each.work,
            each.setting,
            f"{each.ours:.0f}",
            _number(each.peer, "{:.0f}"),
            _number(each.limit, "{:.0f}"),
            each.unit,
            _number(each.ratio, "{:.2f}x"),
            _number(each.share_of_limit, "{:.0%}"),
            f"{each.goal} {'met' if each.is_met else 'missed'}" if each.goal else "",
        )
    is_watched = sys.stdout.isatty()
    Console(width=None if is_watched else _FILE_WIDTH).print(table)


def write_csv(measurements: Sequence[Measurement], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for each in measurements:
            writer.writerow([_cell(getattr(each, column)) for column in COLUMNS])


def write_plot(measurements: Sequence[Measurement], path: Path, title: str) -> None:
    """Plot a bar for the ratio of each measurement that has a peer, with the goal as a tick."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    compared = [each for each in reversed(measurements) if each.ratio is not None]
    figure, axes = pyplot.subplots(figsize=(8, 0.45 * len(compared) + 1.4), layout="constrained")
    ratios = [each.ratio or 0.0 for each in compared]
    colors = ["tab:blue" if each.is_met else "tab:orange" for each in compared]
    names = [f"{each.work}, {each.setting}: {ratio:.2f}x" for each, ratio in zip(compared, ratios, strict=True)]
    axes.barh(names, ratios, color=colors)
    for row, each in enumerate(compared):
        if each.wanted_ratio is not None:
            axes.plot([each.wanted_ratio] * 2, [row - 0.4, row + 0.4], color="black")
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.set_xlabel("ours / peer (black: goal; memory: less is better)")
    axes.set_title(title, fontsize="medium")
    axes.margins(x=0.12)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _cell(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
