"""Messages that are JSON objects, one row each.

Nearly all are taken apart at once by a kernel that reads what is plain; a parser reads the others
one by one. Both give the same row for a message, and no message can change how another is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from operators.batch import Int64s
from operators.dead_letters import Reason
from operators.kernels import objects
from operators.kernels.numbers import READ, SUSPECT
from operators.streams import Stream
from sources.json_objects import PlainObjects
from sources.json_records import NOT_JSON, JsonRecords, doubled_key, twice_in_an_object
from sources.message_rows import RowGroup, Unread


class JsonMessages:
    """Takes messages apart.

    Args:
        stream: what they are rows of.
        columns: what to read of each; the rest is only looked at as far as JSON goes.
        spellings: for each time, the columns that may tell it; a row's first one does.

    Attributes:
        kinds: what the values of each column must be: ``id``, ``number`` or ``samples``.
    """

    def __init__(
        self, stream: Stream, columns: Sequence[str], spellings: Sequence[Sequence[str]]
    ) -> None:
        self._spellings = spellings
        self._records = JsonRecords(stream, "message")
        self._columns = tuple(columns)
        self._decode = self._records.decoder(columns).decode
        self.kinds = {name: self._records.kind(name) for name in columns}
        self._plain = PlainObjects(self.kinds)

    def rows(self, values: Sequence[bytes], numbers: Int64s) -> tuple[list[RowGroup], list[Unread]]:
        """The rows of some messages, and the messages that give none."""
        found = self._plain.read(values)
        read = found.state == READ
        groups = by_spelling(found.table, numbers[read], self._spellings)
        if read.all():
            return groups, []
        unread: list[Unread] = []
        records: list[Any] = []
        left: list[int] = []
        others = np.flatnonzero(~read)
        suspects = (found.state[others] == SUSPECT).tolist()
        told = zip(others.tolist(), numbers[others].tolist(), suspects, strict=True)
        for index, number, suspect in told:
            record = self._record(values[index], found.again.get(index), suspect=suspect)
            if isinstance(record, tuple):
                unread.append(Unread(number, *record))
            else:
                records.append(record)
                left.append(number)
        if not records:
            return groups, unread
        arrays = {
            name: self._records.array(name, list(map(attrgetter(f"f{number}"), records)))
            for number, name in enumerate(self._columns)
        }
        groups += by_spelling(pa.table(arrays), np.array(left, np.int64), self._spellings)
        return groups, unread

    def part(self, value: bytes, rows: Sequence[int]) -> bytes:
        """The message, which is one row."""
        return value

    def _record(self, value: bytes, again: str | None, *, suspect: bool) -> Any:
        """One message as a record; or why it is none, and in words.

        Args:
            value: the message.
            again: a key that it has twice, if it is an object; none may be known.
            suspect: whether it may be too deep, or have a key twice.
        """
        if not value.isascii():
            try:
                value.decode()
            except UnicodeDecodeError as error:
                found = f"byte 0x{value[error.start]:02x} at {error.start}"
                return Reason.NOT_UTF8, f"a message must be UTF-8, got {found}"
        most = objects.MOST_DEPTH
        if suspect and value.count(b"{") + value.count(b"[") > most:
            depth = objects.nesting(np.frombuffer(value, np.uint8))
            if depth > most:
                must = f"objects and lists must not lie deeper than {most} in each other"
                return Reason.TOO_DEEP, f"{must}, got {depth}"
        try:
            record = self._decode(value)
        except (*NOT_JSON, RecursionError) as error:
            return self._records.problem(value, self._columns, error)
        if suspect and (twice := again or doubled_key(value)) is not None:
            return twice_in_an_object(twice)
        return record


def by_spelling(
    table: pa.Table, message: Int64s, spellings: Sequence[Sequence[str]]
) -> list[RowGroup]:
    """Rows by the columns that tell their times: nearly always the same ones in all."""
    groups = [RowGroup(table, message)] if len(message) else []
    for columns in spellings:
        groups = [part for group in groups for part in _split(group, columns)]
    return groups


def _split(group: RowGroup, columns: Sequence[str]) -> list[RowGroup]:
    table, count = group.table, len(group.message)
    names = table.column_names
    there = [name for name in columns if name in names]
    told = [name for name in there if table.column(name).null_count < count]
    if len(told) < 2:
        # A row without any time is among those of the one that there is.
        others = [name for name in there if name not in told]
        table = table.drop_columns(others) if others else table
        if not told:
            named = dict(zip(table.column_names, table.columns, strict=True))
            table = pa.table({**named, min(columns, key=len): pa.nulls(count)})
        return [RowGroup(table, group.message)]
    parts, left = [], np.ones(count, np.bool_)
    for number, name in enumerate(told):
        rows = left & np.asarray(table.column(name).is_valid())
        if number == len(told) - 1:
            rows = left
        left = left & ~rows
        spelled = table.drop_columns([other for other in there if other != name])
        if rows.any():
            parts.append(RowGroup(spelled.filter(pa.array(rows)), group.message[rows]))
    return parts
