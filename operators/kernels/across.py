"""Aggregates over the series of one entity at one instant, in the order of the series' names."""

from __future__ import annotations

import numpy as np

from operators.kernels import kernel
from operators.kernels.split import first_at_or_after


@kernel
def across_mean(values, start, result):
    """Mean over the series that have a value."""
    for q in range(result.shape[0]):
        n, total = 0.0, 0.0
        for i in range(start[q], start[q + 1]):
            if values[i] == values[i]:
                n += 1.0
                total += values[i]
        result[q] = total / n if n > 0.0 else np.nan


@kernel
def across_min(values, start, result):
    """Smallest value over the series."""
    for q in range(result.shape[0]):
        result[q] = np.nan
        for i in range(start[q], start[q + 1]):
            if values[i] == values[i] and not values[i] >= result[q]:
                result[q] = values[i]


@kernel
def across_max(values, start, result):
    """Largest value over the series."""
    for q in range(result.shape[0]):
        result[q] = np.nan
        for i in range(start[q], start[q + 1]):
            if values[i] == values[i] and not values[i] <= result[q]:
                result[q] = values[i]


@kernel
def across_count(values, start, result):
    """Number of series that have a value."""
    for q in range(result.shape[0]):
        n = 0.0
        for i in range(start[q], start[q + 1]):
            n += values[i] == values[i]
        result[q] = n


@kernel
def across_corr(column, ts, floors, members, start, instant_ns, rows, base, first, end, result):
    """Mean of Pearson's correlations of all pairs of series over their common instants.

    Query ``q`` looks at the series ``members[start[q]:start[q + 1]]`` (run numbers, in the order of
    their names) and at the last ``rows`` rows of each up to ``instant_ns[q]``. A pair with values
    at fewer than half as many common instants, or without spread, is left out; NaN without any
    pair.
    """
    a = np.empty(rows, np.float64)
    b = np.empty(rows, np.float64)
    for q in range(result.shape[0]):
        pairs, total = 0.0, 0.0
        for i in range(start[q], start[q + 1]):
            s = members[i]
            s_end = first_at_or_after(ts, base[s] + first[s], base[s] + end[s], instant_ns[q] + 1)
            s_low = base[s] + max(s_end - base[s] - rows, floors[s_end - 1])
            for j in range(i + 1, start[q + 1]):
                t = members[j]
                t_end = first_at_or_after(
                    ts, base[t] + first[t], base[t] + end[t], instant_ns[q] + 1
                )
                t_low = base[t] + max(t_end - base[t] - rows, floors[t_end - 1])
                n = 0
                r, w = s_low, t_low
                mean_a, mean_b = 0.0, 0.0
                while r < s_end and w < t_end:
                    if ts[r] < ts[w]:
                        r += 1
                    elif ts[w] < ts[r]:
                        w += 1
                    else:
                        if column[r] == column[r] and column[w] == column[w]:
                            a[n] = column[r]
                            b[n] = column[w]
                            mean_a += a[n] - a[0]
                            mean_b += b[n] - b[0]
                            n += 1
                        r += 1
                        w += 1
                if 2 * n < rows:
                    continue
                mean_a = a[0] + mean_a / n
                mean_b = b[0] + mean_b / n
                aa, bb, ab = 0.0, 0.0, 0.0
                for k in range(n):
                    aa += (a[k] - mean_a) ** 2
                    bb += (b[k] - mean_b) ** 2
                    ab += (a[k] - mean_a) * (b[k] - mean_b)
                if aa > 0.0 and bb > 0.0:
                    total += ab / (np.sqrt(aa) * np.sqrt(bb))
                    pairs += 1.0
        result[q] = total / pairs if pairs > 0.0 else np.nan
