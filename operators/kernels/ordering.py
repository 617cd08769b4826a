"""Puts rows into runs, and the rows of each run into time order."""

from __future__ import annotations

import numpy as np

from operators.kernels import kernel

SHIFTS_PER_ROW = 32
"""Insertion sort gives up after this many moves per row; a general sort takes over."""


@kernel
def group_by_run(run, runs):
    """Stable counting sort of rows by run.

    Returns:
        The permutation, the runs that have rows, and the start of each (one more for the end).
    """
    return group_ready_by_run(run, np.ones(run.shape[0], np.bool_), runs)


@kernel
def group_ready_by_run(run, ready, runs):
    """:func:`group_by_run` of only the rows marked ``ready``."""
    n = run.shape[0]
    count = np.zeros(runs + 1, np.int64)
    for i in range(n):
        count[run[i] + 1] += ready[i]
    present = 0
    for s in range(runs):
        if count[s + 1] > 0:
            present += 1
        count[s + 1] += count[s]
    segment_run = np.empty(present, np.int64)
    segment_start = np.empty(present + 1, np.int64)
    g = 0
    for s in range(runs):
        if count[s + 1] > count[s]:
            segment_run[g] = s
            segment_start[g] = count[s]
            g += 1
    segment_start[present] = count[runs]
    order = np.empty(count[runs], np.int64)
    for i in range(n):
        if ready[i]:
            order[count[run[i]]] = i
            count[run[i]] += 1
    return order, segment_run, segment_start


@kernel
def tally(values, ready, kinds):
    """How many rows marked ``ready`` have each value below ``kinds``; values come in stretches."""
    counts = np.zeros(kinds, np.int64)
    current = 0
    count = 0
    for i in range(values.shape[0]):
        if values[i] != current:
            counts[current] += count
            current = values[i]
            count = 0
        count += ready[i]
    counts[current] += count
    return counts


@kernel
def look_up(known, codes):
    """The number that is known for each row's code, and the least of them."""
    found = np.empty(codes.shape[0], known.dtype)
    least = 0
    for i in range(codes.shape[0]):
        found[i] = known[codes[i]]
        least = min(least, found[i])
    return found, least


@kernel
def any_above(a, b, limit):
    """Whether ``a - b`` exceeds the limit in any row."""
    count = 0
    for i in range(a.shape[0]):
        count += a[i] - b[i] > limit
    return count > 0


@kernel
def any_passed(ts, run, last_ns, settled_ns):
    """Whether any row's time has been settled already, in its run or altogether."""
    count = 0
    for i in range(ts.shape[0]):
        count += ts[i] <= max(last_ns[run[i]], settled_ns)
    return count > 0


@kernel
def sort_times(order, ts, segment_start):
    """Insertion sort of each run by time, in place; stable.

    Returns:
        Whether it finished: far out-of-order input is left, unfinished but permuted only.
    """
    budget = SHIFTS_PER_ROW * order.shape[0]
    for g in range(segment_start.shape[0] - 1):
        for i in range(segment_start[g] + 1, segment_start[g + 1]):
            row = order[i]
            t = ts[i]
            j = i
            while j > segment_start[g] and ts[j - 1] > t:
                ts[j] = ts[j - 1]
                order[j] = order[j - 1]
                j -= 1
            ts[j] = t
            order[j] = row
            budget -= i - j
            if budget < 0:
                return False
    return True


@kernel
def count_ties(ts, segment_start):
    """Number of rows that share their instant with the row before them in their run."""
    ties = 0
    for g in range(segment_start.shape[0] - 1):
        for i in range(segment_start[g] + 1, segment_start[g + 1]):
            ties += ts[i] == ts[i - 1]
    return ties


@kernel
def mark_ties(ts, segment_start):
    """True for each row that shares its instant with a neighbour in its run."""
    tied = np.zeros(ts.shape[0], np.bool_)
    for g in range(segment_start.shape[0] - 1):
        for i in range(segment_start[g] + 1, segment_start[g + 1]):
            if ts[i] == ts[i - 1]:
                tied[i] = True
                tied[i - 1] = True
    return tied


@kernel
def last_of_instant(ts, segment_start):
    """True for the last row of each instant of each run."""
    last = np.ones(ts.shape[0], np.bool_)
    for g in range(segment_start.shape[0] - 1):
        for i in range(segment_start[g], segment_start[g + 1] - 1):
            last[i] = ts[i] != ts[i + 1]
    return last


@kernel
def rows_per_segment(keep, segment_start):
    """Starts of the segments after only the rows marked ``keep`` are left."""
    start = np.empty_like(segment_start)
    kept = 0
    for g in range(segment_start.shape[0] - 1):
        start[g] = kept
        for i in range(segment_start[g], segment_start[g + 1]):
            kept += keep[i]
    start[-1] = kept
    return start


@kernel
def gather(values, order):
    """``values[order]``."""
    result = np.empty(order.shape[0], values.dtype)
    for i in range(order.shape[0]):
        result[i] = values[order[i]]
    return result
