"""Statements that make the table of a set, and change it when its set gains a feature.

On plain PostgreSQL a table has weekly partitions (:mod:`sinks.table_partitions`); TimescaleDB cuts
it into chunks of a week and, where it may, compresses them and drops those that are too old.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from psycopg import sql

from sinks.table_catalog import Declared
from sinks.table_layout import Column, TableLayout
from sinks.table_partitions import interval

CHUNK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Policies:
    """What becomes of vectors as they grow old.

    Attributes:
        compress_after: TimescaleDB compresses chunks whose vectors are all older than this; None
            for never. A correction that reaches further back is written all the same, but slowly.
        keep: those older than this are dropped; None to keep all.
    """

    compress_after: timedelta | None = timedelta(days=30)
    keep: timedelta | None = None


def create_schema(namespace: str) -> sql.Composed:
    """The schema."""
    return sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(namespace))


def create_progress(namespace: str) -> list[sql.Composed]:
    """The table of the lanes' progress: a row a lane, changed in the transactions of its rows.

    Half of each page is left free, so that new states of a row fit beside it and no index grows.
    """
    table = sql.Identifier(namespace, "progress")
    columns = [sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(t)) for n, t in PROGRESS.items()]
    return [
        sql.SQL(
            "CREATE TABLE {} (\n    {},\n    PRIMARY KEY (lane)\n) WITH (fillfactor = 50)"
        ).format(table, sql.SQL(",\n    ").join(columns)),
        sql.SQL("COMMENT ON TABLE {} IS {}").format(
            table, sql.Literal("how far each lane of a flow is written, and by which run")
        ),
    ]


PROGRESS = {
    "flow": "text NOT NULL",
    "lane": 'text COLLATE "C" NOT NULL',
    "job": "text NOT NULL",
    "instance": "text NOT NULL",
    "settled_ns": "bigint",
    "at": "timestamptz NOT NULL DEFAULT clock_timestamp()",
}
"""Columns of the table ``progress``."""


def create_table(layout: TableLayout, *, partitioned: bool) -> list[sql.Composed]:
    """The table, empty.

    Args:
        layout: of the table.
        partitioned: whether it has native partitions, or will be a hypertable.
    """
    key = sql.SQL(", ").join(map(sql.Identifier, layout.key))
    return [
        sql.SQL("CREATE TABLE {} (\n    {},\n    PRIMARY KEY ({})\n){}").format(
            layout.identifier,
            sql.SQL(",\n    ").join(map(_definition, layout.columns)),
            key,
            sql.SQL(" PARTITION BY RANGE (ts)" if partitioned else ""),
        ),
        *describe(layout, layout.columns),
        declare(layout, Declared.of(layout.feature_set)),
    ]


def add_columns(layout: TableLayout, columns: Iterable[Column]) -> list[sql.Composed]:
    """Adds features, which the rows there are have not."""
    statements = []
    for column in columns:
        added = sql.SQL("ALTER TABLE {} ADD COLUMN {}")
        statements.append(added.format(layout.identifier, _definition(column)))
    return [*statements, *describe(layout, columns)]


def describe(layout: TableLayout, columns: Iterable[Column]) -> list[sql.Composed]:
    """Says of features what they are, for whoever looks at the table."""
    exprs = layout.feature_set.feature_exprs
    statements = []
    for column in columns:
        if column.name in exprs:
            expr = exprs[column.name]
            unit = f"; unit: {expr.unit}" if str(expr.unit) not in {"", "1"} else ""
            where = sql.Identifier(layout.namespace, layout.name, column.name)
            words = sql.Literal(expr.formula + unit)
            statements.append(sql.SQL("COMMENT ON COLUMN {} IS {}").format(where, words))
    return statements


def declare(layout: TableLayout, declared: Declared) -> sql.Composed:
    """Says of the table what it was made for."""
    words = sql.Literal(declared.comment())
    return sql.SQL("COMMENT ON TABLE {} IS {}").format(layout.identifier, words)


def make_hypertable(layout: TableLayout, timescale: str) -> sql.Composed:
    """Lets TimescaleDB cut the table into chunks of a week.

    The key is the only index: a chunk is short, and each index more slows down writing.
    """
    return sql.SQL(
        "SELECT {}({}, 'ts', chunk_time_interval => {}, create_default_indexes => false)"
    ).format(sql.Identifier(timescale, "create_hypertable"), _regclass(layout), interval(CHUNK))


def allow_compression(layout: TableLayout) -> sql.Composed:
    """Says how rows are compressed: those of a run together, the newest first.

    All columns of the key are named, so that an upsert finds its row without decompressing others.
    """
    *run, ts, ts_ns = (sql.Identifier(name).as_string(None) for name in layout.key)
    return sql.SQL(
        "ALTER TABLE {} SET (timescaledb.compress, timescaledb.compress_segmentby = {}, "
        "timescaledb.compress_orderby = {})"
    ).format(
        layout.identifier,
        sql.Literal(", ".join(run)),
        sql.Literal(f"{ts} DESC, {ts_ns} DESC"),
    )


def set_policy(
    layout: TableLayout, timescale: str, policy: str, after: timedelta | None, *, there: bool
) -> list[sql.Composed]:
    """Sets or removes one of TimescaleDB's policies.

    Args:
        layout: of the table.
        timescale: the schema of TimescaleDB's functions.
        policy: ``compression`` or ``retention``.
        after: the age; None for no policy.
        there: whether there is one now.
    """
    statements = []
    if there:
        remove = sql.Identifier(timescale, f"remove_{policy}_policy")
        statements.append(sql.SQL("SELECT {}({})").format(remove, _regclass(layout)))
    if after is not None:
        add = sql.Identifier(timescale, f"add_{policy}_policy")
        made = sql.SQL("SELECT {}({}, {})").format(add, _regclass(layout), interval(after))
        statements.append(made)
    return statements


def _definition(column: Column) -> sql.Composed:
    """A column's name, type and whether it may be null.

    Names are in the order of their bytes: fast, and no update of the system's collations can make
    an index wrong.
    """
    collated = sql.SQL(' COLLATE "C"' if column.sql_type == "text" else "")
    required = sql.SQL("" if column.nullable else " NOT NULL")
    kind = sql.SQL(column.sql_type)
    return sql.SQL("{} {}{}{}").format(sql.Identifier(column.name), kind, collated, required)


def _regclass(layout: TableLayout) -> sql.Composed:
    return sql.SQL("{}::regclass").format(sql.Literal(layout.identifier.as_string(None)))
