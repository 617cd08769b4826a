"""What people write after the dot: the methods of expressions, by family.

Only names and defaults live here; :mod:`operators.expr` says what they build.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NoReturn

from operators import aggregates as agg
from operators import measures

if TYPE_CHECKING:
    from operators.expr import Expr, Operand

SMOOTHING_REMAINDER = 1e-12
"""Share of the oldest value that an exponential mean may still hold when its window ends."""


class Fluent:
    """The methods of an expression."""

    if TYPE_CHECKING:
        # What an expression offers to its methods.
        def _apply(self, name: str, *others: Operand) -> Expr: ...
        def _operand(self, other: Operand) -> Expr: ...
        def _refuse(self, method: str, must: str, got: object) -> NoReturn: ...
        def _before(self, rows: int) -> Expr: ...
        def _over(
            self,
            aggregate: agg.Aggregate,
            window: int | str | None,
            min_samples: int | None = None,
            *others: Expr,
            parameter: float = 0.0,
        ) -> Expr: ...
        def _crossings(self) -> Expr: ...
        def _spectral(
            self, measure: measures.SpectralMeasure, low: float, high: float, shares: bool
        ) -> Expr: ...
        def _across(self, how: str, rows: int = 0) -> Expr: ...

    def __bool__(self) -> bool:
        msg = f"{self!r} has no truth value; use `&`, `|` and `~` in place of `and`, `or` and `not`"
        raise TypeError(msg)

    # -- arithmetic, comparison -------------------------------------------------------------

    def __add__(self, other: Operand) -> Expr:
        return self._apply("+", other)

    def __radd__(self, other: Operand) -> Expr:
        return self._operand(other) + self

    def __sub__(self, other: Operand) -> Expr:
        return self._apply("-", other)

    def __rsub__(self, other: Operand) -> Expr:
        return self._operand(other) - self

    def __mul__(self, other: Operand) -> Expr:
        return self._apply("*", other)

    def __rmul__(self, other: Operand) -> Expr:
        return self._operand(other) * self

    def __truediv__(self, other: Operand) -> Expr:
        return self._apply("/", other)

    def __rtruediv__(self, other: Operand) -> Expr:
        return self._operand(other) / self

    def __neg__(self) -> Expr:
        return self._apply("negative")

    def __lt__(self, other: Operand) -> Expr:
        return self._apply("<", other)

    def __le__(self, other: Operand) -> Expr:
        return self._apply("<=", other)

    def __gt__(self, other: Operand) -> Expr:
        return self._apply(">", other)

    def __ge__(self, other: Operand) -> Expr:
        return self._apply(">=", other)

    def __eq__(self, other: object) -> Expr:  # type: ignore[override]
        return self._apply("==", other)  # type: ignore[arg-type]

    def __ne__(self, other: object) -> Expr:  # type: ignore[override]
        return self._apply("!=", other)  # type: ignore[arg-type]

    __hash__ = object.__hash__

    def __and__(self, other: Operand) -> Expr:
        return self._apply("&", other)

    def __or__(self, other: Operand) -> Expr:
        return self._apply("|", other)

    def __invert__(self) -> Expr:
        return self._apply("not")

    def abs(self) -> Expr:
        """Absolute value."""
        return self._apply("abs")

    def log(self) -> Expr:
        """Natural logarithm; null at or below zero."""
        return self._apply("log")

    def exp(self) -> Expr:
        """Exponential."""
        return self._apply("exp")

    def sqrt(self) -> Expr:
        """Square root; null below zero."""
        return self._apply("sqrt")

    def is_null(self) -> Expr:
        """Whether there is no value; never null itself."""
        return self._apply("is_null")

    def fill_null(self, value: Operand) -> Expr:
        """The value, or another one where it is null."""
        return self._apply("fill_null", value)

    def clip(self, low: Operand, high: Operand) -> Expr:
        """The value, brought into ``low .. high``."""
        return self._apply("min_of", high)._apply("max_of", low)

    # -- rows before ------------------------------------------------------------------------

    def shift(self, rows: int = 1) -> Expr:
        """The value so many rows before."""
        return self._before(rows)

    def diff(self, rows: int = 1) -> Expr:
        """The value minus the one so many rows before."""
        return self - self.shift(rows)

    def pct_change(self, rows: int = 1) -> Expr:
        """Relative change since so many rows before: ``x / x.shift(rows) - 1``."""
        return self / self.shift(rows) - 1.0

    # -- windows ----------------------------------------------------------------------------

    def rolling_mean(self, window: int | str, min_samples: int | None = None) -> Expr:
        """Mean over the last rows, or over (t - span, t].

        Args:
            window: a number of rows, the current one included, or a duration such as ``"1h"``.
            min_samples: rows with a value without which the result is null; by default all of
                a number of rows, and 1 (or what the formula needs) of a duration.
        """
        return self._over(agg.MEAN, window, min_samples)

    def rolling_sum(self, window: int | str, min_samples: int | None = None) -> Expr:
        """Sum; arguments as for :meth:`rolling_mean`."""
        return self._over(agg.SUM, window, min_samples)

    def rolling_count(self, window: int | str) -> Expr:
        """Number of rows with a value; 0, never null, for an empty window."""
        return self._over(agg.COUNT, window, 0)

    def rolling_std(self, window: int | str, min_samples: int | None = None) -> Expr:
        """Sample standard deviation."""
        return self._over(agg.STD, window, min_samples)

    def rolling_var(self, window: int | str, min_samples: int | None = None) -> Expr:
        """Sample variance."""
        return self._over(agg.VAR, window, min_samples)

    def rolling_rms(self, window: int | str, min_samples: int | None = None) -> Expr:
        """Root mean square."""
        return self._over(agg.RMS, window, min_samples)

    def rolling_skew(self, window: int | str, min_samples: int | None = None) -> Expr:
        """Population skewness g1."""
        return self._over(agg.SKEW, window, min_samples)

    def rolling_kurtosis(self, window: int | str, min_samples: int | None = None) -> Expr:
        """Population excess kurtosis g2."""
        return self._over(agg.KURTOSIS, window, min_samples)

    def rolling_min(self, window: int | str, min_samples: int | None = None) -> Expr:
        """Smallest value."""
        return self._over(agg.MIN, window, min_samples)

    def rolling_max(self, window: int | str, min_samples: int | None = None) -> Expr:
        """Largest value."""
        return self._over(agg.MAX, window, min_samples)

    def rolling_first(self, window: int | str, min_samples: int | None = None) -> Expr:
        """Oldest value."""
        return self._over(agg.FIRST, window, min_samples)

    def rolling_last(self, window: int | str, min_samples: int | None = None) -> Expr:
        """Newest value."""
        return self._over(agg.LAST, window, min_samples)

    def rolling_median(self, window: int | str, min_samples: int | None = None) -> Expr:
        """Median."""
        return self._over(agg.QUANTILE, window, min_samples, parameter=0.5)

    def rolling_quantile(
        self, quantile: float, window: int | str, min_samples: int | None = None
    ) -> Expr:
        """Quantile by linear interpolation between order statistics."""
        self._check_quantile(quantile)
        return self._over(agg.QUANTILE, window, min_samples, parameter=quantile)

    def rolling_slope(self, window: int | str, min_samples: int | None = None) -> Expr:
        """Least-squares slope over event time, per second."""
        return self._over(agg.SLOPE, window, min_samples)

    def rolling_weighted_mean(
        self, weights: Expr, window: int | str, min_samples: int | None = None
    ) -> Expr:
        """Mean weighted by another column of the same rows."""
        return self._over(agg.WEIGHTED_MEAN, window, min_samples, weights)

    def rolling_cov(self, other: Expr, window: int | str, min_samples: int | None = None) -> Expr:
        """Sample covariance with another column of the same rows."""
        return self._over(agg.COV, window, min_samples, other)

    def rolling_corr(self, other: Expr, window: int | str, min_samples: int | None = None) -> Expr:
        """Pearson's correlation with another column of the same rows."""
        return self._over(agg.CORR, window, min_samples, other)

    def ewm_mean(self, *, alpha: float | None = None, span: float | None = None) -> Expr:
        """Exponential mean over so many rows that the rest weighs less than 1e-12.

        Args:
            alpha: weight of the newest row, in (0, 1).
            span: the same as ``alpha = 2 / (span + 1)``, as pandas and TA-Lib's EMA have it.
                Wilder's smoothing over n rows (TA-Lib's RSI, ATR) is ``alpha=1/n``.
        """
        if (alpha is None) == (span is None):
            self._refuse(
                ".ewm_mean", "exactly one of `alpha` and `span` must be given", f"{alpha=}, {span=}"
            )
        weight = alpha if alpha is not None else 2.0 / (float(span or 0) + 1.0)
        if not 0.0 < weight < 1.0:
            self._refuse(".ewm_mean", "the weight of the newest row must be in (0, 1)", weight)
        rows = math.ceil(math.log(SMOOTHING_REMAINDER) / math.log1p(-weight))
        return self._over(agg.EWM_MEAN, rows, parameter=weight)

    # -- the window of the set itself: a hop, or a message ----------------------------------

    def mean(self) -> Expr:
        """Mean over the set's own window: its hop, or the samples of its message."""
        return self._over(agg.MEAN, None)

    def sum(self) -> Expr:
        """Sum over the set's own window."""
        return self._over(agg.SUM, None)

    def count(self) -> Expr:
        """Number of values in the set's own window."""
        return self._over(agg.COUNT, None)

    def std(self) -> Expr:
        """Sample standard deviation over the set's own window."""
        return self._over(agg.STD, None)

    def var(self) -> Expr:
        """Sample variance over the set's own window."""
        return self._over(agg.VAR, None)

    def rms(self) -> Expr:
        """Root mean square over the set's own window."""
        return self._over(agg.RMS, None)

    def skew(self) -> Expr:
        """Population skewness over the set's own window."""
        return self._over(agg.SKEW, None)

    def kurtosis(self) -> Expr:
        """Population excess kurtosis over the set's own window."""
        return self._over(agg.KURTOSIS, None)

    def min(self) -> Expr:
        """Smallest value of the set's own window."""
        return self._over(agg.MIN, None)

    def max(self) -> Expr:
        """Largest value of the set's own window."""
        return self._over(agg.MAX, None)

    def first(self) -> Expr:
        """Oldest value of the set's own window."""
        return self._over(agg.FIRST, None)

    def last(self) -> Expr:
        """Newest value of the set's own window."""
        return self._over(agg.LAST, None)

    def median(self) -> Expr:
        """Median of the set's own window."""
        return self._over(agg.QUANTILE, None, parameter=0.5)

    def quantile(self, quantile: float) -> Expr:
        """Quantile of the set's own window."""
        self._check_quantile(quantile)
        return self._over(agg.QUANTILE, None, parameter=quantile)

    def slope(self) -> Expr:
        """Slope over event time, per second, over the set's own window."""
        return self._over(agg.SLOPE, None)

    def weighted_mean(self, weights: Expr) -> Expr:
        """Mean over the set's own window, weighted by another column."""
        return self._over(agg.WEIGHTED_MEAN, None, None, weights)

    def cov(self, other: Expr) -> Expr:
        """Sample covariance over the set's own window."""
        return self._over(agg.COV, None, None, other)

    def corr(self, other: Expr) -> Expr:
        """Correlation over the set's own window."""
        return self._over(agg.CORR, None, None, other)

    def zero_crossing_rate(self) -> Expr:
        """Share of neighbouring samples whose signs differ; zero counts as positive."""
        return self._crossings()

    def dominant_frequency(self) -> Expr:
        """Frequency, in Hz, of the greatest power density but that at zero."""
        return self._spectral(measures.DOMINANT_FREQUENCY, 0.0, 0.0, False)

    def spectral_centroid(self) -> Expr:
        """Mean frequency in Hz, weighted by power density."""
        return self._spectral(measures.CENTROID, 0.0, 0.0, False)

    def spectral_bandwidth(self) -> Expr:
        """Root of the weighted mean square distance from the centroid, in Hz."""
        return self._spectral(measures.BANDWIDTH, 0.0, 0.0, False)

    def spectral_rolloff(self, share: float = 0.85) -> Expr:
        """Lowest frequency, in Hz, at or below which this share of the power lies."""
        return self._spectral(measures.ROLLOFF, share, 0.0, False)

    def spectral_entropy(self) -> Expr:
        """Shannon entropy of the normalised power density, in [0, 1]."""
        return self._spectral(measures.ENTROPY, 0.0, 0.0, False)

    def band_power(self, low: float, high: float, *, of_nyquist: bool = False) -> Expr:
        """Power in ``low <= f < high``; a band that ends at the Nyquist frequency includes it.

        Args:
            low: in Hz, or a share of the Nyquist frequency.
            high: likewise.
            of_nyquist: whether they are shares.
        """
        if not 0.0 <= low < high or (of_nyquist and high > 1.0):
            self._refuse(".band_power", "0 <= low < high (<= 1 of Nyquist)", (low, high))
        return self._spectral(measures.BAND_POWER, float(low), float(high), of_nyquist)

    # -- across the series of an entity -----------------------------------------------------

    def across_mean(self) -> Expr:
        """Mean over the entity's series at this instant."""
        return self._across("mean")

    def across_min(self) -> Expr:
        """Smallest over the entity's series at this instant."""
        return self._across("min")

    def across_max(self) -> Expr:
        """Largest over the entity's series at this instant."""
        return self._across("max")

    def across_count(self) -> Expr:
        """Number of the entity's series with a value at this instant."""
        return self._across("count")

    def across_corr(self, rows: int) -> Expr:
        """Mean correlation of all pairs of series over their last rows."""
        if rows < 3:
            self._refuse(".across_corr", "`rows` must be at least 3", rows)
        return self._across("corr", rows)

    def _check_quantile(self, quantile: float) -> None:
        if not 0.0 <= quantile <= 1.0:
            self._refuse(".quantile", "a quantile must be in [0, 1]", quantile)
