"""Times written as RFC 3339, to nanoseconds since the epoch."""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel

READ, MALFORMED, TOO_FAR = 0, 1, 2
"""What became of a text: a time, no time at all, a time that 64 bits of nanoseconds cannot hold."""


@inlined
def _digits(data, at, count):
    """The number that some decimal digits spell; negative when one of them is no digit."""
    number = np.int64(0)
    for i in range(at, at + count):
        digit = np.int64(data[i]) - 48
        if digit < 0 or digit > 9:
            return -1
        number = number * 10 + digit
    return number


@inlined
def _days(year, month, day):
    """Days since 1970-01-01 of a Gregorian date (Howard Hinnant, days_from_civil)."""
    y = year - 1 if month <= 2 else year
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    era = y // 400
    of_era = y - era * 400
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


@inlined
def _month_length(year, month):
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


@inlined
def _offset_minutes(data, at, end):
    """Minutes of ``Z``, ``+01:00``, ``+0100`` or ``+01``; none is UTC; -10000 is malformed."""
    left = end - at
    if left == 0 or (left == 1 and data[at] in (90, 122)):
        return 0
    minute_at = at + 4 if left == 6 else at + 3
    if left not in (3, 5, 6) or data[at] not in (43, 45) or (left == 6 and data[at + 3] != 58):
        return -10000
    hours = _digits(data, at + 1, 2)
    minutes = _digits(data, minute_at, 2) if left > 3 else 0
    if hours < 0 or hours > 23 or minutes < 0 or minutes > 59:
        return -10000
    return (hours * 60 + minutes) * (1 if data[at] == 43 else -1)


@inlined
def read_time(data, at, end):
    """State and nanoseconds of one text."""
    if end - at < 19:
        return MALFORMED, 0
    separators = data[at + 4] == 45 and data[at + 7] == 45 and data[at + 10] in (84, 116, 32)
    if not separators or data[at + 13] != 58 or data[at + 16] != 58:
        return MALFORMED, 0
    year, month, day = _digits(data, at, 4), _digits(data, at + 5, 2), _digits(data, at + 8, 2)
    hour, minute = _digits(data, at + 11, 2), _digits(data, at + 14, 2)
    second = _digits(data, at + 17, 2)
    if year < 0 or month < 1 or month > 12 or day < 1 or day > _month_length(year, month):
        return MALFORMED, 0
    # 60 is a leap second: the instant at which the next minute starts.
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 60:
        return MALFORMED, 0
    i = at + 19
    nanoseconds, place = np.int64(0), np.int64(100_000_000)
    if i < end and data[i] == 46:
        i += 1
        first = i
        while i < end and data[i] >= 48 and data[i] <= 57:
            nanoseconds += (np.int64(data[i]) - 48) * place
            place //= 10
            i += 1
        if i == first:
            return MALFORMED, 0
    offset = _offset_minutes(data, i, end)
    if offset == -10000:
        return MALFORMED, 0
    if year < 1678 or year > 2261:
        return TOO_FAR, 0
    seconds = _days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset * 60
    return READ, seconds * 1_000_000_000 + nanoseconds


@kernel
def parse_rfc3339(data, offsets):
    """Times of the byte strings ``data[offsets[i]:offsets[i + 1]]``: their states, and int64 ns.

    A separator of date and time may be ``T``, ``t`` or a space; a time without an offset is UTC;
    digits of a second beyond the ninth are dropped.
    """
    states = np.empty(offsets.shape[0] - 1, np.int8)
    times_ns = np.zeros(offsets.shape[0] - 1, np.int64)
    for i in range(states.shape[0]):
        states[i], times_ns[i] = read_time(data, offsets[i], offsets[i + 1])
    return states, times_ns
