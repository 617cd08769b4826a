"""Tables as bounded inputs: read in the order of their clock, from one snapshot of the database.

All processes of a run see the rows that were committed when it began, however long it takes and
whatever is written meanwhile. A run that resumes has a new snapshot, of which it sees the rows up
to where the clock stood when the first run began; whether they are still the same is for its
caller to compare (:attr:`TableFacts.digest`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from operators.batch import NO_CLOCK_NS
from operators.decode import TIME_UNITS, RefusedInputError
from operators.streams import Stream
from sources.copying import Column, Connection, CopyOut, Kind
from sources.database import Database
from sources.rows import BLOCK_BYTES, Place, RawRows
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
from sources.table_slice import TableSlice

NOWHERE = -(2**63)
"""In a place: rows are counted from the first."""
MOST_HASH = 2**31 - 1
"""Of an entity, when a table is divided."""
SETTINGS = (
    # A reader waits while the flow is busy, and a sort may take its time.
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SET LOCAL statement_timeout = 0",
    # Times without a zone are UTC, and times are written in the one way that all versions read.
    "SET LOCAL TimeZone = 'UTC'",
    "SET LOCAL DateStyle = 'ISO'",
    "SET LOCAL client_encoding = 'UTF8'",
)


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What a slice holds.

    Attributes:
        slice: which.
        first_ns, last_ns: its least and greatest clock; ``NO_CLOCK_NS`` if none is told.
        entities: whom its rows are about.
        digest: of all its rows; other rows have another, but for chance.
        arrives: whether its clock is one of arrivals.
    """

    slice: TableSlice
    first_ns: int
    last_ns: int
    entities: tuple[str, ...]
    digest: int
    arrives: bool


@dataclass(frozen=True, slots=True)
class InputTable:
    """A slice of a table as an input; what :class:`sources.files.InputFile` is for a file.

    Args:
        database: where the table is.
        slice: what is read of it.
    """

    database: Database
    slice: TableSlice

    @property
    def counted(self) -> str:
        """What its size counts."""
        return "rows"

    @property
    def name(self) -> str:
        """The name of its partition."""
        return self.slice.name

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"table `{self.slice.name}`"

    @property
    def constants(self) -> dict[str, str]:
        """Columns beside those of its rows: none."""
        return {}

    def size(self) -> int:
        """How many rows it has."""
        return self.slice.rows

    def open(self, stream: Stream, block_bytes: int = BLOCK_BYTES) -> TableRows:
        """Opens it for the rows of a stream."""
        return TableRows(self.database, self.slice, stream, block_bytes)


class TableSnapshot:
    """A snapshot of the database that other connections may read, while it is open.

    Args:
        database: which.

    Attributes:
        connection: that sees it.
        name: under which others do.

    Raises:
        DatabaseError: when the database can't be had; without secrets.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.connection = begin(database, None)
        row = self.connection.execute("SELECT pg_export_snapshot()").fetchone()
        self.name = str(row[0]) if row else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of it."""
        self.connection.close()

    def facts(
        self, stream: Stream, name: TableName, parts: int = 1, until: str | None = None
    ) -> list[TableFacts]:
        """Looks through a table, once.

        Args:
            stream: what its rows are.
            name: of the table.
            parts: into how many slices it is divided, by entity.
            until: the greatest clock to read; by default the greatest that there is.

        Raises:
            RefusedInputError: when it can't be read as the stream.
            DatabaseError: when the server refuses it.
        """
        try:
            columns = table_columns(stream, name, column_types(self.connection, name))
            if until is None:
                until = _greatest(self.connection, name, columns)
            found = _groups(self.connection, name, columns, (parts, until))
        except psycopg.Error as error:
            raise refused(self.database, name, error) from None
        return [
            _facts(
                TableSlice(str(name), part, parts, until, self.name),
                columns,
                [row for row in found if row[1] == part],
            )
            for part in range(parts)
        ]


class TableRows:
    """The rows of a slice, in blocks from any row; see :class:`sources.rows.RawFile`.

    A place counts rows from the first one of a clock on, so that the server finds it by an index.

    Args:
        database: where the table is.
        wanted: the slice.
        stream: what its rows are.
        block_bytes: a block has fewer rows when they would take more memory than this.

    Raises:
        RefusedInputError: when it can't be read as the stream.
        DatabaseError: when the server refuses it.
    """

    text = False

    def __init__(
        self,
        database: Database,
        wanted: TableSlice,
        stream: Stream,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._database = database
        self._slice = wanted
        self._name = TableName.of(wanted.table)
        self._block_bytes = block_bytes
        self._connection = begin(database, wanted.snapshot)
        self._copy: CopyOut | None = None
        self._next: tuple[Place, tuple[str, ...]] | None = None
        try:
            types = column_types(self._connection, self._name)
            self._columns = table_columns(stream, self._name, types)
        except psycopg.Error as error:
            self.close()
            raise refused(database, self._name, error) from None
        except RefusedInputError:
            self.close()
            raise
        self.columns = tuple(types)

    def start(self) -> Place:
        """The first row."""
        return {"from": NOWHERE, "skip": 0, "row": 0}

    def ends_at(self, place: Place) -> bool:
        """Whether no row is left."""
        return place["row"] >= self._slice.rows

    def close(self) -> None:
        """Lets go of the connection."""
        self._connection.close()

    def read(self, place: Place, count: int, columns: Sequence[str]) -> tuple[RawRows, Place]:
        """At most so many rows, with those of the columns that there are."""
        row, wanted = place["row"], tuple(columns)
        selected = self._columns.selected((*wanted, self._columns.clock.name))
        try:
            if self._copy is None or self._next != (place, wanted):
                self._seek(place, selected)
            assert self._copy is not None  # noqa: S101 - made by `_seek`
            table = self._copy.read(min(count, self._slice.rows - row), self._block_bytes)
        except psycopg.Error as error:
            self._copy = None
            raise refused(self._database, self._name, error) from None
        if not table.num_rows:
            msg = (
                f"table `{self._slice.name}`: must have {self._slice.rows} rows, found {row}; "
                "it has changed while it was read outside a snapshot"
            )
            raise RefusedInputError(msg)
        after = self._after(place, table)
        self._next = (after, wanted)
        positions = np.arange(row, after["row"], dtype=np.int64)
        if self._columns.clock.name not in wanted:
            table = table.drop_columns(self._columns.clock.name)
        return RawRows(table, positions), after

    def _seek(self, place: Place, columns: Sequence[Column]) -> None:
        """Has the server begin at a place."""
        if self._copy is not None and not self._copy.ended:
            # What it still sends can't be told from what comes next.
            self._connection.close()
            self._connection = begin(self._database, self._slice.snapshot)
        clock, parts = self._columns.clock, [_read_rows(self._columns, self._slice)]
        if place["from"] != NOWHERE:
            least = literal(clock, place["from"])
            parts.append(
                sql.SQL("({0} >= {1} OR {0} IS NULL)").format(sql.Identifier(clock.name), least)
            )
        query = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {} OFFSET {}").format(
            select(columns),
            self._name.identifier,
            sql.SQL(" AND ").join(parts),
            self._columns.order,
            sql.Literal(place["skip"]),
        )
        self._copy = CopyOut(self._connection, query, columns)

    def _after(self, place: Place, table: pa.Table) -> Place:
        """The place behind some rows."""
        count, column = table.num_rows, table.column(self._columns.clock.name)
        after = {**place, "skip": place["skip"] + count, "row": place["row"] + count}
        if not column[-1].is_valid:
            return after
        clock = column.cast(pa.int64())
        last = clock[-1].as_py()
        if last == place["from"] or not _nameable(self._columns.clock, last):
            return after
        return {**after, "from": last, "skip": pc.sum(pc.equal(clock, last)).as_py()}


def begin(database: Database, snapshot: str | None) -> Connection:
    """Opens a connection that sees one state of the database, and can't change it.

    Args:
        database: which.
        snapshot: that of another connection; by default one of its own.

    Raises:
        DatabaseError: when it can't be had.
    """
    try:
        connection = database.connect(autocommit=True)
        try:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if snapshot is not None:
                query = sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot))
                connection.execute(query)
            for setting in SETTINGS:
                connection.execute(setting)
        except BaseException:
            connection.close()
            raise
    except psycopg.Error as error:
        where = "tables as inputs"
        raise database.refused(where, error) from None
    return connection


def _nameable(clock: Column, value: int) -> bool:
    return clock.kind is not Kind.TIME or US_OF_YEARS[0] <= value < US_OF_YEARS[1]


def _read_rows(columns: TableColumns, wanted: TableSlice) -> sql.Composable:
    """Which rows a slice has."""
    parts: list[sql.Composable] = [sql.SQL("true")]
    clock = sql.Identifier(columns.clock.name)
    if wanted.until is not None:
        most = sql.Literal(wanted.until)
        parts.append(sql.SQL("({0} <= {1} OR {0} IS NULL)").format(clock, most))
    if wanted.parts > 1:
        part = _part(columns, wanted.parts)
        parts.append(sql.SQL("{} = {}").format(part, sql.Literal(wanted.part)))
    return sql.SQL(" AND ").join(parts)


def _part(columns: TableColumns, parts: int) -> sql.Composable:
    """The slice that a row belongs to."""
    query = sql.SQL("(hashtextextended({}, 0) & {}) % {}")
    return query.format(columns.entity, sql.Literal(MOST_HASH), sql.Literal(parts))


def _greatest(connection: Connection, name: TableName, columns: TableColumns) -> str:
    """The greatest clock of a table, as PostgreSQL writes it; the least there can be for none."""
    least = "-infinity" if columns.clock.kind is Kind.TIME else str(-(2**63))
    query = sql.SQL("SELECT max({})::text FROM {}").format(
        sql.Identifier(columns.clock.name), name.identifier
    )
    row = connection.execute(query).fetchone()
    return least if row is None or row[0] is None else str(row[0])


def _groups(
    connection: Connection, name: TableName, columns: TableColumns, cut: tuple[int, str]
) -> list[tuple[Any, ...]]:
    """Of each entity: its slice, its rows, its least and greatest sound clock, and their digest."""
    parts, until = cut
    stream, clock = columns.decoder.stream, columns.clock
    unit_ns = _unit_ns(clock)
    low, high = -(-stream.earliest_ns // unit_ns), stream.latest_ns // unit_ns
    query = sql.SQL(
        "SELECT {entity}, {part}, count(*), min({clock}) FILTER (WHERE {sound}), "
        "max({clock}) FILTER (WHERE {sound}), sum(hash_record_extended({row}, 0)) "
        "FROM {table} WHERE {wanted} GROUP BY 1, 2"
    ).format(
        entity=columns.entity,
        part=_part(columns, parts),
        clock=clock.expression,
        sound=sql.SQL("{} BETWEEN {} AND {}").format(
            sql.Identifier(clock.name), literal(clock, low), literal(clock, high)
        ),
        row=columns.row,
        table=name.identifier,
        wanted=_read_rows(columns, TableSlice(str(name), until=until)),
    )
    return connection.execute(query).fetchall()


def _facts(
    wanted: TableSlice, columns: TableColumns, groups: Sequence[tuple[Any, ...]]
) -> TableFacts:
    """What a slice holds, of what is known of its entities."""
    clock = columns.clock
    firsts = [_clock_ns(clock, group[3]) for group in groups if group[3] is not None]
    lasts = [_clock_ns(clock, group[4]) for group in groups if group[4] is not None]
    return TableFacts(
        replace(wanted, rows=sum(group[2] for group in groups)),
        min(firsts, default=NO_CLOCK_NS),
        max(lasts, default=NO_CLOCK_NS),
        tuple(sorted(group[0] for group in groups if group[0])),
        int(sum(group[5] for group in groups)) % 2**63,
        columns.decoder.roles.arrival is not None,
    )


def _unit_ns(clock: Column) -> int:
    """Nanoseconds of one in the numbers of a clock's column."""
    if clock.kind is Kind.TIME:
        return 1_000
    return TIME_UNITS[clock.name[clock.name.index("ts") + 2 :]]


def _clock_ns(clock: Column, value: Any) -> int:
    if clock.kind is not Kind.TIME:
        return int(value) * _unit_ns(clock)
    known: datetime = value if value.tzinfo else value.replace(tzinfo=UTC)
    return (known - EPOCH) // timedelta(microseconds=1) * 1_000
