"""Numbers as the shortest decimals that are read back to the same bits.

The digits of a float64 are found as in R. Giulietti, "The Schubfach way to render doubles", 2021:
of all decimals that round to it, the shortest, and of these the nearest. Three products with a
power of ten, each rounded to odd, tell it exactly.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel
from operators.kernels.words import product, put_8

ROOM = 32
"""Bytes that must be free where a number is written, though none has more than 24."""

_LEAST, _GREATEST = -292, 324
_MINUS, _POINT, _ZERO, _E = 45, 46, 48, 101
_ZEROS = int.from_bytes(b"0.000000", "little")
_LATEST, _EARLIEST = 16, -5
"""Between these places a point is written where it is, beyond them behind the first digit."""


def _powers() -> np.ndarray:
    """The first 128 bits of the powers of ten, rounded up, as pairs of words."""
    words = []
    for power in range(_LEAST, _GREATEST + 1):
        if power >= 0:
            exact = 10**power
            shift = 128 - exact.bit_length()
            bits = exact << shift if shift >= 0 else -(-exact >> -shift)
        else:
            divisor = 10**-power
            bits = -(-(1 << (127 + divisor.bit_length())) // divisor)
        words.append((bits >> 64, bits & 0xFFFFFFFFFFFFFFFF))
    return np.array(words, np.uint64)


_POWERS = _powers()
_TEN_8, _TEN_16 = np.uint64(10**8), np.uint64(10**16)
_TENS = np.array([10**count for count in range(20)], np.uint64)


@inlined
def _scaled(power, value):
    """A value times a power of ten: the whole part, odd where anything is beyond it."""
    over, _ = product(_POWERS[power, 1], value)
    high, low = product(_POWERS[power, 0], value)
    low += over
    if low < over:
        high += np.uint64(1)
    return high | np.uint64(1) if low > np.uint64(1) else high


@kernel
def shortest(bits):
    """The digits of a positive finite number, and the power of ten they are multiplied by."""
    fraction = bits & np.uint64((1 << 52) - 1)
    exponent = np.int64(bits >> np.uint64(52)) & 0x7FF
    whole = fraction
    power = np.int64(-1074)
    if exponent != 0:
        whole |= np.uint64(1 << 52)
        power = exponent - 1075
    # At a power of two the numbers below lie twice as close.
    closer = fraction == 0 and exponent > 1
    ten = (power * 1262611 - (524031 if closer else 0)) >> 22
    shift = np.uint64(power + ((-ten * 1741647) >> 19) + 1)
    row = -ten - _LEAST
    value = whole << np.uint64(2)
    least = _scaled(row, (value - np.uint64(1 if closer else 2)) << shift)
    found = _scaled(row, value << shift)
    greatest = _scaled(row, (value + np.uint64(2)) << shift)
    # The ends belong to the number where a reader that rounds to even takes them for it.
    if whole & np.uint64(1):
        least += np.uint64(1)
        greatest -= np.uint64(1)
    digits = found >> np.uint64(2)
    below = least <= digits << np.uint64(2)
    above = (digits << np.uint64(2)) + np.uint64(4) <= greatest
    half = (digits << np.uint64(2)) + np.uint64(2)
    nearer = (found > half) | ((found == half) & (digits & np.uint64(1) == 1))
    # What is as good as a coin's toss is calculated, for a wrong guess takes longer than all this.
    exact = digits + np.uint64(above if below != above else nearer)
    fewer = digits // np.uint64(10)
    below = least <= np.uint64(40) * fewer
    above = np.uint64(40) * fewer + np.uint64(40) <= greatest
    found_fewer = (below != above) & (digits >= 10)
    return fewer + np.uint64(above) if found_fewer else exact, ten + np.int64(found_fewer)


@inlined
def _count_digits(number):
    """How many digits a number has."""
    if number >= _TENS[15]:
        # Sixteen or seventeen are most likely; which is calculated, not guessed, as above.
        beyond = np.int64(number >= _TENS[16]) + np.int64(number >= _TENS[17])
        return 16 + beyond + np.int64(number >= _TENS[18]) + np.int64(number >= _TENS[19])
    count = 1
    while number >= _TENS[count]:
        count += 1
    return count


@inlined
def _eight(number):
    """Eight digits as text in a word: halves, then pairs, then digits, all at the same time."""
    high = number // np.uint64(10_000)
    word = high | (number - high * np.uint64(10_000)) << np.uint64(32)
    tens = ((word * np.uint64(10_486)) >> np.uint64(20)) & np.uint64(0x7F0000007F)
    word = tens | (word - tens * np.uint64(100)) << np.uint64(16)
    tens = ((word * np.uint64(103)) >> np.uint64(10)) & np.uint64(0x000F000F000F000F)
    word = tens | (word - tens * np.uint64(10)) << np.uint64(8)
    return word | np.uint64(0x3030303030303030)


@inlined
def _write_few(out, at, number, count):
    """Writes at most eight digits; eight bytes from ``at`` on are lost."""
    put_8(out, at, _eight(number) >> np.uint64(8 * (8 - count)))
    return at + count


@inlined
def _write_digits(out, at, number, count):
    """Writes all digits of a number, which has so many."""
    if count > 15:
        high = number // _TEN_16
        number -= high * _TEN_16
        if count > 17:
            at = _write_few(out, at, high, count - 16)
        else:
            out[at] = np.uint64(_ZERO) + high
            at += count - 16
        count = 16
    if count > 8:
        high = number // _TEN_8
        at = _write_few(out, at, high, count - 8)
        number -= high * _TEN_8
        count = 8
    return _write_few(out, at, number, count)


@inlined
def write_whole(out, at, number):
    """Writes a whole number; gives where it ends."""
    if number < 0:
        out[at] = _MINUS
        at += 1
    size = np.uint64(-number) if number < 0 else np.uint64(number)
    return _write_digits(out, at, size, _count_digits(size))


@inlined
def _without_zeros(digits, ten):
    """The same number without zeros at its end."""
    if digits % np.uint64(10) == 0:
        for zeros in (8, 4, 2, 1):
            fewer = digits // _TENS[zeros]
            if fewer * _TENS[zeros] == digits:
                digits = fewer
                ten += zeros
    return digits, ten


@inlined
def _write_point(out, at, first, second, last, point):
    """Writes seventeen digits, in words of eight and one, and a point behind some of them."""
    put_8(out, at, first)
    if point < 8:
        put_8(out, at + point + 1, first >> np.uint64(8 * point))
    if point <= 8:
        put_8(out, at + 9, second)
    else:
        put_8(out, at + 8, second)
        if point < 16:
            put_8(out, at + point + 1, second >> np.uint64(8 * (point - 8)))
    out[at + 17] = last
    out[at + point] = _POINT


@kernel
def write_real(out, at, number):
    """Writes a finite number with a point or an exponent; gives where it ends.

    Up to ``ROOM`` bytes are lost.
    """
    bits = np.float64(number).view(np.uint64)
    out[at] = _MINUS
    at += np.int64(bits >> np.uint64(63))
    bits &= np.uint64((1 << 63) - 1)
    size = abs(number)
    if size < 1e15 and size == np.floor(size):
        at = write_whole(out, at, np.int64(size))
        out[at] = _POINT
        out[at + 1] = _ZERO
        return at + 2
    digits, ten = shortest(bits)
    digits, ten = _without_zeros(digits, ten)
    count = _count_digits(digits)
    point = count + ten
    digits *= _TENS[17 - count]
    high = digits // np.uint64(10)
    last = np.uint64(_ZERO) + digits - high * np.uint64(10)
    first = high // _TEN_8
    second = _eight(high - first * _TEN_8)
    first = _eight(first)
    if _EARLIEST < point <= 0:
        put_8(out, at, np.uint64(_ZEROS))
        at += 2 - point
        put_8(out, at, first)
        put_8(out, at + 8, second)
        out[at + 16] = last
        return at + count
    if 0 < point <= _LATEST:
        _write_point(out, at, first, second, last, point)
        return at + max(count, point + 1) + 1
    _write_point(out, at, first, second, last, 1)
    at += 1 if count == 1 else count + 1
    out[at] = _E
    return write_whole(out, at + 1, np.int64(point - 1))
