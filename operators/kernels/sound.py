"""Rows of JSON objects that are sound beyond doubt, read from where their values stand.

What is asked of a row here is all that ``operators.checks`` asks of one. A row that fails anything,
or is not read here, is left to those checks, which find the words for it.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel
from operators.kernels.hashing import hash_text
from operators.kernels.integers import read_whole
from operators.kernels.numbers import NULL, NUMBER, WHOLE, read_number
from operators.kernels.timestamps import READ, read_time
from operators.kernels.words import borrowed

NULL_ID = -(2**63)
"""The id of a row that leaves a nullable one out."""
NEW = -1
"""The code of a label that is not known."""
MS_NS = 1_000_000
_NOT_SOUND = -(2**63)


@inlined
def _time(data, row, what, first, length, columns, units_ns, dated, low_ns, high_ns):
    """The time in the first of the columns that tells one.

    The others do not count, but a number in one of them must be whole, and one at all.
    """
    time_ns, told = _NOT_SOUND, False
    for i in range(columns.shape[0]):
        column = columns[i]
        found = what[column, row]
        if found == NULL:
            continue
        start = first[column, row]
        stop = start + length[column, row]
        read_ns = _NOT_SOUND
        if found == NUMBER:
            after, kind, whole, _ = read_number(data, start, stop)
            if after != stop or kind != WHOLE:
                return _NOT_SOUND
            unit_ns = units_ns[i]
            # Compared before it is multiplied, which could overflow.
            if -(-low_ns // unit_ns) <= whole <= high_ns // unit_ns:
                read_ns = whole * unit_ns
        elif not told and dated[i]:
            state, date_ns = read_time(data, start, stop)
            if state == READ and low_ns <= date_ns <= high_ns:
                read_ns = date_ns
        if not told:
            time_ns, told = read_ns, True
    return time_ns


@inlined
def _id(data, found, start, stop, needed):
    """An id, and whether there is a sound one."""
    if found == NULL:
        return NULL_ID, not needed
    if found == NUMBER:
        after, kind, whole, _ = read_number(data, start, stop)
        return whole, after == stop and kind == WHOLE
    whole, spelled = read_whole(data, start, stop)
    return whole if spelled else hash_text(data, start, stop), stop > start


@kernel
def read_rows(
    data, what, first, length, stamps_ms, times, units_ns, dated, limits_ns, numbers,
    needed_numbers, ids, needed_ids, sound, arrival_ns, ts_ns, real, whole, long_row, long_field,
):  # fmt: skip
    """Reads times, numbers and ids of rows; says in ``sound`` which of them are no longer that.

    Args:
        data, what, first, length: of the columns, as ``objects.locate`` gives them.
        stamps_ms: the arrival of each row.
        times, units_ns, dated: the columns that may tell the time, the first one first; what a
            whole number counts in each; and whether a text in it may be a date.
        limits_ns: the least and the greatest time, and how far one may lie beyond its arrival.
        numbers, needed_numbers: the columns of numbers, and which of them must be there.
        ids, needed_ids: those of ids.
        sound: the rows to read.
        arrival_ns, ts_ns, real, whole: are filled; ``real`` and ``whole`` a column after the other.
        long_row, long_field: the places of numbers that need more care, left out in ``real``.

    Returns:
        How many such numbers there are.
    """
    data, what, first, length = borrowed(data), borrowed(what), borrowed(first), borrowed(length)
    low_ns, high_ns, skew_ns = limits_ns[0], limits_ns[1], limits_ns[2]
    longs = 0
    for row in range(sound.shape[0]):
        if not sound[row]:
            continue
        stamp_ms = stamps_ms[row]
        good = -(-low_ns // MS_NS) <= stamp_ms <= high_ns // MS_NS
        arrived_ns = stamp_ms * MS_NS if good else 0
        at_ns = _time(data, row, what, first, length, times, units_ns, dated, low_ns, high_ns)
        good &= at_ns != _NOT_SOUND and at_ns - arrived_ns <= skew_ns
        arrival_ns[row], ts_ns[row] = arrived_ns, at_ns
        before = longs
        for field in range(numbers.shape[0]):
            column = numbers[field]
            if what[column, row] == NULL:
                real[field, row] = np.nan
                good &= not needed_numbers[field]
                continue
            stop = first[column, row] + length[column, row]
            after, kind, plain, value = read_number(data, first[column, row], stop)
            good &= after == stop and (kind != NULL or plain == 1)
            real[field, row] = value + 0.0  # without a negative zero
            if kind == NULL:
                long_row[longs], long_field[longs] = row, field
                longs += 1
        for field in range(ids.shape[0]):
            column = ids[field]
            start, found = first[column, row], what[column, row]
            stop = start + length[column, row]
            whole[field, row], there = _id(data, found, start, stop, needed_ids[field])
            good &= there
        sound[row] = good
        longs = longs if good else before
    return longs


@kernel
def keep_admitted(real, above, least, most, upper, lower, sound):
    """Drops rows with a number out of its bounds or of all, or below one it must not be below."""
    for row in range(sound.shape[0]):
        good = sound[row]
        for field in range(real.shape[0]):
            value = real[field, row]
            good &= not (value <= above[field] or value < least[field] or value > most[field])
            good &= abs(value) != np.inf
        for rule in range(upper.shape[0]):
            good &= not (real[upper[rule], row] < real[lower[rule], row])
        sound[row] = good


@inlined
def _slot(data, start, size, texts, places, slots):
    """The slot of a label: the one that has it, or the free one where it belongs."""
    mask = slots.shape[0] - 1
    slot = hash_text(data, start, start + size) & mask
    while slots[slot] != NEW:
        begun = places[slots[slot]]
        if places[slots[slot] + 1] - begun == size:
            same = True
            for i in range(size):
                same &= texts[begun + i] == data[start + i]
            if same:
                break
        slot = (slot + 1) & mask
    return slot


@kernel
def learn(texts, places, begin, end, slots):
    """Puts the labels ``texts[places[i]:places[i + 1]]`` of some codes into free slots.

    There must be more slots than labels, a power of two.
    """
    for code in range(begin, end):
        size = places[code + 1] - places[code]
        slots[_slot(texts, places[code], size, texts, places, slots)] = code


@kernel
def look_up(data, what, first, length, texts, places, slots, sound, codes):
    """The codes of a column of labels, of rows that are sound; gives how many are ``NEW``.

    A label is a text, or a whole number as it is spelled; a row without any is not sound.
    """
    data, texts, places, slots = borrowed(data), borrowed(texts), borrowed(places), borrowed(slots)
    fresh = 0
    for row in range(sound.shape[0]):
        codes[row] = 0
        if not sound[row]:
            continue
        start, size, found = first[row], length[row], what[row]
        good = size > 0 and found != NULL
        if good and found == NUMBER:
            after, kind, _, _ = read_number(data, start, start + size)
            good = after == start + size and kind == WHOLE
        sound[row] = good
        if good:
            codes[row] = slots[_slot(data, start, size, texts, places, slots)]
            fresh += codes[row] == NEW
    return fresh
