"""Sliding windows split at their roundest instant: one skeleton for every associative aggregate.

The window of rows ``lo .. hi`` (exclusive) is split at the multiple of the largest power of two
in (time of its oldest row, time of its newest row]. Its aggregate is the suffix from ``lo`` up to
the split, grown backwards, joined with the prefix from the split to ``hi``, grown forwards. The
split depends on the rows alone, so the same rows give the same bits, whatever came before them;
nothing is subtracted, so nothing drifts and a bad print leaves with its window. While the split
stays, a row costs one step and one join; when it moves, both sides are rebuilt, which happens
about once per window length.

Values and times are taken relative to one row of the window (the first valid one of the prefix, or
the last valid one of the suffix while the prefix has none), so that sums of powers do not cancel.

What a family (one file each) provides::

    zero()                               the empty aggregate, a tuple of floats
    front(acc, x, y, rx, ry, seconds, p) the aggregate with an older row put before it
    back(acc, x, y, rx, ry, seconds, p)  the aggregate with a newer row put behind it
    join(out, q, older, newer, rx, ry)   writes the results of query ``q`` into ``out[:, q]``

where ``rx, ry`` are the reference values, ``seconds`` is the row's time since that row's, and ``p``
is the family's parameter.

State kept between calls is a cache: it is rebuilt from the rows when it does not fit, and is
never part of a snapshot. The suffix begins at one place as long as its run stays where it is, so
that windows that move on meet memory that is near. A call that asks a run for many windows builds
the suffix in memory that all runs share, and leaves no cache: to fetch what lies far away would
take longer.

Rows and places are unsigned in the inner loops: of a signed index numba asks each time whether it
counts from the end.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel

MARKS = 9
"""Integers of cache per run: cut row, split instant, its level, done row, owner, base, reference
row, first row of the suffix, the place of that row in the cache."""
NEAR = 1024
"""Rows at the end of the suffix cache that all runs share."""
ACCUMULATOR = 8
"""Floats of cache per run: two references and up to six of the running prefix."""
SECONDS_PER_NS = 1e-9


@inlined
def load(like, table, row, column):
    """The tuple stored in ``table[row, column:]``, of the length of ``like``."""
    if len(like) == 2:
        return (table[row, column], table[row, column + 1])
    if len(like) == 3:
        return (table[row, column], table[row, column + 1], table[row, column + 2])
    if len(like) == 4:
        return (
            table[row, column],
            table[row, column + 1],
            table[row, column + 2],
            table[row, column + 3],
        )
    if len(like) == 5:
        return (
            table[row, column],
            table[row, column + 1],
            table[row, column + 2],
            table[row, column + 3],
            table[row, column + 4],
        )
    return (
        table[row, column],
        table[row, column + 1],
        table[row, column + 2],
        table[row, column + 3],
        table[row, column + 4],
        table[row, column + 5],
    )


@inlined
def save(acc, table, row, column):
    """Stores a tuple in ``table[row, column:]``."""
    for j in range(len(acc)):
        table[row, column + j] = acc[j]


@inlined
def roundest(oldest_ns, newest_ns):
    """The multiple of the largest power of two in (oldest, newest], and its level.

    Level ``k`` says that no multiple of ``2**k`` lies in the interval. Where both are equal the
    instant itself is returned.
    """
    differing = oldest_ns ^ newest_ns
    level = 0
    while differing != 0 and level < 63 and (differing >> level) != 0:
        level += 1
    if level == 0:
        return newest_ns, 0
    return (newest_ns >> (level - 1)) << (level - 1), level


@inlined
def roundest_until(split_ns, level):
    """The first newest instant with which a split is the roundest no more."""
    return ((split_ns >> level) + 1) << level


@inlined
def asks_for_many(start, stop, lo, hi):
    """Whether there are so many windows that a rebuild is faster than to fetch what was kept.

    Measured: from a quarter of the rows of one window on.
    """
    return start < stop and 4 * (stop - start) >= hi[start] - lo[start]


@inlined
def first_at_or_after(ts, start, end, instant_ns):
    """First index in ``start .. end`` whose time is at or after the instant."""
    while start < end:
        middle = (start + end) >> 1
        if ts[middle] >= instant_ns:
            end = middle
        else:
            start = middle + 1
    return start


@inlined
def first_valid(x, y, start, end):
    """First index in ``start .. end`` at which neither value is NaN; ``end`` if there is none."""
    while start < end and not (x[start] == x[start] and y[start] == y[start]):
        start += 1
    return start


@inlined
def last_valid(x, y, start, end):
    """Last index in ``start .. end`` at which neither value is NaN; ``start - 1`` if none."""
    end -= 1
    while end >= start and not (x[end] == x[end] and y[end] == y[end]):
        end -= 1
    return end


@inlined
def sliding(
    zero, front, back, join, p, segment_run, segment_owner, segment_start, base, ts, x, y, lo, hi,
    marks, state, suffix, out,
):  # fmt: skip
    """Aggregates of the windows ``lo[q] .. hi[q]`` of runs of rows.

    Args:
        segment_run, segment_owner, segment_start: queries ``segment_start[g]`` to
            ``segment_start[g + 1]`` ask run ``segment_run[g]`` on behalf of one owner; ``lo`` and
            ``hi`` do not fall within an owner.
        base: row ``r`` of run ``s`` lies at index ``base[s] + r`` of ``ts``, ``x`` and ``y``.
        ts: times in ns, not falling within a run.
        x, y: values; a row counts only if neither is NaN.
        lo, hi: first row and row after the last one, int64[queries].
        marks, state: cache per run, int64[runs, MARKS] and float64[runs, ACCUMULATOR].
        suffix: cache per row, float64[rows + NEAR, width].
        out: float64[results, queries].
    """
    for g in range(segment_run.shape[0]):
        s = segment_run[g]
        if s < 0:
            for query in range(segment_start[g], segment_start[g + 1]):
                join(out, query, zero(), zero(), 0.0, 0.0)
            continue
        b = base[s]
        cut = marks[s, 0]
        split_ns = marks[s, 1]
        level = marks[s, 2]
        done = marks[s, 3]
        reference = marks[s, 6]
        first, home = marks[s, 7], marks[s, 8]
        many = asks_for_many(segment_start[g], segment_start[g + 1], lo, hi)
        if marks[s, 4] != segment_owner[g] or marks[s, 5] != b or many:
            cut = -1
        until_ns = roundest_until(split_ns, level) if cut >= 0 else split_ns
        rx = state[s, 0]
        ry = state[s, 1]
        acc = load(zero(), state, s, 2)
        for query in range(segment_start[g], segment_start[g + 1]):
            q = np.uintp(query)
            low, high = lo[q], hi[q]
            if low >= high:
                join(out, q, zero(), zero(), 0.0, 0.0)
                continue
            newest_ns = ts[np.uintp(b + high - 1)]
            rebuild = cut <= low or newest_ns >= until_ns or done > high
            if not rebuild and reference < cut:
                # The prefix had no valid row: does it have one now?
                rebuild = first_valid(x, y, b + done, b + high) < b + high
            if rebuild:
                split_ns, level = roundest(ts[b + low], newest_ns)
                until_ns = roundest_until(split_ns, level)
                if cut < 0:
                    home = b + low
                first = low
                cut = first_at_or_after(ts, b + low, b + high, split_ns) - b
                if many:
                    home = suffix.shape[0] - NEAR if cut - low <= NEAR else b + low
                reference = first_valid(x, y, b + cut, b + high) - b
                if reference == high:
                    reference = last_valid(x, y, b + low, b + cut) - b
                rx, ry = 0.0, 0.0
                if reference >= low:
                    rx, ry = x[b + reference], y[b + reference]
                acc = zero()
                for r in range(cut - 1, low - 1, -1):
                    at = np.uintp(b + r)
                    if x[at] == x[at] and y[at] == y[at]:
                        seconds = (ts[at] - ts[b + reference]) * SECONDS_PER_NS
                        acc = front(acc, x[at], y[at], rx, ry, seconds, p)
                    save(acc, suffix, np.uintp(home + r - first), 0)
                acc = zero()
                done = cut
            for r in range(done, high):
                at = np.uintp(b + r)
                if x[at] == x[at] and y[at] == y[at]:
                    seconds = (ts[at] - ts[b + reference]) * SECONDS_PER_NS
                    acc = back(acc, x[at], y[at], rx, ry, seconds, p)
            done = high
            older = zero()
            if low < cut:
                older = load(older, suffix, np.uintp(home + low - first), 0)
            join(out, q, older, acc, rx, ry)
        marks[s, 0] = -1 if many else cut
        marks[s, 1], marks[s, 2] = split_ns, level
        marks[s, 3] = done
        marks[s, 4] = segment_owner[g]
        marks[s, 5] = b
        marks[s, 6] = reference
        marks[s, 7], marks[s, 8] = first, home
        state[s, 0] = rx
        state[s, 1] = ry
        save(acc, state, s, 2)


@kernel
def forget(marks):
    """Empties the caches of all runs."""
    for s in range(marks.shape[0]):
        marks[s, 0] = -1
        marks[s, 4] = -1


def new_marks(runs: int) -> np.ndarray:
    """Empty caches for ``runs`` runs."""
    return np.full((runs, MARKS), -1, dtype=np.int64)
