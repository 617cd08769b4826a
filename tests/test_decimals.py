"""Numbers are written as the shortest decimals that are read back, to the digit as msgspec does."""

from __future__ import annotations

import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.kernels import decimals

EDGES = [
    5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 9007199254740993.0, 1e15, 1e16, 1e22,
    1e23, 0.00001, 0.000001, 9.5e-6, 123456789012345.6, 1234567890123456.7, 0.3, 2.0**63, 4.35,
]  # fmt: skip


def written(numbers: np.ndarray) -> list[bytes]:
    room = np.full(decimals.ROOM, ord("#"), np.uint8)
    return [room[: decimals.write_real(room, 0, number)].tobytes() for number in numbers]


def neighbours(numbers: list[float]) -> np.ndarray:
    """Each number, and the finite ones just around it."""
    bits = np.array(numbers).view(np.int64)
    found = np.concatenate([(bits + step).view(np.float64) for step in range(-3, 4)])
    return found[np.isfinite(found)]


def check(numbers: np.ndarray) -> None:
    assert written(numbers) == [msgspec.json.encode(number) for number in numbers.tolist()]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number(number):
    (text,) = written(np.array([number]))
    assert text == msgspec.json.encode(number)
    assert struct.pack("<d", float(text)) == struct.pack("<d", number)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_numbers_around_powers(sign):
    twos = [2.0**power for power in range(-1070, 1024)]
    tens = [float(f"1e{power}") for power in range(-320, 309)]
    check(sign * neighbours([*twos, *tens, *EDGES]))
    check(sign * np.array([0.0, *EDGES]))


def test_numbers_of_all_lengths():
    rng = np.random.default_rng(0)
    drawn = np.frombuffer(rng.bytes(8 * 50_000), np.float64)
    check(drawn[np.isfinite(drawn)])
    for digits in range(18):
        whole = rng.integers(0, 10**digits, 500, endpoint=True)
        for power in range(-22, 18, 3):
            check(whole * 10.0**power)


def test_whole_numbers():
    room = np.zeros(decimals.ROOM, np.uint8)
    tens = [10**power for power in range(19)]
    for number in [0, *tens, *(ten - 1 for ten in tens), 2**63 - 1, 2**53 + 1]:
        for signed in (number, -number):
            end = write_whole(room, signed)
            assert room[:end].tobytes() == str(signed).encode()
    assert room[: write_whole(room, -(2**63))].tobytes() == str(-(2**63)).encode()


def write_whole(room: np.ndarray, number: int) -> int:
    return int(decimals.write_whole(room, 0, np.int64(number)))
