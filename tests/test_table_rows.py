"""Rows come out of the database as they went in, bit for bit."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.table_rows import UnstorableTextError, copied, newest

MICROSECONDS = pa.timestamp("us", tz="UTC")
TYPES = {
    "name": ("text", pa.string()),
    "code": ("text", pa.dictionary(pa.int32(), pa.string())),
    "at": ("timestamptz", MICROSECONDS),
    "count": ("bigint", pa.int64()),
    "number": ("double precision", pa.float64()),
    "up": ("boolean", pa.bool_()),
    "flags": ("text[]", pa.list_(pa.string())),
}
LAST_US = 253_402_300_799 * 10**6
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": TEXT,
    "code": st.one_of(st.sampled_from(["", "A", "Bé", "😀" * 20]), TEXT),
    "at": st.integers(-62_135_596_800 * 10**6, LAST_US),
    "count": st.integers(-(2**63), 2**63 - 1),
    "number": st.floats(width=64),
    "up": st.booleans(),
    "flags": st.one_of(st.just([]), st.lists(st.one_of(st.none(), TEXT), max_size=3)),
}
ROW = st.tuples(*(st.one_of(st.none(), values) for values in VALUES.values()))


@pytest.fixture(scope="module")
def connection(postgres: str) -> Iterator[psycopg.Connection[Any]]:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in TYPES.items())
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE TEMP TABLE rows (i serial, {columns})")
        yield connection


def table(rows: list[tuple[Any, ...]], chunk: int = 0) -> pa.Table:
    """An Arrow table, of chunks with dictionaries of their own."""
    chunk = chunk or max(1, len(rows))
    parts = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
    schema = pa.schema([(name, kind) for name, (_, kind) in TYPES.items()])
    found = []
    for part in parts:
        columns = zip(*part, strict=True)
        arrays = [
            pa.array(column, kind)
            for column, (_, kind) in zip(columns, TYPES.values(), strict=True)
        ]
        found.append(pa.Table.from_arrays(arrays, schema=schema))
    return pa.concat_tables(found) if found else schema.empty_table()


def stored(connection: psycopg.Connection[Any], pieces: Iterator[bytes]) -> list[tuple[Any, ...]]:
    """Copies rows in, and reads them back in ways that say all bits."""
    connection.execute("TRUNCATE rows")
    names = ", ".join(TYPES)
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY rows ({names}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        for piece in pieces:
            copy.write(piece)
    return connection.execute(
        "SELECT name, code, (extract(epoch FROM at) * 1000000)::int8, count, "
        "float8send(number), up, flags FROM rows ORDER BY i"
    ).fetchall()


def bits(row: tuple[Any, ...]) -> tuple[Any, ...]:
    number = None if row[4] is None else struct.pack("!d", row[4])
    return (*row[:4], number, *row[5:])


@settings(max_examples=150)
@given(st.lists(ROW, max_size=12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))
def test_rows_come_back_as_they_were(connection, rows, chunk, piece, skipped):
    given_rows = table(rows, chunk).slice(skipped)
    assert stored(connection, copied(given_rows, piece)) == [bits(row) for row in rows[skipped:]]


ODD = [
    0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1e300, 0.1,
    float("inf"), float("-inf"), float("nan"), struct.unpack("!d", b"\xff\xf8\0\0\0\0\0\x07")[0],
]  # fmt: skip


def test_numbers_keep_their_bits(connection):
    rows: list[tuple[Any, ...]] = [("", "", 0, 0, number, True, []) for number in ODD]
    assert stored(connection, copied(table(rows))) == [bits(row) for row in rows]


INJECTIONS = [
    "'; DROP TABLE rows; --",
    '"; DROP TABLE rows; --',
    "\\.",
    "\\N",
    "NULL",
    "a\tb\nc\r\nd",
    "$$; $1 %s %(x)s {x} {{",
    "{a,b}",
    '{"a"}',
    "E'\\x00'",
    "\\u0000",
    "\x01\x1b[2J\x7f\x85\u2028\u202e",
    "ünïcödé 日本語 😀 👩‍👩‍👧‍👦 \U0010ffff",
    "",
    " ",
    "x" * 10_000,
]


def test_texts_are_values_whatever_they_say(connection):
    rows = [(text, text, 0, 0, 0.0, True, [text, text]) for text in INJECTIONS]
    assert stored(connection, copied(table(rows), 3)) == [bits(row) for row in rows]


@pytest.mark.parametrize("column", [0, 1, 6])
def test_a_text_with_a_nul_is_refused_in_words(column):
    row: list[Any] = ["a", "a", 0, 0, 0.0, True, ["a"]]
    row[column] = ["b", "A\0B"] if column == 6 else "A\0B"
    name = list(TYPES)[column]
    with pytest.raises(UnstorableTextError, match=rf"column `{name}`: .* no NUL.*found 'A\\x00B'"):
        b"".join(copied(table([tuple(row)])))


def test_what_no_row_says_is_not_rendered():
    """The names of an engine are many, and those of one batch are few."""
    names = pa.array(["A", "B\0"])
    codes = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int32()), names)
    assert b"".join(copied(pa.table({"name": codes}))).count(b"\0\0\0\x01A") == 2


# -- the newest -------------------------------------------------------------------------------


VERSIONS = st.lists(
    st.tuples(st.sampled_from("AB"), st.integers(0, 3), st.integers(0, 2), st.booleans())
)


@given(VERSIONS, st.integers(1, 4))
def test_of_each_key_the_newest_row_stays(versions, chunk):
    parts = [versions[i : i + chunk] for i in range(0, len(versions), chunk)] or [[]]
    kind = pa.dictionary(pa.int32(), pa.string())
    rows = pa.concat_tables(
        pa.table(
            {
                "name": pa.array([v[0] for v in part], kind),
                "ts": pa.array([v[1] for v in part], pa.int64()),
                "known": pa.array([v[2] for v in part], pa.int64()),
                "final": pa.array([v[3] for v in part], pa.bool_()),
                "i": np.arange(len(part)) + i * chunk,
            }
        )
        for i, part in enumerate(parts)
    ).unify_dictionaries()
    best: dict[tuple[str, int], tuple[tuple[int, bool], int]] = {}
    for i, (name, ts, known, final) in enumerate(versions):
        if (name, ts) not in best or (known, final) >= best[name, ts][0]:
            best[name, ts] = ((known, final), i)
    found = newest(rows, ["name", "ts"], ["known", "final"])
    assert found["i"].to_pylist() == sorted(i for _, i in best.values())
    assert found["name"].to_pylist() == [versions[i][0] for i in found["i"].to_pylist()]
