"""The aggregates, one row of a table each: what is computed, by which kernel, under which rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from operators.kernels import ends, extrema, frames, moments, pairs, quantiles, smoothing, totals
from operators.units import ONE, Unit

Kernel = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Family:
    """A sliding kernel and the results it leaves for its aggregates to finish."""

    name: str
    slide: Kernel
    results: int
    width: int
    """Floats of cache per row."""
    over_frame: Kernel | None = None
    """The same results over a frame of samples."""
    covers: str = ""
    """Another family whose results begin with this one's, bit for bit."""


SHAPE = Family("shape", moments.shape, 5, 5, frames.frame_moments)
LEVEL = Family("level", moments.level, 3, 3, frames.frame_moments, covers="shape")
EXTREMA = Family("extrema", extrema.extrema, 3, 3, frames.frame_extrema)
TOTALS = Family("totals", totals.totals, 2, 3, frames.frame_totals)
ENDS = Family("ends", ends.ends, 3, 3, frames.frame_ends)
PAIRS = Family("pairs", pairs.pairs, 4, 6)
TREND = Family("trend", pairs.trend, 4, 6)
WEIGHTED = Family("weighted", pairs.weighted, 2, 3)
SMOOTHING = Family("smoothing", smoothing.smoothing, 2, 4)
QUANTILES = Family("quantiles", quantiles.quantiles, 2, 1)


def _same(units: tuple[Unit, ...]) -> Unit:
    return units[0]


def _one(units: tuple[Unit, ...]) -> Unit:
    return ONE


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One aggregate over the rows of a window."""

    name: str
    formula: str
    family: Family
    finish: Kernel
    unit: Callable[[tuple[Unit, ...]], Unit]
    scale: str
    """What its error is measured against."""
    least: int = 1
    """Valid rows without which it is not defined."""
    nulls: str = "null rows are skipped"
    kind: str = "number"
    cost_ns: int = 20
    """Rough cost per row on one core; ``docs/measured.md`` says on which."""


MEAN = Aggregate("mean", "sum(x) / n", LEVEL, moments.mean, _same, "max |x|")
SUM = Aggregate("sum", "sum(x)", TOTALS, totals.total, _same, "sum |x|")
COUNT = Aggregate("count", "n", LEVEL, moments.count, _one, "exact", 0, kind="count")
VAR = Aggregate(
    "var", "sum((x - mean)^2) / (n - 1)", LEVEL, moments.var,
    lambda u: u[0] * u[0], "(max x - min x)^2", 2,
)  # fmt: skip
STD = Aggregate("std", "sqrt(var)", LEVEL, moments.std, _same, "max x - min x", 2)
RMS = Aggregate("rms", "sqrt(sum(x^2) / n)", LEVEL, moments.rms, _same, "max |x|")
SKEW = Aggregate(
    "skew", "m3 / m2^1.5, m_k = sum((x - mean)^k) / n", SHAPE, moments.skew, _one, "sqrt(n)", 2,
    "null rows are skipped; null without spread", cost_ns=25,
)  # fmt: skip
KURTOSIS = Aggregate(
    "kurtosis", "m4 / m2^2 - 3, m_k = sum((x - mean)^k) / n", SHAPE, moments.kurtosis, _one, "n", 2,
    "null rows are skipped; null without spread", cost_ns=25,
)  # fmt: skip
MIN = Aggregate("min", "min(x)", EXTREMA, extrema.smallest, _same, "exact", cost_ns=15)
MAX = Aggregate("max", "max(x)", EXTREMA, extrema.largest, _same, "exact", cost_ns=15)
FIRST = Aggregate("first", "oldest x", ENDS, ends.first, _same, "exact", cost_ns=15)
LAST = Aggregate("last", "newest x", ENDS, ends.last, _same, "exact", cost_ns=15)
COV = Aggregate(
    "cov", "sum((x - mean x)(y - mean y)) / (n - 1)", PAIRS, pairs.cov,
    lambda u: u[0] * u[1], "(max x - min x)(max y - min y)", 2,
    "rows where either is null are skipped", cost_ns=30,
)  # fmt: skip
CORR = Aggregate(
    "corr", "cov(x, y) / (std(x) std(y))", PAIRS, pairs.corr, _one, "1", 2,
    "rows where either is null are skipped; null without spread", cost_ns=30,
)  # fmt: skip
SLOPE = Aggregate(
    "slope", "cov(x, t) / var(t), t in seconds", TREND, pairs.slope,
    lambda u: u[0] / Unit.named("s"), "(max x - min x) / (max t - min t)", 2,
    "null rows are skipped; null where all times are equal", cost_ns=30,
)  # fmt: skip
WEIGHTED_MEAN = Aggregate(
    "weighted_mean", "sum(x w) / sum(w)", WEIGHTED, pairs.weighted_mean, _same,
    "max |x|", 1, "rows where either is null are skipped; null where the weights sum to 0",
)  # fmt: skip
EWM_MEAN = Aggregate(
    "ewm_mean", "m <- (1 - alpha) m + alpha x over the window, from its oldest value",
    SMOOTHING, smoothing.exponential_mean, _same, "max |x|",
)  # fmt: skip
QUANTILE = Aggregate(
    "quantile", "linear between order statistics (Hyndman and Fan 1996, type 7)",
    QUANTILES, quantiles.quantile, _same, "max |x|", cost_ns=120,
)  # fmt: skip
