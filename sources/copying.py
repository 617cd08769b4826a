"""Rows out of PostgreSQL as columns, by COPY in binary.

Server and psql send such rows no faster than they are read here: a row costs Python one call, and
no object for any of its values.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import numpy.typing as npt
import polars as pl
import psycopg
import pyarrow as pa
from psycopg import pq, sql
from psycopg.errors import error_from_result
from psycopg.rows import TupleRow

from operators.kernels import copy_rows

Connection = psycopg.Connection[TupleRow]
Buffer = bytes | bytearray | memoryview
Int32s = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
HEAD_BYTES = len(SIGNATURE) + 8
"""The signature, 4 bytes of flags, and 4 with the length of what else there is: nothing."""
YEAR_2000_US = 946_684_800_000_000
"""From the epoch to PostgreSQL's own."""
LONGEST_WAIT_MS = 500


class Kind(Enum):
    """What a column's values are, as they are sent."""

    WHOLE = auto()
    TIME = auto()
    REAL = auto()
    DECIMAL = auto()
    TEXT = auto()
    REALS = auto()


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is read.

    Attributes:
        name: what it is called in rows.
        kind: what its values are.
        expression: what gives it, of the type that its kind is sent as.
    """

    name: str
    kind: Kind
    expression: sql.Composable


class StoppedError(Exception):
    """The reader was asked to stop while it waited."""


class CopyOut:
    """The rows of a query, a block at a time.

    Memory is bounded by the blocks: what is not read waits at the server.

    Args:
        connection: on which nothing else goes on meanwhile.
        query: gives just the columns.
        columns: what they are.
        stopped: asked now and then, while the server lets us wait, whether to stop.

    Attributes:
        ended: whether all rows were read.

    Raises:
        psycopg.Error: when the server refuses the query, or is lost.
        StoppedError: when it was asked to stop.
    """

    def __init__(
        self,
        connection: Connection,
        query: sql.Composable,
        columns: Sequence[Column],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.ended = False
        self._columns = columns
        self._stopped = stopped
        self._raw = connection.pgconn
        self._encoding = connection.info.encoding
        self._poll = select.poll()
        self._poll.register(self._raw.socket, select.POLLIN)
        self._bytes = bytearray()
        self._headed = self._sent = False
        statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(query)
        self._raw.send_query(statement.as_bytes(connection))
        self._result(pq.ExecStatus.COPY_OUT)

    def read(self, count: int, most_bytes: int) -> pa.Table:
        """At most so many rows of about so many bytes; none at the end alone."""
        while True:
            self._fill(count, most_bytes)
            table = self._taken(count)
            if table.num_rows or self.ended:
                return table

    def _fill(self, count: int, most_bytes: int) -> None:
        """Takes messages in, each about a row."""
        held = self._bytes
        for _ in range(count):
            data = self._message()
            if data is None:
                return
            held += data
            if len(held) >= most_bytes:
                return

    def _message(self) -> Buffer | None:
        """What the server sends next; None when that is all."""
        if self._sent:
            return None
        raw = self._raw
        size, data = raw.get_copy_data(1)
        while size == 0:
            self._wait()
            raw.consume_input()
            size, data = raw.get_copy_data(1)
        if size > 0:
            return data
        self._sent = True
        self._result(pq.ExecStatus.COMMAND_OK)
        while raw.get_result() is not None:
            pass
        return None

    def _wait(self) -> None:
        while not self._poll.poll(LONGEST_WAIT_MS):
            if self._stopped():
                raise StoppedError

    def _result(self, wanted: pq.ExecStatus) -> None:
        raw = self._raw
        raw.flush()
        while raw.is_busy():
            self._wait()
            raw.consume_input()
        result = raw.get_result()
        if result is not None and result.status == wanted:
            return
        while raw.get_result() is not None:  # else the connection would stay busy
            pass
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            raise error_from_result(result, encoding=self._encoding)
        said = raw.error_message.decode(errors="replace").strip()
        msg = said or "the server ended a COPY in an unexpected way"
        raise psycopg.OperationalError(msg)

    def _taken(self, count: int) -> pa.Table:
        """The complete rows among the bytes, which are let go."""
        held = self._bytes
        if not self._headed and len(held) >= HEAD_BYTES:
            if held[: len(SIGNATURE)] != SIGNATURE:
                msg = f"rows must come as binary COPY, found {bytes(held[:16])!r}"
                raise psycopg.DataError(msg)
            del held[:HEAD_BYTES]
            self._headed = True
        data = np.frombuffer(held, np.uint8)
        data.setflags(write=False)
        # A block is far from the 2 GiB that these can tell, even with one row of the most there is.
        places = (len(self._columns), min(count, len(held) // (2 + 4 * len(self._columns)) + 1))
        first, length = (np.empty(places, np.int32) for _ in range(2))
        rows, after, how = copy_rows.split(data, len(data), first, length)
        if how == copy_rows.OTHER:
            msg = f"rows must have {len(self._columns)} columns, found others"
            raise psycopg.DataError(msg)
        if how == copy_rows.ENDED:
            while self._message() is not None:
                pass
            self.ended = True
        self._bytes = held[after:]
        return pa.table(
            {
                column.name: _array(column.kind, data, first[i, :rows], length[i, :rows])
                for i, column in enumerate(self._columns)
            }
        )


def _array(kind: Kind, data: Bytes, first: Int32s, length: Int32s) -> pa.Array:
    """The values of a column."""
    null = length < 0
    mask = null if null.any() else None
    if kind in {Kind.TEXT, Kind.DECIMAL}:
        array = _texts(data, first, length, mask)
        return array if kind is Kind.TEXT else _decimals(array)
    if kind is Kind.REALS:
        return _lists(data, first, length, mask)
    values = np.empty(len(first), np.int64)
    copy_rows.wide(data, first, length, values)
    if kind is Kind.REAL:
        return pa.array(values.view(np.float64), mask=mask)
    if kind is Kind.TIME:
        # Infinity is the greatest number there is, and stays beyond all bounds.
        moved = np.minimum(values, np.int64(2**63 - 1) - YEAR_2000_US) + YEAR_2000_US
        return pa.array(moved, pa.timestamp("us", "UTC"), mask=mask)
    return pa.array(values, mask=mask)


def _texts(data: Bytes, first: Int32s, length: Int32s, mask: Bools | None) -> pa.Array:
    ends = np.empty(len(first) + 1, np.int64)
    out = np.empty(int(np.maximum(length, 0).sum()), np.uint8)
    copy_rows.texts(data, first, length, ends, out)
    valid = None if mask is None else pa.array(~mask).buffers()[1]
    buffers = [valid, pa.py_buffer(ends), pa.py_buffer(out)]
    return pa.Array.from_buffers(pa.large_string(), len(first), buffers)


def _decimals(texts: pa.Array) -> pa.Array:
    """Decimals as the nearest floats; infinite where there is none."""
    return pl.Series(texts).cast(pl.Float64).to_arrow()


def _lists(data: Bytes, first: Int32s, length: Int32s, mask: Bools | None) -> pa.Array:
    ends = np.empty(len(first) + 1, np.int64)
    copy_rows.count_elements(data, first, length, ends)
    out, null = np.empty(int(ends[-1]), np.int64), np.zeros(int(ends[-1]), np.bool_)
    copy_rows.elements(data, first, ends, out, null)
    inner = pa.array(out.view(np.float64), mask=null if null.any() else None)
    valid = None if mask is None else pa.array(~mask)
    return pa.LargeListArray.from_arrays(
        pa.array(ends), inner, mask=None if valid is None else pa.array(mask)
    )
