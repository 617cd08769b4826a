"""Count, mean and central moments of sliding windows.

Sums of powers of ``d = x - reference`` are joined by addition, the reference being a row of the
window; central moments follow by the binomial theorem. A member of the window lies within
``sqrt(n)`` standard deviations of its mean, so the relative error stays within ``n`` ulp.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel
from operators.kernels.split import sliding


@inlined
def _zero_level():
    return (0.0, 0.0, 0.0)


@inlined
def _push_level(acc, x, y, rx, ry, seconds, p):
    d = x - rx
    return (acc[0] + 1.0, acc[1] + d, acc[2] + d * d)


@inlined
def _join_level(out, q, older, newer, rx, ry):
    n = older[0] + newer[0]
    s1 = older[1] + newer[1]
    s2 = older[2] + newer[2]
    mean = s1 / n
    out[0, q] = n
    out[1, q] = rx + mean
    out[2, q] = max(s2 - s1 * mean, 0.0)


@kernel
def level(p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out):
    """Rows of ``out``: count, mean, sum of squared deviations. See :func:`split.sliding`."""
    sliding(
        _zero_level, _push_level, _push_level, _join_level,
        p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out,
    )  # fmt: skip


@inlined
def _zero_shape():
    return (0.0, 0.0, 0.0, 0.0, 0.0)


@inlined
def _push_shape(acc, x, y, rx, ry, seconds, p):
    d = x - rx
    d2 = d * d
    return (acc[0] + 1.0, acc[1] + d, acc[2] + d2, acc[3] + d2 * d, acc[4] + d2 * d2)


@inlined
def _join_shape(out, q, older, newer, rx, ry):
    n = older[0] + newer[0]
    s1 = older[1] + newer[1]
    s2 = older[2] + newer[2]
    s3 = older[3] + newer[3]
    s4 = older[4] + newer[4]
    mean = s1 / n
    square = mean * mean
    out[0, q] = n
    out[1, q] = rx + mean
    out[2, q] = max(s2 - s1 * mean, 0.0)
    out[3, q] = s3 - 3.0 * mean * s2 + 2.0 * s1 * square
    out[4, q] = max(s4 - 4.0 * mean * s3 + 6.0 * square * s2 - 3.0 * s1 * square * mean, 0.0)


@kernel
def shape(p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out):
    """Rows of ``out``: those of :func:`level`, sums of third and fourth powers of deviations."""
    sliding(
        _zero_shape, _push_shape, _push_shape, _join_shape,
        p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out,
    )  # fmt: skip


@kernel
def count(sums, p, min_samples, result):
    """Number of valid rows."""
    for q in range(result.shape[0]):
        result[q] = sums[0, q]


@kernel
def mean(sums, p, min_samples, result):
    """Arithmetic mean."""
    for q in range(result.shape[0]):
        result[q] = sums[1, q] if sums[0, q] >= min_samples else np.nan


@kernel
def var(sums, p, min_samples, result):
    """Sample variance, divisor ``n - 1``."""
    for q in range(result.shape[0]):
        n = sums[0, q]
        result[q] = sums[2, q] / (n - 1.0) if n >= min_samples else np.nan


@kernel
def std(sums, p, min_samples, result):
    """Sample standard deviation, divisor ``n - 1``."""
    for q in range(result.shape[0]):
        n = sums[0, q]
        result[q] = np.sqrt(sums[2, q] / (n - 1.0)) if n >= min_samples else np.nan


@kernel
def rms(sums, p, min_samples, result):
    """Root of the mean square."""
    for q in range(result.shape[0]):
        n = sums[0, q]
        value = np.sqrt(sums[2, q] / n + sums[1, q] * sums[1, q])
        result[q] = value if n >= min_samples else np.nan


@kernel
def skew(sums, p, min_samples, result):
    """Population skewness g1; NaN where the variance is zero."""
    for q in range(result.shape[0]):
        n = sums[0, q]
        m2 = sums[2, q] / n
        defined = n >= min_samples and m2 > 0.0
        result[q] = sums[3, q] / n / (m2 * np.sqrt(m2)) if defined else np.nan


@kernel
def kurtosis(sums, p, min_samples, result):
    """Population excess kurtosis g2; NaN where the variance is zero."""
    for q in range(result.shape[0]):
        n = sums[0, q]
        m2 = sums[2, q] / n
        defined = n >= min_samples and m2 > 0.0
        result[q] = sums[4, q] / n / (m2 * m2) - 3.0 if defined else np.nan
