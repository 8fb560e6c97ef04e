"""Small line charts as inline SVG. Colours are CSS classes, so that a chart follows the page's light or dark theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 16, 14, 30
_NUM_TICKS = 4
_MAX_X_LABELS = 10
_NOISE = 1e-9
"""Smaller values are rounding errors, and shown as 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line: `ys[i]` stands at x position i; intervals are drawn as whiskers."""

    name: str
    ys: Sequence[float]
    intervals: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart to draw; all values are on one scale from 0 to `top`."""

    title: str
    x_labels: Sequence[str]
    series: Sequence[Series]
    unit: str = ""
    top: float | None = None
    """Largest value of the axis; by default a round number above all values."""
    reference: tuple[str, float] | None = None
    """A dashed line across the chart, and its name."""

    @property
    def svg(self) -> Markup:
        """The chart as one <svg> element, with a description for screen readers."""
        return _draw(self)


def nice_ceiling(value: float) -> float:
    """The smallest of 1, 2, 2.5, 4, 5 or 10 times a power of ten that is not below `value`."""
    if value <= _NOISE:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 4, 5, 10) if step * power >= value * (1 - 1e-9))


def _draw(chart: Chart) -> Markup:
    highest = max((y for series in chart.series for y in series.ys), default=0.0)
    top = chart.top or nice_ceiling(max(highest, chart.reference[1] if chart.reference else 0.0))
    parts = [_grid(chart, top), _x_axis(chart)]
    if chart.reference:
        parts.append(_reference(*chart.reference, top))
    parts += [_line(series, index, len(chart.x_labels), top) for index, series in enumerate(chart.series)]
    spoken = "; ".join(f"{series.name}: {', '.join(map(_number, series.ys))}" for series in chart.series)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, f"{chart.title}. {spoken}", Markup("").join(parts)
    )


def _grid(chart: Chart, top: float) -> Markup:
    lines = []
    for tick in range(_NUM_TICKS + 1):
        value = top * tick / _NUM_TICKS
        y = _y(value, top)
        lines.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="tick" x="{}" y="{}">{}</text>'
            ).format(_LEFT, _WIDTH - _RIGHT, y, y, _LEFT - 6, y + 4, f"{value:g}{chart.unit}")
        )
    return Markup("").join(lines)


def _x_axis(chart: Chart) -> Markup:
    count = len(chart.x_labels)
    every = max(1, math.ceil(count / _MAX_X_LABELS))
    return Markup("").join(
        Markup('<text class="label" x="{}" y="{}">{}</text>').format(_x(index, count), _HEIGHT - 10, label)
        for index, label in enumerate(chart.x_labels)
        if index % every == 0
    )


def _reference(name: str, value: float, top: float) -> Markup:
    y = _y(value, top)
    return Markup(
        '<line class="reference" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="note" x="{}" y="{}">{}</text>'
    ).format(_LEFT, _WIDTH - _RIGHT, y, y, _LEFT + 4, y - 5, name)


def _line(series: Series, index: int, count: int, top: float) -> Markup:
    points = [(_x(place, count), _y(y, top)) for place, y in enumerate(series.ys)]
    path = " ".join(f"{x},{y}" for x, y in points)
    whiskers = Markup("").join(
        Markup('<line class="whisker" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, _y(low, top), _y(high, top))
        for (x, _), (low, high) in zip(points, series.intervals, strict=False)
    )
    dots = Markup("").join(
        Markup('<circle cx="{}" cy="{}" r="3.5"><title>{}</title></circle>').format(
            x, y, f"{series.name}: {_number(value)}"
        )
        for (x, y), value in zip(points, series.ys, strict=True)
    )
    return Markup('<g class="series-{}">{}<polyline points="{}"/>{}</g>').format(index, whiskers, escape(path), dots)


def _number(value: float) -> str:
    return f"{0.0 if abs(value) < _NOISE else value:.3g}"


def _x(index: int, count: int) -> float:
    width = _WIDTH - _LEFT - _RIGHT - 24
    return round(_LEFT + 12 + (width / 2 if count == 1 else width * index / (count - 1)), 1)


def _y(value: float, top: float) -> float:
    return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * min(value / top, 1.0), 1)
