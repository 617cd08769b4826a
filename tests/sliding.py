"""Calls the sliding kernels directly: windows of one run, with any cache and any history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from operators import aggregates as agg
from operators.expr import Expr, Windowed
from operators.history import Cache
from operators.kernels import runs
from operators.streams import Field, Stream
from operators.windows import Span
from tests.naive_numbers import Sample

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PLAIN = Stream("rows", "key", (Field("x"), Field("y")))
X, Y = PLAIN.col("x"), PLAIN.col("y")
NONE = np.zeros(1, np.int64)
LAST_BASE = 9
"""The last place of the arena at which a run may begin."""


def over(aggregate: agg.Aggregate, parameter: float = 0.0) -> Windowed:
    """The aggregate over windows that the test chooses, null only where it is not defined."""
    args: tuple[Expr, ...] = (X, Y) if aggregate in TWO_COLUMNS else (X,)
    return Windowed(aggregate, args, Span(1), max(aggregate.least, 0), parameter)


TWO_COLUMNS = (agg.COV, agg.CORR, agg.WEIGHTED_MEAN)
AGGREGATES = {
    **{
        each.name: over(each)
        for each in (
            agg.COUNT, agg.MEAN, agg.VAR, agg.STD, agg.RMS, agg.SKEW, agg.KURTOSIS, agg.MIN,
            agg.MAX, agg.SUM, agg.FIRST, agg.LAST, agg.COV, agg.CORR, agg.SLOPE, agg.WEIGHTED_MEAN,
        )
    },
    "ewm_mean": over(agg.EWM_MEAN, 2 / 13),
    "median": over(agg.QUANTILE, 0.5),
    "quantile": over(agg.QUANTILE, 0.15),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Rows of one run: times that do not fall, and two columns with NaN for null."""

    ts: Ints
    x: Floats
    y: Floats

    def __len__(self) -> int:
        return len(self.ts)

    def sample(self, low: int, high: int) -> list[Sample]:
        """The rows of one window as the oracle takes them."""
        return [
            (int(t), None if math.isnan(v) else float(v), None if math.isnan(w) else float(w))
            for t, v, w in zip(
                self.ts[low:high], self.x[low:high], self.y[low:high], strict=True
            )
        ]  # fmt: skip


@dataclass
class Slider:
    """One family's kernel over one run that lies somewhere in an arena, with its cache."""

    run: Run
    aggregate: Windowed
    base: int = 3
    cache: Cache = field(init=False)

    def __post_init__(self) -> None:
        self.move(self.base)
        self.cache = Cache(self.aggregate.aggregate.family.width)
        self.cache.fit(1, len(self.ts))

    def move(self, base: int) -> None:
        """Puts the rows elsewhere in the arena; what the cache remembers stays where it was."""
        self.base = base
        size = LAST_BASE + len(self.run) + 1
        self.ts, self.x, self.y = np.zeros(size, np.int64), np.full(size, 7e7), np.full(size, 9e9)
        inside = slice(base, base + len(self.run))
        self.ts[inside], self.x[inside], self.y[inside] = self.run.ts, self.run.x, self.run.y

    def ask(self, lo: Ints, hi: Ints, owner: int = 0) -> Floats:
        """The aggregate over each of the windows ``lo[q] .. hi[q]``."""
        aggregate, p = self.aggregate.aggregate, self.aggregate.parameter
        family, count = aggregate.family, len(lo)
        sums = np.empty((family.results, count))
        y = self.y if len(self.aggregate.args) > 1 else self.x
        family.slide(
            p, NONE, np.array([owner]), np.array([0, count]), np.array([self.base]), self.ts,
            self.x, y, lo, hi, self.cache.marks, self.cache.state, self.cache.suffix, sums,
        )  # fmt: skip
        result = np.empty(count)
        aggregate.finish(sums, p, self.aggregate.min_samples, result)
        return result


def row_windows(run: Run, rows: int) -> tuple[Ints, Ints]:
    """Windows over so many last rows, one ending at each row."""
    hi = np.arange(1, len(run) + 1)
    return runs.windows_of_rows(hi, np.zeros_like(hi), rows), hi


def span_windows(run: Run, span_ns: int) -> tuple[Ints, Ints]:
    """Windows over (t - span, t], one for each row."""
    hi = np.arange(1, len(run) + 1)
    start = np.array([0, len(run)])
    lo = runs.windows_of_span(
        run.ts, NONE, start, hi, np.zeros_like(hi), run.ts, NONE, NONE, span_ns, 1
    )
    return lo, hi


def bits(values: Sequence[float] | Floats) -> list[Any]:
    """The values bit by bit; nulls are alike."""
    array = np.asarray(values, np.float64)
    return [
        None if math.isnan(v) else int(b) for v, b in zip(array, array.view(np.int64), strict=True)
    ]
