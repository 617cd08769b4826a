"""Two columns in one sliding window: covariance, correlation, weighted mean, slope over time.

Products are taken of deviations from a row of the window, as in :mod:`operators.kernels.moments`.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel
from operators.kernels.split import sliding


@inlined
def _zero():
    return (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@inlined
def _push_pair(acc, x, y, rx, ry, seconds, p):
    dx = x - rx
    dy = y - ry
    return (
        acc[0] + 1.0,
        acc[1] + dx,
        acc[2] + dy,
        acc[3] + dx * dx,
        acc[4] + dy * dy,
        acc[5] + dx * dy,
    )


@inlined
def _push_trend(acc, x, y, rx, ry, seconds, p):
    return _push_pair(acc, x, seconds, rx, 0.0, seconds, p)


@inlined
def _join(out, q, older, newer, rx, ry):
    n = older[0] + newer[0]
    sx = older[1] + newer[1]
    sy = older[2] + newer[2]
    out[0, q] = n
    out[1, q] = max(older[3] + newer[3] - sx * (sx / n), 0.0)
    out[2, q] = max(older[4] + newer[4] - sy * (sy / n), 0.0)
    out[3, q] = older[5] + newer[5] - sx * (sy / n)


@kernel
def pairs(p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out):
    """Rows of ``out``: count, squared deviations of x, of y, their products."""
    sliding(
        _zero, _push_pair, _push_pair, _join,
        p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out,
    )  # fmt: skip


@kernel
def trend(p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out):
    """The same of x and of the row's time in seconds."""
    sliding(
        _zero, _push_trend, _push_trend, _join,
        p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out,
    )  # fmt: skip


@kernel
def cov(sums, p, min_samples, result):
    """Sample covariance, divisor ``n - 1``."""
    for q in range(result.shape[0]):
        n = sums[0, q]
        result[q] = sums[3, q] / (n - 1.0) if n >= min_samples else np.nan


@kernel
def corr(sums, p, min_samples, result):
    """Pearson's correlation; NaN where either variance is zero."""
    for q in range(result.shape[0]):
        spread = np.sqrt(sums[1, q]) * np.sqrt(sums[2, q])
        if sums[0, q] >= min_samples and spread > 0.0:
            result[q] = min(max(sums[3, q] / spread, -1.0), 1.0)
        else:
            result[q] = np.nan


@kernel
def slope(sums, p, min_samples, result):
    """Least-squares slope of x over time, per second; NaN where all times are equal."""
    for q in range(result.shape[0]):
        defined = sums[0, q] >= min_samples and sums[2, q] > 0.0
        result[q] = sums[3, q] / sums[2, q] if defined else np.nan


@inlined
def _zero_weighted():
    return (0.0, 0.0, 0.0)


@inlined
def _push_weighted(acc, x, y, rx, ry, seconds, p):
    return (acc[0] + 1.0, acc[1] + y, acc[2] + y * (x - rx))


@inlined
def _join_weighted(out, q, older, newer, rx, ry):
    weight = older[1] + newer[1]
    out[0, q] = older[0] + newer[0]
    out[1, q] = rx + (older[2] + newer[2]) / weight if weight != 0.0 else np.nan


@kernel
def weighted(p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out):
    """Rows of ``out``: count, mean of x weighted by y."""
    sliding(
        _zero_weighted, _push_weighted, _push_weighted, _join_weighted,
        p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out,
    )  # fmt: skip


@kernel
def weighted_mean(sums, p, min_samples, result):
    """Weighted mean; NaN where the weights sum to zero."""
    for q in range(result.shape[0]):
        result[q] = sums[1, q] if sums[0, q] >= min_samples else np.nan
