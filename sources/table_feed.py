"""New rows of a table as they arrive, read by a thread of their own.

The thread waits for the database, so that the flow never does; what it has read ahead is bounded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import LiteralString

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql

from operators.batch import Int64s
from operators.decode import RefusedInputError
from operators.streams import Stream
from sources.copying import Connection, CopyOut, StoppedError
from sources.database import Database, DatabaseError, is_transient, words
from sources.rows import BLOCK_BYTES
from sources.table_columns import (
    EPOCH,
    US_OF_YEARS,
    TableColumns,
    TableName,
    column_types,
    literal,
    refused,
    select,
    table_columns,
)
from sources.table_horizon import NEVER_US, Horizon

ARRIVAL = "arrival_ts"
STAMP = "clock_timestamp()"
SHORTEST_RETRY_S, LONGEST_RETRY_S = 0.1, 5.0
AHEAD = 2
"""Blocks of rows that may wait for the flow."""
PUT_S = 0.1
JOIN_S = 5.0

log = logging.getLogger("riffle")

BASES: LiteralString = """
WITH RECURSIVE base(oid) AS (
    SELECT %s::regclass::oid
    UNION
    SELECT depends.refobjid FROM base
    JOIN pg_rewrite AS rule ON rule.ev_class = base.oid AND rule.rulename = '_RETURN'
    JOIN pg_depend AS depends ON depends.classid = 'pg_rewrite'::regclass
        AND depends.objid = rule.oid AND depends.refclassid = 'pg_class'::regclass
        AND depends.refobjid <> base.oid
)
SELECT kind.oid, kind.relkind::text, kind.oid::regclass::text,
    EXISTS (SELECT FROM pg_inherits WHERE inhrelid = kind.oid)
FROM base JOIN pg_class AS kind USING (oid) WHERE kind.relkind <> 'v'
ORDER BY 3
"""
"""The tables behind a table or view, and whether each is a part of another one."""

STAMPS: LiteralString = """
SELECT attname, attnotnull, pg_get_expr(adbin, adrelid)
FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped AND atttypid = 'timestamptz'::regtype
"""
TRIGGERS: LiteralString = """
SELECT count(*) FROM pg_trigger
WHERE tgrelid = %s AND NOT tgisinternal AND tgname <> 'ts_insert_blocker' AND tgtype & 7 = 7
"""
"""Triggers that may stamp a row before it is inserted; TimescaleDB's own does not."""

WRITERS: LiteralString = """
WITH RECURSIVE tree(oid) AS (
    SELECT %s::oid
    UNION ALL
    SELECT inhrelid FROM tree JOIN pg_inherits ON inhparent = tree.oid
)
SELECT DISTINCT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND granted AND mode = 'RowExclusiveLock'
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND relation IN (SELECT oid FROM tree)
"""
"""Who may insert into a table, its partitions or its chunks. Everyone may ask this."""

NOW: LiteralString = "SELECT clock_timestamp(), pg_postmaster_start_time(), pg_is_in_recovery()"


def server_time_us(database: Database) -> int:
    """The server's clock, in microseconds since the epoch.

    Raises:
        DatabaseError: when it can't be asked.
    """
    try:
        with database.connect(autocommit=True) as connection:
            row = connection.execute(NOW).fetchone()
    except psycopg.Error as error:
        where = "the start of a flow"
        raise database.refused(where, error) from None
    assert row is not None  # noqa: S101 - such a query gives a row
    return _us(row[0])


def _us(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Arrived:
    """What has come.

    Attributes:
        rows: in the order of their arrival; those of one arrival are never parted.
        read_us: up to which arrival, inclusive, all rows have been given with these.
        arrival_us: of each row.
        horizon_us: no row will come that arrived before; None behind rows that others follow.
    """

    rows: pa.Table | None
    read_us: int
    arrival_us: Int64s
    horizon_us: int | None = None


@dataclass(frozen=True, slots=True)
class FeedPlan:
    """How a table is read as it grows.

    Attributes:
        name: of the table or view.
        base: the table that is written to.
        columns: what is read.
    """

    name: TableName
    base: int
    columns: TableColumns


def plan_feed(connection: Connection, stream: Stream, name: TableName) -> FeedPlan:
    """Looks whether a table can be followed.

    Raises:
        RefusedInputError: when it can't, or not without losing rows.
        psycopg.Error: when the server can't be asked.
    """
    columns = table_columns(stream, name, column_types(connection, name))
    must = f"table `{name}`, to be followed,"
    if columns.types.get(ARRIVAL) != "timestamptz":
        found = columns.types.get(ARRIVAL, "none")
        msg = (
            f"{must} must say when its rows arrive, in a column `{ARRIVAL}` timestamptz NOT NULL "
            f"DEFAULT {STAMP}, found {found}; see docs/table_sources.md"
        )
        raise RefusedInputError(msg)
    bases = connection.execute(BASES, [name.identifier.as_string(connection)]).fetchall()
    if len(bases) != 1 or bases[0][1] not in {"r", "p"}:
        found = ", ".join(str(base[2]) for base in bases) or "none"
        msg = f"{must} must be a table, or a view of one table, found {found}"
        raise RefusedInputError(msg)
    base, _, shown, inherits = bases[0]
    if inherits:
        msg = f"{must} must be no part of another table, found {shown}; name the whole table"
        raise RefusedInputError(msg)
    _check_stamp(connection, base, shown)
    return FeedPlan(name, base, columns)


def _check_stamp(connection: Connection, base: int, shown: str) -> None:
    """Refuses arrivals that are not stamped as the horizon needs it.

    A view may call the column otherwise; then any that is stamped so may be it.
    """
    stamps = {row[0]: (row[1], row[2]) for row in connection.execute(STAMPS, [base])}
    names = [ARRIVAL] if ARRIVAL in stamps else list(stamps)
    row = connection.execute(TRIGGERS, [base]).fetchone()
    triggered = row is not None and row[0] > 0
    if any(stamps[name][0] and (triggered or stamps[name][1] == STAMP) for name in names):
        return
    told = stamps.get(names[0] if names else ARRIVAL, (False, None))
    found = f"{'NOT NULL' if told[0] else 'NULL allowed'} and DEFAULT {told[1]}"
    msg = (
        f"table `{shown}`: `{ARRIVAL}` must be NOT NULL and have DEFAULT {STAMP}, or a trigger that"
        f" sets it BEFORE INSERT, found {found}; now() is the time at which a transaction begins, "
        "before which others are read to the end"
    )
    raise RefusedInputError(msg)


class TableFeed:
    """The rows of a table from an arrival on, as they come.

    Args:
        database: where it is.
        stream: what its rows are.
        name: of the table or view.
        after_us: arrival behind which to begin; ``NEVER_US`` for the first row.
        horizon_us: below which no row will come, as an earlier feed has said.
        poll_s: how long to wait between two looks.
        block_rows: the most rows given at once, but for those that arrived together.
        report: is told what is wrong with the database, or by None that nothing is.
    """

    def __init__(
        self,
        database: Database,
        stream: Stream,
        name: TableName,
        after_us: int,
        horizon_us: int,
        poll_s: float,
        block_rows: int,
        report: Callable[[str | None], None] = lambda trouble: None,
    ) -> None:
        self._database = database
        self._stream = stream
        self._name = name
        self._after_us = after_us
        self._horizon = Horizon(horizon_us)
        self._poll_s = poll_s
        self._block_rows = block_rows
        self._report = report
        self._newest_us = horizon_us
        self._server: datetime | None = None
        self._stopped = Event()
        self._found: Queue[Arrived | Exception] = Queue(AHEAD)
        self._thread = Thread(target=self._run, name=f"feed-{name}", daemon=True)
        self._thread.start()

    def take(self) -> Arrived | None:
        """What came next; None if nothing has at the moment.

        Raises:
            RefusedInputError, DatabaseError: for what a person must mend.
        """
        try:
            found = self._found.get_nowait()
        except Empty:
            return None
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        with suppress(StoppedError):
            try:
                self._follow()
            except Exception as error:  # noqa: BLE001 - the flow raises it, as its own
                self._put(error)

    def _follow(self) -> None:
        """Follows the table, on one connection after the other."""
        retry_s = SHORTEST_RETRY_S
        while not self._stopped.is_set():
            looks = 0
            try:
                with self._database.connect(autocommit=True, client_encoding="UTF8") as connection:
                    for _ in self._looks(connection):
                        looks += 1
                        self._report(None)
            except psycopg.Error as error:
                if not is_transient(error):
                    raise refused(self._database, self._name, error) from None
                retry_s = SHORTEST_RETRY_S if looks else min(2 * retry_s, LONGEST_RETRY_S)
                self._wait_out(error, retry_s)

    def _wait_out(self, error: psycopg.Error, retry_s: float) -> None:
        trouble = self._database.hide(words(error))
        log.warning("table %s can't be read, trying again: %s", self._name, trouble)
        self._report(trouble)
        self._stopped.wait(retry_s)

    def _looks(self, connection: Connection) -> Iterator[None]:
        """Looks for new rows, again and again."""
        plan = plan_feed(connection, self._stream, self._name)
        self._horizon.forget()
        while True:
            horizon_us = self._look(connection, plan)
            if horizon_us > NEVER_US:
                self._read(connection, plan, horizon_us)
            yield
            if self._stopped.wait(self._poll_s):
                raise StoppedError

    def _look(self, connection: Connection, plan: FeedPlan) -> int:
        """The horizon. Each of the questions sees what was committed before it was asked."""
        row = connection.execute(NOW).fetchone()
        assert row is not None  # noqa: S101 - such a query gives a row
        now, server, standby = row
        if standby:
            where = f"table `{self._name}`: database `{self._database.shown}`"
            msg = f"{where} must be the primary, whose locks tell who writes, found a standby"
            raise DatabaseError(msg)
        if server != self._server:
            self._horizon.forget()
            self._server = server
        now_us = _us(now)
        self._check_clock(now_us)
        writers = [row[0] for row in connection.execute(WRITERS, [plan.base])]
        return self._horizon.look(now_us, writers)

    def _check_clock(self, now_us: int) -> None:
        if now_us < self._newest_us:
            behind_s = (self._newest_us - now_us) / 1e6
            since, until = (
                (EPOCH + timedelta(microseconds=us)).isoformat() for us in (now_us, self._newest_us)
            )
            msg = (
                f"table `{self._name}`: the clock of its server must not go back, found it "
                f"{behind_s:g} s behind what it said before; wait until it has passed {until}, set "
                f"`{ARRIVAL}` anew in rows that were added since and that it places between "
                f"{since} and then, and start again"
            )
            raise DatabaseError(msg)
        self._newest_us = now_us

    def _read(self, connection: Connection, plan: FeedPlan, horizon_us: int) -> None:
        """Gives all rows up to the horizon, as one statement sees them, then the horizon."""
        if horizon_us - 1 > self._after_us:
            for rows, arrival_us in self._blocks(connection, plan, horizon_us):
                last = max(int(arrival_us[-1]), US_OF_YEARS[0])
                self._after_us = max(self._after_us, last)
                self._put(Arrived(rows, self._after_us, arrival_us))
            self._after_us = horizon_us - 1
        self._put(Arrived(None, self._after_us, np.empty(0, np.int64), horizon_us))

    def _blocks(
        self, connection: Connection, plan: FeedPlan, horizon_us: int
    ) -> Iterator[tuple[pa.Table, Int64s]]:
        """Rows behind those that were read, cut only between two arrivals."""
        clock = plan.columns.clock
        wanted = sql.SQL("{} < {}").format(clock.expression, literal(clock, horizon_us))
        if self._after_us > NEVER_US:
            after = literal(clock, self._after_us)
            wanted = sql.SQL("{} > {} AND {}").format(clock.expression, after, wanted)
        query = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {}").format(
            select(plan.columns.columns), plan.name.identifier, wanted, plan.columns.order
        )
        copy = CopyOut(connection, query, plan.columns.columns, self._stopped.is_set)
        held: list[pa.Table] = []
        while True:
            held.append(copy.read(self._block_rows, BLOCK_BYTES))
            table = pa.concat_tables(held)
            arrival_us = table.column(clock.name).cast(pa.int64()).to_numpy()
            if copy.ended:
                if len(table):
                    yield table, arrival_us
                return
            cut = int(np.searchsorted(arrival_us, arrival_us[-1]))
            if cut:
                yield table.slice(0, cut), arrival_us[:cut]
            held = [table.slice(cut)]

    def _put(self, found: Arrived | Exception) -> None:
        """Hands over, when the flow has taken what came before."""
        while not self._stopped.is_set():
            try:
                self._found.put(found, timeout=PUT_S)
            except Full:
                continue
            return
        raise StoppedError
