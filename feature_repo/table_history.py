"""The history that a table of vectors holds, for training sets and to materialize.

Feast knows a vector's time as ``ts``, which PostgreSQL keeps in microseconds; here ``ts_ns`` is
read in its place, so that no event sees a vector that was true 400 ns after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import psycopg
import pyarrow as pa
from psycopg import sql

from feature_repo.training import INSTANT, Join
from sources.database import Database, DatabaseError
from sources.selected import selected

TYPES = {
    16: pa.bool_(),
    20: pa.int64(),
    25: pa.string(),
    701: pa.float64(),
    1009: pa.list_(pa.string()),
}
"""Arrow's types for those of PostgreSQL that the tables have, by their numbers."""
TS, KNOWN_AT, N_ROWS = "ts_ns", "known_at_ns", "n_rows"
"""Columns of the tables: the exact times, and the last tie-break."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def seen_by(database: Database, table: str, join: Join, events: pl.DataFrame) -> pl.DataFrame:
    """The rows of a table that events can see: of each entity those between its events.

    An entity's rows begin with the newest one that its first event sees, since no later event sees
    an older one, and end with its last event.

    Args:
        database: where the table is.
        table: its name, as SQL.
        join: what is asked.
        events: with the keys and the time.
    """
    asked = (
        events.select(
            *(pl.col(key).cast(pl.String) for key in join.keys),
            pl.col(join.event_time).cast(INSTANT).dt.timestamp("ns").alias(join.event_time),
        )
        .drop_nulls()
        .group_by(join.keys)
        .agg(
            pl.col(join.event_time).min().alias("__first"),
            pl.col(join.event_time).max().alias("__last"),
        )
    )
    own = {name: theirs for theirs, name in join.renamed.items()}
    first, last = (asked[name].to_list() for name in ("__first", "__last"))
    arrays: list[tuple[list[Any], str]] = [(asked[key].to_list(), "text") for key in join.keys]
    arrays += [(first, "bigint"), (last, "bigint")]
    arrays += [(_microseconds(first), "timestamptz"), (_microseconds(last), "timestamptz")]
    names = [*(f"k{number}" for number in range(len(join.keys))), "n0", "n1", "t0", "t1"]

    def of_entity(alias: str) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{}.{} = a.{}").format(
                sql.SQL(alias), sql.Identifier(own.get(key, key)), sql.SQL(f"k{number}")
            )
            for number, key in enumerate(join.keys)
        )

    known = join.as_known and join.known_at is not None
    rest = sql.SQL(_SEEN).format(
        arrays=sql.SQL(", ").join(
            sql.SQL("{}::{}[]").format(sql.Literal(values), sql.SQL(kind))
            for values, kind in arrays
        ),
        names=sql.SQL(", ").join(map(sql.SQL, names)),
        table=sql.SQL(table),
        of_s=of_entity("s"),
        of_t=of_entity("t"),
        known=sql.SQL(f"AND s.{KNOWN_AT} <= a.n0" if known else ""),
    )
    wanted = [own.get(key, key) for key in join.keys]
    rows = _read(database, table, [*wanted, *join.columns], join.ts, join.known_at, rest)
    return rows.rename(join.renamed, strict=False)


_SEEN = """FROM (
    SELECT t.* FROM unnest({arrays}) AS a({names})
    LEFT JOIN LATERAL (
        SELECT s.ts, s.ts_ns FROM {table} s
        WHERE {of_s} AND s.ts <= a.t0 AND s.ts_ns <= a.n0 {known}
        ORDER BY s.ts DESC, s.ts_ns DESC LIMIT 1
    ) f ON true
    JOIN {table} t ON {of_t}
        AND t.ts >= coalesce(f.ts, '-infinity') AND t.ts <= a.t1
        AND t.ts_ns >= coalesce(f.ts_ns, -9223372036854775808) AND t.ts_ns <= a.n1
) r"""


def within(
    database: Database,
    table: str,
    columns: Sequence[str],
    order: tuple[str, str | None],
    span: tuple[datetime | None, datetime | None],
    newest_of: Sequence[str] = (),
) -> pl.DataFrame:
    """The rows of a table in a range of time.

    Args:
        database: where the table is.
        table: its name, as SQL.
        columns: which to read, with the keys and without times.
        order: what the rows' time and the time at which they were known are called.
        span: the first and the last time, if there is any.
        newest_of: keys of which only the newest row is wanted.
    """
    start, end = span
    bounds: list[sql.Composable] = [sql.SQL("true")]
    for at, sign in ((start, ">="), (end, "<=")):
        if at is not None:
            at_ns = (at.astimezone(UTC) - EPOCH) // timedelta(microseconds=1) * 1_000
            bound = sql.SQL("ts {sign} {at} AND ts_ns {sign} {at_ns}")
            parts = {"sign": sql.SQL(sign), "at": sql.Literal(at), "at_ns": sql.Literal(at_ns)}
            bounds.append(bound.format(**parts))
    keys = sql.SQL(", ").join(map(sql.Identifier, newest_of))
    down = sql.SQL("").join(sql.SQL("{}, ").format(sql.Identifier(key)) for key in newest_of)
    rest = sql.SQL("FROM (SELECT {one} * FROM {table} t WHERE {bounds} {order}) r").format(
        one=sql.SQL("DISTINCT ON ({})").format(keys) if newest_of else sql.SQL(""),
        table=sql.SQL(table),
        bounds=sql.SQL(" AND ").join(bounds),
        order=sql.SQL("ORDER BY {}ts DESC, ts_ns DESC").format(down) if newest_of else sql.SQL(""),
    )
    return _read(database, table, columns, *order, rest)


def _read(
    database: Database,
    table: str,
    columns: Iterable[str],
    ts: str,
    known_at: str | None,
    rest: sql.Composable,
) -> pl.DataFrame:
    """Reads columns and the order of rows, times as Feast calls them."""
    try:
        with database.connect() as connection:
            connection.read_only = True
            types = _types(connection, table)
            wanted = list(dict.fromkeys([*columns, TS, KNOWN_AT, N_ROWS]))
            lacking = [name for name in wanted if name not in types]
            if lacking:
                msg = (
                    f"table {table}: must have the columns of vectors, lacks {lacking}; run "
                    "`riffle apply`"
                )
                raise DatabaseError(msg)
            asked = {name: types[name] for name in wanted}
            empty = pa.schema(asked.items()).empty_table()
            found = pa.concat_tables([empty, *selected(connection, asked, rest)])
    except psycopg.Error as error:
        where = f"table {table}"
        raise database.refused(where, error) from None
    rows = pl.DataFrame(pl.from_arrow(found))
    named = {TS: ts, **({KNOWN_AT: known_at} if known_at else {})}
    return rows.with_columns(pl.col(TS, KNOWN_AT).cast(INSTANT)).rename(named)


def _types(connection: psycopg.Connection[Any], table: str) -> dict[str, pa.DataType]:
    query = sql.SQL("SELECT * FROM {} t LIMIT 0").format(sql.SQL(table))
    described = connection.execute(query).description or []
    return {each.name: TYPES[each.type_code] for each in described if each.type_code in TYPES}


def _microseconds(times_ns: Iterable[int]) -> list[datetime]:
    """Times rounded down, as the tables have them."""
    return [EPOCH + timedelta(microseconds=at_ns // 1_000) for at_ns in times_ns]
