"""Order statistics of sliding windows: a sorted copy of the window, kept by binary search.

Order statistics are exact, so any way to find them gives the same bits. For windows up to a few
thousand rows, a sorted array that moves a few hundred bytes per row beats heaps and trees.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel
from operators.kernels.split import first_at_or_after


@inlined
def _insert(table, start, size, value):
    place = first_at_or_after(table, start, start + size, value)
    for i in range(start + size, place, -1):
        table[i] = table[i - 1]
    table[place] = value


@inlined
def _remove(table, start, size, value):
    place = first_at_or_after(table, start, start + size, value)
    for i in range(place, start + size - 1):
        table[i] = table[i + 1]


@kernel
def quantiles(p, run, owner, start, base, ts, x, y, lo, hi, marks, state, suffix, out):
    """Rows of ``out``: count, quantile ``p`` by linear interpolation (Hyndman and Fan, type 7).

    The cache of a run is ``suffix[:, 0]`` over the run's own rows: ``marks`` holds the window that
    it covers (0, 1), the owner (4), the base (5) and the number of sorted values (7).
    """
    table = suffix[:, 0]
    for g in range(run.shape[0]):
        s = run[g]
        if s < 0:
            for q in range(start[g], start[g + 1]):
                out[0, q] = 0.0
                out[1, q] = np.nan
            continue
        b = base[s]
        low, high, size = marks[s, 0], marks[s, 1], marks[s, 7]
        home = b + marks[s, 2]
        known = marks[s, 0] >= 0 and marks[s, 4] == owner[g] and marks[s, 5] == b
        for q in range(start[g], start[g + 1]):
            if lo[q] >= hi[q]:
                out[0, q] = 0.0
                out[1, q] = np.nan
                continue
            if not known or lo[q] >= high or hi[q] < high or lo[q] < low:
                low, high, size = lo[q], lo[q], 0
                marks[s, 2] = lo[q]
                home = b + lo[q]
                known = True
                room = hi[q] - lo[q]
                for r in range(lo[q], hi[q]):
                    if x[b + r] == x[b + r]:
                        table[home + size] = x[b + r]
                        size += 1
                high = hi[q]
                if size > 1 and room > 0:
                    table[home : home + size].sort()
            for r in range(low, lo[q]):
                if x[b + r] == x[b + r]:
                    _remove(table, home, size, x[b + r])
                    size -= 1
            low = lo[q]
            for r in range(high, hi[q]):
                if x[b + r] == x[b + r]:
                    _insert(table, home, size, x[b + r])
                    size += 1
            high = hi[q]
            out[0, q] = size
            if size > 0:
                place = p * (size - 1)
                below = int(np.floor(place))
                above = min(below + 1, size - 1)
                lower = table[home + below]
                out[1, q] = lower + (place - below) * (table[home + above] - lower)
            else:
                out[1, q] = np.nan
        marks[s, 0], marks[s, 1], marks[s, 7] = low, high, size
        marks[s, 4] = owner[g]
        marks[s, 5] = b


@kernel
def quantile(sums, p, min_samples, result):
    """The quantile."""
    for q in range(result.shape[0]):
        result[q] = sums[1, q] if sums[0, q] >= min_samples else np.nan
