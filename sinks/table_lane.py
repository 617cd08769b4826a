"""One lane's way into its table, effectively once: rows and progress in one transaction.

New rows are copied into the table as they are. Where some meet others that a backfill or an earlier
run has written, or that are provisional, they are copied beside it first and then merged, so that
the newer one of two stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.errors import CheckViolation, UniqueViolation
from psycopg.rows import TupleRow

from operators.batch import Vectors
from operators.frames import vectors_table
from sinks.errors import DeliveryError, FencedError, OwnedError, ProgressLostError
from sinks.join import joined
from sinks.lane import Lane, Parcel, State, nothing
from sinks.table_layout import NEWEST, TableLayout
from sinks.table_partitions import MOST_AT_ONCE, ensure_partitions, weeks_of
from sinks.table_rows import copied, newest
from sources.database import Connections, advice, is_transient, words

Connection = psycopg.Connection[TupleRow]

COLLECTED_S = 0.5
"""Time for which parcels are collected for a transaction, unless somebody waits for it."""
MOST_ROWS = 20_000
"""A transaction that has more is committed before its time."""
MERGED_AFTER_MEETING = 20
"""Transactions that are merged at once after one that could not be copied: a backfill that is met
with is long."""

SETTINGS = {
    # Who waits for a lock holds up all who come behind; after this long they go first.
    "lock_timeout": "2s",
    # The lane of a process that stands still can be taken over when its transaction was ended:
    # after the first of these in the middle of a COPY, after the second elsewhere.
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "10s",
    # A merge takes compressed rows apart, of the segments that it meets and no others. Without
    # TimescaleDB nobody reads this.
    "timescaledb.max_tuples_decompressed_per_dml_transaction": "0",
}
"""Of each transaction."""
DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', true) "
    "WHERE current_setting('synchronous_commit') = 'off'"
)
"""A snapshot relies on what was committed; what is safer than this is left as it is."""

FITS = """
SELECT w.name, w.type, format_type(a.atttypid, a.atttypmod)
FROM unnest(%s::text[], %s::text[]) AS w(name, type)
LEFT JOIN pg_attribute a
    ON a.attrelid = %s::regclass AND a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped
WHERE a.atttypid IS DISTINCT FROM w.type::regtype
"""
"""Columns that are not as they must be."""


@dataclass(frozen=True, slots=True)
class TableTenancy:
    """Who writes, and by which connections.

    Attributes:
        flow: name of the flow.
        job: of the recovery directory; another one's lanes are not touched.
        connections: of this process, for all its tables.
        take_over: whether to go on with lanes of another job.
    """

    flow: str
    job: str
    connections: Connections
    take_over: bool = False


class TableLane(Lane[Vectors]):
    """A thread that writes vectors of one lane.

    Args:
        name: of the lane.
        layout: of the table, which must exist.
        tenancy: who writes.
        accepts: is shown the progress that is found before anything is written, and raises where
            it cannot be gone on from.
        beat: is called while a call waits, so that a long outage is not taken for a hang.

    Attributes:
        merges: transactions that were merged, not copied, for metrics.
    """

    transient = (psycopg.Error, TimeoutError)

    def __init__(
        self,
        name: str,
        layout: TableLayout,
        tenancy: TableTenancy,
        accepts: Callable[[State], None] = lambda state: None,
        beat: Callable[[], None] = nothing,
    ) -> None:
        super().__init__(name, beat)
        self.merges = 0
        self._layout = layout
        self._tenancy = tenancy
        self._connections = tenancy.connections
        self._accepts = accepts
        self._target: State | None = None
        self._to_merge = 0
        self._weeks: set[int] = set()
        self._sql = Statements(layout)
        self._start()

    # -- whose lane it is -------------------------------------------------------------------

    def _enter(self) -> State:
        with self._transaction() as connection:
            self._fits(connection)
            owner = (self._tenancy.flow, self.name, self._tenancy.job, self.instance)
            connection.execute(self._sql.begin, owner)
            state = self._owned(self._found(connection))
            self._accepts(state)
            connection.execute(self._sql.claim, (self._tenancy.job, self.instance, self.name))
            return state

    def _enter_again(self) -> State:
        with self._transaction() as connection:
            settled = self._ours(self._found(connection))
        # Provisional vectors leave no mark; after them it is as if they were still to be written.
        for state in (self._state, self._target):
            if state is not None and state.get("settled_ns") == settled.get("settled_ns"):
                return state
        return settled

    def _found(self, connection: Connection) -> tuple[Any, ...] | None:
        """Job, instance and progress; waits for an earlier transaction of the lane to end."""
        return connection.execute(self._sql.progress, (self.name,)).fetchone()

    def _owned(self, found: tuple[Any, ...] | None) -> State:
        """The progress to go on from when the lane is opened."""
        if found is None:
            raise self._lost({})
        job, _, settled_ns = found
        if job != self._tenancy.job and not self._tenancy.take_over:
            msg = (
                f"lane `{self.name}`: must be of job {self._tenancy.job!r}, found that flow "
                f"`{self._tenancy.flow}` is owned by another recovery directory, of job "
                f"{job!r}; stop that one, or go on in its place with take_over=True"
            )
            raise OwnedError(msg)
        return {"settled_ns": settled_ns}

    def _ours(self, found: tuple[Any, ...] | None) -> State:
        """The progress to go on from in the middle of a run."""
        if found is None:
            raise self._lost({})
        _, instance, settled_ns = found
        if instance != self.instance:
            msg = (
                f"lane `{self.name}`: must have one writer, found that another run of flow "
                f"`{self._tenancy.flow}` has taken it over; what this run had not committed "
                "is not in the table; let only one of the two run"
            )
            raise FencedError(msg)
        return {"settled_ns": settled_ns}

    def _lost(self, found: State) -> ProgressLostError:
        msg = (
            f"lane `{self.name}`: table `{self._layout.namespace}.progress` must hold its progress "
            f"{self._state}, found {found}; restore it, and let only Riffle write there"
        )
        return ProgressLostError(msg)

    # -- what is written --------------------------------------------------------------------

    def _write(self, parcels: list[Parcel[Vectors]]) -> None:
        """Collects parcels for a while and commits them."""
        deadline_s = time.monotonic() + COLLECTED_S
        rows = sum(parcel.rows for parcel in parcels)
        while rows < MOST_ROWS and (parcel := self._take(deadline_s)) is not None:
            parcels.append(parcel)
            rows += parcel.rows
        vectors = joined(parcel.content for parcel in parcels)
        self._target = parcels[-1].state
        began_s = time.monotonic()
        self._make_room(vectors)
        try:
            self._store(vectors, parcels[-1].state)
        except CheckViolation:  # a partition that we knew was dropped
            self._weeks.clear()
            self._make_room(vectors)
            self._store(vectors, parcels[-1].state)
        self.counts.commit_s += time.monotonic() - began_s

    def _make_room(self, vectors: list[Vectors]) -> None:
        """Sees to it that there are partitions, in transactions that hold no other locks."""
        found: set[int] = set().union(*(weeks_of(each.ts_ns) for each in vectors))
        weeks = sorted(found - self._weeks)
        for first in range(0, len(weeks), MOST_AT_ONCE):
            some = weeks[first : first + MOST_AT_ONCE]
            with self._transaction() as connection:
                ensure_partitions(connection, self._layout, some)
            self._weeks.update(some)

    def _store(self, vectors: list[Vectors], state: State) -> None:
        """Commits vectors and progress, the fast way where none of them can be there yet."""
        feature_set = self._layout.feature_set
        tables = [self._layout.rows(vectors_table(feature_set, each)) for each in vectors]
        rows = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        # A provisional vector meets the final one of its instant sooner or later.
        if not self._to_merge and all(each.final for each in vectors):
            try:
                self._copy(rows, state)
                return
            except UniqueViolation:
                self._to_merge = MERGED_AFTER_MEETING
        self._merge(rows, state)
        self._to_merge = max(0, self._to_merge - 1)

    def _copy(self, rows: pa.Table, state: State) -> None:
        """Writes rows of which none is in the table yet."""
        with self._transaction() as connection:
            self._advance(connection, state)
            _send(connection, self._sql.copy, rows)
            self._fits(connection)

    def _merge(self, rows: pa.Table, state: State) -> None:
        """Writes rows that are new, or newer than those of the table."""
        rows = self._newest(rows)
        with self._transaction() as connection:
            self._advance(connection, state)
            connection.execute(self._sql.create_aside)
            _send(connection, self._sql.copy_aside, rows)
            connection.execute(self._sql.merge)
            self._fits(connection)
        self.merges += 1

    def _newest(self, rows: pa.Table) -> pa.Table:
        """Of each instant one row, since one statement can write it only once."""
        return newest(rows, self._layout.key, NEWEST)

    def _advance(self, connection: Connection, state: State) -> None:
        """Writes the progress, in the transaction of the rows, if the lane is ours still."""
        settled_ns = state.get("settled_ns")
        mark = (settled_ns, self.name, self.instance)
        if connection.execute(self._sql.advance, mark).rowcount != 1:
            self._ours(self._found(connection))
            raise self._lost({})

    def _fits(self, connection: Connection) -> None:
        """Compares the columns' types, of which the binary form says nothing.

        Behind a COPY, whose lock keeps others from changing them before it is committed.
        """
        layout = self._layout
        types = [column.sql_type for column in layout.columns]
        place = layout.identifier.as_string(connection)
        found = connection.execute(FITS, (layout.names, types, place)).fetchall()
        if found:
            told = ", ".join(
                f"`{name}` {has or 'missing'}, not {wanted}" for name, wanted, has in found
            )
            msg = (
                f"lane `{self.name}`: table `{layout.namespace}.{layout.name}` must have the "
                f"columns of its declaration, found {told}; run `riffle apply`, or give the set a "
                "new version"
            )
            raise DeliveryError(msg)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._connections.transaction(SETTINGS) as connection:
            connection.execute(DURABLE)
            yield connection

    # -- what goes wrong --------------------------------------------------------------------

    def _hopeless(self, error: Exception) -> Exception | None:
        if is_transient(error):
            return None
        database = self._connections.database
        what = advice(error) if isinstance(error, psycopg.Error) else "mend that"
        msg = (
            f"lane `{self.name}`: database `{database.shown}` must take what is written, found "
            f"{self._words(error)}; {what}, and start the flow again: nothing is lost"
        )
        return DeliveryError(msg)

    def _words(self, error: Exception) -> str:
        return self._connections.database.hide(words(error))

    def _let_go(self) -> None:
        self._connections.close()


class Statements:
    """What a lane says to the server.

    Args:
        layout: of its table.

    Attributes:
        begin, progress, claim, advance: of the lane's row in the table of progress: see that it is
            there, read and lock it, make it ours, go on.
        copy, create_aside, copy_aside, merge: rows into the table, or into a temporary one first.
    """

    def __init__(self, layout: TableLayout) -> None:
        progress = sql.Identifier(layout.namespace, "progress")
        self.begin = sql.SQL(
            "INSERT INTO {} (flow, lane, job, instance, at) VALUES (%s, %s, %s, %s, now()) "
            "ON CONFLICT (lane) DO NOTHING"
        ).format(progress)
        self.progress = sql.SQL(
            "SELECT job, instance, settled_ns FROM {} WHERE lane = %s FOR UPDATE"
        ).format(progress)
        self.claim = sql.SQL(
            "UPDATE {} SET job = %s, instance = %s, at = now() WHERE lane = %s"
        ).format(progress)
        self.advance = sql.SQL(
            "UPDATE {} SET settled_ns = %s, at = now() WHERE lane = %s AND instance = %s"
        ).format(progress)
        names = _listed(layout.names)
        copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)")
        self.copy = copy.format(layout.identifier, names)
        # A session may be shared by what has other columns: behind a pooler, or after an update.
        told = repr([layout.name, *((c.name, c.sql_type) for c in layout.columns)])
        aside = sql.Identifier(f"riffle_{sha256(told.encode()).hexdigest()[:32]}")
        self.create_aside = sql.SQL(
            "CREATE TEMPORARY TABLE IF NOT EXISTS {} ({}) ON COMMIT DELETE ROWS"
        ).format(
            aside,
            sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(c.name), sql.SQL(c.sql_type))
                for c in layout.columns
            ),
        )
        self.copy_aside = copy.format(aside, names)
        self.merge = sql.SQL(
            "INSERT INTO {table} AS known ({names}) SELECT {names} FROM {aside} "
            "ON CONFLICT ({key}) DO UPDATE SET {changes} WHERE {newer}"
        ).format(
            table=layout.identifier,
            names=names,
            aside=aside,
            key=_listed(layout.key),
            changes=sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name))
                for name in layout.names
                if name not in layout.key
            ),
            newer=self.newer(),
        )

    def newer(self) -> sql.Composable:
        """Of a row that meets one of the table: whether it takes its place.

        An equal one does too: with other bits, if the arithmetic has changed.
        """
        return sql.SQL("({}) >= ({})").format(_listed(NEWEST, "excluded"), _listed(NEWEST, "known"))


def _listed(names: Iterable[str], of: str | None = None) -> sql.Composed:
    prefix = (of,) if of else ()
    return sql.SQL(", ").join(sql.Identifier(*prefix, name) for name in names)


def _send(connection: Connection, statement: sql.Composed, rows: pa.Table) -> None:
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for piece in copied(rows):
            copy.write(piece)
