"""The expression language: what a feature is, over the rows of its entity.

Names follow polars and pandas. An expression is a value: building one computes nothing, but its
type, unit, warm-up and formula are checked and known at once.

Nulls: arithmetic and comparisons with a null are null, and a result that is not finite (a division
by zero, the logarithm of a negative number) is null; ``&`` and ``|`` are Kleene's. Windows skip
null rows, and are null with fewer than ``min_samples`` others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import numpy as np

from operators import aggregates as agg
from operators.durations import parse_duration_ns
from operators.elementwise import FUNCTIONS, Elementwise
from operators.fluent import Fluent
from operators.instants import Instants, digest
from operators.measures import SpectralMeasure
from operators.units import ONE, Unit
from operators.windows import Rows, Span, WarmUp, Whole, Window

SECOND = Unit.named("s")


def refuse(where: str, must: str, got: object) -> NoReturn:
    """Raises the error of a declaration that does not fit."""
    msg = f"{where}: {must}, got {got}"
    raise TypeError(msg)


def _window(where: str, window: int | str | None) -> Window:
    if window is None:
        return Whole()
    if isinstance(window, str):
        return Span(parse_duration_ns(window))
    if type(window) is not int or window < 1:
        refuse(where, "a window must be a number of rows of at least 1 or a duration", repr(window))
    return Rows(window)


class Expr(Fluent):
    """An expression. Build one from a column: ``bars.col("close").pct_change(1)``."""

    kind: str = "number"
    """``number``, ``count``, ``flag`` or ``samples``."""
    unit: Unit = ONE
    args: tuple[Expr, ...]
    """Expressions it is computed from."""
    scale: str = "exact"
    nulls: str = "null where an operand is null"
    cost_ns: int = 2

    @property
    def home(self) -> Instants | None:
        """Where its rows are, if they all are of one kind; None for constants and mixtures."""
        return common_home(self.args)

    @property
    def is_constant(self) -> bool:
        """Whether it has no rows at all."""
        return bool(self.args) and all(arg.is_constant for arg in self.args)

    @property
    def warm_up(self) -> WarmUp:
        """What must have been seen before its value is settled."""
        warm = WarmUp()
        for arg in self.args:
            warm = warm.both(arg.warm_up)
        return warm

    @property
    def formula(self) -> str:
        """The expression as people write it."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """Stable identity of the computation."""
        parts = [arg.fingerprint for arg in self.args]
        return digest(type(self).__name__, *self.parameters(), *parts)

    def parameters(self) -> tuple[object, ...]:
        """What tells it from other expressions of its class over the same arguments."""
        return ()

    def __repr__(self) -> str:
        return f"<{self.kind} [{self.unit}] {self.formula}>"

    # -- what the methods of Fluent build ---------------------------------------------------

    def _apply(self, name: str, *others: Operand) -> Expr:
        return Function(FUNCTIONS[name], (self, *map(as_expr, others)))

    def _operand(self, other: Operand) -> Expr:
        return as_expr(other)

    def _refuse(self, method: str, must: str, got: object) -> NoReturn:
        refuse(f"`{self.formula}`{method}", must, got)

    def _before(self, rows: int) -> Expr:
        return Shift(self, rows)

    def _over(
        self,
        aggregate: agg.Aggregate,
        window: int | str | None,
        min_samples: int | None = None,
        *others: Expr,
        parameter: float = 0.0,
    ) -> Expr:
        where = f"`{self.formula}`.{aggregate.name}"
        args = (self, *others)
        return Windowed(aggregate, args, _window(where, window), min_samples, parameter)

    def _crossings(self) -> Expr:
        return ZeroCrossings(self)

    def _spectral(self, measure: SpectralMeasure, low: float, high: float, shares: bool) -> Expr:
        return Spectral(self, measure, low, high, shares)

    def _across(self, how: str, rows: int = 0) -> Expr:
        return Across(self, how, rows)


Operand = Expr | float | int | bool


def common_home(exprs: tuple[Expr, ...]) -> Instants | None:
    """The one kind of rows that all of the expressions are of, if there is one."""
    homes = {
        home.fingerprint if home else None: home
        for home in (expr.home for expr in exprs if not expr.is_constant)
    }
    return next(iter(homes.values())) if len(homes) == 1 else None


def as_expr(value: object) -> Expr:
    """The expression, or the number as a constant one."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, (int, float, np.floating, np.integer)) and math.isfinite(value):
        return Constant(float(value), "flag" if isinstance(value, bool) else "number")
    refuse("an operand", "must be an expression or a finite number", repr(value))


def _number(where: str, arg: Expr) -> None:
    if arg.kind == "samples":
        refuse(where, "must be over one value per row; take a feature of the samples first", arg)


class OfFrame(Expr):
    """A feature of a whole frame of samples, at the set's own instants."""

    arg: Expr

    @property
    def args(self) -> tuple[Expr, ...]:  # type: ignore[override]
        return (self.arg,)

    @property
    def home(self) -> Instants | None:
        return None


class Leaf(Expr):
    """An expression that is computed from no other, at the rows of ``at``."""

    args = ()
    at: Instants

    @property
    def home(self) -> Instants | None:
        return self.at

    @property
    def is_constant(self) -> bool:
        return False


@dataclass(frozen=True, eq=False, repr=False)
class Constant(Expr):
    """A number; without a unit it takes on that of what it is combined with."""

    value: float
    kind: str = "number"
    unit: Unit = ONE
    args = ()

    @property
    def is_constant(self) -> bool:
        return True

    @property
    def formula(self) -> str:
        return f"{self.value:g}"

    def parameters(self) -> tuple[object, ...]:
        return (self.value.hex(), self.kind, self.unit)


@dataclass(frozen=True, eq=False, repr=False)
class Column(Leaf):
    """A column of the rows at some instants."""

    at: Instants
    name: str
    unit: Unit = ONE
    kind: str = "number"
    nulls: str = "null where the row has none"
    cost_ns: int = 1

    @property
    def formula(self) -> str:
        return f"{self.at.name}.{self.name}"

    def parameters(self) -> tuple[object, ...]:
        return (self.at.fingerprint, self.name)


@dataclass(frozen=True, eq=False, repr=False)
class SeriesSeconds(Leaf):
    """The duration that the series' name spells (a timeframe such as ``1h``), in seconds."""

    at: Instants
    unit: Unit = SECOND
    nulls: str = "null where the name is no duration"

    @property
    def formula(self) -> str:
        return f"{self.at.name}.{self.at.series}"

    def parameters(self) -> tuple[object, ...]:
        return (self.at.fingerprint,)


@dataclass(frozen=True, eq=False, repr=False)
class Elapsed(Leaf):
    """Seconds since the row ``rows`` rows before; of another stream, since its last row."""

    at: Instants
    rows: int = 1
    unit: Unit = SECOND
    nulls: str = "null where there is no such row"
    scale: str = "1 ns"

    @property
    def warm_up(self) -> WarmUp:
        return WarmUp(1 + self.rows)

    @property
    def formula(self) -> str:
        return f"{self.at.name}.elapsed({self.rows})"

    def parameters(self) -> tuple[object, ...]:
        return (self.at.fingerprint, self.rows)


@dataclass(frozen=True, eq=False, repr=False)
class OffGrid(Leaf):
    """Seconds of the row's time past the last multiple of the series' own duration."""

    at: Instants
    unit: Unit = SECOND
    nulls: str = "null where the series' name is no duration"

    @property
    def formula(self) -> str:
        return f"{self.at.name}.ts mod {self.at.series}"

    def parameters(self) -> tuple[object, ...]:
        return (self.at.fingerprint,)


def _known_unit(arg: Expr) -> Unit | None:
    """The unit of an operand; None for plain numbers, which take on that of the others."""
    return None if arg.is_constant and arg.unit == ONE else arg.unit


@dataclass(frozen=True, eq=False, repr=False)
class Function(Expr):
    """A function of values of one row."""

    function: Elementwise
    args: tuple[Expr, ...]

    def __post_init__(self) -> None:
        where = f"`{self.formula}`"
        for arg in self.args:
            _number(where, arg)
            if self.function.takes_flags and arg.kind != "flag":
                refuse(where, "operands must be flags", f"{arg.kind} `{arg.formula}`")
        self.function.unit(where, [_known_unit(arg) for arg in self.args])

    @property
    def kind(self) -> str:  # type: ignore[override]
        kinds = {arg.kind for arg in self.args[-2:]}
        passed = kinds.pop() if len(kinds) == 1 else "number"
        return self.function.kind or passed

    @property
    def unit(self) -> Unit:  # type: ignore[override]
        return self.function.unit("", [_known_unit(arg) for arg in self.args])

    @property
    def scale(self) -> str:  # type: ignore[override]
        return self.function.scale

    @property
    def nulls(self) -> str:  # type: ignore[override]
        return self.function.nulls

    @property
    def formula(self) -> str:
        return self.function.show(*(self._shown(i, arg) for i, arg in enumerate(self.args)))

    def _shown(self, place: int, arg: Expr) -> str:
        product = isinstance(arg, Function) and arg.function.name in {"*", "/"}
        divisor = self.function.name == "/" and place == 1
        return f"({arg.formula})" if divisor and product else arg.formula

    def parameters(self) -> tuple[object, ...]:
        return (self.function.name,)


@dataclass(frozen=True, eq=False, repr=False)
class Shift(Expr):
    """The value some rows before."""

    arg: Expr
    rows: int

    def __post_init__(self) -> None:
        where = f"`{self.arg.formula}`.shift"
        _number(where, self.arg)
        if type(self.rows) is not int or self.rows < 1:
            refuse(where, "`rows` must be a whole number of at least 1", repr(self.rows))

    @property
    def args(self) -> tuple[Expr, ...]:  # type: ignore[override]
        return (self.arg,)

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.arg.kind

    @property
    def unit(self) -> Unit:  # type: ignore[override]
        return self.arg.unit

    @property
    def nulls(self) -> str:  # type: ignore[override]
        return "null where there is no such row"

    @property
    def warm_up(self) -> WarmUp:
        return self.arg.warm_up.then(self.rows, 0)

    @property
    def formula(self) -> str:
        return f"{_operand(self.arg)}.shift({self.rows})"

    def parameters(self) -> tuple[object, ...]:
        return (self.rows,)


def _operand(arg: Expr) -> str:
    return f"({arg.formula})" if isinstance(arg, Function) else arg.formula


@dataclass(frozen=True, eq=False, repr=False)
class Windowed(Expr):
    """An aggregate over a window of rows."""

    aggregate: agg.Aggregate
    args: tuple[Expr, ...]
    window: Window
    given_min_samples: int | None
    parameter: float = 0.0

    def __post_init__(self) -> None:
        where = f"`{self.formula}`"
        if not isinstance(self.window, Whole):
            for arg in self.args:
                _number(where, arg)
        least = self.aggregate.least
        if isinstance(self.window, Rows) and self.window.rows < least:
            refuse(where, f"the window must hold at least {least} rows", self.window.rows)
        if self.min_samples < least:
            refuse(where, f"`min_samples` must be at least {least}", self.min_samples)
        if isinstance(self.window, Rows) and self.min_samples > self.window.rows:
            refuse(where, "`min_samples` must fit into the window", self.min_samples)
        if len(self.args) > 1 and common_home(self.args) is None:
            homes = [arg.home.name if arg.home else "several streams" for arg in self.args]
            refuse(where, "both columns must be of the same rows", homes)

    @property
    def home(self) -> Instants | None:
        return None if isinstance(self.window, Whole) else common_home(self.args)

    @property
    def min_samples(self) -> int:
        """Rows with a value without which the result is null."""
        if self.given_min_samples is not None:
            return self.given_min_samples
        return self.window.rows if isinstance(self.window, Rows) else self.aggregate.least

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.aggregate.kind

    @property
    def unit(self) -> Unit:  # type: ignore[override]
        return self.aggregate.unit(tuple(arg.unit for arg in self.args))

    @property
    def scale(self) -> str:  # type: ignore[override]
        return self.aggregate.scale

    @property
    def nulls(self) -> str:  # type: ignore[override]
        few = f"; null with fewer than {self.min_samples}" if self.min_samples else "; never null"
        return self.aggregate.nulls + few

    @property
    def cost_ns(self) -> int:  # type: ignore[override]
        return self.aggregate.cost_ns

    @property
    def warm_up(self) -> WarmUp:
        rows = self.window.rows - 1 if isinstance(self.window, Rows) else 0
        span_ns = self.window.span_ns if isinstance(self.window, Span) else 0
        return super().warm_up.then(rows, span_ns)

    @property
    def formula(self) -> str:
        inner = [arg.formula for arg in self.args[1:]]
        if self.parameter:
            inner.append(f"{self.parameter:.6g}")
        if not isinstance(self.window, Whole):
            inner.append(str(self.window))
        prefix = (
            "" if isinstance(self.window, Whole) or self.aggregate is agg.EWM_MEAN else "rolling_"
        )
        return f"{_operand(self.args[0])}.{prefix}{self.aggregate.name}({', '.join(inner)})"

    def parameters(self) -> tuple[object, ...]:
        return (self.aggregate.name, self.window, self.min_samples, self.parameter.hex())


@dataclass(frozen=True, eq=False, repr=False)
class ZeroCrossings(OfFrame):
    """Share of sign changes in a frame."""

    arg: Expr
    nulls: str = "null samples are skipped; null with fewer than 2"
    scale: str = "exact count over exact count"
    cost_ns: int = 300

    @property
    def formula(self) -> str:
        return f"{_operand(self.arg)}.zero_crossing_rate()"


@dataclass(frozen=True, eq=False, repr=False)
class Spectral(OfFrame):
    """A number read off the one-sided power density of a frame, Hann taper, mean removed."""

    arg: Expr
    measure: SpectralMeasure
    low: float = 0.0
    high: float = 0.0
    of_nyquist: bool = False
    nulls: str = "null unless every sample is there; all but band powers, without power"
    cost_ns: int = 3000

    @property
    def unit(self) -> Unit:  # type: ignore[override]
        return self.measure.unit(self.arg.unit)

    @property
    def scale(self) -> str:  # type: ignore[override]
        return self.measure.scale

    @property
    def formula(self) -> str:
        settings = f"{self.low:g}" if self.low or self.high else ""
        settings += f", {self.high:g}" if self.high else ""
        settings += " of Nyquist" if self.of_nyquist else ""
        return f"{_operand(self.arg)}.{self.measure.name}({settings})"

    def parameters(self) -> tuple[object, ...]:
        return (self.measure.name, self.low.hex(), self.high.hex(), self.of_nyquist)


@dataclass(frozen=True, eq=False, repr=False)
class GridCoverage(OfFrame):
    """Share of a hop window's grid cells, or of a message's samples, that hold a value."""

    arg: Expr
    nulls: str = "never null"
    cost_ns: int = 300

    @property
    def formula(self) -> str:
        return f"coverage({self.arg.formula})"


@dataclass(frozen=True, eq=False, repr=False)
class Across(Expr):
    """An aggregate over the series of an entity at one instant."""

    arg: Expr
    how: str
    rows: int = 0
    nulls: str = "series without a value are skipped; null without any"
    scale: str = "max |x|"

    def __post_init__(self) -> None:
        where = f"`{self.formula}`"
        _number(where, self.arg)
        if self.arg.home is None or self.arg.home.series is None:
            refuse(
                where, "must be over the rows of series", f"`{self.arg.formula}`, which has none"
            )

    @property
    def args(self) -> tuple[Expr, ...]:  # type: ignore[override]
        return (self.arg,)

    @property
    def home(self) -> Instants | None:
        return None

    @property
    def kind(self) -> str:  # type: ignore[override]
        return "count" if self.how == "count" else "number"

    @property
    def unit(self) -> Unit:  # type: ignore[override]
        return ONE if self.how in {"count", "corr"} else self.arg.unit

    @property
    def warm_up(self) -> WarmUp:
        return self.arg.warm_up.then(max(self.rows - 1, 0), 0)

    @property
    def formula(self) -> str:
        return f"{_operand(self.arg)}.across_{self.how}({self.rows or ''})"

    def parameters(self) -> tuple[object, ...]:
        return (self.how, self.rows)


def min_of(a: Operand, b: Operand) -> Expr:
    """The smaller of two values of a row."""
    return Function(FUNCTIONS["min_of"], (as_expr(a), as_expr(b)))


def max_of(a: Operand, b: Operand) -> Expr:
    """The larger of two values of a row."""
    return Function(FUNCTIONS["max_of"], (as_expr(a), as_expr(b)))


@dataclass(frozen=True, slots=True)
class _Then:
    condition: Expr
    value: Expr

    def otherwise(self, value: Operand) -> Expr:
        """The expression: one value where the condition holds, another where it does not."""
        return Function(FUNCTIONS["when"], (self.condition, self.value, as_expr(value)))


@dataclass(frozen=True, slots=True)
class _When:
    condition: Expr

    def then(self, value: Operand) -> _Then:
        """The value where the condition holds."""
        return _Then(self.condition, as_expr(value))


def when(condition: Expr) -> _When:
    """``when(condition).then(value).otherwise(other)``; null where the condition is null."""
    return _When(condition)
