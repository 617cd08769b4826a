"""Rows as PostgreSQL sends them in binary: where their fields lie, and their values as columns.

A row is the number of its fields in 2 bytes, then for each its length in 4, negative for null, and
its bytes; 2 bytes of -1 end it all. Numbers stand with their highest byte first.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel

MORE, ENDED, OTHER = 0, 1, 2
"""How a block of rows ended: for want of bytes or of places, at the end of all, or at a row that
has another number of fields."""
_ARRAY_HEAD, _OF_DIMENSION = 12, 8
"""Bytes of an array before its dimensions (how many, whether nulls, of what), and of each."""


@inlined
def _unsigned(data, at, count):
    value = np.uint64(0)
    for i in range(at, at + count):
        value = (value << np.uint64(8)) | np.uint64(data[i])
    return value


@inlined
def _length(data, at):
    return np.int64(np.int32(_unsigned(data, at, 4)))


@kernel
def split(data, end, first, length):
    """Finds the fields of the rows that are complete.

    Args:
        data: the bytes.
        end: how many of them there are.
        first: filled with where each field begins; a row for each column of the table.
        length: filled with the bytes of each; negative for null.

    Returns:
        How many rows there are, where the next one begins, and how they ended.
    """
    columns, most = first.shape
    at = 0
    for row in range(most):
        if at + 2 > end:
            return row, at, MORE
        found = _unsigned(data, at, 2)
        if found == 0xFFFF:
            return row, at + 2, ENDED
        if found != columns:
            return row, at, OTHER
        i = at + 2
        for column in range(columns):
            if i + 4 > end:
                return row, at, MORE
            size = _length(data, i)
            i += 4
            first[column, row] = i
            length[column, row] = size
            if size > 0:
                i += size
        if i > end:
            return row, at, MORE
        at = i
    return most, at, MORE


@kernel
def wide(data, first, length, out):
    """Numbers of 8 bytes; 0 for null."""
    for row in range(len(first)):
        out[row] = np.int64(_unsigned(data, first[row], 8)) if length[row] >= 0 else 0


@kernel
def texts(data, first, length, ends, out):
    """Texts, one behind the other, and where each ends behind a leading 0; empty for null."""
    at = 0
    ends[0] = 0
    for row in range(len(first)):
        for i in range(first[row], first[row] + max(length[row], 0)):
            out[at] = data[i]
            at += 1
        ends[row + 1] = at


@inlined
def _elements(data, first, length):
    if length < 0:
        return 0
    dimensions = _length(data, first)
    count = np.int64(1 if dimensions > 0 else 0)
    for i in range(dimensions):
        count *= _length(data, first + _ARRAY_HEAD + _OF_DIMENSION * i)
    return count


@kernel
def count_elements(data, first, length, ends):
    """How many elements there are up to the end of each array, behind a leading 0."""
    ends[0] = 0
    for row in range(len(first)):
        ends[row + 1] = ends[row] + _elements(data, first[row], length[row])


@kernel
def elements(data, first, ends, out, null):
    """The elements of arrays of numbers of 8 bytes, and which of them are null."""
    for row in range(len(first)):
        if ends[row + 1] == ends[row]:
            continue
        i = first[row] + _ARRAY_HEAD + _OF_DIMENSION * _length(data, first[row])
        for at in range(ends[row], ends[row + 1]):
            size = _length(data, i)
            i += 4
            null[at] = size < 0
            out[at] = 0 if size < 0 else np.int64(_unsigned(data, i, 8))
            i += max(size, 0)
