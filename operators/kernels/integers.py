"""Whole numbers as text spells them."""

from __future__ import annotations

import numpy as np

from operators.kernels import kernel

_ZERO, _NINE, _MINUS = 48, 57, 45
_MOST_DIGITS = 19
_LEAST = -(2**63)
_LEAST_TENTH, _LAST_DIGIT = -(2**63 // 10), 8


@kernel
def read_whole(data, start, stop):
    """The number that some bytes spell, and whether they spell one in its canonical way."""
    negative = stop > start and data[start] == _MINUS
    first = start + 1 if negative else start
    digits = stop - first
    if digits < 1 or digits > _MOST_DIGITS:
        return 0, False
    if data[first] == _ZERO and (digits > 1 or negative):
        return 0, False
    # Summed below zero, where there is one number more.
    number = np.int64(0)
    for at in range(first, stop):
        byte = data[at]
        if byte < _ZERO or byte > _NINE:
            return 0, False
        digit = np.int64(byte) - _ZERO
        if number < _LEAST_TENTH or (number == _LEAST_TENTH and digit > _LAST_DIGIT):
            return 0, False
        number = number * 10 - digit
    if negative:
        return number, True
    return (0, False) if number == _LEAST else (-number, True)


@kernel
def parse_whole(data, offsets):
    """Numbers of the byte strings ``data[offsets[i]:offsets[i + 1]]``, and which are one.

    A number is written in its one canonical way: no sign but ``-``, no needless zero, within int64.
    The others are 0.
    """
    count = offsets.shape[0] - 1
    values, spelled = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    for i in range(count):
        values[i], spelled[i] = read_whole(data, offsets[i], offsets[i + 1])
    return values, spelled
