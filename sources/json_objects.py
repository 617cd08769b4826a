"""The columns of plain JSON objects, by the kernel; the others are said to be left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from operators.batch import Float64s, Int64s
from operators.kernels import numbers, objects

KINDS = {"id": numbers.OF_ID, "number": numbers.OF_NUMBER, "samples": numbers.OF_SAMPLES}
MOST_COLUMNS = 60
"""Columns that the kernel can tell apart; of streams with more it reads none."""

Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Column = Callable[[Bools | None], pa.Array]
"""Gives a column of the rows that were read in all columns; None for all rows."""


@dataclass(frozen=True, slots=True)
class Plain:
    """What became of some objects.

    Attributes:
        state: ``READ``; ``LEFT`` to the parser, with no key twice and not too deep; or
            ``SUSPECT``, with nothing known.
        table: the columns of those that were read, but those that no object has.
        again: the key that a suspect surely has twice, if it is an object.
    """

    state: Bytes
    table: pa.Table
    again: Mapping[int, str]


class _Scratch:
    """Arrays that the kernels write into. New ones for each call would cost as much as the call."""

    def __init__(self, columns: int, rows: int) -> None:
        self.rows = rows
        self.state = np.empty(rows, np.uint8)
        self.what = np.empty(columns * rows, np.uint8)
        self.first, self.length = (np.empty(columns * rows, np.int64) for _ in range(2))
        self.whole, self.real = np.empty(rows, np.int64), np.empty(rows)
        self.long_rows, self.sizes = np.empty(rows, np.int64), np.empty(rows, np.int64)


@dataclass(frozen=True, slots=True)
class Located:
    """Where the values of some columns stand in some objects.

    Attributes:
        data: the bytes of all objects.
        state: what became of each: ``READ``, ``LEFT`` or ``SUSPECT``.
        what, first, length: of each column and object, what is there, and where.
        held: arrays to write into.
    """

    data: Bytes
    state: Bytes
    what: Bytes
    first: Int64s
    length: Int64s
    held: _Scratch


class Locator:
    """Finds the values of columns in objects.

    Args:
        kinds: the columns and what their values must be: ``id``, ``number`` or ``samples``; at
            most ``MOST_COLUMNS``.
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self._numbers = np.array([KINDS[kind] for kind in kinds.values()], np.uint8)
        encoded = [name.encode() for name in kinds]
        self._text = np.frombuffer(b"".join([*encoded, _SPARE]), np.uint8)
        self._name_at = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
        self._scratch = _Scratch(len(kinds), 0)

    def locate(self, values: Sequence[bytes]) -> Located:
        """Finds them in some objects; what is found holds until the next call."""
        count, columns = len(values), len(self._numbers)
        data = np.frombuffer(b"".join([*values, _SPARE]), np.uint8)
        lengths = np.fromiter(map(len, values), np.int64, count)
        ends = lengths.cumsum()
        if count > self._scratch.rows:
            self._scratch = _Scratch(columns, count)
        held = self._scratch
        size, shape = columns * count, (columns, count)
        state, what = held.state[:count], held.what[:size].reshape(shape)
        first, length = held.first[:size].reshape(shape), held.length[:size].reshape(shape)
        what[:] = numbers.NULL
        objects.locate(
            data, ends - lengths, ends, self._text, self._name_at, self._numbers, state, what,
            first, length,
        )  # fmt: skip
        for index in (state & numbers.FOREIGN).nonzero()[0].tolist():
            state[index] = state[index] - numbers.FOREIGN if _is_text(values[index]) else _SUSPECT
        return Located(data, state, what, first, length, held)


class PlainObjects:
    """Takes objects apart into columns.

    Args:
        kinds: the columns and what their values must be: ``id``, ``number`` or ``samples``.
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self._kinds = kinds
        self._locator = Locator(kinds)

    def read(self, values: Sequence[bytes]) -> Plain:
        """Takes some objects apart."""
        if len(self._kinds) > MOST_COLUMNS:
            nothing = pa.table({name: pa.nulls(0) for name in self._kinds})
            return Plain(np.full(len(values), numbers.SUSPECT, np.uint8), nothing, {})
        found = self._locator.locate(values)
        data, held, state, what = found.data, found.held, found.state, found.what
        there = np.flatnonzero(what.any(axis=1)).tolist()
        # All numbers are read before a row is known to be plain in all of its columns.
        readers = {
            name: _READERS[kind](
                data, held, state, what[number], found.first[number], found.length[number]
            )
            for number, (name, kind) in enumerate(self._kinds.items())
            if number in there
        }
        rows = state == numbers.READ
        chosen = None if rows.all() else rows
        table = pa.table({name: read(chosen) for name, read in readers.items()})
        return Plain(state.copy(), table, _again(found))


def _again(found: Located) -> dict[int, str]:
    """The keys that were met for a second time, by object."""
    met = (found.what[0] == numbers.AGAIN).nonzero()[0]
    first, size = found.first[0][met].tolist(), found.length[0][met].tolist()
    return {
        index: found.data[at : at + length].tobytes().decode()
        for index, at, length in zip(met.tolist(), first, size, strict=True)
    }


_SUSPECT = np.uint8(numbers.SUSPECT)
_SPARE = bytes(objects.SPARE)


def _ids(
    data: Bytes, held: _Scratch, state: Bytes, what: Bytes, first: Int64s, length: Int64s
) -> Column:
    """A column of texts and whole numbers."""
    if (what == numbers.NUMBER).any():
        numbers.whole_numbers(data, state, what, first, length, held.whole)
    whole = held.whole[: len(what)].copy()

    def read(rows: Bools | None) -> pa.Array:
        there = _some(what, rows) != numbers.NULL
        if (_some(what, rows) == numbers.TEXT).any():
            # Numbers among texts are the texts that spell them.
            return _texts(data, _some(first, rows), _some(length, rows), there)
        if not there.any():
            return pa.nulls(len(there), pa.large_string())
        return pa.array(_some(whole, rows), pa.int64(), mask=_missing(there))

    return read


def _reals(
    data: Bytes, held: _Scratch, state: Bytes, what: Bytes, first: Int64s, length: Int64s
) -> Column:
    """A column of numbers."""
    real = np.empty(len(what))
    longs = numbers.real_numbers(data, state, what, first, length, real, held.long_rows)
    if longs:
        rows_left = held.long_rows[:longs]
        real[rows_left] = rounded(data, first[rows_left], length[rows_left])

    def read(rows: Bools | None) -> pa.Array:
        there = _some(what, rows) != numbers.NULL
        return pa.array(_some(real, rows), pa.float64(), mask=_missing(there))

    return read


def _lists(
    data: Bytes, held: _Scratch, state: Bytes, what: Bytes, first: Int64s, length: Int64s
) -> Column:
    """A column of lists of numbers."""
    most = numbers.count_samples(data, state, what, first, length)
    samples, at, size = np.empty(most), np.empty(most, np.int64), np.empty(most, np.int64)
    count = numbers.sample_numbers(data, state, what, first, length, held.sizes, samples, at, size)
    left = np.flatnonzero(size[:count])
    if len(left):
        samples[left] = rounded(data, at[left], size[left])
    sizes = held.sizes[: len(what)].copy()

    def read(rows: Bools | None) -> pa.Array:
        # Rows that were not read in another column left their samples behind.
        kept = samples[:count] if rows is None else samples[:count][np.repeat(rows, sizes)]
        offsets = np.concatenate([[0], np.cumsum(_some(sizes, rows))])
        there = _some(what, rows) != numbers.NULL
        mask = None if there.all() else pa.array(~there)
        return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(kept), mask=mask)

    return read


_READERS = {"id": _ids, "number": _reals, "samples": _lists}


def _some(values: Any, rows: Bools | None) -> Any:
    return values if rows is None else values[rows]


def _missing(there: Bools) -> Bools | None:
    return None if there.all() else ~there


def rounded(data: Bytes, first: Int64s, length: Int64s) -> Float64s:
    """Numbers of many digits, each rounded once, as the parser does."""
    texts = _texts(data, first, length, np.ones(len(first), np.bool_))
    return np.asarray(pc.cast(texts, pa.float64()))


def _texts(data: Bytes, first: Int64s, length: Int64s, there: Bools) -> pa.Array:
    texts, offsets = objects.gather(data, first, length, there)
    valid = None
    if not there.all():
        valid = pa.py_buffer(np.packbits(there, bitorder="little").tobytes())
    buffers = [valid, pa.py_buffer(offsets), pa.py_buffer(texts)]
    return pa.Array.from_buffers(pa.large_string(), len(first), buffers)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
