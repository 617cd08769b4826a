"""Messages that are Arrow IPC streams: batches of rows, as their columns lie in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from operators.batch import Int64s
from operators.checks import show
from operators.dead_letters import Reason
from sources.arrow_sizes import is_compressed, unfolds_beyond
from sources.message_rows import RowGroup, Unread

LEAST_ROW_BYTES = 2
"""A message cannot hold more rows than its bytes divided by this: columns of nulls take none."""


class ArrowMessages:
    """Takes messages apart.

    Args:
        columns: what to read of each; the others are of no use.
        spellings: for each time, the columns that may tell it; the first one there does.
    """

    def __init__(self, columns: Sequence[str], spellings: Sequence[Sequence[str]]) -> None:
        self._columns = frozenset(columns)
        self._spellings = spellings

    def rows(self, values: Sequence[bytes], numbers: Int64s) -> tuple[list[RowGroup], list[Unread]]:
        """The rows of some messages, and the messages that give none."""
        alike: dict[pa.Schema, tuple[list[pa.Table], list[int]]] = {}
        unread: list[Unread] = []
        for index, value in zip(numbers.tolist(), values, strict=True):
            found = self._table(value)
            if isinstance(found, str):
                unread.append(Unread(index, Reason.MALFORMED, found))
                continue
            tables, messages = alike.setdefault(found.schema, ([], []))
            tables.append(found)
            messages.append(index)
        groups = []
        for tables, messages in alike.values():
            counts = [table.num_rows for table in tables]
            table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
            groups.append(RowGroup(table, np.repeat(np.array(messages, np.int64), counts)))
        return groups, unread

    def part(self, value: bytes, rows: Sequence[int]) -> bytes:
        """A message with only some of its rows."""
        table = pa.ipc.open_stream(value).read_all().take(pa.array(rows, pa.int64()))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        return bytes(sink.getvalue())

    def _table(self, value: bytes) -> pa.Table | str:
        """The columns of a message that are read; or what is wrong with it."""
        must = "a message must be an Arrow IPC stream of record batches"
        try:
            if is_compressed(value):
                return f"{must} that are not compressed, got one that is; let the topic compress"
            table = pa.ipc.open_stream(value).read_all()
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            return f"{must}, got: {show(str(error))}"
        names = table.column_names
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            return f"{must} with distinct columns, got {doubled} twice"
        if table.num_rows == 0:
            return f"{must} with rows, got none"
        if table.num_rows * LEAST_ROW_BYTES > len(value):
            return f"{must}, got {table.num_rows} rows in {len(value)} bytes"
        kept = sorted(self._columns & set(names))
        if (beyond := unfolds_beyond(table.select(kept), len(value))) is not None:
            return f"{must}, got {beyond}"
        for columns in self._spellings:
            told = [name for name in columns if name in kept]
            kept = [name for name in kept if name not in told[1:]]
            if not told:
                kept.append(min(columns, key=len))
                table = table.append_column(kept[-1], pa.nulls(table.num_rows))
        return table.select(kept).replace_schema_metadata()
