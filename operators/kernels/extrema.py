"""Smallest and largest value of sliding windows; exact."""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel
from operators.kernels.split import sliding


@inlined
def _zero():
    return (0.0, np.inf, -np.inf)


@inlined
def _push(acc, x, y, rx, ry, seconds, p):
    return (acc[0] + 1.0, min(acc[1], x), max(acc[2], x))


@inlined
def _join(out, q, older, newer, rx, ry):
    out[0, q] = older[0] + newer[0]
    out[1, q] = min(older[1], newer[1])
    out[2, q] = max(older[2], newer[2])


@kernel
def extrema(p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out):
    """Rows of ``out``: count, smallest, largest value. See :func:`split.sliding`."""
    sliding(
        _zero, _push, _push, _join,
        p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out,
    )  # fmt: skip


@kernel
def smallest(sums, p, min_samples, result):
    """The smallest value."""
    for q in range(result.shape[0]):
        result[q] = sums[1, q] if sums[0, q] >= min_samples else np.nan


@kernel
def largest(sums, p, min_samples, result):
    """The largest value."""
    for q in range(result.shape[0]):
        result[q] = sums[2, q] if sums[0, q] >= min_samples else np.nan
