"""Weekly partitions on plain PostgreSQL: made when asked for, while others read and write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest

from dataflows.tables import apply_tables
from feature_repo.sets import ALL
from sinks.table_layout import TableLayout
from sinks.table_partitions import WEEK_NS, ensure_partitions, start_of, weeks_of
from sources.database import Database
from tests.schemas import a_schema, ask, fill
from tests.some_vectors import some_vectors

MARKET = ALL["market"]
EDGES = [-(10**18), -1, 0, WEEK_NS - 1, WEEK_NS, 10**18, 4 * 10**18]


@pytest.fixture
def plain(postgres: str) -> Iterator[Database]:
    with a_schema(postgres) as database:
        apply_tables(database, [MARKET])
        yield database


def made(database: Database, weeks: list[int]) -> int:
    with database.connect(autocommit=True) as connection:
        return ensure_partitions(connection, TableLayout(MARKET, database.schema), weeks)


def partitions(database: Database) -> set[str]:
    rows = ask(
        database,
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = %s::regclass",
        f'"{database.schema}".market_fs_v1',
    )
    return {name for (name,) in rows}


def test_a_week_begins_every_seven_days_since_1970():
    assert weeks_of(np.array([-1, 0, WEEK_NS - 1, WEEK_NS])) == {-1, 0, 1}
    assert start_of(0) == datetime(1970, 1, 1, tzinfo=UTC)
    assert start_of(2_900) == datetime(2025, 7, 31, tzinfo=UTC)


def test_partitions_are_made_once_and_hold_all_their_instants(plain):
    weeks = sorted(weeks_of(np.array(EDGES)))
    assert made(plain, weeks) == len(weeks)
    assert made(plain, weeks) == 0
    for week in weeks:
        for at in (start_of(week), start_of(week + 1) - timedelta(microseconds=1)):
            ask(
                plain,
                "INSERT INTO S.market_fs_v1 (instrument_id, timeframe, ts, ts_ns, quality, "
                "coverage, known_at, known_at_ns, n_rows, final) "
                "VALUES ('A', '1m', %s, 0, '{}', 1, now(), 0, 1, true)",
                at,
            )
    assert ask(plain, "SELECT count(*)::int FROM S.market_fs_v1") == [(2 * len(weeks),)]
    with pytest.raises(psycopg.errors.CheckViolation, match="no partition"):
        fill_without_partitions(plain)


def fill_without_partitions(database: Database) -> None:
    ask(
        database,
        "INSERT INTO S.market_fs_v1 (instrument_id, timeframe, ts, ts_ns, quality, coverage, "
        "known_at, known_at_ns, n_rows, final) "
        "VALUES ('A', '1m', '1999-01-01', 0, '{}', 1, now(), 0, 1, true)",
    )


def test_the_present_weeks_are_there_from_the_start(plain):
    now_ns = int(datetime.now(UTC).timestamp()) * 10**9
    weeks = [now_ns // WEEK_NS + ahead for ahead in range(4)]
    assert made(plain, weeks) == 0


def test_any_time_zone_and_date_style_make_the_same_partitions(plain):
    with plain.connect(autocommit=True) as connection:
        connection.execute("SET timezone = 'America/New_York'")
        connection.execute("SET datestyle = 'SQL, DMY'")
        call = f"{plain.schema}.ensure_partitions('market_fs_v1', ARRAY[%s::timestamptz])"
        connection.execute(f"SELECT {call}".encode(), ["02/03/2001 12:00"])
    assert "market_fs_v1_p20010301" in partitions(plain)
    assert made(plain, [1_626]) == 0
    assert start_of(1_626) == datetime(2001, 3, 1, tzinfo=UTC)


def test_who_asks_at_the_same_time_waits_for_no_writer_or_reader(plain):
    layout = TableLayout(MARKET, plain.schema)
    times_ns = (1_000 * WEEK_NS, 1_001 * WEEK_NS)
    fill(plain, layout, some_vectors(MARKET, 20, 1, times_ns))
    results: list[Any] = []

    def ask_for_a_year() -> None:
        try:
            results.append(made(plain, list(range(1_100, 1_152))))
        except psycopg.Error as error:
            results.append(error)

    with plain.connect() as writer:
        writer.execute(f"UPDATE {plain.schema}.market_fs_v1 SET n_rows = 7".encode())
        threads = [threading.Thread(target=ask_for_a_year) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        assert sum(results) == 52
        assert len(results) == 4
    assert len(partitions(plain)) == 1 + 5 + 52


def test_many_weeks_at_once_are_made_in_several_transactions(plain):
    assert made(plain, list(range(1_000, 1_260))) == 260
