"""Rows of columns as JSON objects, a line each."""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel
from operators.kernels.decimals import ROOM, write_real, write_whole
from operators.kernels.words import copy_16

TEXT, TIME, WHOLE, REAL, COUNT, FLAG = range(6)
"""What a cell is: one of some texts, a time, a whole number, a number, one that is whole, a truth.
Of the last three NaN is null, and so is a number that is infinite."""
CELL = ROOM
"""Bytes of a cell that is no text, of which a time with its quotes may need all."""
SPARE = CELL
"""Bytes that must lie behind the texts and behind the rows, for they are moved in words."""

_QUOTE, _MINUS, _POINT, _ZERO, _COLON, _T, _Z, _LINE = 34, 45, 46, 48, 58, 84, 90, 10
_NULL, _TRUE, _FALSE = (
    np.frombuffer(word.ljust(16), np.uint8).copy() for word in (b"null", b"true", b"false")
)
_SECOND_NS = 1_000_000_000
_DAY_S = 86_400


@inlined
def _copy(out, at, text, first, last):
    """Copies some bytes, and what is behind them until it is a multiple of sixteen."""
    end = at + last - first
    while first < last:
        copy_16(out, at, text, first)
        first += 16
        at += 16
    return end


@inlined
def _write_two(out, at, number, mark):
    out[at] = _ZERO + number // 10
    out[at + 1] = _ZERO + number % 10
    out[at + 2] = mark
    return at + 3


@inlined
def _write_time(out, at, time_ns):
    """A time as RFC 3339 in UTC, in quotes, without trailing zeros."""
    second = time_ns // _SECOND_NS
    rest = time_ns - second * _SECOND_NS
    day = second // _DAY_S
    of_day = second - day * _DAY_S
    # Years begin in March here (Howard Hinnant, civil_from_days).
    day += 719468
    era = day // 146097
    of_era = day - era * 146097
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    of_month = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year += era * 400 + (1 if month <= 2 else 0)
    out[at] = _QUOTE
    out[at + 1] = _ZERO + year // 1000
    out[at + 2] = _ZERO + year // 100 % 10
    at = _write_two(out, at + 3, year % 100, _MINUS)
    at = _write_two(out, at, month, _MINUS)
    at = _write_two(out, at, of_month, _T)
    at = _write_two(out, at, of_day // 3600, _COLON)
    at = _write_two(out, at, of_day // 60 % 60, _COLON)
    at = _write_two(out, at, of_day % 60, _POINT)
    if rest == 0:
        at -= 1
    else:
        end = at + 9
        for i in range(9):
            out[end - 1 - i] = _ZERO + rest % 10
            rest //= 10
        while out[end - 1] == _ZERO:
            end -= 1
        at = end
    out[at] = _Z
    out[at + 1] = _QUOTE
    return at + 2


@inlined
def _write_reals(numbers, out, sizes):
    for row in range(numbers.shape[0]):
        at = row * CELL
        if np.isfinite(numbers[row]):
            sizes[row] = write_real(out, at, numbers[row]) - at
        else:
            sizes[row] = _copy(out, at, _NULL, 0, 4) - at


@inlined
def _write_counts(numbers, out, sizes):
    for row in range(numbers.shape[0]):
        at = row * CELL
        if np.isnan(numbers[row]):
            sizes[row] = _copy(out, at, _NULL, 0, 4) - at
        else:
            sizes[row] = write_whole(out, at, np.int64(numbers[row])) - at


@inlined
def _write_flags(numbers, out, sizes):
    for row in range(numbers.shape[0]):
        at = row * CELL
        if np.isnan(numbers[row]):
            sizes[row] = _copy(out, at, _NULL, 0, 4) - at
        elif numbers[row] != 0.0:
            sizes[row] = _copy(out, at, _TRUE, 0, 4) - at
        else:
            sizes[row] = _copy(out, at, _FALSE, 0, 5) - at


@inlined
def _write_times(times_ns, out, sizes):
    for row in range(times_ns.shape[0]):
        at = row * CELL
        # Vectors of one instant follow each other.
        if row > 0 and times_ns[row] == times_ns[row - 1]:
            copy_16(out, at, out, at - CELL)
            copy_16(out, at + 16, out, at - CELL + 16)
            sizes[row] = sizes[row - 1]
        else:
            sizes[row] = _write_time(out, at, times_ns[row]) - at


@inlined
def _write_wholes(numbers, out, sizes):
    for row in range(numbers.shape[0]):
        at = row * CELL
        sizes[row] = write_whole(out, at, numbers[row]) - at


@kernel
def write_cells(kinds, source, wholes, reals, first, last, cells, sizes):
    """Writes the cells of the rows ``first .. last``, but for texts, a column after the other.

    How a number is written depends on it in ways that no processor can guess, and it would guess
    less of the rest if that came in turn with it.
    """
    for column in range(kinds.shape[0]):
        kind, where = kinds[column], source[column]
        if kind == REAL:
            _write_reals(reals[where, first:last], cells[column], sizes[column])
        elif kind == COUNT:
            _write_counts(reals[where, first:last], cells[column], sizes[column])
        elif kind == FLAG:
            _write_flags(reals[where, first:last], cells[column], sizes[column])
        elif kind == TIME:
            _write_times(wholes[where, first:last], cells[column], sizes[column])
        elif kind == WHOLE:
            _write_wholes(wholes[where, first:last], cells[column], sizes[column])


@kernel
def write_rows(kinds, source, wholes, texts, text_at, first, last, cells, sizes, out):
    """Writes the rows ``first .. last``, a line each, and gives how many bytes they are.

    Cell ``c`` is the row's in ``cells[c]``, or the text whose number is in ``wholes[source[c]]``.
    Text ``c`` stands before cell ``c``, and the one after these behind the last cell; text ``t`` is
    ``texts[text_at[t]:text_at[t + 1]]``.
    """
    columns = kinds.shape[0]
    at = 0
    for row in range(last - first):
        for column in range(columns):
            at = _copy(out, at, texts, text_at[column], text_at[column + 1])
            if kinds[column] == TEXT:
                text = wholes[source[column], first + row]
                at = _copy(out, at, texts, text_at[text], text_at[text + 1])
            else:
                copy_16(out, at, cells[column], row * CELL)
                copy_16(out, at + 16, cells[column], row * CELL + 16)
                at += sizes[column, row]
        at = _copy(out, at, texts, text_at[columns], text_at[columns + 1])
        out[at] = _LINE
        at += 1
    return at
