"""Schemas of their own for tests of tables, on PostgreSQL and on TimescaleDB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from operators.batch import Vectors
from operators.frames import vectors_table
from sinks.table_layout import TableLayout
from sinks.table_partitions import ensure_partitions, weeks_of
from sinks.table_rows import copied
from sources.database import Database
from tests.services.names import unique


@contextmanager
def a_schema(url: str) -> Iterator[Database]:
    """A database with the name of a schema that nobody has yet, which is dropped at the end."""
    database = Database(url, unique("s"))
    try:
        yield database
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            name = sql.Identifier(database.schema)
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))


def ask(database: Database, query: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of a query, in which ``S`` stands for the schema."""
    with database.connect(autocommit=True) as connection:
        cursor = connection.execute(query.replace("S.", f'"{database.schema}".').encode(), values)
        return cursor.fetchall() if cursor.description else []


def fill(database: Database, layout: TableLayout, vectors: Vectors) -> None:
    """Copies vectors into their table."""
    with database.connect(autocommit=True) as connection:
        ensure_partitions(connection, layout, weeks_of(vectors.ts_ns))
        copy_into(connection, layout, vectors)


def copy_into(connection: psycopg.Connection[Any], layout: TableLayout, vectors: Vectors) -> None:
    """Copies vectors into their table, which has partitions for them."""
    names = sql.SQL(", ").join(map(sql.Identifier, layout.names))
    copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(layout.identifier, names)
    with connection.cursor().copy(copy) as into:
        for piece in copied(layout.rows(vectors_table(layout.feature_set, vectors))):
            into.write(piece)
