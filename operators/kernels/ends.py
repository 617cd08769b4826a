"""First and last valid value of sliding windows; exact."""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel
from operators.kernels.split import sliding


@inlined
def _zero():
    return (0.0, np.nan, np.nan)


@inlined
def _front(acc, x, y, rx, ry, seconds, p):
    return (acc[0] + 1.0, x, acc[2] if acc[0] > 0.0 else x)


@inlined
def _back(acc, x, y, rx, ry, seconds, p):
    return (acc[0] + 1.0, acc[1] if acc[0] > 0.0 else x, x)


@inlined
def _join(out, q, older, newer, rx, ry):
    out[0, q] = older[0] + newer[0]
    out[1, q] = older[1] if older[0] > 0.0 else newer[1]
    out[2, q] = newer[2] if newer[0] > 0.0 else older[2]


@kernel
def ends(p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out):
    """Rows of ``out``: count, first, last value. See :func:`split.sliding`."""
    sliding(
        _zero, _front, _back, _join,
        p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out,
    )  # fmt: skip


@kernel
def first(sums, p, min_samples, result):
    """The oldest valid value."""
    for q in range(result.shape[0]):
        result[q] = sums[1, q] if sums[0, q] >= min_samples else np.nan


@kernel
def last(sums, p, min_samples, result):
    """The newest valid value."""
    for q in range(result.shape[0]):
        result[q] = sums[2, q] if sums[0, q] >= min_samples else np.nan
