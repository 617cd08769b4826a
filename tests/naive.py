"""The naive twin of the whole engine: what a feature set's vectors are, by the definitions.

Slow and obvious on purpose. It shares the declarations with the engine (expressions, streams, sets)
and no code that computes. `precision="float"` is float64 in two passes, `"exact"` is fractions.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from operators.durations import parse_duration_ns
from operators.expr import (
    Across,
    Column,
    Constant,
    Elapsed,
    Expr,
    Function,
    GridCoverage,
    OffGrid,
    SeriesSeconds,
    Shift,
    Spectral,
    Windowed,
    ZeroCrossings,
)
from operators.feature_set import FeatureSet, SetColumn
from operators.instants import AcrossSeries, Hop, Instants
from operators.streams import OneSeries, Stream
from operators.windows import Rows, Span, Whole
from tests import naive_frames
from tests.naive_numbers import ARITHMETIC, Sample, Value, aggregate, correlation, function
from tests.naive_rows import Key, Row, arrival_ns, late_rows, settled

__all__ = ["final_before", "late_rows", "naive_vectors"]

Vector = dict[str, Any]
NO_TTL_NS = 2**62


def same(a: Instants, b: Instants) -> bool:
    """Whether both name the same rows."""
    match a, b:
        case (Stream(), Stream()):
            return a.name == b.name
        case (OneSeries(), OneSeries()):
            return a.source.name == b.source.name and a.label == b.label
        case (Hop(), Hop()):
            shape = (a.length_ns, a.every_ns, a.closed) == (b.length_ns, b.every_ns, b.closed)
            return shape and same(a.source, b.source)
        case (AcrossSeries(), AcrossSeries()):
            return same(a.source, b.source)
    return False


@dataclass(frozen=True)
class Place:
    """A row of a run: where an expression is evaluated."""

    at: Instants
    key: Key
    index: int
    ts: int


class Naive:
    """Rows and values of everything that a set reads, computed when asked for."""

    def __init__(
        self,
        rows: Mapping[str, Sequence[Row]],
        streams: Iterable[Stream],
        ttl_ns: int,
        precision: str,
    ) -> None:
        self.a = ARITHMETIC[precision]
        self.ttl_ns = ttl_ns
        self.applied = {
            stream.name: settled(stream, rows.get(stream.name, [])).applied for stream in streams
        }
        self._runs: list[tuple[Instants, dict[Key, list[Row]]]] = []
        self._columns: dict[tuple[int, int, Key], list[Value]] = {}
        self._kept: list[object] = []

    # -- rows -----------------------------------------------------------------------------------

    def runs(self, at: Instants) -> dict[Key, list[Row]]:
        """The rows there are at these instants, by run, in their order."""
        for known, found in self._runs:
            if same(known, at):
                return found
        found = self._find_runs(at)
        self._runs.append((at, found))
        return found

    def _find_runs(self, at: Instants) -> dict[Key, list[Row]]:
        match at:
            case Stream():
                return self.applied[at.name]
            case OneSeries():
                every = self.runs(at.source)
                return {(key[0], ""): run for key, run in every.items() if key[1] == at.label}
            case Hop():
                return {key: hop_ends(at, run) for key, run in self.runs(at.source).items()}
            case AcrossSeries():
                merged: dict[Key, set[int]] = {}
                for key, run in self.runs(at.source).items():
                    merged.setdefault((key[0], ""), set()).update(row["ts"] for row in run)
                return {key: [{"ts": ts} for ts in sorted(of)] for key, of in merged.items()}
        raise NotImplementedError(type(at))

    def rows(self, at: Instants, key: Key) -> list[Row]:
        """The rows of one run."""
        return self.runs(at).get(self.reading(at, key), [])

    def reading(self, at: Instants, key: Key) -> Key:
        """The run that an entity, or a series of it, reads."""
        return key if at.series is not None else (key[0], "")

    def floor(self, at: Instants, key: Key, last: int) -> int:
        """The first row that a window with this last row can see: that after the last long gap."""
        if self.ttl_ns >= NO_TTL_NS:
            return 0
        run = self.rows(at, key)
        for index in range(last, 0, -1):
            if run[index]["ts"] - run[index - 1]["ts"] > self.ttl_ns:
                return index
        return 0

    def end(self, at: Instants, place: Place) -> int:
        """Number of rows of a run seen from a place: up to itself, or as of its instant."""
        if same(at, place.at):
            return place.index + 1
        return bisect_right(self.rows(at, place.key), place.ts, key=lambda row: int(row["ts"]))

    def seen(self, at: Instants, place: Place) -> range:
        """Numbers of the rows that are seen from a place."""
        end = self.end(at, place)
        if not end or (not same(at, place.at) and self.is_stale(at, place, end - 1)):
            return range(end, end)
        return range(self.floor(at, place.key, end - 1), end)

    def is_stale(self, at: Instants, place: Place, last: int) -> bool:
        """Whether a row of another kind is older than the time to live."""
        return bool(place.ts - self.rows(at, place.key)[last]["ts"] > self.ttl_ns)

    # -- values ---------------------------------------------------------------------------------

    def column(self, expr: Expr, at: Instants, key: Key) -> list[Value]:
        """The value at each row of a run."""
        name = (id(expr), id(self.runs(at)), key)
        if name not in self._columns:
            self._kept.append(expr)
            self._columns[name] = [
                self.value(expr, Place(at, key, index, row["ts"]))
                for index, row in enumerate(self.rows(at, key))
            ]
        return self._columns[name]

    def last(self, expr: Expr, at: Instants, place: Place, back: int = 0) -> Value:
        """The value so many rows before the last one that is seen from a place."""
        seen = self.seen(at, place)
        if len(seen) <= back:
            return None
        return self.column(expr, at, self.reading(at, place.key))[seen[-1 - back]]

    def value(self, expr: Expr, place: Place) -> Value:
        """An expression as of a place."""
        match expr:
            case Constant():
                return self.a.number(expr.value)
            case Elapsed():
                return self.elapsed(expr, place)
            case SetColumn() | Column() | SeriesSeconds() | OffGrid():
                here = same(expr.at, place.at)
                return self.own(expr, place) if here else self.last(expr, expr.at, place)
            case Function():
                operands = [self.value(arg, place) for arg in expr.args]
                return function(self.a, expr.function.name, operands)
            case Shift():
                return self.last(expr.arg, expr.arg.home or place.at, place, expr.rows)
            case Windowed():
                return self.windowed(expr, place)
            case Across():
                return self.across(expr, place)
        return self.framed(expr, place)

    def framed(self, expr: Expr, place: Place) -> Value:
        """What is read off the samples of the set's own window."""
        match expr:
            case Spectral():
                return naive_frames.spectral(self.a, expr, *self.frame(expr.arg, place))
            case GridCoverage():
                return naive_frames.filled_share(self.a, self.frame(expr.arg, place)[0])
            case ZeroCrossings():
                values = [x for _, x, _ in self.own_window((expr.arg,), place)]
                return naive_frames.zero_crossing_rate(self.a, values)
        raise NotImplementedError(type(expr))

    def own(self, expr: Column | SeriesSeconds | OffGrid, place: Place) -> Value:
        """What a row says itself; of a set's vector, the feature."""
        if isinstance(expr, SetColumn):
            return self.value(expr.expr, place)
        row = self.rows(place.at, place.key)[place.index]
        if isinstance(expr, Column):
            return self.number(row.get(expr.name))
        try:
            series_ns = parse_duration_ns(place.key[1])
        except ValueError:
            return None
        span_ns = series_ns if isinstance(expr, SeriesSeconds) else place.ts % series_ns
        return self.a.number(Fraction(span_ns, 10**9))

    def number(self, value: float | None) -> Value:
        """A field's value; NaN is null."""
        return None if value is None or value != value else self.a.number(value)  # noqa: PLR0124

    def elapsed(self, expr: Elapsed, place: Place) -> Value:
        """Seconds since some row before."""
        seen = self.seen(expr.at, place)
        if len(seen) <= expr.rows:
            return None
        before = self.rows(expr.at, place.key)[seen[-1 - expr.rows]]
        return self.a.number(Fraction(place.ts - before["ts"], 10**9))

    # -- windows --------------------------------------------------------------------------------

    def windowed(self, expr: Windowed, place: Place) -> Value:
        """An aggregate over rows, a span, or the set's own window."""
        if isinstance(expr.window, Whole):
            return aggregate(self.a, expr, self.own_window(expr.args, place))
        at = expr.home or place.at
        seen = self.seen(at, place)
        if isinstance(expr.window, Rows):
            seen = seen[-expr.window.rows :]
        window = self.samples(expr.args, at, place.key, seen)
        if isinstance(expr.window, Span):
            window = [row for row in window if row[0] > place.ts - expr.window.span_ns]
        return aggregate(self.a, expr, window)

    def samples(
        self, args: tuple[Expr, ...], at: Instants, key: Key, numbers: Sequence[int]
    ) -> list[Sample]:
        """Some rows of a run: their times, and the values of one or two expressions."""
        run = self.rows(at, key)
        x, y = (
            [self.column(arg, at, self.reading(at, key)) for arg in args] + [[None] * len(run)]
        )[:2]
        return [(int(run[i]["ts"]), x[i], y[i]) for i in numbers]

    def own_window(self, args: tuple[Expr, ...], place: Place) -> list[Sample]:
        """The window of the set itself: of its hop, or the samples of its message."""
        if isinstance(place.at, Hop):
            inside = rows_inside(place.at, self.rows(place.at.source, place.key), place.ts)
            floor = self.floor(place.at.source, place.key, inside[-1]) if inside else 0
            numbers = [number for number in inside if number >= floor]
            return self.samples(args, place.at.source, place.key, numbers)
        column = args[0]
        assert isinstance(column, Column)
        row = self.rows(place.at, place.key)[place.index]
        return [(place.ts, self.number(value), None) for value in row.get(column.name) or []]

    def frame(self, arg: Expr, place: Place) -> tuple[list[Value], float]:
        """The samples of a message, or of a hop window on its grid; and their rate in Hz."""
        window = self.own_window((arg,), place)
        if isinstance(place.at, Hop):
            stream = place.at.source
            assert isinstance(stream, Stream)
            rate = Fraction(stream.rate_hz or 0)
            length = round(place.at.length_ns * rate / 10**9)
            cells: list[Value] = [None] * length
            for ts, value, _ in window:
                cell = naive_frames.grid_cell(
                    place.ts - ts, length, 10**9 / rate, stream.jitter, closed=place.at.closed
                )
                if cell is not None:
                    cells[cell] = value
            return cells, float(rate)
        assert isinstance(place.at, Stream)
        row = self.rows(place.at, place.key)[place.index]
        return [x for _, x, _ in window], float(row[place.at.rate_field or ""])

    # -- series ---------------------------------------------------------------------------------

    def across(self, expr: Across, place: Place) -> Value:
        """An aggregate over the series that have an instant here, in the order of their names."""
        assert isinstance(place.at, AcrossSeries)
        at = place.at.source
        runs = sorted(key for key in self.runs(at) if key[0] == place.key[0])
        last = {key: self.end(at, Place(place.at, key, 0, place.ts)) - 1 for key in runs}
        runs = [k for k in runs if last[k] >= 0 and self.rows(at, k)[last[k]]["ts"] == place.ts]
        if expr.how == "corr":
            return self.across_corr(expr, [(key, last[key]) for key in runs], at)
        found = [self.column(expr.arg, at, key)[last[key]] for key in runs]
        values = [value for value in found if value is not None]
        if expr.how == "count":
            return self.a.number(len(values))
        if not values:
            return None
        match expr.how:
            case "mean":
                return self.a.checked(self.a.total(values) / len(values))
            case "min":
                return min(values)
            case "max":
                return max(values)
        raise NotImplementedError(expr.how)

    def across_corr(self, expr: Across, runs: list[tuple[Key, int]], at: Instants) -> Value:
        """Mean correlation of all pairs over the common instants of their last rows."""
        recent = []
        for key, last in runs:
            floor = max(self.floor(at, key, last), last - expr.rows + 1)
            numbers = range(floor, last + 1)
            recent.append([(ts, x) for ts, x, _ in self.samples((expr.arg,), at, key, numbers)])
        found = []
        for one, other in itertools.combinations(recent, 2):
            pairs = [(v, w) for v, w in common(one, other) if v is not None and w is not None]
            if 2 * len(pairs) >= expr.rows:
                value = self.a.checked(correlation(self.a, *zip(*pairs, strict=True)))
                found += [value] if value is not None else []
        return self.a.checked(self.a.total(found) / len(found)) if found else None


def common(
    one: list[tuple[int, Value]], other: list[tuple[int, Value]]
) -> list[tuple[Value, Value]]:
    """Values of the instants that both have; of equal times the first goes with the first."""
    pairs = []
    for ts in sorted({ts for ts, _ in one} & {ts for ts, _ in other}):
        left, right = ([x for at, x in rows if at == ts] for rows in (one, other))
        pairs += list(zip(left, right, strict=False))
    return pairs


def rows_inside(hop: Hop, run: Sequence[Row], end_ns: int) -> range:
    """Numbers of the rows of [t - length, t), or of (t - length, t]."""
    times = [int(row["ts"]) for row in run]
    find = bisect_left if hop.closed == "left" else bisect_right
    return range(find(times, end_ns - hop.length_ns), find(times, end_ns))


def hop_ends(hop: Hop, run: Sequence[Row]) -> list[Row]:
    """The multiples of the hop whose window holds at least one row."""
    ends: set[int] = set()
    for row in run:
        ts = int(row["ts"])
        first = ts // hop.every_ns * hop.every_ns
        for end in range(first, ts + hop.length_ns + 1, hop.every_ns):
            start = end - hop.length_ns
            if (start <= ts < end) if hop.closed == "left" else (start < ts <= end):
                ends.add(end)
    return [{"ts": end} for end in sorted(ends)]


def final_before(
    feature_set: FeatureSet,
    rows: Mapping[str, Sequence[Row]],
    clock_ns: int | None,
    *,
    end: bool,
) -> int:
    """The instant before which vectors are final."""
    if not end:
        assert clock_ns is not None
        return clock_ns - feature_set.max_delay_ns
    at = feature_set.instants
    while isinstance(at, AcrossSeries):
        at = at.source
    if not isinstance(at, Hop):
        return 2**63
    return 1 + max((complete_ns(feature_set, run) for run in rows.values() if run), default=-1)


def complete_ns(feature_set: FeatureSet, run: Sequence[Row]) -> int:
    """The instant up to which a stream that ends with these rows is complete.

    Arrivals trail the times: what is still to come may be as old as the delay allows. A stream
    without arrivals is in the order of its times.
    """
    clock_ns = max(map(arrival_ns, run))
    has_arrival = any(row.get("arrival") is not None for row in run)
    return clock_ns - feature_set.max_delay_ns - 1 if has_arrival else clock_ns


def naive_vectors(
    feature_set: FeatureSet,
    rows: Mapping[str, Sequence[Row]],
    clock_ns: int | None = None,
    *,
    end: bool = False,
    precision: str = "float",
) -> list[Vector]:
    """The final vectors of a set.

    Args:
        feature_set: the declaration.
        rows: of each stream by name, in any order, late rows and all: dicts with `entity`, `series`
            where the stream has them, `ts` and `arrival` in ns, and the fields (None is null).
        clock_ns: vectors are final when it has passed their instant by more than the set's delay.
        end: the input ends here: all instants seen are final, and the hop windows that are
            complete (see :func:`complete_ns`).
        precision: `float` or `exact`.

    Returns:
        A dict per vector, by entity, series and time: the entity and the series under the names of
        their columns, `ts`, labels, features (None is null), `quality` (names of the flags raised)
        and `coverage`.
    """
    naive = Naive(rows, feature_set.streams, feature_set.ttl_ns, precision)
    before_ns = final_before(feature_set, rows, clock_ns, end=end)
    at = feature_set.instants
    vectors = []
    for key, run in sorted(naive.runs(at).items()):
        for index, row in enumerate(run):
            ts = int(row["ts"])
            if ts >= before_ns or (index + 1 < len(run) and run[index + 1]["ts"] == ts):
                continue
            vectors.append(_vector(naive, feature_set, Place(at, key, index, ts)))
    return vectors


def _vector(naive: Naive, feature_set: FeatureSet, place: Place) -> Vector:
    coverage = naive.value(feature_set.coverage_expr, place)
    return {
        feature_set.entity: place.key[0],
        **({feature_set.series: place.key[1]} if feature_set.series else {}),
        "ts": place.ts,
        **feature_set.labels,
        **{name: naive.value(expr, place) for name, expr in feature_set.feature_exprs.items()},
        "quality": [k for k, flag in feature_set.quality.items() if naive.value(flag, place)],
        "coverage": min(max(coverage or 0, 0), 1),
    }
