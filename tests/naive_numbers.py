"""The formulas of the aggregates, twice: in float64 and exactly.

Float64 is the two-pass computation with correctly rounded sums. Exact numbers are fractions; roots
and logarithms are good for 90 digits. Null is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath

from operators.expr import Windowed

Number = float | Fraction
Value = Number | None
Sample = tuple[int, Value, Value]
"""A row of a window: time in ns, x, and y where the aggregate is of two columns."""

WORKING_BITS = 320
LARGEST = Fraction(math.ldexp(1.0, 1023)) * 2


class Float:
    """Float64."""

    def number(self, value: float | Fraction) -> Number:
        return float(value)

    def total(self, values: Sequence[Number]) -> Number:
        try:
            return math.fsum(values)
        except (OverflowError, ValueError):
            return math.nan

    def root(self, value: Number) -> Number:
        return math.sqrt(value) if value >= 0 else math.nan

    def log(self, value: Number) -> Number:
        return math.log(value) if value > 0 else math.nan

    def exp(self, value: Number) -> Number:
        try:
            return math.exp(value)
        except OverflowError:
            return math.inf

    def shortened(self, value: Number) -> Number:
        return value

    def checked(self, value: Number) -> Value:
        """Null for what is not finite."""
        return value if math.isfinite(value) else None


class Exact:
    """Fractions; a result too long is cut to more digits than any float64 can tell."""

    def number(self, value: float | Fraction) -> Number:
        return Fraction(value)

    def total(self, values: Sequence[Number]) -> Number:
        return sum(values, Fraction(0))

    def root(self, value: Number) -> Number:
        return self._function(mpmath.sqrt, value) if value >= 0 else math.nan

    def log(self, value: Number) -> Number:
        return self._function(mpmath.log, value) if value > 0 else math.nan

    def exp(self, value: Number) -> Number:
        return self._function(mpmath.exp, value) if value < 710 else math.inf

    def shortened(self, value: Number) -> Number:
        return shortened(Fraction(value))

    def checked(self, value: Number) -> Value:
        """Null for what float64 can't hold."""
        if isinstance(value, float) or abs(value) >= LARGEST:
            return None
        return shortened(value)

    def _function(self, function: Callable[[Any], Any], value: Number) -> Number:
        value = Fraction(value)
        with mpmath.workprec(WORKING_BITS):
            result = function(mpmath.mpf(value.numerator) / value.denominator)
            return Fraction(*mpmath.libmp.to_rational(result._mpf_))


def shortened(value: Fraction) -> Fraction:
    """The value to `WORKING_BITS` bits, where it has many more."""
    top, bottom = value.numerator.bit_length(), value.denominator.bit_length()
    shift = WORKING_BITS + bottom - top
    if bottom <= 2 * WORKING_BITS or shift <= 0:
        return value
    return Fraction((value.numerator << shift) // value.denominator, 1 << shift)


Arithmetic = Float | Exact
ARITHMETIC: dict[str, Arithmetic] = {"float": Float(), "exact": Exact()}


# -- functions of one row -----------------------------------------------------------------------

ARITHMETIC_FUNCTIONS: dict[str, Callable[[Arithmetic, Number, Number], Number]] = {
    "+": lambda a, x, y: x + y,
    "-": lambda a, x, y: x - y,
    "*": lambda a, x, y: x * y,
    "/": lambda a, x, y: ratio(x, y),
    "negative": lambda a, x, y: -x,
    "abs": lambda a, x, y: max(x, -x),
    "log": lambda a, x, y: a.log(x),
    "exp": lambda a, x, y: a.exp(x),
    "sqrt": lambda a, x, y: a.root(x),
    "min_of": lambda a, x, y: min(x, y),
    "max_of": lambda a, x, y: max(x, y),
    "not": lambda a, x, y: 1 - x,
    "<": lambda a, x, y: a.number(x < y),
    "<=": lambda a, x, y: a.number(x <= y),
    ">": lambda a, x, y: a.number(x > y),
    ">=": lambda a, x, y: a.number(x >= y),
    "==": lambda a, x, y: a.number(x == y),
    "!=": lambda a, x, y: a.number(x != y),
}


def kleene(a: Arithmetic, name: str, x: Value, y: Value) -> Value:
    """And, or: one operand can decide alone; else a null is null."""
    decisive = 0 if name == "&" else 1
    if decisive in (x, y):
        return a.number(decisive)
    return None if x is None or y is None else a.number(1 - decisive)


def function(a: Arithmetic, name: str, operands: Sequence[Value]) -> Value:
    """A function of the values of one row."""
    first, *others = operands
    match name:
        case "is_null":
            return a.number(first is None)
        case "fill_null":
            return others[0] if first is None else first
        case "when":
            return None if first is None else others[0] if first else others[1]
        case "&" | "|":
            return kleene(a, name, first, others[0])
    x, y = first, others[0] if others else a.number(0)
    if x is None or y is None:
        return None
    return a.checked(ARITHMETIC_FUNCTIONS[name](a, x, y))


# -- aggregates of a window ---------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """The valid rows of a window, oldest first: times, values, and those of a second column."""

    t: list[int]
    x: list[Number]
    y: list[Number]


def mean(a: Arithmetic, x: Sequence[Number]) -> Number:
    return a.total(x) / len(x)


def products(a: Arithmetic, x: Sequence[Number], y: Sequence[Number]) -> Number:
    """Sum of products of deviations from the means."""
    mean_x, mean_y = mean(a, x), mean(a, y)
    return a.total([(v - mean_x) * (w - mean_y) for v, w in zip(x, y, strict=True)])


def variance(a: Arithmetic, x: Sequence[Number]) -> Number:
    return products(a, x, x) / (len(x) - 1)


def has_spread(x: Sequence[Number] | Sequence[int]) -> bool:
    return max(x) > min(x)


def standardised(a: Arithmetic, x: Sequence[Number], power: int) -> Number:
    """The central moment of this power, over that power of the standard deviation."""
    middle = mean(a, x)
    squares = [(v - middle) * (v - middle) for v in x]
    m2 = a.total(squares) / len(x)
    if not has_spread(x):
        return math.nan
    if power == 3:
        m3 = a.total([s * (v - middle) for s, v in zip(squares, x, strict=True)]) / len(x)
        return ratio(m3, m2 * a.root(m2))
    return ratio(a.total([s * s for s in squares]) / len(x), m2 * m2)


def ratio(x: Number, y: Number) -> Number:
    return x / y if y != 0 else math.nan


def correlation(a: Arithmetic, x: Sequence[Number], y: Sequence[Number]) -> Number:
    if not has_spread(x) or not has_spread(y):
        return math.nan
    spread = a.root(products(a, x, x)) * a.root(products(a, y, y))
    return ratio(products(a, x, y), spread)


def slope(a: Arithmetic, x: Sequence[Number], times_ns: Sequence[int]) -> Number:
    t = [a.number(Fraction(instant - times_ns[0], 10**9)) for instant in times_ns]
    return ratio(products(a, x, t), products(a, t, t)) if has_spread(t) else math.nan


def weighted_mean(a: Arithmetic, x: Sequence[Number], weights: Sequence[Number]) -> Number:
    weight = a.total(weights)
    moment = a.total([v * w for v, w in zip(x, weights, strict=True)])
    return ratio(moment, weight)


def quantile(a: Arithmetic, x: Sequence[Number], share: float) -> Number:
    ordered = sorted(x)
    place = a.number(share) * (len(x) - 1)
    below = math.floor(place)
    lower, upper = ordered[below], ordered[min(below + 1, len(x) - 1)]
    return lower + (place - below) * (upper - lower)


def exponential_mean(a: Arithmetic, x: Sequence[Number], alpha: float) -> Number:
    weight = a.number(alpha)
    m = x[0]
    for value in x[1:]:
        m = (1 - weight) * m + weight * value
        m = a.shortened(m)
    return m


AGGREGATES: dict[str, Callable[[Arithmetic, Window, float], Number]] = {
    "mean": lambda a, w, p: mean(a, w.x),
    "sum": lambda a, w, p: a.total(w.x),
    "var": lambda a, w, p: variance(a, w.x),
    "std": lambda a, w, p: a.root(variance(a, w.x)),
    "rms": lambda a, w, p: a.root(a.total([v * v for v in w.x]) / len(w.x)),
    "skew": lambda a, w, p: standardised(a, w.x, 3),
    "kurtosis": lambda a, w, p: standardised(a, w.x, 4) - 3,
    "min": lambda a, w, p: min(w.x),
    "max": lambda a, w, p: max(w.x),
    "first": lambda a, w, p: w.x[0],
    "last": lambda a, w, p: w.x[-1],
    "cov": lambda a, w, p: products(a, w.x, w.y) / (len(w.x) - 1),
    "corr": lambda a, w, p: correlation(a, w.x, w.y),
    "slope": lambda a, w, p: slope(a, w.x, w.t),
    "weighted_mean": lambda a, w, p: weighted_mean(a, w.x, w.y),
    "quantile": lambda a, w, p: quantile(a, w.x, p),
    "ewm_mean": lambda a, w, p: exponential_mean(a, w.x, p),
}


def valid(expr: Windowed, window: Sequence[Sample]) -> Window:
    """The rows that count: those without a null."""
    rows = Window([], [], [])
    for ts, x, y in window:
        if x is None or (len(expr.args) > 1 and y is None):
            continue
        rows.t.append(ts)
        rows.x.append(x)
        if y is not None:
            rows.y.append(y)
    return rows


def aggregate(a: Arithmetic, expr: Windowed, window: Sequence[Sample]) -> Value:
    """The aggregate over the rows of one window, oldest first."""
    rows = valid(expr, window)
    if expr.aggregate.name == "count":
        return a.number(len(rows.x))
    if len(rows.x) < expr.min_samples:
        return None
    numbers = Window(rows.t, list(map(a.number, rows.x)), list(map(a.number, rows.y)))
    return a.checked(AGGREGATES[expr.aggregate.name](a, numbers, expr.parameter))


# -- the promised accuracy ----------------------------------------------------------------------


def _spread(values: Sequence[Number] | Sequence[int]) -> float:
    return float(max(values) - min(values))


SCALES: dict[str, Callable[[Window], float]] = {
    "exact": lambda w: 0.0,
    "1": lambda w: 1.0,
    "n": lambda w: float(len(w.x)),
    "sqrt(n)": lambda w: math.sqrt(len(w.x)),
    "max |x|": lambda w: float(max(*w.x, *(-x for x in w.x))),
    "sum |x|": lambda w: math.fsum(abs(float(value)) for value in w.x),
    "max x - min x": lambda w: _spread(w.x),
    "(max x - min x)^2": lambda w: _spread(w.x) ** 2,
    "(max x - min x)(max y - min y)": lambda w: _spread(w.x) * _spread(w.y),
    "(max x - min x) / (max t - min t)": lambda w: (
        _spread(w.x) / (_spread(w.t) * 1e-9) if has_spread(w.t) else 0.0
    ),
}


def windowed_error_scale(expr: Windowed, window: Sequence[Sample]) -> float:
    """What the error of the aggregate over this window is measured against, as a number."""
    rows = valid(expr, window)
    return SCALES[expr.scale](rows) if rows.x else 0.0


def allowed_error(expr: Windowed, window: Sequence[Sample]) -> float:
    """1e-9 of the scale, or 4 times the error of the two-pass float64 computation."""
    exact = aggregate(ARITHMETIC["exact"], expr, window)
    rough = aggregate(ARITHMETIC["float"], expr, window)
    scale = windowed_error_scale(expr, window)
    if exact is None or rough is None:
        return 1e-9 * scale
    return max(1e-9 * scale, 4 * float(abs(Fraction(rough) - Fraction(exact))))
