"""Features of one frame of samples: a message that carries a window, or a hop window on a grid.

A frame is ``flat[lo[q]:hi[q]]``; moments are computed in two passes, oldest to newest.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import kernel


@kernel
def frame_moments(flat, lo, hi, out):
    """Rows of ``out``: count of valid samples, mean, sums of powers 2 to 4 of deviations."""
    for q in range(lo.shape[0]):
        n = 0.0
        total = 0.0
        for i in range(lo[q], hi[q]):
            if flat[i] == flat[i]:
                n += 1.0
                total += flat[i]
        rough = total / n
        s1, s2, s3, s4 = 0.0, 0.0, 0.0, 0.0
        for i in range(lo[q], hi[q]):
            if flat[i] == flat[i]:
                d = flat[i] - rough
                d2 = d * d
                s1 += d
                s2 += d2
                s3 += d2 * d
                s4 += d2 * d2
        left = s1 / n
        square = left * left
        out[0, q] = n
        out[1, q] = rough + left
        out[2, q] = max(s2 - s1 * left, 0.0)
        out[3, q] = s3 - 3.0 * left * s2 + 2.0 * s1 * square
        out[4, q] = max(s4 - 4.0 * left * s3 + 6.0 * square * s2 - 3.0 * s1 * square * left, 0.0)


@kernel
def frame_extrema(flat, lo, hi, out):
    """Rows of ``out``: count, smallest, largest valid sample."""
    for q in range(lo.shape[0]):
        n, smallest, largest = 0.0, np.inf, -np.inf
        for i in range(lo[q], hi[q]):
            if flat[i] == flat[i]:
                n += 1.0
                smallest = min(smallest, flat[i])
                largest = max(largest, flat[i])
        out[0, q], out[1, q], out[2, q] = n, smallest, largest


@kernel
def frame_ends(flat, lo, hi, out):
    """Rows of ``out``: count, first, last valid sample."""
    for q in range(lo.shape[0]):
        n, first, last = 0.0, np.nan, np.nan
        for i in range(lo[q], hi[q]):
            if flat[i] == flat[i]:
                if n == 0.0:
                    first = flat[i]
                last = flat[i]
                n += 1.0
        out[0, q], out[1, q], out[2, q] = n, first, last


@kernel
def frame_totals(flat, lo, hi, out):
    """Rows of ``out``: count, sum (compensated as in :mod:`operators.kernels.totals`)."""
    for q in range(lo.shape[0]):
        n, total, error = 0.0, 0.0, 0.0
        for i in range(lo[q], hi[q]):
            if flat[i] == flat[i]:
                raised = total + flat[i]
                part = raised - total
                error += (total - (raised - part)) + (flat[i] - part)
                total = raised
                n += 1.0
        out[0, q], out[1, q] = n, total + error


@kernel
def zero_crossing_rate(flat, lo, hi, result):
    """Share of neighbouring valid samples whose signs differ; zero counts as positive.

    NaN for fewer than two valid samples.
    """
    for q in range(lo.shape[0]):
        pairs, crossings = 0.0, 0.0
        before = np.nan
        for i in range(lo[q], hi[q]):
            if flat[i] == flat[i]:
                if before == before:
                    pairs += 1.0
                    crossings += (before < 0.0) != (flat[i] < 0.0)
                before = flat[i]
        result[q] = crossings / pairs if pairs > 0.0 else np.nan


@kernel
def snap_to_grid(
    x, ts, run, start, base, lo, hi, query_ns, length, period_ns, jitter_ns, shift, out
):
    """Samples of hop windows laid on their grid, float64[queries, length]; NaN where none is.

    Cell ``k`` of the window that ends at ``t`` stands for the instant ``t - (length - k) * period``
    (with ``shift`` 1, for windows closed on the right, one period later). A sample farther than
    ``jitter_ns`` from its cell's instant is left out; of several in one cell the last one counts.
    """
    for g in range(run.shape[0]):
        b = base[run[g]] if run[g] >= 0 else 0
        for q in range(start[g], start[g + 1]):
            out[q, :] = np.nan
            for r in range(lo[q], hi[q]):
                from_start = ts[b + r] - query_ns[q] + (length - shift) * period_ns
                cell = int(np.floor(from_start / period_ns + 0.5))
                if 0 <= cell < length and abs(from_start - cell * period_ns) <= jitter_ns:
                    out[q, cell] = x[b + r]
