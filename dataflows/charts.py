"""Charts as inline SVG, drawn from arrays: no library, no script; colours come from the page's CSS.

A figure is a stack of panels over one axis of time. Lines are thinned to the extremes of each pixel
column, so that a spike survives and the file stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import escape
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]

WIDTH = 960
LEFT, RIGHT = 70, 20
"""Room for the names of values on the left, and for half a label on the right."""
THINNED = 500
"""Columns to which a line is thinned, with two points each."""
SHADES = 40
"""Steps of a heat map's colour."""

_STEPS_NS = [
    int(seconds * 1e9)
    for seconds in (
        1, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 10800, 21600, 43200,
        86400, 172800, 604800, 1209600,
    )
]  # fmt: skip
_MONTHS = (1, 2, 3, 6, 12, 24)
_MONTH_NS = 30 * 86_400 * 10**9
_TICKS = 8
"""About so many marks on an axis of time."""

# Eight points of viridis (matplotlib, CC0), whose lightness rises evenly for every kind of sight.
_VIRIDIS = np.array(
    [
        (68, 1, 84), (70, 50, 127), (54, 92, 141), (39, 127, 142),
        (31, 161, 135), (74, 194, 109), (159, 218, 58), (253, 231, 37),
    ],
    np.float64,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """Values over time; a NaN, or a step far longer than usual, breaks the line."""

    name: str
    ts_ns: Times
    values: Floats
    style: str = "s1"


@dataclass(frozen=True, slots=True)
class Band:
    """The area between two lines."""

    name: str
    ts_ns: Times
    low: Floats
    high: Floats
    style: str = "s1"


@dataclass(frozen=True, slots=True)
class Dots:
    """Single values over time."""

    name: str
    ts_ns: Times
    values: Floats
    style: str = "s2"


@dataclass(frozen=True, slots=True)
class Mark:
    """A named instant, drawn through all panels."""

    ts_ns: int
    name: str


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Where instants are drawn, from left to right."""

    low: int
    high: int
    left: float = LEFT
    right: float = WIDTH - RIGHT

    def at(self, ts_ns: Times) -> Floats:
        """Places of instants."""
        share = (ts_ns - self.low) / max(self.high - self.low, 1)
        return self.left + (self.right - self.left) * np.clip(share, 0.0, 1.0)

    def place(self, ts_ns: int) -> float:
        """The place of one instant."""
        return float(self.at(np.array(ts_ns)))


class Panel(Protocol):
    """A part of a figure, over the common axis of time."""

    @property
    def height(self) -> float:
        """In pixels."""

    def extent(self) -> list[Times]:
        """Instants that the axis must hold."""

    def draw(self, top: float, axis: TimeAxis) -> str:
        """The panel's SVG, with its upper edge at ``top``."""


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines, bands and dots over an axis of values.

    Attributes:
        title: what is shown, with its unit.
        items: in the order in which they are painted.
        height: in pixels.
        zero: whether the axis must hold zero.
        ticks: marks of the axis, the first and the last at its ends; chosen if none are given.
    """

    title: str
    items: Sequence[Line | Band | Dots]
    height: float = 150
    zero: bool = False
    ticks: Sequence[float] = ()

    def extent(self) -> list[Times]:
        """Instants that the axis must hold."""
        return [item.ts_ns for item in self.items]

    def draw(self, top: float, axis: TimeAxis) -> str:
        """The panel's SVG."""
        low, high = self._range()
        inner = self.height - 24

        def up(values: Floats) -> Floats:
            return top + 24 + inner * (1.0 - (values - low) / (high - low))

        parts = [_text(axis.left, top + 12, self.title, "panel")]
        ticks = self.ticks or value_ticks(low, high, max(2, int(inner // 30)))
        show = spelling(ticks)
        for tick in ticks:
            y = float(up(np.array(tick)))
            parts.append(_rule(axis.left, y, axis.right, y))
            parts.append(_text(axis.left - 8, y + 4, show(tick), "tick", "end"))
        parts += [_item(item, axis, up) for item in self.items]
        parts.append(_legend(self.items, axis.right, top + 12))
        return "".join(parts)

    def _range(self) -> tuple[float, float]:
        if self.ticks:
            return self.ticks[0], self.ticks[-1]
        found = []
        for item in self.items:
            found += [item.low, item.high] if isinstance(item, Band) else [item.values]
        values = np.concatenate([np.asarray(each, np.float64) for each in found])
        values = values[np.isfinite(values)]
        if self.zero or not len(values):
            values = np.append(values, 0.0)
        low, high = float(values.min()), float(values.max())
        spare = 0.06 * (high - low) or max(abs(high), 1.0) * 0.05
        return low - (0.0 if self.zero and low >= 0 else spare), high + spare


@dataclass(frozen=True, slots=True)
class Heat:
    """A value per row and instant, as colour.

    Attributes:
        title: what is shown, with its unit.
        ts_ns: ends of the cells.
        step_ns: their length.
        rows: names of the rows, the lowest first.
        values: float64[rows, instants]; NaN stays empty.
        low, high: values of the darkest and of the lightest colour.
    """

    title: str
    ts_ns: Times
    step_ns: int
    rows: Sequence[str]
    values: Floats
    low: float
    high: float
    height: float = 120

    def extent(self) -> list[Times]:
        """Instants that the axis must hold."""
        return [self.ts_ns, self.ts_ns - self.step_ns]

    def draw(self, top: float, axis: TimeAxis) -> str:
        """The panel's SVG; cells of one colour are one path."""
        inner = self.height - 24
        tall = inner / len(self.rows)
        left, right = axis.at(self.ts_ns - self.step_ns), axis.at(self.ts_ns)
        share = (self.values - self.low) / (self.high - self.low)
        shade = np.clip(np.nan_to_num(share, nan=-1.0) * SHADES, 0, SHADES - 1).astype(int)
        shade[~np.isfinite(self.values)] = -1
        paths: dict[int, list[str]] = {}
        for row, shades in enumerate(shade):
            y = top + 24 + inner - (row + 1) * tall
            edges = np.flatnonzero(np.diff(shades)) + 1
            for begin, end in zip([0, *edges], [*edges, len(shades)], strict=True):
                if shades[begin] >= 0:
                    # The overlap hides the seams that rounding to pixels would leave.
                    x, wide = left[begin], right[end - 1] - left[begin] + 0.5
                    cell = f"M{x:.1f} {y:.1f}h{wide:.1f}v{tall:.1f}h{-wide:.1f}z"
                    paths.setdefault(int(shades[begin]), []).append(cell)
        parts = [_text(axis.left, top + 12, self.title, "panel")]
        parts += [
            f'<path class="cell" fill="{viridis(each / (SHADES - 1))}" d="{"".join(cells)}"/>'
            for each, cells in sorted(paths.items())
        ]
        for row in range(0, len(self.rows), max(1, round(18 / tall))):
            y = top + 24 + inner - (row + 0.5) * tall
            parts.append(_text(axis.left - 8, y + 4, self.rows[row], "tick", "end"))
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Strips:
    """Spans of time in which something holds: a strip per name, with its share of the time.

    Attributes:
        title: what is shown.
        ts_ns: instants, in order.
        step_ns: length of the span that each ends.
        holds: per name, whether it holds at each instant.
    """

    title: str
    ts_ns: Times
    step_ns: int
    holds: dict[str, npt.NDArray[np.bool_]]
    styles: dict[str, str] = field(default_factory=dict)

    @property
    def height(self) -> float:
        """A row per name."""
        return 24 + 18 * max(len(self.holds), 1)

    def extent(self) -> list[Times]:
        """Instants that the axis must hold."""
        return [self.ts_ns, self.ts_ns - self.step_ns]

    def draw(self, top: float, axis: TimeAxis) -> str:
        """The panel's SVG."""
        left, right = axis.at(self.ts_ns - self.step_ns), axis.at(self.ts_ns)
        parts = [_text(axis.left, top + 12, self.title, "panel")]
        # A strip touches the next if there is no instant between them.
        joined = np.append(np.diff(self.ts_ns) <= 1.5 * self.step_ns, False)
        for row, (name, holds) in enumerate(self.holds.items()):
            y = top + 24 + 18 * row
            wide = axis.right - axis.left
            parts.append(f'<rect class="lane" x="{axis.left}" y="{y}" width="{wide}" height="13"/>')
            begins = holds & ~np.append(False, (holds & joined)[:-1])
            ends = holds & ~(joined & np.append(holds[1:], False))
            spans = zip(left[begins], right[ends], strict=True)
            cells = "".join(f"M{a:.1f} {y}h{max(b - a, 0.8):.1f}v13H{a:.1f}z" for a, b in spans)
            parts.append(f'<path class="fill {self.styles.get(name, "s1")}" d="{cells}"/>')
            share = percent(float(holds.mean()) if len(holds) else 0.0)
            parts.append(_text(axis.left - 8, y + 10.5, f"{name}  {share}", "lane-name", "end"))
        return "".join(parts)


def figure(
    title: str,
    panels: Sequence[Panel],
    marks: Sequence[Mark] = (),
    note: str = "",
    key: str = "",
    left: float = LEFT,
) -> str:
    """A figure of panels over their common axis of time, in UTC.

    Args:
        title: what it shows.
        panels: from the top.
        marks: instants to point out.
        note: a sentence under the title.
        key: more HTML for the foot, such as :func:`scale`.
        left: room for the names on the left.

    >>> ts_ns = np.arange(3) * 10**9
    >>> svg = figure("f(t)", [Plot("f, V", [Line("f", ts_ns, np.array([1.0, 2.0, np.nan]))])])
    >>> svg.startswith("<figure>"), svg.count('class="line')
    (True, 1)
    """
    times = [ts_ns for panel in panels for ts_ns in panel.extent() if len(ts_ns)]
    low = int(min((each.min() for each in times), default=0))
    high = int(max((each.max() for each in times), default=1))
    axis, gap = TimeAxis(low, high, left), 16
    top = 22.0 if marks else 2.0
    bottom = top + sum(panel.height + gap for panel in panels)
    ticks = _time_ticks(axis)
    parts = [_rule(x, top + 22, x, bottom) for x, _ in ticks]
    shown_from = top
    for panel in panels:
        parts.append(panel.draw(top, axis))
        top += panel.height + gap
    for mark in marks:
        x = axis.place(mark.ts_ns)
        parts.append(f'<path class="mark" d="M{x:.1f} {shown_from - 6}V{bottom:.1f}"/>')
        parts.append(_text(x, 12, mark.name, "mark-name", "middle"))
    parts += [_text(x, bottom + 14, label, "tick", "middle") for x, label in ticks]
    span = f"time, UTC: {show_time(low)} to {show_time(high)}"
    parts.append(_text((axis.left + axis.right) / 2, bottom + 33, span, "axis", "middle"))
    return _framed(title, note, parts, bottom + 42, key)


def _framed(title: str, note: str, parts: Sequence[str], height: float, key: str = "") -> str:
    caption = f"<figcaption><b>{escape(title)}</b> {escape(note)}</figcaption>"
    label = escape(title, quote=True)
    opened = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">'
    return f"<figure>{caption}{opened}{''.join(parts)}</svg>{key}</figure>"


def bars(
    title: str,
    rows: Sequence[tuple[str, Sequence[float]]],
    names: Sequence[str],
    unit: str,
    note: str = "",
) -> str:
    """Horizontal bars on a logarithmic axis: a group per row, a bar per name.

    >>> bars("speed", [("a", [10.0, 2000.0])], ["x", "y"], "rows/s").count("<rect")
    4
    """
    values = [value for _, group in rows for value in group if value > 0]
    low = 10.0 ** np.floor(np.log10(min(values, default=1.0)) - 0.3)
    high = 10.0 ** np.ceil(np.log10(max(values, default=10.0)))
    left, right, tall, top = 170.0, WIDTH - 80.0, 14, 34.0
    scaled = (right - left) / np.log10(high / low)
    bottom, parts, x = top + len(rows) * (tall * len(names) + 12), [], left
    for number, name in enumerate(names):
        parts.append(_bar(number, x, 5, 10))
        parts.append(_text(x + 15, 14, name, "legend"))
        x += 34 + 6.6 * len(name)
    for power in range(round(np.log10(low)), round(np.log10(high)) + 1):
        x = left + scaled * (power - np.log10(low))
        parts.append(_rule(x, top - 8, x, bottom))
        parts.append(_text(x, bottom + 14, count(10.0**power), "tick", "middle"))
    for name, group in rows:
        parts.append(_text(left - 10, top + tall * len(names) / 2 + 4, name, "row-name", "end"))
        for number, value in enumerate(group):
            length = scaled * np.log10(value / low) if value > low else 0.0
            parts.append(_bar(number, left, top, length))
            parts.append(_text(left + length + 6, top + 10, count(value), "tick"))
            top += tall
        top += 12
    unit = f"{unit}, logarithmic"
    parts.append(_text((left + right) / 2, bottom + 33, unit, "axis", "middle"))
    return _framed(title, note, parts, bottom + 42)


def _bar(number: int, x: float, y: float, wide: float) -> str:
    tall = 10 if wide == 10 else 12
    place = f'x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall}"'
    return f'<rect class="fill s{number + 1}" {place} rx="1.5"/>'


def scale(title: str, low: float, high: float) -> str:
    """The key of a heat map's colours."""
    long = 240
    wide = long / SHADES
    parts = [
        f'<rect class="cell" x="{LEFT + wide * i:.1f}" y="2" width="{wide:.1f}" height="10" '
        f'fill="{viridis(i / (SHADES - 1))}"/>'
        for i in range(SHADES)
    ]
    ticks = value_ticks(low, high, 4)
    show = spelling(ticks)
    for tick in ticks:
        x = LEFT + long * (tick - low) / (high - low)
        parts.append(_text(x, 26, show(tick), "tick", "middle"))
    parts.append(_text(LEFT + long + 14, 11, title, "axis"))
    label = escape(title, quote=True)
    opened = f'<svg viewBox="0 0 {WIDTH} 34" role="img" aria-label="{label}">'
    return f"{opened}{''.join(parts)}</svg>"


# -- parts --------------------------------------------------------------------------------------


def _item(item: Line | Band | Dots, axis: TimeAxis, up: Callable[[Floats], Floats]) -> str:
    if isinstance(item, Dots):
        points = zip(axis.at(item.ts_ns), up(item.values), strict=True)
        cells = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points if np.isfinite(y))
        return f'<path class="dots {item.style}" d="{cells}"/>'
    broken = breaks(item.ts_ns)
    if isinstance(item, Line):
        path = "".join(
            _path(axis.at(item.ts_ns[piece]), up(item.values[piece]))
            for piece in pieces(item.values, broken)
        )
        return f'<path class="line {item.style}" d="{path}"/>'
    areas = []
    for piece in pieces(item.low + item.high, broken):
        x = axis.at(item.ts_ns[piece])
        kept = np.linspace(0, len(x) - 1, min(len(x), THINNED)).astype(int)
        x, low, high = x[kept], up(item.low[piece])[kept], up(item.high[piece])[kept]
        there = " ".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, high, strict=True))
        back = " ".join(f"{a:.1f} {b:.1f}" for a, b in zip(x[::-1], low[::-1], strict=True))
        areas.append(f"M{there}L{back}z")
    return f'<path class="area {item.style}" d="{"".join(areas)}"/>'


def breaks(ts_ns: Times) -> npt.NDArray[np.bool_]:
    """Whether the step to each instant is far longer than usual, such as over a weekend."""
    steps = np.diff(ts_ns, prepend=ts_ns[:1])
    return steps > 6 * np.median(steps[1:]) if len(steps) > 1 else steps > 0


def pieces(values: Floats, broken: npt.NDArray[np.bool_]) -> list[slice]:
    """Runs of finite values without a break.

    >>> pieces(np.array([1.0, 2.0, np.nan, 3.0, 4.0]), np.array([0, 0, 0, 0, 1], bool))
    [slice(0, 2, None), slice(3, 4, None), slice(4, 5, None)]
    """
    finite = np.isfinite(values)
    begins = finite & (broken | ~np.append(False, finite[:-1]))
    ends = finite & (np.append(broken[1:], True) | ~np.append(finite[1:], False))
    return [
        slice(int(begin), int(end) + 1)
        for begin, end in zip(np.flatnonzero(begins), np.flatnonzero(ends), strict=True)
    ]


def thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The least and the greatest point of each column of pixels, in order.

    >>> x, y = thin(np.arange(5000.0), np.where(np.arange(5000) == 2500, 9.0, 0.0))
    >>> len(x) <= 1000, float(y.max())
    (True, 9.0)
    """
    if len(x) <= 2 * THINNED:
        return x, y
    edges = np.linspace(0, len(x), THINNED + 1).astype(int)
    kept: list[int] = []
    for begin, end in pairwise(edges):
        column = y[begin:end]
        kept += sorted({begin + int(column.argmin()), begin + int(column.argmax())})
    return x[kept], y[kept]


def _path(x: Floats, y: Floats) -> str:
    x, y = thin(x, y)
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)]
    return f"M{' '.join(points)}" + ("h0.1" if len(points) == 1 else "")


def _legend(items: Sequence[Line | Band | Dots], right: float, y: float) -> str:
    """Keys at the right end of the panel's title, for more than one item."""
    if len(items) < 2:
        return ""
    parts, x = [], right
    for item in reversed(items):
        x -= 6.3 * len(item.name)
        parts.append(_text(x, y, item.name, "legend"))
        x -= 20
        kind = {Line: "line", Band: "area", Dots: "dots"}[type(item)]
        shape = {
            "line": f"M{x:.1f} {y - 4}h14",
            "area": f"M{x:.1f} {y - 8}h14v8h-14z",
            "dots": f"M{x + 7:.1f} {y - 4}h0",
        }[kind]
        parts.append(f'<path class="{kind} {item.style}" d="{shape}"/>')
        x -= 12
    return "".join(parts)


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}"{place}>{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="grid" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


# -- axes ---------------------------------------------------------------------------------------


def value_ticks(low: float, high: float, about: int) -> list[float]:
    """Round values within a range.

    >>> value_ticks(0.12, 1.01, 4)
    [0.25, 0.5, 0.75, 1.0]
    """
    rough = (high - low) / max(about, 1)
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= rough * 0.999)
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [float(f"{step * k:.12g}") for k in range(first, last + 1)]


def spelling(ticks: Sequence[float]) -> Callable[[float], str]:
    """Spells all values of an axis with as many digits as they need."""
    largest = max((abs(tick) for tick in ticks), default=1.0)
    if largest >= 1e4:
        return count
    step = min((abs(b - a) for a, b in pairwise(ticks)), default=largest or 1.0)
    if largest < 1e-3:
        return lambda value: f"{value:.2g}"
    digits = next((d for d in range(9) if abs(round(step, d) - step) < step * 1e-6), 9)
    return lambda value: f"{value:.{digits}f}"


def count(value: float) -> str:
    """A number for people.

    >>> [count(value) for value in (0, 12.3, 45_678, 1_234_567, 1e6)]
    ['0', '12', '45.7 k', '1.23 M', '1 M']
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / min(size, 1e3 if letter == 'k' else size):.3g} {letter}"
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 10 else f"{value:.2g}"


def percent(share: float) -> str:
    """A share for people.

    >>> [percent(share) for share in (0.0, 0.00002, 0.031, 0.5, 1.0)]
    ['0 %', '< 0.1 %', '3.1 %', '50 %', '100 %']
    """
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def show_time(ts_ns: int) -> str:
    """An instant for people."""
    time = _datetime(ts_ns)
    return f"{time:%Y-%m-%d %H:%M:%S}" if time.second else f"{time:%Y-%m-%d %H:%M}"


def _datetime(ts_ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ts_ns // 1000)


def _time_ticks(axis: TimeAxis) -> list[tuple[float, str]]:
    """Places and labels of round instants."""
    span = axis.high - axis.low
    step = next((each for each in _STEPS_NS if span / each <= _TICKS), 0)
    if not step:
        return _month_ticks(axis)
    style = "%H:%M:%S" if step < 60 * 10**9 else "%H:%M" if step < 86_400 * 10**9 else "%d %b"
    found, day = [], ""
    for instant in range(-(-axis.low // step) * step, axis.high + 1, step):
        time = _datetime(instant)
        label = time.strftime(style)
        if style == "%H:%M" and (date := time.strftime("%d %b")) != day:
            label, day = f"{date} {label}", date
        found.append((axis.place(instant), label))
    return found


def _month_ticks(axis: TimeAxis) -> list[tuple[float, str]]:
    span = (axis.high - axis.low) / _MONTH_NS
    months = next((each for each in _MONTHS if span / each <= _TICKS + 4), _MONTHS[-1])
    first, last = _datetime(axis.low), _datetime(axis.high)
    numbers = range(first.year * 12 + first.month, last.year * 12 + last.month)
    starts = [datetime(n // 12, n % 12 + 1, 1, tzinfo=UTC) for n in numbers if n % months == 0]
    style = "%b %Y" if months < 12 else "%Y"
    return [(axis.place(int(time.timestamp()) * 10**9), time.strftime(style)) for time in starts]


def viridis(share: float) -> str:
    """A colour from dark to light.

    >>> viridis(0.0), viridis(1.0)
    ('#440154', '#fde725')
    """
    place = share * (len(_VIRIDIS) - 1)
    channels = [np.interp(place, np.arange(len(_VIRIDIS)), _VIRIDIS[:, c]) for c in range(3)]
    return "#" + "".join(f"{round(float(channel)):02x}" for channel in channels)
