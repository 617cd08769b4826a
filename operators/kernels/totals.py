"""Sums of sliding windows, carried in twice the precision.

Each side keeps a sum and its rounding error (Knuth, TAOCP vol. 2, 4.2.2, theorem B), so a sum of
decimal volumes comes out as the exchange publishes it.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel
from operators.kernels.split import sliding


@inlined
def _zero():
    return (0.0, 0.0, 0.0)


@inlined
def _add(total, error, x):
    raised = total + x
    part = raised - total
    return raised, error + ((total - (raised - part)) + (x - part))


@inlined
def _push(acc, x, y, rx, ry, seconds, p):
    total, error = _add(acc[1], acc[2], x)
    return (acc[0] + 1.0, total, error)


@inlined
def _join(out, q, older, newer, rx, ry):
    total, error = _add(older[1], older[2] + newer[2], newer[1])
    out[0, q] = older[0] + newer[0]
    out[1, q] = total + error


@kernel
def totals(p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out):
    """Rows of ``out``: count, sum. See :func:`split.sliding`."""
    sliding(
        _zero, _push, _push, _join,
        p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out,
    )  # fmt: skip


@kernel
def total(sums, p, min_samples, result):
    """The sum."""
    for q in range(result.shape[0]):
        result[q] = sums[1, q] if sums[0, q] >= min_samples else np.nan
