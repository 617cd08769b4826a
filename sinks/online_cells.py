"""Values, keys and times in the bytes in which Feast keeps them: protocol buffers, packed by hand.

Feast packs a cell in 1 us and more, as an object for each. A column is packed at once here: a
`Value` of a number is one byte and its eight, one without a number is no byte at all. That these
are the bytes that Feast writes and reads is held by test_online_cells.py, and once more by each
lane that opens a store.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from operators.batch import Float64s, Int64s

Key = tuple[str, ...]
"""An entity, and its series if the set has them."""
Marks = Int64s
"""Of each vector a row of (time, known at, number of rows, final)."""
Cell = bytes
"""A `Value`."""

MARK = "__mark"
"""Under this name a mark is kept; no feature can have it, for it begins with `__`."""
FENCE = "__fence"
"""Under this name a fence is kept in a table, of an entity that is none."""
NO_MARK = -(2**63)
"""Stands in all places of the mark of an entity of which nothing is served."""

NULL, FALSE, TRUE, EMPTY = b"", b"\x38\x00", b"\x38\x01", b"\x62\x00"
NUMBER_TAG, COUNT_TAG, LIST_TAG, BYTES_TAG = b"\x29", b"\x20", b"\x62", b"\x0a"
STRING = 2
"""Feast's number of the type, in keys."""
KEY_VERSION = 3
"""Of the form of keys."""

_MARK = np.dtype(
    [("tag", "V2"), ("ts_ns", "<i8"), ("known_at_ns", "<i8"), ("n_rows", "<i8"), ("final", "u1")]
)
_MARK_TAG = np.void(b"\x0a\x19")
_MARK_FIELDS = ("ts_ns", "known_at_ns", "n_rows", "final")


class KeyEncoder:
    """Entities as Feast spells them in bytes.

    Args:
        names: the join keys, in the order of an entity's parts.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._order = sorted(range(len(names)), key=lambda place: names[place])
        encoded = [names[place].encode() for place in self._order]
        self._prefix = struct.pack("<I", len(names)) + b"".join(
            struct.pack("<II", STRING, len(name)) + name for name in encoded
        )

    def __call__(self, key: Key) -> bytes:
        """The bytes of one entity."""
        parts = [self._prefix]
        for place in self._order:
            value = key[place].encode()
            parts += [struct.pack("<II", STRING, len(value)), value]
        return b"".join(parts)


def cells(kind: str, values: Float64s) -> list[Cell]:
    """The values of a feature; NaN is null.

    Args:
        kind: of the feature's expression.
        values: flags are 0 and 1.
    """
    if kind != "number":
        encode = _flag if kind == "flag" else count
        known = {value: encode(int(value)) for value in set(values[~np.isnan(values)].tolist())}
        return [known.get(value, NULL) for value in values.tolist()]
    packed = np.empty((len(values), 9), np.uint8)
    packed[:, 0] = NUMBER_TAG[0]
    packed[:, 1:] = np.ascontiguousarray(values, "<f8").view(np.uint8).reshape(-1, 8)
    found = sliced(packed.tobytes(), 9)
    for row in np.flatnonzero(np.isnan(values)).tolist():
        found[row] = NULL
    return found


def texts(kind: str, values: Float64s) -> list[str | None]:
    """The values of a feature as Feast's SQL stores have them beside the bytes."""
    plain = {"flag": bool, "count": int}.get(kind, float)
    found: list[str | None] = [
        None if null else str(plain(value))
        for value, null in zip(values.tolist(), np.isnan(values).tolist(), strict=True)
    ]
    return found


def count(number: int) -> Cell:
    """A whole number."""
    return COUNT_TAG + varint(number)


def _flag(number: int) -> Cell:
    return TRUE if number else FALSE


def raised(names: Sequence[str], patterns: Int64s) -> list[Cell]:
    """The names of the quality flags that are raised in each vector."""
    known = {pattern: _strings(names, pattern) for pattern in set(patterns.tolist())}
    return [known[pattern] for pattern in patterns.tolist()]


def _strings(names: Sequence[str], pattern: int) -> Cell:
    chosen = [name.encode() for bit, name in enumerate(names) if pattern >> bit & 1]
    listed = b"".join(b"\x0a" + varint(len(name)) + name for name in chosen)
    return LIST_TAG + varint(len(listed)) + listed


def mark_cells(marks: Marks) -> npt.NDArray[np.uint8]:
    """Marks as values, of one size: a row of bytes each."""
    packed = np.empty(len(marks), _MARK)
    packed["tag"] = _MARK_TAG
    for field, column in zip(_MARK_FIELDS, marks.T, strict=True):
        packed[field] = column
    return packed.view(np.uint8).reshape(len(marks), _MARK.itemsize)


def read_marks(found: Sequence[bytes | None], times_ns: Sequence[int | None]) -> Marks:
    """The marks of what is served.

    Args:
        found: the values of marks.
        times_ns: about when each was true, as Feast has it; it counts where there is no mark, for
            Feast's own writers know none.
    """
    marks = np.full((len(found), 4), NO_MARK)
    tag = _MARK_TAG.tobytes()
    size = _MARK.itemsize
    whole = [n for n, cell in enumerate(found) if cell and len(cell) == size and cell[:2] == tag]
    packed = np.frombuffer(b"".join(found[row] or b"" for row in whole), _MARK)
    for place, field in enumerate(_MARK_FIELDS):
        marks[whole, place] = packed[field]
    with_mark = set(whole)
    for row, time_ns in enumerate(times_ns):
        if time_ns is not None and row not in with_mark:
            marks[row] = (time_ns, 0, 0, 0)
    return marks


def fence_key(lane: str) -> bytes:
    """The key under which a lane's fence is kept in a table: not that of any entity."""
    return f"riffle:fence:{lane}".encode()


def bytes_cell(value: bytes) -> Cell:
    """Bytes."""
    return BYTES_TAG + varint(len(value)) + value


def read_bytes_cell(cell: Cell) -> bytes:
    """Reads bytes; what is none has none."""
    start = 1
    while start < len(cell) and cell[start] & 128:  # the length, in groups of seven bits
        start += 1
    return cell[start + 1 :] if cell[:1] == BYTES_TAG else b""


def timestamps(ts_ns: Int64s) -> list[bytes]:
    """Times as Feast keeps them in Redis: whole microseconds, as it has them from a frame."""
    known = {time_ns: _timestamp(time_ns) for time_ns in set(ts_ns.tolist())}
    return [known[time_ns] for time_ns in ts_ns.tolist()]


def _timestamp(ts_ns: int) -> bytes:
    seconds, nanos = divmod(ts_ns // 1_000 * 1_000, 10**9)
    parts = [(b"\x08", seconds), (b"\x10", nanos)]
    return b"".join(tag + varint(number) for tag, number in parts if number)


def varint(number: int) -> bytes:
    """A whole number in groups of seven bits, negative ones as of 64 bits."""
    number &= 2**64 - 1
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def sliced(packed: bytes, size: int) -> list[bytes]:
    """Cuts bytes into pieces of one size."""
    return [packed[start : start + size] for start in range(0, len(packed), size)]
