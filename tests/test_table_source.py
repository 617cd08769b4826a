"""Tables that grow: no row lost or twice, in whatever order transactions commit, over crashes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import polars as pl
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.streams import bars
from operators.dead_letters import Reason
from operators.decode import RefusedInputError
from sources.alignment import Alignment
from sources.database import Database, DatabaseError
from sources.messages import Read
from sources.reader import PartitionReader
from sources.table_columns import TableName
from sources.table_horizon import NEVER_US
from sources.table_slice import TableSlice
from sources.table_source import State, TableInput, TablePartition, TableSource
from sources.tables import InputTable, TableSnapshot, begin
from tests.input_tables import OHLCV, connected, fill, letters, make, plain
from tests.services import postgres
from tests.services.names import unique
from tests.services.process import Server

FAR_NS = 10**18
PATIENCE_S = 20
POLL_S = 0.01
ADD = """
INSERT INTO ohlcv (instrument_id, timeframe, ts, open, high, low, close, volume)
VALUES (%s, '1m', date_trunc('second', clock_timestamp()), %s, %s, %s, %s, 1)
"""


def add(connection: psycopg.Connection[Any], name: str, price: float = 1.0) -> None:
    connection.execute(ADD, [name, price, price, price, price])


Open = Callable[..., TablePartition]


@pytest.fixture
def ohlcv(database: str) -> Iterator[psycopg.Connection[Any]]:
    """A table of bars, with a connection that commits each statement."""
    with connected(database) as connection:
        make(connection, "ohlcv")
        yield connection


@pytest.fixture
def follow(database: str) -> Iterator[Open]:
    """Opens a table; polls a hundred times a second."""
    with ExitStack() as stack:

        def opened(state: State | None = None, table: str = "ohlcv", **more: Any) -> TablePartition:
            url = more.pop("url", database)
            start_us = more.pop("start_us", NEVER_US)
            poll_s = more.pop("poll_s", POLL_S)
            source = TableSource(
                [TableInput(bars, table, start_us, poll_s)],
                Database(url),
                Alignment(FAR_NS),
                **more,
            )
            part = source.build_part("read", "bars/0", state)
            stack.callback(part.close)
            return part

        yield opened


def drain(part: TablePartition, until: Callable[[list[Read]], bool]) -> list[Read]:
    """What a table gives until there is enough of it."""
    reads: list[Read] = []
    deadline = time.monotonic() + PATIENCE_S
    while not until(reads):
        assert time.monotonic() < deadline, (names(reads), part.snapshot())
        found = part.next_batch()
        reads += found
        if not found:
            time.sleep(0.002)
    return reads


def names(reads: list[Read]) -> list[str]:
    return [name for read in reads for name in read.batch.keys.strings()]


def has(count: int) -> Callable[[list[Read]], bool]:
    return lambda reads: len(names(reads)) >= count


def passes(part: TablePartition, clock_ns: int) -> Callable[[list[Read]], bool]:
    return lambda _: part.clock_ns >= clock_ns


def now_ns(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    return int(row[0].timestamp() * 10**6) * 1_000


def test_rows_come_as_they_are_added_and_the_clock_goes_on_without_them(
    ohlcv: psycopg.Connection[Any], follow: Open
) -> None:
    add(ohlcv, "a", 0.1 + 0.2)
    part = follow()
    reads = drain(part, has(1))
    add(ohlcv, "b")
    reads += drain(part, has(1))
    assert names(reads) == ["a", "b"]
    (row,) = [row for row in plain(reads) if row[0] == "a"]
    assert np.int64(row[4]).view(np.float64) == 0.1 + 0.2
    later = now_ns(ohlcv)
    drain(part, passes(part, later))
    assert part.account.rows == part.account.came_in == 2


def idle(part: TablePartition, looks: int = 5) -> list[Read]:
    """What comes while nothing should: as many looks as would find it."""
    reads: list[Read] = []
    for _ in range(looks):
        time.sleep(2 * POLL_S)
        reads += part.next_batch()
    return reads


def test_a_transaction_that_commits_late_loses_nothing_and_holds_the_clock(
    ohlcv: psycopg.Connection[Any], follow: Open, database: str
) -> None:
    part = follow()
    drain(part, passes(part, now_ns(ohlcv)))
    with psycopg.connect(database) as slow:
        add(slow, "slow")
        written = now_ns(ohlcv)
        add(ohlcv, "quick")
        assert names(idle(part)) == []
        assert part.clock_ns < written
        slow.commit()
    assert names(drain(part, has(2))) == ["slow", "quick"]
    drain(part, passes(part, now_ns(ohlcv)))


def test_a_transaction_that_is_rolled_back_is_not_waited_for_and_gives_nothing(
    ohlcv: psycopg.Connection[Any], follow: Open, database: str
) -> None:
    part = follow()
    with psycopg.connect(database) as undone:
        add(undone, "undone")
        undone.execute("SAVEPOINT s")
        add(undone, "undone")
        undone.execute("ROLLBACK TO s")
        add(ohlcv, "a")
        undone.rollback()
    reads = drain(part, has(1))
    assert names(reads + drain(part, passes(part, now_ns(ohlcv)))) == ["a"]


def test_writers_of_other_tables_and_readers_hold_nothing_up(
    ohlcv: psycopg.Connection[Any], follow: Open, database: str
) -> None:
    ohlcv.execute("CREATE TABLE other (x int)")
    part = follow()
    with psycopg.connect(database) as writer, psycopg.connect(database) as reader:
        writer.execute("INSERT INTO other VALUES (1)")
        reader.execute("SELECT * FROM ohlcv FOR UPDATE")
        add(ohlcv, "a")
        drain(part, has(1))
        drain(part, passes(part, now_ns(ohlcv)))


def test_a_transaction_that_writes_when_the_flow_starts_is_waited_for(
    ohlcv: psycopg.Connection[Any], follow: Open, database: str
) -> None:
    with psycopg.connect(database) as before:
        add(before, "before")
        add(ohlcv, "a")
        part = follow()
        assert idle(part) == []
        before.commit()
    assert names(drain(part, has(2))) == ["before", "a"]


def test_a_commit_in_two_phases_is_waited_for(follow: Open) -> None:
    with postgres.private({"max_prepared_transactions": "2"}) as server:
        url = server.address
        with connected(url) as connection, psycopg.connect(url) as writer:
            make(connection, "ohlcv")
            part = follow(url=url)
            drain(part, passes(part, now_ns(connection)))
            add(writer, "prepared")
            idle(part)
            writer.execute("PREPARE TRANSACTION 'two'")
            writer.commit()
            add(connection, "a")
            assert names(idle(part)) == []
            connection.execute("COMMIT PREPARED 'two'")
            assert names(drain(part, has(2))) == ["prepared", "a"]


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["add", "add", "commit", "rollback", "look"])),
    max_size=30,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_order_transactions_end_in_each_row_comes_once_and_in_time(
    ohlcv: psycopg.Connection[Any], follow: Open, database: str, steps: list[tuple[int, str]]
) -> None:
    """A row never comes behind a clock that is later than its arrival."""
    ohlcv.execute("TRUNCATE ohlcv")
    part = follow(poll_s=0.001, batch_rows=2)
    reads: list[Read] = []
    clocks: list[int] = []

    def look() -> None:
        for read in part.next_batch():
            if len(read.batch):
                assert read.batch.arrival_ns is not None
                assert read.batch.arrival_ns.min() >= max(clocks, default=0)
            clocks.append(read.batch.clock_ns)
            reads.append(read)

    with ExitStack() as stack:
        writers = [stack.enter_context(psycopg.connect(database)) for _ in range(3)]
        for number, (writer, step) in enumerate(steps):
            if step == "add":
                add(writers[writer], f"r{number}")
            elif step == "look":
                time.sleep(0.003)
            else:
                getattr(writers[writer], step)()
            look()
        for connection in writers:
            connection.commit()
    end_ns = now_ns(ohlcv)
    deadline = time.monotonic() + PATIENCE_S
    while part.clock_ns < end_ns:
        assert time.monotonic() < deadline
        look()
    part.close()
    rows = ohlcv.execute("SELECT instrument_id FROM ohlcv ORDER BY arrival_ts").fetchall()
    assert names(reads) == [row[0] for row in rows]


def test_rows_that_arrive_at_once_are_never_parted(
    ohlcv: psycopg.Connection[Any], follow: Open
) -> None:
    at = "'2024-01-02 00:00:00+00'::timestamptz"
    ohlcv.execute(
        "INSERT INTO ohlcv SELECT 'i' || i, '1m', %s, 1, 1, 1, 1, 1, "
        "%s + (i / 10) * '1us'::interval FROM generate_series(0, 94) AS i".replace("%s", at)
    )
    part = follow(batch_rows=7)
    reads: list[Read] = []
    while len(names(reads)) < 95:
        found = drain(part, has(1))
        reads += found
        arrivals = [read.batch.arrival_ns for read in found if len(read.batch)]
        assert [len(np.unique(a)) for a in arrivals if a is not None]
        # Whoever resumes here, has all of these, and none of the next.
        assert part.position == max(int(a.max()) for a in arrivals if a is not None) // 1_000
    seen = [read.batch.positions for read in reads if len(read.batch)]
    assert all(int(max(a)) < int(min(b)) for a, b in pairwise(seen))  # type: ignore[arg-type]
    assert sorted(names(reads)) == sorted(f"i{i}" for i in range(95))


def test_a_resume_goes_on_behind_the_rows_of_the_snapshot(
    ohlcv: psycopg.Connection[Any], follow: Open
) -> None:
    for i in range(20):
        add(ohlcv, f"i{i}")
    first = follow(batch_rows=3)
    reads = drain(first, has(7))
    state = first.snapshot()
    lost = drain(first, has(3))
    first.close()
    for i in range(20, 25):
        add(ohlcv, f"i{i}")
    second = follow(state, batch_rows=4)
    reads += drain(second, has(25 - len(names(reads))))
    assert names(reads) == [f"i{i}" for i in range(25)]
    assert set(names(lost)) <= set(names(reads[-len(reads) :]))
    assert second.account.rows == 25
    assert idle(second) == [] or all(not len(read.batch) for read in idle(second))


def test_a_flow_may_start_later_than_its_table(
    ohlcv: psycopg.Connection[Any], follow: Open
) -> None:
    add(ohlcv, "old")
    start_us = now_ns(ohlcv) // 1_000
    add(ohlcv, "new")
    part = follow(start_us=start_us)
    assert names(drain(part, has(1))) == ["new"]


def test_bad_and_late_rows_are_put_aside_with_their_reason_and_their_values(
    ohlcv: psycopg.Connection[Any], follow: Open
) -> None:
    ohlcv.execute("ALTER TABLE ohlcv ALTER ts DROP NOT NULL, ALTER instrument_id DROP NOT NULL")
    into = "INSERT INTO ohlcv VALUES ({}, 2, 2, 2, 2, 1)"
    for values in (
        "NULL, '1m', now()",
        "'x y', '1m', now()",
        "'a', '1m', NULL",
        "'a', '1m', 'infinity'",
        "'a', '1m', now() - '1 day'::interval",
        "'a', 'one minute', now()",
        "'a', '1m', now()",
    ):
        ohlcv.execute(into.format(values))
    ohlcv.execute(into.format("'a', '1m', now()").replace("1)", "'NaN')"))
    part = follow()
    end_ns = now_ns(ohlcv)
    reads = drain(part, passes(part, end_ns))
    assert names(reads) == ["a"]
    dead = letters([read.dead for read in reads])
    assert [reason for reason, _ in dead] == [
        "missing", "bad_entity", "missing", "time_range", "bad_series", "not_finite"
    ]  # fmt: skip
    assert json.loads(dead[1][1])["instrument_id"] == "x y"
    assert json.loads(dead[1][1])["open"] == 2.0
    ((reason, original),) = letters([read.late for read in reads])
    assert reason == Reason.LATE
    assert json.loads(original)["close"] == 2.0
    places = [place for read in reads for place in (*read.dead.positions, *read.late.positions)]
    arrivals = [row[0] for row in ohlcv.execute("SELECT arrival_ts FROM ohlcv")]
    assert set(places) <= {int(at.timestamp() * 10**6) for at in arrivals}
    assert part.account.came_in == 8


def test_rows_that_are_changed_come_again_when_they_arrive_anew(
    ohlcv: psycopg.Connection[Any], follow: Open
) -> None:
    add(ohlcv, "a", 1.0)
    part = follow()
    drain(part, has(1))
    ohlcv.execute("UPDATE ohlcv SET close = 3, high = 3")
    assert names(idle(part)) == []
    ohlcv.execute("UPDATE ohlcv SET arrival_ts = clock_timestamp()")
    (again,) = plain(drain(part, has(1)))
    assert np.int64(again[7]).view(np.float64) == 3.0
    ohlcv.execute("DELETE FROM ohlcv")
    assert names(idle(part)) == []


def test_partitions_and_views_are_followed_like_tables(database: str, follow: Open) -> None:
    with connected(database) as connection:
        whole = OHLCV.rstrip().removesuffix(")") + ") PARTITION BY LIST (instrument_id)"
        make(connection, "whole", whole)
        for name in "ab":
            connection.execute(
                f"CREATE TABLE whole_{name} PARTITION OF whole FOR VALUES IN ('{name}')"
            )
        connection.execute(
            "CREATE VIEW seen AS SELECT instrument_id, timeframe, ts, open, high, low, close, "
            "volume, arrival_ts FROM whole WHERE instrument_id = 'a'"
        )
        part, view = follow(table="whole"), follow(table="seen")
        drain(part, passes(part, now_ns(connection)))
        drain(view, passes(view, now_ns(connection)))
        with psycopg.connect(database) as slow:
            # Straight into a partition: its own lock is the only one that tells.
            slow.execute("SET search_path = public")
            slow.execute(ADD.replace("ohlcv", "whole_a"), ["a", 1, 1, 1, 1])
            connection.execute(ADD.replace("ohlcv", "whole"), ["b", 1, 1, 1, 1])
            assert names(idle(part) + idle(view)) == []
            slow.commit()
        assert names(drain(part, has(2))) == ["a", "b"]
        assert names(drain(view, has(1))) == ["a"]
        with pytest.raises(RefusedInputError, match="must be no part of another table"):
            drain(follow(table="whole_a"), has(1))


@pytest.mark.parametrize(
    ("ddl", "message"),
    [
        ("ALTER TABLE ohlcv DROP arrival_ts", r"`arrival_ts` timestamptz NOT NULL DEFAULT clock_"),
        ("ALTER TABLE ohlcv ALTER arrival_ts DROP NOT NULL", "found NULL allowed"),
        ("ALTER TABLE ohlcv ALTER arrival_ts SET DEFAULT now()", r"found .* DEFAULT now\(\)"),
        ("ALTER TABLE ohlcv ALTER open TYPE text", "`open` must be a number, found text"),
        ("ALTER TABLE ohlcv ALTER ts TYPE text", "`ts` must be a time"),
        ("ALTER TABLE ohlcv RENAME TO other", "must be a table or view of the database"),
        (
            "ALTER TABLE ohlcv RENAME TO o; CREATE VIEW ohlcv AS SELECT a.* FROM o AS a, other",
            "a view of one table, found o, other",
        ),
    ],
)
def test_tables_that_would_lose_rows_are_refused(
    ohlcv: psycopg.Connection[Any], follow: Open, ddl: str, message: str
) -> None:
    if "other" in ddl and "VIEW" in ddl:
        ohlcv.execute("CREATE TABLE other (x int)")
    ohlcv.execute(ddl)
    with pytest.raises(RefusedInputError, match=message):
        drain(follow(), has(1))


def test_a_trigger_may_stamp_the_arrival(ohlcv: psycopg.Connection[Any], follow: Open) -> None:
    ohlcv.execute("ALTER TABLE ohlcv ALTER arrival_ts DROP DEFAULT")
    ohlcv.execute(
        "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.arrival_ts = clock_timestamp(); RETURN NEW; END'"
    )
    ohlcv.execute(
        "CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON ohlcv "
        "FOR EACH ROW EXECUTE FUNCTION stamp()"
    )
    part = follow()
    add(ohlcv, "a")
    assert names(drain(part, has(1))) == ["a"]
    ohlcv.execute("UPDATE ohlcv SET volume = 2")
    assert names(drain(part, has(1))) == ["a"]


def test_reading_needs_no_more_than_to_read(
    ohlcv: psycopg.Connection[Any], follow: Open, database: str
) -> None:
    role = unique("reader")
    ohlcv.execute(f"CREATE ROLE {role} LOGIN")
    try:
        url = urlsplit(database)
        other = url._replace(netloc=f"{role}@{url.hostname}:{url.port}").geturl()
        with pytest.raises(RefusedInputError, match="GRANT SELECT"):
            drain(follow(url=other), has(1))
        ohlcv.execute(f"GRANT SELECT ON ohlcv TO {role}")
        part = follow(url=other)
        drain(part, passes(part, now_ns(ohlcv)))
        with psycopg.connect(database) as slow:
            add(slow, "slow")
            add(ohlcv, "quick")
            assert names(idle(part)) == []
        assert names(drain(part, has(2))) == ["slow", "quick"]
        part.close()
    finally:
        ohlcv.execute(f"DROP OWNED BY {role}")
        ohlcv.execute(f"DROP ROLE {role}")


def test_an_outage_is_waited_out_and_told_without_secrets(
    private_postgres: Server, follow: Open, caplog: pytest.LogCaptureFixture
) -> None:
    url = private_postgres.address.replace("postgres@", "postgres:hunter2@")
    told: list[str | None] = []
    with connected(url) as connection:
        make(connection, "ohlcv")
        add(connection, "before")
    part = follow(url=url, report=told.append)
    reads = drain(part, has(1))
    for end in (private_postgres.kill, private_postgres.stop):
        end()
        deadline = time.monotonic() + PATIENCE_S
        while not told or told[-1] is None:
            assert time.monotonic() < deadline
            reads += part.next_batch()
            time.sleep(0.01)
        private_postgres.start()
        with connected(url) as connection:
            add(connection, f"after-{end.__name__}")
        reads += drain(part, has(1))
        assert told[-1] is None
    assert names(reads) == ["before", "after-kill", "after-stop"]
    assert "hunter2" not in caplog.text + str(told)


def test_a_locked_table_holds_up_the_reader_and_not_the_flow(
    ohlcv: psycopg.Connection[Any], follow: Open, database: str
) -> None:
    part = follow()
    drain(part, passes(part, now_ns(ohlcv)))
    with psycopg.connect(database) as locked:
        locked.execute("LOCK TABLE ohlcv IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        idle(part)
        assert time.monotonic() - began < 1
    add(ohlcv, "a")
    assert names(drain(part, has(1))) == ["a"]


def test_a_clock_that_went_back_stops_the_flow_in_words(
    ohlcv: psycopg.Connection[Any], follow: Open
) -> None:
    ahead = {"read_us": 0, "horizon_us": now_ns(ohlcv) // 1_000 + 60_000_000, "clock_ns": 1}
    with pytest.raises(DatabaseError, match="clock of its server must not go back, found it"):
        drain(follow(ahead), lambda _: False)


def test_a_table_that_is_dropped_stops_the_flow_in_words(
    ohlcv: psycopg.Connection[Any], follow: Open
) -> None:
    part = follow()
    drain(part, passes(part, now_ns(ohlcv)))
    ohlcv.execute("DROP TABLE ohlcv")
    with pytest.raises(DatabaseError, match="`ohlcv`: must stay readable, found UndefinedTable"):
        drain(part, lambda _: False)


def test_a_table_is_not_read_further_than_the_flow_can_take(
    ohlcv: psycopg.Connection[Any], follow: Open
) -> None:
    rows = pl.DataFrame(
        {
            "instrument_id": ["a"] * 1_000,
            "timeframe": ["1m"] * 1_000,
            "ts": pl.datetime_range(
                pl.datetime(2024, 1, 2), interval="1m", time_zone="UTC", eager=True,
                end=pl.datetime(2024, 1, 2) + pl.duration(minutes=999),
            ),
        }
    )  # fmt: skip
    columns = dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)
    frame = rows.with_columns(arrival_ts="ts", **{k: pl.lit(v) for k, v in columns.items()})
    fill(ohlcv, "ohlcv", frame)
    alignment = Alignment(60 * 10**9)
    alignment.join("slow", int(frame["ts"][0].timestamp()) * 10**9)
    part = TableSource(
        [TableInput(bars, "ohlcv", poll_s=POLL_S)],
        Database(ohlcv.info.dsn),
        alignment,
        batch_rows=10,
    ).build_part("read", "bars/0", None)  # fmt: skip
    assert len(names(idle(part, 30))) <= 20
    alignment.leave("slow")
    assert len(names(drain(part, has(980)))) >= 980
    part.close()


def test_a_hypertable_is_followed_and_read_like_a_table(timescale: str, follow: Open) -> None:
    name = unique("ohlcv")
    with connected(timescale) as connection:
        make(connection, name)
        query = (
            f"SELECT create_hypertable('{name}', 'ts', chunk_time_interval => interval '7 days')"
        )
        connection.execute(query)
        insert = ADD.replace("ohlcv", name).replace("date_trunc('second', clock_timestamp())", "{}")
        old = "clock_timestamp() - interval '20 days'"
        try:
            connection.execute(insert.format("clock_timestamp()"), ["a", 1, 1, 1, 1])
            part = follow(url=timescale, table=name, poll_s=0.2)
            reads = drain(part, has(1))
            connection.execute(insert.format("clock_timestamp()"), ["b", 1, 1, 1, 1])
            connection.execute(insert.format(old), ["late", 1, 1, 1, 1])
            reads += drain(part, has(1))
            drain(part, passes(part, now_ns(connection)))
            state = part.snapshot()
            part.close()
            assert names(reads) == ["a", "b"]
            assert state["account"]["late"] == 1

            # One backend serves all connections there, so the snapshot is the reader's own.
            given = InputTable(Database(timescale), TableSlice(name, rows=3))
            reader = PartitionReader(bars, given, 2)
            batches = []
            while not reader.ended:
                batches.append(reader.read()[0])
            assert [key for each in batches for key in each.keys.strings()] == ["a", "b", "late"]
            chunks = connection.execute("SELECT count(*) FROM show_chunks(%s)", [name]).fetchone()
            assert chunks is not None
            assert chunks[0] == 2
        finally:
            connection.execute(f"DROP TABLE {name}")


def test_rows_have_the_same_bits_followed_read_at_once_and_from_a_file(
    ohlcv: psycopg.Connection[Any], follow: Open, database: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    for count in rng.integers(1, 40, 12).tolist():
        for price in rng.lognormal(3, 0.5, count).tolist():
            add(ohlcv, f"i{count % 5}", price)
    part = follow(batch_rows=17)
    followed = plain(drain(part, passes(part, now_ns(ohlcv))))
    with TableSnapshot(Database(database)) as snapshot:
        (facts,) = snapshot.facts(bars, TableName.of("ohlcv"))
        at_once = whole(InputTable(Database(database), facts.slice))
    cursor = ohlcv.execute("SELECT * FROM ohlcv")
    columns = [column.name for column in cursor.description or ()]
    frame = pl.DataFrame(cursor.fetchall(), orient="row", schema=columns)
    frame.write_parquet(tmp_path / "bars.parquet")
    assert len(followed) == len(frame)
    assert followed == at_once == whole(tmp_path / "bars.parquet")


def whole(given: InputTable | Path) -> list[tuple[Any, ...]]:
    """All rows of a bounded input."""
    reader, reads = PartitionReader(bars, given, 1_000), []
    while not reader.ended:
        reads.append(Read(*reader.read()))
    reader.close()
    return plain(reads)


def test_a_snapshot_that_is_gone_leaves_no_connection_behind(database):
    with TableSnapshot(Database(database)) as snapshot:
        gone = snapshot.name
    with pytest.raises(DatabaseError, match="snapshot"):
        begin(Database(database), gone)
    with psycopg.connect(database, autocommit=True) as connection:
        deadline = time.monotonic() + PATIENCE_S
        others = "SELECT FROM pg_stat_activity WHERE datname = current_database()"
        while connection.execute(others).rowcount > 1:
            assert time.monotonic() < deadline
            time.sleep(POLL_S)
