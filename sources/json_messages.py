"""Messages that are JSON objects, one row each."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from operators.batch import Int64s
from operators.checks import show
from operators.dead_letters import Reason
from operators.streams import Stream
from sources.json_records import NOT_JSON, JsonRecords, doubled_key
from sources.message_rows import RowGroup, Unread

MOST_DEPTH = 32
"""How deep objects and lists may lie in each other."""


class JsonMessages:
    """Takes messages apart.

    Args:
        stream: what they are rows of.
        columns: what to read of each; the rest is only looked at as far as JSON goes.
        spellings: for each time, the columns that may tell it; a row's first one does.
    """

    def __init__(
        self, stream: Stream, columns: Sequence[str], spellings: Sequence[Sequence[str]]
    ) -> None:
        self._spellings = spellings
        self._records = JsonRecords(stream, "message")
        self._columns = tuple(columns)
        self._decode = self._records.decoder(columns).decode

    def rows(self, values: Sequence[bytes | None]) -> tuple[list[RowGroup], list[Unread]]:
        """The rows of some messages, and the messages that give none."""
        records: list[Any] = []
        unread: list[Unread] = []
        kept: list[int] = []
        for index, value in enumerate(values):
            if value is None:
                continue
            found = self._record(value)
            if isinstance(found, tuple):
                unread.append(Unread(index, *found))
            else:
                records.append(found)
                kept.append(index)
        arrays = {
            name: self._records.array(name, list(map(attrgetter(f"f{number}"), records)))
            for number, name in enumerate(self._columns)
        }
        return by_spelling(pa.table(arrays), np.array(kept, np.int64), self._spellings), unread

    def part(self, value: bytes, rows: Sequence[int]) -> bytes:
        """The message, which is one row."""
        return value

    def _record(self, value: bytes) -> Any:
        """One message as a record; or why it is none, and in words."""
        try:
            value.decode()
        except UnicodeDecodeError as error:
            at = error.start
            found = f"byte 0x{value[at]:02x} at {at}"
            return Reason.NOT_UTF8, f"a message must be UTF-8, got {found}"
        if (depth := _depth(value)) > MOST_DEPTH:
            must = f"objects and lists must not lie deeper than {MOST_DEPTH} in each other"
            return Reason.TOO_DEEP, f"{must}, got {depth}"
        if (twice := doubled_key(value)) is not None:
            must = "a key must stand once in an object"
            return Reason.DUPLICATE_KEY, f"{must}, got {show(twice)} twice"
        try:
            return self._decode(value)
        except (*NOT_JSON, RecursionError) as error:
            problem = self._records.problem(value, self._columns)
            return problem or self._records.malformed(error)


def _depth(value: bytes) -> int:
    """How deep a text's objects and lists lie in each other."""
    depth = deepest = 0
    quoted = escaped = False
    for byte in value:
        if quoted:
            if escaped:
                escaped = False
            elif byte == 92:
                escaped = True
            elif byte == 34:
                quoted = False
        elif byte == 34:
            quoted = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


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
    told = [name for name in columns if table.column(name).null_count < count]
    if len(told) < 2:
        # A row without any time is among those of the one that there is.
        kept = told or [min(columns, key=len)]
        others = [name for name in columns if name not in kept]
        return [RowGroup(table.drop_columns(others), group.message)]
    parts, left = [], np.ones(count, np.bool_)
    for number, name in enumerate(told):
        rows = left & np.asarray(table.column(name).is_valid())
        if number == len(told) - 1:
            rows = left
        left = left & ~rows
        spelled = table.drop_columns([other for other in columns if other != name])
        if rows.any():
            parts.append(RowGroup(spelled.filter(pa.array(rows)), group.message[rows]))
    return parts
