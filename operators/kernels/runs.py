"""The arena in which each run keeps its recent rows, and the places of windows in it.

Row ``r`` of run ``s`` (rows are numbered from the run's first ever) lies at ``base[s] + r`` of
every column of the arena. A run owns ``room[s]`` places from ``place[s]`` on.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel
from operators.kernels.split import first_at_or_after


@inlined
def roomy(live, new):
    """Places for the rows of a run and new ones, such that moves cost less than a copy a row."""
    return 2 * live + new + new // 4 + 8


@kernel
def plan_moves(
    segment_run,
    segment_start,
    ts,
    place,
    room,
    base,
    first,
    end,
    keep_rows,
    keep_from_ns,
    used,
    size,
):
    """Makes room for the new rows of each segment, forgetting rows that no window can reach.

    A row is kept while it is among the last ``keep_rows`` of its run or later than
    ``keep_from_ns``. Changes ``place``, ``room``, ``base`` and ``first``.

    Returns:
        Moves (from, to, length), to be applied in order to every column; places used; and the
        places needed in all: when that is more than ``size``, nothing has changed and a larger
        arena must be made first.
    """
    moves = np.empty((segment_run.shape[0], 3), np.int64)
    count = 0
    extra = 0
    for g in range(segment_run.shape[0]):
        s = segment_run[g]
        new = segment_start[g + 1] - segment_start[g]
        if base[s] + end[s] + new > place[s] + room[s]:
            start = base[s] + first[s]
            stop = base[s] + end[s]
            stale = min(
                first_at_or_after(ts, start, stop, keep_from_ns + 1), max(stop - keep_rows, start)
            )
            if roomy(stop - stale, new) > room[s]:
                extra += roomy(stop - stale, new)
    if used + extra > size:
        return moves[:0], used, used + extra
    for g in range(segment_run.shape[0]):
        s = segment_run[g]
        new = segment_start[g + 1] - segment_start[g]
        if base[s] + end[s] + new <= place[s] + room[s]:
            continue
        start = base[s] + first[s]
        stop = base[s] + end[s]
        stale = min(
            first_at_or_after(ts, start, stop, keep_from_ns + 1), max(stop - keep_rows, start)
        )
        live = stop - stale
        if roomy(live, new) <= room[s]:
            target = place[s]
        else:
            target = used
            place[s] = used
            room[s] = roomy(live, new)
            used += room[s]
        moves[count, 0] = stale
        moves[count, 1] = target
        moves[count, 2] = live
        count += 1
        first[s] += stale - start
        base[s] = target - first[s]
    return moves[:count], used, used


@kernel
def plan_repack(place, room, base, first, end, extra):
    """Moves of every run into a fresh arena, one behind the other, each with space to grow.

    Args:
        extra: rows about to be added, per run.

    Returns:
        Moves (from, to, length) and places used.
    """
    moves = np.empty((place.shape[0], 3), np.int64)
    used = 0
    for s in range(place.shape[0]):
        live = end[s] - first[s]
        moves[s, 0] = base[s] + first[s]
        moves[s, 1] = used
        moves[s, 2] = live
        place[s] = used
        room[s] = roomy(live, extra[s]) if live + extra[s] > 0 else 0
        base[s] = used - first[s]
        used += room[s]
    return moves, used


@kernel
def apply_moves(source, target, moves):
    """Copies the moved places of one column; source and target may be one array."""
    for m in range(moves.shape[0]):
        start, to, length = moves[m, 0], moves[m, 1], moves[m, 2]
        if to <= start:
            for i in range(length):
                target[to + i] = source[start + i]
        else:
            for i in range(length - 1, -1, -1):
                target[to + i] = source[start + i]


@kernel
def append(column, values, segment_run, segment_start, base, end):
    """Writes the new rows of each segment behind the rows of its run."""
    for g in range(segment_run.shape[0]):
        s = segment_run[g]
        to = base[s] + end[s] - segment_start[g]
        for i in range(segment_start[g], segment_start[g + 1]):
            column[to + i] = values[i]


@kernel
def greatest_so_far(values, segment_run, segment_start, carry):
    """For each new row the greatest value of its run up to it; ``carry`` holds it between calls."""
    result = np.empty(values.shape[0], np.int64)
    for g in range(segment_run.shape[0]):
        s = segment_run[g]
        greatest = carry[s]
        for i in range(segment_start[g], segment_start[g + 1]):
            greatest = max(greatest, values[i])
            result[i] = greatest
        carry[s] = greatest
    return result


@kernel
def append_floor(column, new_ts, segment_run, segment_start, ts, base, first, end, floor, ttl_ns):
    """For each new row the first row that windows ending at it may reach.

    A gap longer than ``ttl_ns`` between two rows of a run resets it; ``floor`` holds the first row
    after the last reset.
    """
    for g in range(segment_run.shape[0]):
        s = segment_run[g]
        to = base[s] + end[s] - segment_start[g]
        for i in range(segment_start[g], segment_start[g + 1]):
            row = end[s] + i - segment_start[g]
            before_ns = new_ts[i - 1] if i > segment_start[g] else new_ts[i]
            if i == segment_start[g] and row > first[s]:
                before_ns = ts[base[s] + row - 1]
            if new_ts[i] - before_ns > ttl_ns:
                floor[s] = row
            column[to + i] = floor[s]


@kernel
def own_positions(segment_run, segment_start, end):
    """For each new row of a block the row number after it in its own run."""
    hi = np.empty(segment_start[-1], np.int64)
    for g in range(segment_run.shape[0]):
        first_row = end[segment_run[g]] + 1 - segment_start[g]
        for i in range(segment_start[g], segment_start[g + 1]):
            hi[i] = first_row + i
    return hi


@kernel
def positions_at(query_ns, query_run, query_start, ts, base, first, end, closed_right):
    """For each query the number of the row after the last one at (or before) its instant."""
    hi = np.empty(query_ns.shape[0], np.int64)
    for g in range(query_run.shape[0]):
        s = query_run[g]
        if s < 0:
            for q in range(query_start[g], query_start[g + 1]):
                hi[q] = 0
            continue
        b = base[s]
        row = first[s]
        if query_start[g] < query_start[g + 1]:
            bound = query_ns[query_start[g]]
            row = first_at_or_after(ts, b + first[s], b + end[s], bound) - b
        for q in range(query_start[g], query_start[g + 1]):
            bound = query_ns[q] + closed_right
            while row < end[s] and ts[b + row] < bound:
                row += 1
            hi[q] = row
    return hi


@kernel
def floors_at(query_ns, query_run, query_start, hi, ts, floors, base, first, longest_ns):
    """For each query the first row its windows may reach: that of the last row before it.

    A query more than ``longest_ns`` after that row sees none.
    """
    floor = np.empty(hi.shape[0], np.int64)
    for g in range(query_run.shape[0]):
        s = query_run[g]
        for q in range(query_start[g], query_start[g + 1]):
            floor[q] = hi[q]
            if s >= 0 and hi[q] > first[s]:
                last = base[s] + hi[q] - 1
                if query_ns[q] - ts[last] <= longest_ns:
                    floor[q] = floors[last]
    return floor


@kernel
def windows_of_rows(hi, floor, rows):
    """First rows of the windows over the last ``rows`` rows."""
    lo = np.empty_like(hi)
    for q in range(hi.shape[0]):
        lo[q] = max(hi[q] - rows, floor[q])
    return lo


@kernel
def windows_of_span(
    query_ns, query_run, query_start, hi, floor, ts, base, first, span_ns, closed_right
):
    """First rows of the windows (t - span, t], or [t - span, t) with ``closed_right`` 0."""
    lo = np.empty_like(hi)
    for g in range(query_run.shape[0]):
        s = query_run[g]
        if s < 0:
            for q in range(query_start[g], query_start[g + 1]):
                lo[q] = 0
            continue
        b = base[s]
        row = first[s]
        if query_start[g] < query_start[g + 1]:
            q = query_start[g]
            bound = query_ns[q] - span_ns + closed_right
            row = first_at_or_after(ts, b + first[s], b + hi[q], bound) - b
        for q in range(query_start[g], query_start[g + 1]):
            bound = query_ns[q] - span_ns + closed_right
            while row < hi[q] and ts[b + row] < bound:
                row += 1
            lo[q] = max(row, floor[q])
    return lo


@kernel
def values_back(column, query_run, query_start, hi, floor, base, rows):
    """For each query the value ``rows`` rows before the last one, NaN where there is none."""
    result = np.empty(hi.shape[0], np.float64)
    for g in range(query_run.shape[0]):
        s = query_run[g]
        for q in range(query_start[g], query_start[g + 1]):
            row = hi[q] - 1 - rows
            result[q] = column[base[s] + row] if s >= 0 and row >= floor[q] else np.nan
    return result


@kernel
def seconds_back(query_ns, query_run, query_start, hi, floor, ts, base, rows):
    """For each query the seconds since the row ``rows`` rows before the last one."""
    result = np.empty(hi.shape[0], np.float64)
    for g in range(query_run.shape[0]):
        s = query_run[g]
        for q in range(query_start[g], query_start[g + 1]):
            row = hi[q] - 1 - rows
            if s >= 0 and row >= floor[q]:
                result[q] = (query_ns[q] - ts[base[s] + row]) * 1e-9
            else:
                result[q] = np.nan
    return result


@kernel
def integers_before(column, query_run, query_start, hi, base, first, default):
    """For each query the integer of the last row before it, or ``default``."""
    result = np.empty(hi.shape[0], np.int64)
    for g in range(query_run.shape[0]):
        s = query_run[g]
        for q in range(query_start[g], query_start[g + 1]):
            known = s >= 0 and hi[q] > first[s]
            result[q] = column[base[s] + hi[q] - 1] if known else default
    return result


@kernel
def shares(values):
    """Values brought into [0, 1]; null is 0."""
    result = np.zeros(values.shape[0])
    for i in range(values.shape[0]):
        if values[i] > 1.0:
            result[i] = 1.0
        elif values[i] >= 0.0:
            result[i] = values[i]
    return result


@kernel
def hop_instants(
    ts, base, first, end, after_ns, until_ns, length_ns, every_ns, offset_ns, closed_right
):
    """Ends of the hop windows in (after, until] that hold at least one row.

    Returns:
        Runs that have any, start of each one's windows (one more for the end), and window ends.
    """
    segment_run = np.empty(base.shape[0], np.int64)
    segment_start = np.empty(base.shape[0] + 1, np.int64)
    instants = np.empty(1024, np.int64)
    count = 0
    present = 0
    for s in range(base.shape[0]):
        begun = count
        b = base[s]
        row = first[s]
        if row < end[s]:
            row = first_at_or_after(ts, b + row, b + end[s], after_ns - length_ns) - b
        reached_ns = after_ns
        while row < end[s]:
            t = ts[b + row]
            # Windows end at multiples of the hop; the row lies in those ending in (t, t + length],
            # or [t, t + length) where windows are closed on the right.
            earliest = max(t + 1 - closed_right, reached_ns + 1) - offset_ns
            instant = earliest + (-earliest) % every_ns + offset_ns
            latest = min(t + length_ns - closed_right, until_ns)
            while instant <= latest:
                if count == instants.shape[0]:
                    grown = np.empty(2 * count, np.int64)
                    grown[:count] = instants
                    instants = grown
                instants[count] = instant
                count += 1
                reached_ns = instant
                instant += every_ns
            if reached_ns >= until_ns:
                break
            row += 1
        if count > begun:
            segment_run[present] = s
            segment_start[present] = begun
            present += 1
    segment_start[present] = count
    return (
        segment_run[:present].copy(),
        segment_start[: present + 1].copy(),
        instants[:count].copy(),
    )


@kernel
def live_rows(ts, base, first, end, keep_rows, keep_from_ns):
    """First row of each run that a window may still reach."""
    start = np.empty(base.shape[0], np.int64)
    for s in range(base.shape[0]):
        b = base[s]
        by_time = first_at_or_after(ts, b + first[s], b + end[s], keep_from_ns + 1) - b
        start[s] = max(min(by_time, end[s] - keep_rows), first[s])
    return start


@kernel
def pack(column, base, start, end):
    """The rows ``start .. end`` of every run, one run behind the other."""
    total = 0
    for s in range(base.shape[0]):
        total += end[s] - start[s]
    packed = np.empty(total, column.dtype)
    to = 0
    for s in range(base.shape[0]):
        for r in range(start[s], end[s]):
            packed[to] = column[base[s] + r]
            to += 1
    return packed


@kernel
def fill_from_end(target, target_length, source, source_length):
    """Copies the last rows of each packed run into the same places, counted from the run's end."""
    to, start = 0, 0
    for s in range(target_length.shape[0]):
        count = min(target_length[s], source_length[s])
        for i in range(1, count + 1):
            target[to + target_length[s] - i] = source[start + source_length[s] - i]
        to += target_length[s]
        start += source_length[s]


@kernel
def null_where_not_finite(values):
    """Makes what has overflowed, and any other not-a-number, the one null, in place."""
    for i in range(values.shape[0]):
        if not abs(values[i]) < np.inf:
            values[i] = np.nan


@kernel
def add_flag(quality, flag, bit):
    """Sets a bit of each row's quality where the flag is raised."""
    for i in range(quality.shape[0]):
        if flag[i] == 1.0:
            quality[i] |= bit
