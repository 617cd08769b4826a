"""The vectors that a table holds."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.csv
from psycopg import sql
from psycopg.rows import TupleRow

from operators.feature_set import FeatureSet
from operators.frames import NAME
from sinks.table_layout import TableLayout
from sources.database import Database

BLOCK_BYTES = 4 * 2**20
"""Text that is parsed at once: 20,000 vectors or so."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TableHeld:
    """The vectors of the table of a set.

    PostgreSQL writes numbers so that they read back as the same bits, and Arrow reads them so: text
    is exact, and the fastest way out.

    Args:
        database: where it is.
        feature_set: whose table.

    Attributes:
        name: what messages call it.

    Raises:
        LayoutError: when the set can't have a table.
    """

    def __init__(self, database: Database, feature_set: FeatureSet) -> None:
        self._database = database
        self.name = f"table {database.schema}.{TableLayout(feature_set, database.schema).name}"

    def tables(
        self, feature_set: FeatureSet, from_ns: int, to_ns: int, watch: Callable[[int, int], None]
    ) -> Iterator[pa.Table]:
        """The final vectors of a set and its version with times of a range, as of one instant.

        Args:
            feature_set: whose vectors.
            from_ns: their least time.
            to_ns: the time before which they are.
            watch: is told the vectors read and the vectors there are.

        Raises:
            DatabaseError: when the table can't be read.
        """
        layout = TableLayout(feature_set, self._database.schema)
        chosen = sql.SQL(
            "FROM {} WHERE final AND ts >= {} AND ts <= {} AND ts_ns >= {} AND ts_ns < {}"
        ).format(layout.identifier, _microseconds(from_ns), _microseconds(to_ns), from_ns, to_ns)
        try:
            with self._database.connect() as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                connection.read_only = True
                connection.execute("SET LOCAL extra_float_digits = 1")
                counted = sql.SQL("SELECT count(*) {}").format(chosen)
                (total,) = connection.execute(counted).fetchone() or (0,)
                done = 0
                for rows in _read(connection, layout, chosen):
                    done += len(rows)
                    yield layout.vectors(rows)
                    watch(done, total)
        except psycopg.Error as error:
            raise self._database.refused(self.name, error) from None


def _microseconds(at_ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_ns // 1_000)


def _read(
    connection: psycopg.Connection[TupleRow], layout: TableLayout, chosen: sql.Composed
) -> Iterator[pa.Table]:
    """The rows of a table, but for their times in microseconds, in pieces."""
    kinds = {
        column.name: column.arrow_type
        for column in layout.columns
        if not pa.types.is_timestamp(column.arrow_type)
    }
    names = [
        sql.SQL("to_json({})" if pa.types.is_list(kind) else "{}").format(sql.Identifier(name))
        for name, kind in kinds.items()
    ]
    query = sql.SQL("COPY (SELECT {} {}) TO STDOUT (FORMAT csv, ENCODING 'UTF8')").format(
        sql.SQL(", ").join(names), chosen
    )
    with connection.cursor().copy(query) as copy:
        text = _Text(copy)
        if text.is_empty:
            return
        reader = pyarrow.csv.open_csv(
            text,
            pyarrow.csv.ReadOptions(
                use_threads=False, block_size=BLOCK_BYTES, column_names=list(kinds)
            ),
            pyarrow.csv.ParseOptions(newlines_in_values=True),
            pyarrow.csv.ConvertOptions(
                column_types={
                    name: NAME if pa.types.is_list(kind) else kind for name, kind in kinds.items()
                },
                null_values=[""],
                true_values=["t"],
                false_values=["f"],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        for batch in reader:
            columns = [
                _lists(column, kinds[name]) if pa.types.is_list(kinds[name]) else column
                for name, column in zip(kinds, batch.columns, strict=True)
            ]
            yield pa.Table.from_arrays(columns, names=list(kinds))


def _lists(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Reads JSON arrays, of which there are few different ones."""
    encoded = texts.dictionary_encode()
    lists = pa.array([json.loads(text) for text in encoded.dictionary.to_pylist()], kind)
    return lists.take(encoded.indices)


class _Text(io.RawIOBase):
    """What a COPY gives, as a file."""

    def __init__(self, copy: psycopg.Copy) -> None:
        self._pieces = iter(copy)
        self._held = next(self._pieces, memoryview(b""))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing."""
        return not len(self._held)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer as far as there is anything."""
        place, filled = memoryview(buffer), 0
        while filled < len(place) and len(self._held):
            size = min(len(self._held), len(place) - filled)
            place[filled : filled + size] = self._held[:size]
            filled += size
            self._held = self._held[size:]
            if not len(self._held):
                self._held = next(self._pieces, memoryview(b""))
        return filled
