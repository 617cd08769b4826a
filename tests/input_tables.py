"""Tables for tests of inputs: made, filled from frames, and read back by the reader under test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import polars as pl
import psycopg
import pytest
from psycopg import sql

from dataflows.table_inputs import database as told_database
from operators.batch import Samples
from operators.dead_letters import DeadLetters
from sources.messages import Read

OHLCV = """
CREATE TABLE {} (
    instrument_id text NOT NULL,
    timeframe text NOT NULL,
    ts timestamptz NOT NULL,
    open double precision,
    high double precision,
    low double precision,
    close double precision,
    volume double precision,
    arrival_ts timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
READINGS = """
CREATE TABLE {} (
    asset_id text NOT NULL,
    asset_type text,
    channel text NOT NULL,
    ts timestamptz NOT NULL,
    value double precision,
    arrival_ts timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
WINDOWS = """
CREATE TABLE {} (
    asset_id text NOT NULL,
    asset_type text,
    channel text NOT NULL,
    start_ts timestamptz NOT NULL,
    sampling_rate_hz double precision NOT NULL,
    "values" double precision[] NOT NULL,
    arrival_ts timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""


def make(connection: psycopg.Connection[Any], name: str, ddl: str = OHLCV) -> None:
    """Makes a table."""
    connection.execute(sql.SQL(ddl).format(sql.Identifier(name)))


def fill(connection: psycopg.Connection[Any], name: str, frame: pl.DataFrame) -> None:
    """Adds the rows of a frame, by COPY."""
    columns = sql.SQL(", ").join(map(sql.Identifier, frame.columns))
    into = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(name), columns)
    with connection.cursor().copy(into) as copy:
        for row in frame.iter_rows():
            copy.write_row(row)


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection whose every statement is a transaction."""
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        yield connection


def tell(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Tells the code under test, and its processes, where the tables are."""
    monkeypatch.setenv("RIFFLE_DATABASE__URL", url)
    told_database.cache_clear()


def plain(reads: list[Read]) -> list[tuple[Any, ...]]:
    """Rows as plain values, floats by their bits."""
    found: list[tuple[Any, ...]] = []
    for batch in (read.batch for read in reads):
        columns = [
            [
                values.flat[s : s + n].tobytes()
                for s, n in zip(values.start, values.length, strict=True)
            ]
            if isinstance(values, Samples)
            else values.view(np.int64).tolist()
            for values in batch.columns.values()
        ]
        arrival = [0] * len(batch) if batch.arrival_ns is None else batch.arrival_ns.tolist()
        series = batch.series.strings() if batch.series else [""] * len(batch)
        told = (batch.keys.strings(), series, batch.ts_ns.tolist(), arrival, *columns)
        found += zip(*told, strict=True)
    return found


def letters(dead: list[DeadLetters]) -> list[tuple[str, bytes]]:
    """Why rows were refused, and their bytes."""
    return [
        (str(reason), original)
        for each in dead
        for reason, original in zip(each.reasons, each.originals, strict=True)
    ]
