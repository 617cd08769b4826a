"""Tables and views as inputs: their names, and which of their columns make the rows of a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import psycopg
from psycopg import sql

from operators.decode import Decoder, RefusedInputError
from operators.streams import Stream
from sources.copying import Column, Connection, Kind
from sources.database import Database, DatabaseError, words

WHOLE = frozenset({"int2", "int4", "int8"})
REAL = frozenset({"float4", "float8"})
TIME = frozenset({"timestamptz", "timestamp", "date"})
LISTS = frozenset({"int2[]", "int4[]", "int8[]", "float4[]", "float8[]"})
"""Types of PostgreSQL, by its own names for them."""

AS_SENT = {
    Kind.WHOLE: sql.SQL("{}::int8"),
    # Without a zone it is UTC, whatever the session's.
    Kind.TIME: sql.SQL("{}::timestamp"),
    Kind.REAL: sql.SQL("{}::float8"),
    # The server would refuse, for all rows, a decimal that no float can hold.
    Kind.DECIMAL: sql.SQL("{}::text"),
    Kind.TEXT: sql.SQL("{}::text"),
    Kind.REALS: sql.SQL("{}::float8[]"),
}
"""How the values of a kind are sent."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
US_OF_YEARS = (-62_135_596_800_000_000, 253_402_300_800_000_000)
"""Years 1 to 9999: times beyond are never named in a query."""

ADVICE = {
    "42P01": "it was dropped or renamed: create it again, or name another one",
    "42501": "GRANT SELECT on it",
    "42703": "it has lost a column: add it again, or start anew",
}
"""What to do about errors that name an input table, by their code."""


@dataclass(frozen=True, slots=True)
class TableName:
    """The name of a table or view.

    Args:
        name: the table.
        schema: where it is; by default, where the connection's search path finds it.

    >>> str(TableName.of("market.ohlcv")), TableName.of("ohlcv").schema
    ('market.ohlcv', None)
    """

    name: str
    schema: str | None = None

    @staticmethod
    def of(text: str) -> TableName:
        """Takes ``name`` or ``schema.name`` apart; the case of letters matters.

        Raises:
            RefusedInputError: when it is neither.
        """
        parts = text.split(".")
        if len(parts) > 2 or not all(parts) or "\0" in text:
            msg = f"table {text!r}: must be named like ohlcv or market.ohlcv"
            raise RefusedInputError(msg)
        return TableName(parts[-1], parts[0] if len(parts) == 2 else None)

    @property
    def identifier(self) -> sql.Identifier:
        """The name, quoted."""
        return sql.Identifier(*([self.schema] if self.schema else []), self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


@dataclass(frozen=True, slots=True)
class TableColumns:
    """What is read of a table.

    Attributes:
        decoder: of its rows.
        columns: those that it needs and that there are.
        clock: the one whose order the rows are read in.
        types: of all the columns of the table, by name.
    """

    decoder: Decoder
    columns: tuple[Column, ...]
    clock: Column
    types: Mapping[str, str]

    @property
    def entity(self) -> sql.Composable:
        """The entity of a row as a text, empty for none."""
        name = self.decoder.stream.entity
        return sql.SQL("coalesce({}::text, '')").format(sql.Identifier(name))

    def selected(self, names: Sequence[str]) -> tuple[Column, ...]:
        """Those of some columns that there are; at least one, as COPY wants it."""
        wanted = set(names)
        return tuple(c for c in self.columns if c.name in wanted) or (self.clock,)

    @property
    def order(self) -> sql.Composable:
        """The order of the clock, nulls last; rows that tie in all columns are the same rows."""
        others = [column for column in self.columns if column.name != self.clock.name]
        keys: list[sql.Composable] = [sql.Identifier(self.clock.name)]  # as an index has it
        for column in others:
            plain = sql.SQL('{} COLLATE "C"') if column.kind is Kind.TEXT else sql.SQL("{}")
            keys.append(plain.format(column.expression))
        return sql.SQL(", ").join(keys)

    @property
    def row(self) -> sql.Composable:
        """All that is read of a row, as one value."""
        return sql.SQL("ROW({})").format(sql.SQL(", ").join(c.expression for c in self.columns))


def select(columns: Sequence[Column]) -> sql.Composable:
    """Lists what a query gives."""
    return sql.SQL(", ").join(column.expression for column in columns)


def literal(clock: Column, value: int) -> sql.Composable:
    """A clock's value in a query: a whole number, or microseconds since the epoch."""
    if clock.kind is not Kind.TIME:
        return sql.Literal(value)
    written = (EPOCH + timedelta(microseconds=value)).isoformat()
    return sql.SQL("{}::timestamptz").format(sql.Literal(written))


def refused(database: Database, name: TableName, error: psycopg.Error) -> DatabaseError:
    """Words an error about a table that waiting does not mend."""
    where = f"table `{name}`"
    if error.sqlstate not in ADVICE:
        return database.refused(where, error)
    said = f"{where}: must stay readable, found {database.hide(words(error))}"
    return DatabaseError(f"{said}; {ADVICE[error.sqlstate]}")


def column_types(connection: Connection, name: TableName) -> dict[str, str]:
    """The columns of a table or view, and of what type each is; by the types below domains.

    Raises:
        RefusedInputError: when there is none of that name, or it may not be read.
        psycopg.Error: when the server can't be asked.
    """
    query = sql.SQL("SELECT * FROM {} LIMIT 0").format(name.identifier)
    try:
        cursor = connection.execute(query)
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        msg = (
            f"table `{name}`: must be a table or view of the database, found none; names are "
            "case-sensitive, and those outside the search path need their schema"
        )
        raise RefusedInputError(msg) from error
    except psycopg.errors.InsufficientPrivilege as error:
        msg = f"table `{name}`: must be readable, found no right to; GRANT SELECT on it"
        raise RefusedInputError(msg) from error
    found: dict[str, str] = {}
    for described in cursor.description or ():
        known = connection.adapters.types.get(described.type_code)
        if known is None:
            found[described.name] = "other"
        else:
            array = known.array_oid == described.type_code and known.oid != described.type_code
            found[described.name] = known.name + ("[]" if array else "")
    return found


def table_columns(stream: Stream, name: TableName, types: Mapping[str, str]) -> TableColumns:
    """Plans how a table is read as a stream.

    Raises:
        RefusedInputError: when no column tells the time, or one is of a type that never fits.
    """
    where = f"table `{name}`"
    decoder = Decoder(stream, types, where)
    columns = tuple(
        _column(decoder, where, name, types[name]) for name in decoder.columns if name in types
    )
    clock = decoder.roles.arrival or decoder.roles.time
    return TableColumns(decoder, columns, next(c for c in columns if c.name == clock), types)


def _column(decoder: Decoder, where: str, name: str, kind: str) -> Column:
    identifier = sql.Identifier(name)

    def sent(what: Kind) -> Column:
        return Column(name, what, AS_SENT[what].format(identifier))

    def refuse(must: str) -> NoReturn:
        msg = f"{where}: column `{name}` must be {must}, found {kind}; give a view that casts it"
        raise RefusedInputError(msg)

    if name in decoder.roles.times:
        if kind in WHOLE:
            return sent(Kind.WHOLE)
        if kind not in TIME:
            refuse("a time (timestamptz) or whole number")
        if kind == "timestamptz":
            return Column(name, Kind.TIME, identifier)
        return sent(Kind.TIME)
    field = None if name in decoder.roles.labels else decoder.stream.field(name)
    if field is None or field.kind == "id":
        return sent(Kind.WHOLE) if kind in WHOLE else sent(Kind.TEXT)
    if field.kind == "samples":
        if kind not in LISTS:
            refuse("an array of numbers, such as float8[]")
        return sent(Kind.REALS)
    if kind in WHOLE:
        return sent(Kind.WHOLE)
    if kind in REAL:
        return sent(Kind.REAL)
    if kind != "numeric":
        refuse("a number")
    return sent(Kind.DECIMAL)
