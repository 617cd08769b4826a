"""Tables for tests of what is written to them: made from the declaration, and read back."""

from __future__ import annotations

from typing import Any

import psycopg
import pyarrow as pa

from dataflows.tables import apply_tables
from sinks.table_layout import TableLayout
from sources.database import Database


def make_tables(url: str, layout: TableLayout) -> None:
    """Makes the table of a set, and that of progress."""
    apply_tables(Database(url, layout.namespace), [layout.feature_set])


def read_rows(url: str, layout: TableLayout) -> pa.Table:
    """The rows of a table in the order of their key, by the text form, which says all bits."""
    names = ", ".join(f'"{name}"' for name in layout.names)
    key = ", ".join(f'"{name}"' for name in layout.key)
    table = layout.identifier.as_string(None)
    with psycopg.connect(url) as connection:
        found: list[Any] = connection.execute(
            f"SELECT {names} FROM {table} ORDER BY {key}"
        ).fetchall()
    columns = list(zip(*found, strict=True)) if found else [()] * len(layout.names)
    arrays = [
        pa.array(column, kind.arrow_type)
        for column, kind in zip(columns, layout.columns, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=layout.arrow_schema)


def settled_ns(url: str, layout: TableLayout, lane: str) -> int | None:
    """What the table of progress says of a lane."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            f'SELECT settled_ns FROM "{layout.namespace}".progress WHERE lane = %s', (lane,)
        ).fetchone()
    return found[0] if found else None
