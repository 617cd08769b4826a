"""A view in PostgreSQL: a row per feature of each entity, in Feast's table.

Feast overwrites whatever is there. Here a transaction has the lane to itself, looks at the fence,
and then writes all values with one statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from operators.feature_set import FeatureSet
from sinks.errors import DeliveryError
from sinks.online_cells import (
    FENCE,
    MARK,
    Marks,
    bytes_cell,
    fence_key,
    read_bytes_cell,
    read_marks,
    texts,
)
from sinks.online_rows import Rows
from sinks.online_sqlite import naive
from sinks.online_store import AwayError, Fence, Fencing, ServedView, decode_fence, value_columns
from sources.database import advice, is_transient, words

LIMITS = (
    "SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = '30s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '15s'"
)
"""So that a process that stands still does not keep its lane from others."""


class PostgresView(ServedView):
    """A view in PostgreSQL.

    Args:
        connect: opens a connection whose search path begins with Feast's schema.
        table: Feast's table of the view.
        feature_set: whose vectors are written.
        make_tables: has Feast create its tables.
        hide: takes secrets out of a text.
    """

    batch = 500

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[TupleRow]],
        table: str,
        feature_set: FeatureSet,
        make_tables: Callable[[], None],
        hide: Callable[[object], str],
    ) -> None:
        self._connect = connect
        self._name = table
        self._set = feature_set
        self._make_tables = make_tables
        self._hide = hide
        self._names = [*feature_set.feature_exprs, "quality", "coverage", MARK]
        self._kinds = [expr.kind for expr in feature_set.feature_exprs.values()]
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._fence_query = self._of_table(
            "SELECT value FROM {} WHERE entity_key = %b AND feature_name = %s"
        )
        self._mark_query = self._of_table(
            "SELECT entity_key, (array_agg(value) FILTER (WHERE feature_name = %s))[1], "
            "max(event_ts) FROM {} WHERE entity_key = ANY(%b) GROUP BY entity_key"
        )
        self._fence_upsert = self._of_table(
            "INSERT INTO {} (entity_key, feature_name, value) VALUES (%b, %s, %b) "
            "ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = excluded.value"
        )
        self._upsert = self._of_table(
            "INSERT INTO {} (entity_key, feature_name, value, value_text, event_ts, created_ts) "
            "SELECT k.key, v.name, v.value, v.shown, k.ts, k.known_at "
            "FROM unnest(%b::bytea[], %b::timestamp[], %b::timestamp[]) WITH ORDINALITY "
            "AS k(key, ts, known_at, number) "
            "JOIN unnest(%b::int8[], %b::text[], %b::bytea[], %b::text[]) "
            "AS v(number, name, value, shown) USING (number) "
            "ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = excluded.value, "
            "value_text = excluded.value_text, event_ts = excluded.event_ts, "
            "created_ts = excluded.created_ts"
        )

    def marks(self, keys: Sequence[bytes]) -> Marks:
        """Reads the marks of some entities, or else the times of what is served of them."""
        with self.errors() as connection, connection.transaction():
            found = {
                bytes(key): (mark, time)
                for key, mark, time in connection.execute(
                    self._mark_query, (MARK, list(keys)), binary=True
                )
            }
        served = [found.get(key, (None, None)) for key in keys]
        times = [None if time is None else _ns(time) for _, time in served]
        return read_marks([mark for mark, _ in served], times)

    def write(self, rows: Rows, fencing: Fencing | None) -> bool:
        """Writes rows, and the fence of their lane, in one transaction."""
        with self.errors() as connection, connection.transaction():
            connection.execute(LIMITS)
            if fencing is not None:
                key = fence_key(fencing.lane)
                # Also where there is no fence yet, whose row could be locked.
                connection.execute(
                    "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
                    (f"{self._name}:{fencing.lane}",),
                )
                if not self.holds(self._found(connection, fencing.lane), fencing.held):
                    return False
                connection.execute(
                    self._fence_upsert, (key, FENCE, bytes_cell(fencing.then.encode()))
                )
            if len(rows):
                self._write(connection, rows)
            return True

    def fence(self, lane: str) -> Fence | None:
        """Reads the fence of a lane."""
        with self.errors() as connection, connection.transaction():
            return self._found(connection, lane)

    def delete(self, keys: Sequence[bytes]) -> None:
        """Deletes entities of the view."""
        with self.errors() as connection, connection.transaction():
            connection.execute(
                self._of_table("DELETE FROM {} WHERE entity_key = ANY(%b)"), (list(keys),)
            )

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _of_table(self, query: str) -> sql.Composed:
        return sql.SQL(query).format(sql.Identifier(self._name))

    def _found(self, connection: psycopg.Connection[TupleRow], lane: str) -> Fence | None:
        row = connection.execute(
            self._fence_query, (fence_key(lane), FENCE), binary=True
        ).fetchone()
        return decode_fence(read_bytes_cell(bytes(row[0]))) if row else None

    def _write(self, connection: psycopg.Connection[TupleRow], rows: Rows) -> None:
        columns = value_columns(self._set, rows)
        shown = [texts(kind, rows.features[:, n]) for n, kind in enumerate(self._kinds)]
        shown += [[None] * len(rows), texts("number", rows.coverage), [None] * len(rows)]
        times = [[naive(ns) for ns in rows.marks[:, n].tolist()] for n in (0, 1)]
        numbers = list(range(1, len(rows) + 1)) * len(columns)
        names = [name for name in self._names for _ in range(len(rows))]
        values = [value for column in columns for value in column]
        beside = [text for column in shown for text in column]
        connection.execute(self._upsert, (list(rows.keys), *times, numbers, names, values, beside))

    @contextmanager
    def errors(self) -> Iterator[psycopg.Connection[TupleRow]]:
        """Sorts errors into those that time may mend and others; has tables made that are gone."""
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._connection.autocommit = True
            yield self._connection
        except (psycopg.Error, TimeoutError) as error:
            said = self._hide(words(error))
            self.close()
            if isinstance(error, psycopg.errors.UndefinedTable):
                with suppress(psycopg.Error):
                    self._make_tables()
                msg = f"{said}; made anew"
                raise AwayError(msg) from None
            if is_transient(error):
                raise AwayError(said) from None
            help_ = advice(error) if isinstance(error, psycopg.Error) else "mend that"
            msg = (
                f"table `{self._name}`: PostgreSQL must do what it is asked, found {said}; {help_}"
            )
            raise DeliveryError(msg) from None


def _ns(time: datetime) -> int:
    return int(time.timestamp()) * 10**9
