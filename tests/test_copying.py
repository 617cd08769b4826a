"""Rows as PostgreSQL sends them: every value exact, in blocks of bounded size."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from operators.kernels import copy_rows
from sources.copying import Column, CopyOut, Kind, StoppedError
from tests.input_tables import connected

ANY_INT = st.integers(-(2**63), 2**63 - 1)
ANY_FLOAT = st.floats(width=64)
VALUE = st.one_of(st.none(), st.binary(max_size=9))


def naive_rows(data: bytes, columns: int) -> tuple[list[list[bytes | None]], int]:
    """The complete rows, one value after the other, and how many bytes they take."""
    rows: list[list[bytes | None]] = []
    at = 0
    while len(data) >= at + 2 and data[at : at + 2] != b"\xff\xff":
        row: list[bytes | None] = []
        i = at + 2
        for _ in range(columns):
            if len(data) < i + 4:
                return rows, at
            (size,) = struct.unpack(">i", data[i : i + 4])
            i += 4
            row.append(data[i : i + size] if size >= 0 else None)
            i += max(size, 0)
        if len(data) < i:
            return rows, at
        rows.append(row)
        at = i
    return rows, at


@given(
    rows=st.lists(st.tuples(VALUE, VALUE), max_size=6),
    ended=st.booleans(),
    cut=st.integers(0, 40),
    most=st.integers(1, 8),
)
def test_rows_are_split_as_their_naive_twin_does(
    rows: list[tuple[bytes | None, bytes | None]], ended: bool, cut: int, most: int
) -> None:
    data = b""
    for row in rows:
        data += b"\0\2"
        for value in row:
            data += b"\xff" * 4 if value is None else struct.pack(">i", len(value)) + value
    data += b"\xff\xff" if ended else b""
    data = data[: len(data) - cut] if cut else data
    expected, _ = naive_rows(data, 2)
    first, length = np.empty((2, most), np.int32), np.empty((2, most), np.int32)
    array = np.frombuffer(data, np.uint8)
    found, after, how = copy_rows.split(array, len(data), first, length)
    told = [
        [
            None if length[c, r] < 0 else data[first[c, r] : first[c, r] + length[c, r]]
            for c in range(2)
        ]
        for r in range(found)
    ]
    assert told == expected[:most]
    assert how == (copy_rows.ENDED if ended and not cut and most > len(rows) else copy_rows.MORE)
    rest, _ = naive_rows(data[after:], 2)
    assert told + rest == expected


def test_rows_of_another_number_of_fields_are_told() -> None:
    data = np.frombuffer(b"\0\3" + b"\xff" * 12, np.uint8)
    first = np.empty((2, 1), np.int32)
    assert copy_rows.split(data, len(data), first, first.copy())[2] == copy_rows.OTHER


COLUMNS = [
    Column(name, kind, sql.SQL("{}::{}").format(sql.Identifier(name), sql.SQL(cast)))
    for name, kind, cast in (
        ("whole", Kind.WHOLE, "int8"),
        ("real", Kind.REAL, "float8"),
        ("text", Kind.TEXT, "text"),
        ("reals", Kind.REALS, "float8[]"),
        ("decimal", Kind.DECIMAL, "text"),
    )
]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
ROW = st.tuples(
    st.none() | ANY_INT,
    st.none() | ANY_FLOAT,
    st.none() | TEXT,
    st.none() | st.lists(st.none() | ANY_FLOAT, max_size=4),
    st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=6),
)


def bits(value: Any) -> Any:
    """A value with floats as their bits, all NaN alike."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack(">d", value)
    return [bits(each) for each in value] if isinstance(value, list) else value


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, max_size=20), count=st.integers(1, 7))
def test_values_come_back_bit_for_bit(postgres: str, rows: list[Any], count: int) -> None:
    with connected(postgres) as connection:
        connection.execute(
            "CREATE TEMPORARY TABLE given (number int, whole int8, real float8, text text, "
            "reals float8[], decimal numeric)"
        )
        with connection.cursor() as cursor:
            insert = "INSERT INTO given VALUES (%s, %s, %s, %s, %s::float8[], %s)"
            cursor.executemany(insert, [(n, *row) for n, row in enumerate(rows)])
        names = sql.SQL(", ").join(column.expression for column in COLUMNS)
        query = sql.SQL("SELECT {} FROM given ORDER BY number").format(names)
        copy = CopyOut(connection, query, COLUMNS)
        found = []
        while not copy.ended:
            table = copy.read(count, 2**20)
            assert table.num_rows <= count
            found += table.to_pylist()
        after = connection.execute("SELECT 1").fetchone()
    assert after == (1,)
    expected = [(*row[:4], None if row[4] is None else float(row[4])) for row in rows]
    told = [tuple(row.values()) for row in found]
    assert [bits(list(row)) for row in told] == [bits(list(row)) for row in expected]


def test_blocks_end_when_they_are_large(postgres: str) -> None:
    columns = [Column("text", Kind.TEXT, sql.SQL("repeat('x', 1000)"))]
    with connected(postgres) as connection:
        query = sql.SQL("SELECT repeat('x', 1000) FROM generate_series(1, 100)")
        copy = CopyOut(connection, query, columns)
        sizes = []
        while not copy.ended:
            sizes.append(copy.read(1_000, 10_000).num_rows)
    assert sum(sizes) == 100
    assert max(sizes) <= 11


def test_an_error_of_the_server_is_raised_as_such(postgres: str) -> None:
    columns = [Column("x", Kind.WHOLE, sql.SQL("x"))]
    with connected(postgres) as connection:
        with pytest.raises(psycopg.errors.UndefinedTable):
            CopyOut(connection, sql.SQL("SELECT x FROM nowhere"), columns)
        late = sql.SQL("SELECT (1 / (500 - x))::int8 AS x FROM generate_series(1, 1000) AS x")
        copy = CopyOut(connection, late, columns)
        assert copy.read(100, 2**20).num_rows == 100
        with pytest.raises(psycopg.errors.DivisionByZero):
            copy.read(1_000, 2**20)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_wait_can_be_stopped(postgres: str) -> None:
    columns = [Column("x", Kind.WHOLE, sql.SQL("1::int8"))]
    with connected(postgres) as connection, pytest.raises(StoppedError):
        CopyOut(connection, sql.SQL("SELECT 1::int8 FROM pg_sleep(30)"), columns, lambda: True)
