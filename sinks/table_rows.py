"""Rows of a table as PostgreSQL takes them fastest: the binary form of its COPY.

A field is its length, in four bytes, and its value; all numbers are big-endian. The fields of a
column are a matrix of bytes, a row of it each, so that numpy writes whole columns; where some are
shorter than others, a mask drops the rest. A name is rendered once, not once a row.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
T = TypeVar("T")

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""Before the rows: the form's name, no flags, no extension."""
END = b"\xff\xff"
"""Behind the rows: a row of -1 fields."""
PIECE_ROWS = 5_000
"""While the server takes a piece the next one is rendered; one piece has room in a cache."""

_NULL = b"\xff\xff\xff\xff"
_MICROSECONDS_TO_2000 = 946_684_800 * 10**6
_TEXT_OID = 25


class UnstorableTextError(ValueError):
    """A text that PostgreSQL cannot store."""


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of a column.

    Attributes:
        content: the bytes of each row's field, from the left.
        sizes: how many of them; None where all have the same number.
    """

    content: Bytes
    sizes: npt.NDArray[np.int64] | None = None


def copied(rows: pa.Table, piece_rows: int = PIECE_ROWS) -> Iterator[bytes]:
    """Gives rows as ``COPY ... FROM STDIN (FORMAT BINARY)`` takes them, in pieces.

    Args:
        rows: of texts, also as dictionaries, lists of texts, 64-bit numbers, flags, and times in
            microseconds.
        piece_rows: how many rows a piece has.

    Raises:
        UnstorableTextError: when a text has a NUL.
    """
    yield SIGNATURE
    for start in range(0, len(rows), piece_rows):
        yield _piece(rows.slice(start, piece_rows))
    yield END


def newest(rows: pa.Table, key: Sequence[str], order: Sequence[str]) -> pa.Table:
    """Gives the newest row of each key, in the order of the rows.

    Args:
        rows: of a table.
        key: columns that tell rows apart.
        order: columns that tell which of two is the newer one; of equal ones it is the later.
    """
    frame = pl.DataFrame(pl.from_arrow(rows.select([*key, *order])))
    if not frame.select(key).is_duplicated().any():
        return rows
    ordered = frame.with_row_index("row").sort(order, maintain_order=True)
    kept = ordered.unique(key, keep="last")["row"].sort()
    return rows.take(kept.to_arrow())


def _piece(rows: pa.Table) -> bytes:
    count = len(rows)
    head = np.array([len(rows.column_names)], ">i2").view(np.uint8)
    columns = [_Fields(np.broadcast_to(head, (count, 2)))]
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        columns.append(_fields(name, column.combine_chunks()))
    content = np.concatenate([column.content for column in columns], axis=1)
    if all(column.sizes is None for column in columns):
        return content.tobytes()
    return content[np.concatenate([_mask(column) for column in columns], axis=1)].tobytes()


def _mask(column: _Fields) -> npt.NDArray[np.bool_]:
    count, width = column.content.shape
    if column.sizes is None:
        return np.ones((count, width), np.bool_)
    return np.arange(width) < column.sizes[:, np.newaxis]


def _fields(name: str, column: Any) -> _Fields:
    if isinstance(column, pa.ChunkedArray):  # of dictionaries, or without rows
        column = column.unify_dictionaries()
        column = pa.concat_arrays(column.chunks)
    kind = column.type
    if pa.types.is_list(kind):
        return _lists(name, column)
    if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        return _texts(name, column)
    if pa.types.is_boolean(kind):
        values = column.cast(pa.uint8()).fill_null(0).to_numpy()
        return _numbers(column, values)
    values = column.view(pa.int64()).fill_null(0).to_numpy()  # the bits, of floats too
    if pa.types.is_timestamp(kind):
        values = values - _MICROSECONDS_TO_2000
    return _numbers(column, values.astype(">i8"))


def _numbers(column: pa.Array, values: npt.NDArray[Any]) -> _Fields:
    width = values.dtype.itemsize
    content = np.empty((len(values), 4 + width), np.uint8)
    content[:, :4] = (0, 0, 0, width)
    content[:, 4:] = values.view(np.uint8).reshape(len(values), width)
    if not column.null_count:
        return _Fields(content)
    null = column.is_null().to_numpy(zero_copy_only=False)
    content[null, :4] = 0xFF
    return _Fields(content, np.where(null, 4, 4 + width))


def _texts(name: str, column: pa.Array) -> _Fields:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    names = [*column.dictionary.to_pylist(), None]
    codes = column.indices.fill_null(len(names) - 1) if column.null_count else column.indices
    return _chosen(name, names, codes.to_numpy(), _text)


def _lists(name: str, column: pa.ListArray) -> _Fields:
    """Most vectors raise no flag, and few patterns of flags are raised at all."""
    sizes = np.diff(column.offsets.to_numpy())
    codes = np.zeros(len(column), np.int64)
    found: dict[tuple[str, ...] | None, int] = {(): 0}
    rows = np.flatnonzero((sizes > 0) | column.is_null().to_numpy(zero_copy_only=False))
    for row, texts in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist(), strict=True):
        pattern = None if texts is None else tuple(texts)
        codes[row] = found.setdefault(pattern, len(found))
    return _chosen(name, [*found], codes, _list)


def _chosen(
    name: str,
    values: Sequence[T],
    codes: npt.NDArray[np.integer[Any]],
    render: Callable[[str, T], bytes],
) -> _Fields:
    """The fields of a column that has few different values."""
    used = np.flatnonzero(np.bincount(codes, minlength=len(values)))
    rendered = [render(name, values[code]) for code in used.tolist()]
    sizes = np.zeros(len(values), np.int64)
    sizes[used] = [len(each) for each in rendered]
    width = int(sizes.max(initial=0))
    content = np.zeros((len(values), width), np.uint8)
    for code, each in zip(used.tolist(), rendered, strict=True):
        content[code, : len(each)] = np.frombuffer(each, np.uint8)
    alike = bool((sizes[used] == width).all())
    return _Fields(content[codes], None if alike else sizes[codes])


def _text(column: str, text: str | None) -> bytes:
    if text is None:
        return _NULL
    if "\0" in text:
        msg = (
            f"column `{column}`: a text must have no NUL, which PostgreSQL cannot store, found "
            f"{text!r}; take it out where the name comes from"
        )
        raise UnstorableTextError(msg)
    return _sized(text.encode())


def _list(column: str, texts: tuple[str | None, ...] | None) -> bytes:
    if texts is None:
        return _NULL
    if not texts:
        return _sized(_integers(0, 0, _TEXT_OID))  # no dimension
    some_null = int(None in texts)
    head = _integers(1, some_null, _TEXT_OID, len(texts), 1)
    return _sized(head + b"".join(_text(column, text) for text in texts))


def _sized(value: bytes) -> bytes:
    return _integers(len(value)) + value


def _integers(*values: int) -> bytes:
    return struct.pack(f"!{len(values)}i", *values)
