"""Lists of the rows of each run that wait, and what a trial leaves in the caches of windows.

A row has a place; ``before[place]`` is the place of the row of its run that was read before it, and
``head[s]`` that of the last row of run ``s``. -1 is the end of a list.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import kernel

NEVER_NS = 2**62
"""In place of the earliest row of an entity that has none."""


@kernel
def link(run, ts, used, head, before, entity_of_run, earliest, touched, count):
    """Puts new rows, at the places from ``used`` on, at the heads of the lists of their runs.

    Notes the entities of the rows in ``touched``, of which it has ``count``, and the time of the
    earliest row of each in ``earliest``.

    Returns:
        How many entities have been touched.
    """
    for i in range(run.shape[0]):
        s = run[i]
        before[used + i] = head[s]
        head[s] = used + i
        e = entity_of_run[s]
        if earliest[e] == NEVER_NS:
            touched[count] = e
            count += 1
        earliest[e] = min(earliest[e], ts[used + i])
    return count


@kernel
def members(entities, first_run, next_run):
    """The runs of some entities: each has a list of runs that begins at ``first_run``."""
    count = 0
    for e in entities:
        run = first_run[e]
        while run >= 0:
            count += 1
            run = next_run[run]
    found = np.empty(count, np.int64)
    count = 0
    for e in entities:
        run = first_run[e]
        while run >= 0:
            found[count] = run
            count += 1
            run = next_run[run]
    return np.sort(found)


@kernel
def waiting(runs, head, before, ts, last_ns, settled_ns):
    """The rows of some runs that are not settled yet, in reading order; the others are unlinked.

    Returns:
        The place of each row, and the number of its run within ``runs``.
    """
    total = 0
    for s in runs:
        after_ns = max(last_ns[s], settled_ns)
        newer = -1
        place = head[s]
        while place >= 0:
            if ts[place] > after_ns:
                newer = place
                total += 1
            elif newer < 0:
                head[s] = before[place]
            else:
                before[newer] = before[place]
            place = before[place]
    places = np.empty(total, np.int64)
    number = np.empty(total, np.int32)
    stop = 0
    for k in range(runs.shape[0]):
        start = stop
        place = head[runs[k]]
        while place >= 0:
            stop += 1
            place = before[place]
        place = head[runs[k]]
        for i in range(stop - 1, start - 1, -1):
            places[i] = place
            number[i] = k
            place = before[place]
    return places, number


@kernel
def relink(runs, number, head, before):
    """Lists anew the rows that have been brought to the places from 0 on, run by run."""
    for k in range(runs.shape[0]):
        head[runs[k]] = -1
    for i in range(number.shape[0]):
        s = runs[number[i]]
        before[i] = head[s]
        head[s] = i


@kernel
def put_back(marks, state, runs, kept_marks, kept_state):
    """Lets the caches of some runs go on as before a trial.

    Where the trial has built a suffix anew, what was there before is lost and the cache is
    forgotten; the prefix is as it was.
    """
    for k in range(runs.shape[0]):
        s = runs[k]
        same = state[s, 0] == kept_state[k, 0] and state[s, 1] == kept_state[k, 1]
        for j in (0, 1, 4, 5, 6, 7, 8):
            same = same and marks[s, j] == kept_marks[k, j]
        for j in range(marks.shape[1]):
            marks[s, j] = kept_marks[k, j] if same else -1
        for j in range(state.shape[1]):
            state[s, j] = kept_state[k, j]
