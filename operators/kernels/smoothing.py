"""Exponential means over the last N rows, as affine maps.

A row maps the mean ``m`` to ``(1 - alpha) m + alpha x``; maps compose associatively, so a window
of N rows is a composition applied to its oldest value. With N so large that ``(1 - alpha) ** N``
is below 1e-12 the result equals the endless recurrence to that accuracy, from any start.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel
from operators.kernels.split import sliding


@inlined
def _zero():
    return (0.0, 1.0, 0.0, 0.0)


@inlined
def _front(acc, x, y, rx, ry, seconds, p):
    return (acc[0] + 1.0, acc[1] * (1.0 - p), acc[1] * p * (x - rx) + acc[2], x - rx)


@inlined
def _back(acc, x, y, rx, ry, seconds, p):
    oldest = acc[3] if acc[0] > 0.0 else x - rx
    return (acc[0] + 1.0, acc[1] * (1.0 - p), acc[2] * (1.0 - p) + p * (x - rx), oldest)


@inlined
def _join(out, q, older, newer, rx, ry):
    oldest = older[3] if older[0] > 0.0 else newer[3]
    scale = older[1] * newer[1]
    offset = older[2] * newer[1] + newer[2]
    out[0, q] = older[0] + newer[0]
    out[1, q] = rx + (scale * oldest + offset)


@kernel
def smoothing(p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out):
    """Rows of ``out``: count, exponential mean with weight ``p`` of the newest row."""
    sliding(
        _zero, _front, _back, _join,
        p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out,
    )  # fmt: skip


@kernel
def exponential_mean(sums, p, min_samples, result):
    """The exponential mean."""
    for q in range(result.shape[0]):
        result[q] = sums[1, q] if sums[0, q] >= min_samples else np.nan
