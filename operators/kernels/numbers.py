"""Numbers as JSON spells them, read where each is sure to be the nearest there is."""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel

READ, LEFT, SUSPECT, MEMBERS = 0, 1, 2, 3
"""What became of an object: read; left to the parser, with no key twice and not too deep; left to
it with nothing known."""
FOREIGN = 4
"""Added where an object holds bytes beyond ASCII, which are to be proven to be text."""
NULL, TEXT, WHOLE, NUMBER, SAMPLES, TRUTH, OTHER = 0, 1, 2, 3, 4, 5, 6
"""What a value is."""
AGAIN = 7
"""In place of the first column of a suspect: the key stands there that it has for a second time."""
OF_ID, OF_NUMBER, OF_SAMPLES = 0, 1, 2
"""What the values of a column must be: texts and whole numbers, numbers, lists of numbers."""

_MOST_WHOLE = np.uint64(2**63 - 1)
_POWERS = 10.0 ** np.arange(23)
_SPACE, _TAB, _FEED, _RETURN = 32, 9, 10, 13
_COMMA, _MINUS, _POINT, _ZERO, _NINE = 44, 45, 46, 48, 57


@inlined
def blanks(data, at, end):
    """Where the next byte stands that is not blank."""
    while at < end and (
        data[at] == _SPACE or data[at] == _FEED or data[at] == _RETURN or data[at] == _TAB
    ):
        at += 1
    return at


@kernel
def read_number(data, at, end):
    """A number: where it ends (-1: it is none), its kind, its whole and its real value.

    The kind is WHOLE or NUMBER when the value is exact, and NULL when it is left to others; then
    the whole value is 1 where the number is far from the ends of the range.
    """
    negative = data[at] == _MINUS
    if negative:
        at += 1
    start = at
    digits = np.uint64(0)
    count = 0
    power = np.int64(0)
    while at < end and _ZERO <= data[at] <= _NINE:
        if count < 19:
            digits = digits * np.uint64(10) + np.uint64(data[at] - _ZERO)
        else:
            power += 1
        if digits > 0:
            count += 1
        at += 1
    if at == start or (data[start] == _ZERO and at > start + 1):
        return -1, NULL, np.int64(0), 0.0
    if at == end or (data[at] != _POINT and data[at] != 101 and data[at] != 69):
        if count > 19 or digits > _MOST_WHOLE or (negative and digits == 0):
            return at, NULL, np.int64(0), 0.0
        whole = np.int64(digits)
        whole = -whole if negative else whole
        return at, WHOLE, whole, np.float64(whole)
    if data[at] == _POINT:
        at += 1
        start = at
        while at < end and _ZERO <= data[at] <= _NINE:
            if count < 19:
                digits = digits * np.uint64(10) + np.uint64(data[at] - _ZERO)
                power -= 1
            if digits > 0:
                count += 1
            at += 1
        if at == start:
            return -1, NULL, np.int64(0), 0.0
    if at < end and (data[at] == 101 or data[at] == 69):
        at += 1
        below = at < end and data[at] == _MINUS
        if at < end and (data[at] == _MINUS or data[at] == 43):
            at += 1
        start = at
        exponent = np.int64(0)
        while at < end and _ZERO <= data[at] <= _NINE:
            exponent = exponent * 10 + np.int64(data[at] - _ZERO)
            exponent = np.int64(9999) if exponent > 9999 else exponent
            at += 1
        if at == start:
            return -1, NULL, np.int64(0), 0.0
        power += -exponent if below else exponent
    # Both operands are exact, so the one rounding of the result is the right one.
    if count < 19 and digits <= np.uint64(1 << 53) and -22 <= power <= 22:
        value = np.float64(digits)
        value = value * _POWERS[power] if power >= 0 else value / _POWERS[-power]
        return at, NUMBER, np.int64(0), -value if negative else value
    if -250 <= power <= 250:
        return at, NULL, np.int64(1), 0.0
    return at, NULL, np.int64(0), 0.0


@kernel
def is_number(data, at, end):
    """Whether a number stands there that is not out of range."""
    after, found, plain, _ = read_number(data, at, end)
    return after == end and (found != NULL or plain == 1)


@kernel
def whole_numbers(data, out, what, first, length, whole):
    """Reads the numbers of a column of texts and whole numbers."""
    for row in range(out.shape[0]):
        if what[row] == NUMBER and out[row] & (LEFT | SUSPECT) == 0:
            end = first[row] + length[row]
            after, found, value, _ = read_number(data, first[row], end)
            if after == end and found == WHOLE:
                what[row] = WHOLE
                whole[row] = value
            else:
                out[row] |= LEFT


@kernel
def real_numbers(data, out, what, first, length, real, long_rows):
    """Reads the numbers of a column; gives how many long ones are left, in ``long_rows``."""
    longs = 0
    for row in range(out.shape[0]):
        if what[row] == NUMBER and out[row] & (LEFT | SUSPECT) == 0:
            end = first[row] + length[row]
            after, found, plain, value = read_number(data, first[row], end)
            real[row] = value
            if after == end and found == NULL and plain == 1:
                long_rows[longs] = row
                longs += 1
            elif after != end or found == NULL:
                out[row] |= LEFT
    return longs


@kernel
def count_samples(data, out, what, first, length):
    """How many numbers the lists of a column hold at most."""
    count = 0
    for row in range(out.shape[0]):
        if what[row] == SAMPLES and out[row] & (LEFT | SUSPECT) == 0:
            count += 1
            for at in range(first[row], first[row] + length[row]):
                count += data[at] == _COMMA
    return count


@kernel
def sample_numbers(data, out, what, first, length, sizes, samples, sample_at, sample_length):
    """Reads the lists of a column into ``samples``; gives how many there are.

    The place of a number that is long has its text at ``sample_at``, with ``sample_length``; of
    others that length is 0.
    """
    count = 0
    for row in range(out.shape[0]):
        sizes[row] = 0
        if what[row] != SAMPLES or out[row] & (LEFT | SUSPECT) != 0:
            continue
        before = count
        end = first[row] + length[row] - 1
        at = blanks(data, first[row] + 1, end)
        sound = at == end
        while at < end:
            sound = False
            begun = at
            if data[at] != _MINUS and not _ZERO <= data[at] <= _NINE:
                break
            at, found, plain, value = read_number(data, begun, end)
            if at < 0 or (found == NULL and plain == 0):
                break
            samples[count] = value
            sample_at[count] = begun
            sample_length[count] = at - begun if found == NULL else 0
            count += 1
            at = blanks(data, at, end)
            if at == end:
                sound = True
            elif data[at] != _COMMA:
                break
            else:
                at = blanks(data, at + 1, end)
        if sound:
            sizes[row] = count - before
        else:
            count = before
            out[row] |= LEFT
    return count
