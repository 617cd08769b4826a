"""Columns of a table or query as Arrow tables of given types, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from sources.copying import Column, Connection, CopyOut, Kind

ROWS = 50_000
BYTES = 16 * 2**20
"""Rows and bytes that are read at once."""


def selected(
    connection: Connection, types: Mapping[str, pa.DataType], rest: sql.Composable
) -> Iterator[pa.Table]:
    """Gives the rows of a query, in pieces.

    Args:
        connection: on which nothing else goes on meanwhile.
        types: of the columns, by name: 64-bit numbers, flags, texts, and lists of texts.
        rest: of the query, from its FROM on.

    Raises:
        psycopg.Error: when the server refuses the query, or is lost.
    """
    columns = [_column(name, kind) for name, kind in types.items()]
    names = sql.SQL(", ").join(column.expression for column in columns)
    copy = CopyOut(connection, sql.SQL("SELECT {} {}").format(names, rest), columns)
    schema = pa.schema(types.items())
    while not copy.ended:
        rows = copy.read(ROWS, BYTES)
        if len(rows):
            arrays = [_array(rows[name], kind) for name, kind in types.items()]
            yield pa.Table.from_arrays(arrays, schema=schema)


def _column(name: str, kind: pa.DataType) -> Column:
    column = sql.Identifier(name)
    if pa.types.is_list(kind):
        return Column(name, Kind.TEXT, sql.SQL("to_json({})::text").format(column))
    if pa.types.is_boolean(kind):
        return Column(name, Kind.WHOLE, sql.SQL("{}::int::bigint").format(column))
    if pa.types.is_string(kind):
        return Column(name, Kind.TEXT, column)
    return Column(name, Kind.REAL if pa.types.is_floating(kind) else Kind.WHOLE, column)


def _array(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    array = column.combine_chunks()
    if pa.types.is_list(kind):
        return _lists(array, kind)
    if pa.types.is_boolean(kind):
        return pc.equal(array, 1)
    return array.cast(kind)


def _lists(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Reads JSON arrays, of which there are few different ones."""
    encoded = texts.dictionary_encode()
    lists = pa.array([json.loads(text) for text in encoded.dictionary.to_pylist()], kind)
    return lists.take(encoded.indices)
