"""Vectors are in their table once, whatever happens to the run, its twin, or the server."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Any
from urllib.parse import urlsplit

import bytewax.operators as op
import numpy as np
import psycopg
import pyarrow as pa
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.batch import Vectors
from operators.frames import schema, vectors_table
from sinks import table_lane
from sinks.errors import (
    DeliveryError,
    FencedError,
    OutOfOrderError,
    OwnedError,
    ProgressLostError,
)
from sinks.settled import Written
from sinks.table import TablePart, TableSink
from sinks.table_lane import TableTenancy
from sinks.table_layout import TableLayout
from sinks.table_rows import UnstorableTextError
from sources.database import Connections, Database
from tests.kafka_topics import SECOND_NS, START_NS, TINY, tiny_vectors
from tests.relay import relay
from tests.services import postgres as postgres_service
from tests.services.names import unique
from tests.tables import make_tables, read_rows, settled_ns
from tests.test_table_rows import INJECTIONS

LANE = "flow.tiny.v1.00"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_lane, "COLLECTED_S", 0.02)


@dataclass
class World:
    """The table of a set, and runs of a flow that write to it."""

    url: str
    schema: str = "riffle"
    beats: Counter[str] = field(default_factory=Counter)

    @property
    def layout(self) -> TableLayout:
        return TableLayout(TINY, self.schema)

    def sink(
        self, *, job: str = "job", take_over: bool = False, provisional: bool = False
    ) -> TableSink:
        connections = Connections(Database(self.url, self.schema))
        tenancy = TableTenancy("flow", job, connections, take_over)
        return TableSink(
            TINY,
            tenancy,
            [0, 1, 2],
            beat=lambda: self.beats.update(["beat"]),
            provisional=provisional,
        )

    def run(self, resumed: Written | None = None, lane: str = "00", **said: Any) -> TablePart:
        return self.sink(**said).build_part("step", lane, resumed)

    def rows(self) -> pa.Table:
        return read_rows(self.url, self.layout)

    def seconds(self) -> list[int]:
        return sorted((self.rows()["ts_ns"].to_numpy() - START_NS).tolist())  # in ns

    def settled(self) -> int | None:
        found = settled_ns(self.url, self.layout, LANE)
        return None if found is None else (found - START_NS) // SECOND_NS

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


def ns(seconds: range | list[int]) -> list[int]:
    return [second * SECOND_NS for second in seconds]


def write(part: TablePart, seconds: range | list[int]) -> None:
    """A batch a second, as an engine gives them that is replayed."""
    for second in seconds:
        part.write_batch([tiny_vectors([second])])


def commit(part: TablePart, seconds: range | list[int]) -> None:
    """Writes, and waits for the database after each."""
    for second in seconds:
        write(part, [second])
        part.snapshot()


def seen(vectors: Vectors, *, known: int = 0, rows: int = 3) -> Vectors:
    """Vectors that have seen so much; all of their values follow from that."""
    count = len(vectors)
    value = vectors.ts_ns % 1_000_003 + np.float64(known * 7.0 + rows * 100.0 + vectors.final * 1e4)
    return replace(
        vectors,
        features={**vectors.features, "close": value},
        known_at_ns=vectors.ts_ns + known,
        n_rows=np.full(count, rows),
    )


def end(part: TablePart) -> None:
    """Ends a run as a crash does: what is not committed is not."""
    part.lane._stop()


@pytest.fixture
def world(database: str) -> World:
    made = World(database)
    make_tables(database, made.layout)
    return made


# -- once -------------------------------------------------------------------------------------


def test_a_snapshot_waits_until_the_table_holds_all(world):
    part = world.run()
    write(part, range(5))
    assert part.snapshot() == {"settled_ns": START_NS + 4 * SECOND_NS}
    assert (world.seconds(), world.settled()) == (ns(range(5)), 4)
    part.close()


def test_rows_are_the_vectors(world):
    part = world.run()
    vectors = tiny_vectors(range(4), rows=2)
    vectors.features["close"][:3] = [-0.0, 5e-324, np.nan]
    vectors.features["seen"][0] = np.nan
    vectors.features["up"][:2] = [np.nan, 0.0]
    vectors = replace(vectors, quality=np.arange(8) % 4)
    part.write_batch([vectors])
    part.close()
    found = world.layout.vectors(world.rows())
    wanted = vectors_table(TINY, vectors).cast(schema(TINY)).sort_by(
        [("instrument_id", "ascending"), ("ts", "ascending")]
    )  # fmt: skip
    assert found.equals(wanted)
    assert np.signbit(found["close"].to_pylist()[0])


def test_a_snapshot_without_vectors_knows_what_the_table_holds(world):
    first = world.run()
    assert first.snapshot() == {"settled_ns": None}
    write(first, [7])
    first.close()
    again = world.run()
    assert again.snapshot() == {"settled_ns": START_NS + 7 * SECOND_NS}
    again.close()


def test_what_is_replayed_is_left_out(world):
    first = world.run()
    write(first, range(10))
    first.close()
    second = world.run({"settled_ns": START_NS + 3 * SECOND_NS})
    second.write_batch([tiny_vectors(range(4, 20))])  # cut otherwise, across what is known
    second.close()
    assert (second.suppressed, second.final) == (6, 10)
    assert second.lane.merges == 0
    assert world.seconds() == ns(range(20))


KILLED = """
import sys
from sinks import table_lane
from tests.test_table_sink import World, write
table_lane.COLLECTED_S = 0.01
part = World(sys.argv[1]).run()
for second in range(400):
    write(part, [second])
    if second % 50 == 49:
        part.snapshot()
    print(second, flush=True)
part.close()
print("done", flush=True)
"""


def test_kills_at_any_moment_lose_nothing_and_double_nothing(world):
    random = Random(7)
    command = [sys.executable, "-c", KILLED, world.url]
    for attempt in range(6):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        until = str(random.randrange(400)) if attempt < 5 else "done"
        for line in process.stdout:
            if line.strip() == until:
                break
        process.kill()
        process.communicate()
        have = world.seconds()
        assert have == ns(range(len(have)))
        assert world.settled() == (len(have) - 1 if have else None)
    assert world.seconds() == ns(range(400))


def test_an_instant_is_never_cut(world, monkeypatch):
    """A transaction that ended inside an instant would pass for all of it."""
    monkeypatch.setattr("sinks.table.MOST_ROWS", 100)
    monkeypatch.setattr(table_lane, "MOST_ROWS", 1)
    part = world.run()
    shuffled = tiny_vectors(range(10), rows=60)
    part.write_batch([shuffled.take(np.random.default_rng(0).permutation(len(shuffled)))])
    part.close()
    assert part.lane.counts.transactions == 10
    assert part.lane.counts.records == 600
    assert world.seconds() == sorted(ns(range(10)) * 60)


def test_small_batches_share_a_transaction(world, monkeypatch):
    monkeypatch.setattr(table_lane, "COLLECTED_S", 0.2)
    part = world.run()
    part.lane.state()
    write(part, range(50))
    time.sleep(0.1)
    part.close()
    assert part.lane.counts.transactions == 1
    assert part.lane.counts.commit_s > 0


def test_who_has_too_much_to_give_waits(world, monkeypatch):
    monkeypatch.setattr("sinks.lane.MOST_WAITING_BYTES", 1)
    part = world.run()
    write(part, range(5))
    part.close()
    assert world.seconds() == ns(range(5))
    assert part.lane.counts.waited_s > 0
    assert world.beats["beat"] > 0


def test_vectors_out_of_order_stop_the_flow(world):
    part = world.run()
    write(part, [5])
    with pytest.raises(OutOfOrderError, match=r"lane `flow\.tiny\.v1\.00`: final vectors must"):
        write(part, [5])
    part.close()


def test_lanes_share_connections(world):
    sink = world.sink()
    sink.tenancy.connections.__init__(sink.tenancy.connections.database, most=1)
    parts = [sink.build_part("step", name, None) for name in ("00", "01", "02")]
    for number, part in enumerate(parts):
        for second in range(5):
            part.write_batch([tiny_vectors([second], entity="ABC"[number])])
    for part in parts:
        part.close()
    assert world.seconds() == sorted(ns(range(5)) * 3)


# -- rows that meet others --------------------------------------------------------------------


def test_what_a_backfill_has_written_is_met(world):
    backfill = world.run(lane="01")  # any writer of the same rows without this lane's progress
    backfill.write_batch([tiny_vectors(range(10))])
    backfill.close()
    part = world.run()
    commit(part, range(5, 15))
    part.close()
    assert world.seconds() == ns(range(15))
    assert part.lane.merges == 10
    assert world.settled() == 14


def test_after_a_meeting_rows_are_copied_again(world, monkeypatch):
    monkeypatch.setattr(table_lane, "MERGED_AFTER_MEETING", 3)
    backfill = world.run(lane="01")
    backfill.write_batch([tiny_vectors([0])])
    backfill.close()
    part = world.run()
    commit(part, range(10))
    part.close()
    assert world.seconds() == ns(range(10))
    assert part.lane.merges == 3


def test_the_newer_of_two_rows_stays(world):
    base = tiny_vectors(range(4))
    one, two = world.run(lane="01"), world.run(lane="02")
    one.write_batch([seen(base, known=2, rows=3)])
    one.close()
    known = np.array([1, 2, 2, 3])  # older, fewer rows, more rows, newer
    rows = np.array([9, 2, 4, 1])
    other = replace(seen(base), known_at_ns=base.ts_ns + known, n_rows=rows)
    two.write_batch([other])
    two.close()
    found = world.rows()
    assert (found["known_at_ns"].to_numpy() - base.ts_ns).tolist() == [2, 2, 2, 3]
    assert found["n_rows"].to_pylist() == [3, 3, 4, 1]


def test_provisional_rows_are_replaced_by_later_ones_and_never_replace_final_ones(world):
    part = world.run(provisional=True)
    guess = tiny_vectors([1, 2, 3], final=False)
    part.write_batch([seen(guess, known=1)])
    part.write_batch([seen(guess.take(np.array([0])), known=3)])  # in one transaction
    part.snapshot()
    assert world.rows()["final"].to_pylist() == [False] * 3
    part.write_batch([seen(tiny_vectors([1, 2]), known=3)])
    part.write_batch([seen(guess, known=4)])
    part.close()
    found = world.rows()
    assert found["final"].to_pylist() == [True, True, False]
    assert (found["known_at_ns"].to_numpy() - found["ts_ns"].to_numpy()).tolist() == [3, 3, 4]
    assert (part.provisional, part.final) == (5, 2)
    again = world.run(lane="01", provisional=True)  # a lane that does not know what is final
    again.write_batch([seen(guess, known=3)])
    again.close()
    assert world.rows().equals(found)


def test_provisional_vectors_are_left_out_unless_asked_for(world):
    part = world.run()
    part.write_batch([tiny_vectors([1], final=False)])
    part.close()
    assert (world.seconds(), part.provisional, world.settled()) == ([], 0, None)


EVENT = st.tuples(
    st.sampled_from(["guess", "guess", "settle", "settle", "commit", "crash", "crash after"]),
    st.integers(-1, 3),
    st.integers(0, 2),
    st.integers(1, 2),
)


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(EVENT, max_size=14), st.booleans())
def test_the_table_holds_the_newest_of_each_instant_whatever_the_cuts_and_replays(
    postgres, monkeypatch, events, backfilled
):
    monkeypatch.setattr(table_lane, "MERGED_AFTER_MEETING", 1)
    monkeypatch.setattr(table_lane, "COLLECTED_S", 0.002)
    world = World(postgres, unique("cuts"))
    make_tables(postgres, world.layout)
    before: list[Vectors] = []
    if backfilled:
        before.append(seen(tiny_vectors(range(1, 4), rows=2), known=1, rows=1))
        other = world.run(lane="01")
        other.write_batch(before)
        other.close()
    log: list[Vectors] = []
    until, at, state = 0, 0, None  # of the snapshot: how much of the log, and what it says
    part = world.run(state, provisional=True)
    try:
        for event, ahead, known, rows in events:
            if event == "guess":
                guess = tiny_vectors([max(0, until + ahead)], rows=2, final=False)
                log.append(seen(guess, known=known))
                part.write_batch(log[-1:])
            elif event == "settle":
                last = until + max(0, ahead) + 1
                log.append(seen(tiny_vectors(range(until, last), rows=2), known=3, rows=rows))
                part.write_batch(log[-1:])
                until = last
            elif event == "commit":
                state, at = part.snapshot(), len(log)
            else:
                if event == "crash after":
                    part.snapshot()
                end(part)
                part = world.run(state, provisional=True)
                part.write_batch(log[at:])
        part.close()
        found = world.layout.vectors(world.rows())
    finally:
        end(part)
        world.execute(f"DROP SCHEMA {world.schema} CASCADE")
    assert found.equals(_naive_newest([*before, *log]))


def _naive_newest(parts: list[Vectors]) -> pa.Table:
    best: dict[tuple[str, int], dict[str, Any]] = {}
    for part in parts:
        for row in vectors_table(TINY, part).to_pylist():
            key = (row["instrument_id"], row["ts"].value)
            newness = (row["known_at"].value, row["n_rows"], row["final"])
            old = best.get(key)
            if old is None or newness >= (old["known_at"].value, old["n_rows"], old["final"]):
                best[key] = row
    return pa.Table.from_pylist([best[key] for key in sorted(best)], schema(TINY))


# -- whose lane it is -------------------------------------------------------------------------


def test_a_second_run_takes_over_and_the_first_stops_in_words(world):
    first = world.run()
    write(first, range(5))
    first.snapshot()
    second = world.run()
    write(second, range(8))
    second.snapshot()
    with pytest.raises(FencedError, match="another run of flow `flow` has taken it over"):
        commit(first, range(5, 50))
    write(second, range(8, 10))
    second.close()
    assert world.seconds() == ns(range(10))
    assert world.settled() == 9


def test_a_run_that_is_fenced_in_the_middle_of_a_transaction_holds_the_other_up(world):
    """Whoever opens the lane waits for what is being committed, and knows of it."""
    first = world.run()
    commit(first, [0])
    with psycopg.connect(world.url) as connection:
        connection.execute("UPDATE riffle.progress SET settled_ns = settled_ns + 10^9::bigint")
        second = world.run()
        time.sleep(0.1)
        connection.commit()
    assert second.snapshot() == {"settled_ns": START_NS + SECOND_NS}
    end(first)
    second.close()


STOPPED = """
import sys
from sinks import table_lane
from sinks.errors import FencedError
from tests.test_table_sink import World, commit
table_lane.COLLECTED_S = 0.0
table_lane.SETTINGS.update(statement_timeout="1s", idle_in_transaction_session_timeout="1s")
part = World(sys.argv[1]).run()
try:
    for second in range(10**6):
        commit(part, [second])
        print(second, flush=True)
except FencedError:
    print("fenced", flush=True)
"""


@pytest.mark.parametrize("at", ["30", "57", "91"])
def test_a_run_that_stands_still_can_be_taken_over_and_writes_nothing_more(world, at):
    command = [sys.executable, "-c", STOPPED, world.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == at:
            break
    process.send_signal(signal.SIGSTOP)
    second = world.run()
    second.lane.state()
    process.send_signal(signal.SIGCONT)
    told = process.communicate(timeout=60)[0].split()
    assert (process.returncode, told[-1]) == (0, "fenced")
    before = world.seconds()
    assert before == ns(range(len(before)))
    assert second.snapshot() == {"settled_ns": START_NS + before[-1]}
    write(second, range(len(before) + 5))
    second.close()
    assert world.seconds() == ns(range(len(before) + 5))


def test_another_job_is_refused_and_stops_nobody(world):
    owner = world.run()
    write(owner, range(3))
    owner.snapshot()
    other = world.run(job="other")
    with pytest.raises(OwnedError, match="is owned by another recovery directory, of job 'job'"):
        other.snapshot()
    write(owner, range(3, 6))
    owner.close()
    assert owner.lane.counts.retries == 0
    assert world.seconds() == ns(range(6))


def test_another_job_may_take_over(world):
    owner = world.run()
    write(owner, range(3))
    owner.close()
    other = world.run(job="other", take_over=True)
    write(other, range(6))
    other.close()
    assert other.suppressed == 3
    assert world.seconds() == ns(range(6))
    with pytest.raises(OwnedError, match="of job 'other'"):
        world.run().snapshot()


def test_a_progress_that_was_lost_stops_the_flow(world):
    part = world.run()
    write(part, range(3))
    state = part.snapshot()
    part.close()
    world.execute("TRUNCATE riffle.progress")
    with pytest.raises(ProgressLostError, match=r"table `riffle.progress` must say that vectors"):
        world.run(state).snapshot()
    assert world.settled() is None


@pytest.mark.parametrize(
    "meddling", ["DELETE FROM riffle.progress", "UPDATE riffle.progress SET settled_ns = 1"]
)
def test_a_progress_that_somebody_changes_stops_the_flow(world, meddling):
    with relay(world.url) as way:
        part = World(way.url).run()
        commit(part, range(3))
        world.execute(meddling)
        way.lose(b"COMMIT", "the request")
        with pytest.raises(ProgressLostError, match="must hold its progress"):
            commit(part, [3])


def test_the_state_of_a_flow_that_was_cut_otherwise_is_carried_over(world):
    sink = world.sink()
    sink._carried = {"00": {"settled_ns": START_NS}}
    with pytest.raises(ProgressLostError, match=f"up to {START_NS}, as the snapshot does"):
        sink.build_part("step", "00", None).snapshot()


# -- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["the answer", "the request"])
@pytest.mark.parametrize("meets", [False, True])
def test_a_commit_whose_end_is_unknown_is_found_out(world, loss, meets):
    with relay(world.url) as way:
        part = World(way.url).run(provisional=meets)
        way.lose(b"COMMIT", loss, 2)  # while the lane is opened
        write(part, range(5))
        part.snapshot()
        way.lose(b"COMMIT", loss)
        if meets:
            part.write_batch([tiny_vectors([5], final=False)])
        write(part, range(5, 10))
        part.snapshot()
        way.lose(b"COMMIT", loss)
        if meets:
            part.write_batch([tiny_vectors([11], final=False)])
        part.close()
        assert way.lost >= 3
    assert world.seconds() == ns([*range(10), *([11] if meets else [])])
    assert world.settled() == 9
    assert part.lane.counts.records == 10 + 2 * meets


@pytest.mark.parametrize("mark", [b"COPY", b"PGCOPY", b"UPDATE", b"BEGIN"])
def test_a_connection_may_break_anywhere(world, mark):
    with relay(world.url) as way:
        part = World(way.url).run()
        commit(part, range(3))
        way.lose(mark, "the request")
        commit(part, range(3, 6))
        part.close()
        assert way.lost == 1
    assert world.seconds() == ns(range(6))


def outlived(url: str, disturb: Callable[[], None]) -> TablePart:
    """Writes while something goes wrong, and checks what is in the table."""
    world = World(url)
    make_tables(url, world.layout)
    part = world.run()
    commit(part, [0])
    stop = threading.Event()

    def wrong() -> None:
        time.sleep(0.3)
        disturb()
        stop.set()

    thread = threading.Thread(target=wrong)
    thread.start()
    written = 1
    while not stop.is_set():
        write(part, [written])
        written += 1
        if written % 20 == 0:
            part.snapshot()
        time.sleep(0.002)
    thread.join()
    write(part, [written])
    part.close()
    assert world.seconds() == ns(range(written + 1))
    return part


@pytest.mark.parametrize("away_s", [0.0, 2.0])
def test_a_server_that_is_killed_is_outlived(private_postgres, away_s):
    def kill() -> None:
        private_postgres.kill()  # PostgreSQL's immediate stop
        time.sleep(away_s)
        private_postgres.start()

    assert outlived(private_postgres.address, kill).lane.counts.retries >= 1


def test_a_server_whose_processes_are_killed_is_outlived(private_postgres):
    """As when memory runs out: the server ends all its sessions, and recovers."""
    import psutil

    def kill() -> None:
        with psycopg.connect(private_postgres.address) as connection:
            psutil.Process(connection.info.backend_pid).kill()
            with pytest.raises(psycopg.OperationalError, match=r"closed|terminat|recovery"):
                connection.execute("SELECT 1")

    assert outlived(private_postgres.address, kill).lane.counts.retries >= 1


def test_a_server_that_stands_still_is_waited_for(private_postgres):
    def pause() -> None:
        private_postgres.pause()
        time.sleep(2)
        private_postgres.resume()

    outlived(private_postgres.address, pause)


def test_sessions_that_an_administrator_ends_are_begun_again(private_postgres):
    def terminate() -> None:
        with psycopg.connect(private_postgres.address, autocommit=True) as connection:
            for _ in range(5):
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'riffle'"
                )
                time.sleep(0.1)

    assert outlived(private_postgres.address, terminate).lane.counts.retries >= 1


def test_a_table_that_is_locked_is_waited_for(world, monkeypatch):
    monkeypatch.setitem(table_lane.SETTINGS, "lock_timeout", "100ms")
    part = world.run()
    commit(part, range(3))
    before = world.beats["beat"]
    with psycopg.connect(world.url) as connection:
        connection.execute("LOCK TABLE riffle.tiny_v1 IN ACCESS EXCLUSIVE MODE")
        threading.Timer(1.5, connection.commit).start()
        write(part, range(3, 6))
        part.snapshot()
    part.close()
    assert part.lane.counts.retries >= 2
    assert world.beats["beat"] > before + 10
    assert world.seconds() == ns(range(6))


def test_a_lane_that_is_opened_while_its_table_is_locked_waits(world, monkeypatch):
    monkeypatch.setitem(table_lane.SETTINGS, "lock_timeout", "100ms")
    with psycopg.connect(world.url) as connection:
        connection.execute("LOCK TABLE riffle.progress IN ACCESS EXCLUSIVE MODE")
        part = world.run()
        threading.Timer(0.8, connection.commit).start()
        write(part, range(3))
    part.close()
    assert world.seconds() == ns(range(3))


def test_a_server_without_a_free_connection_is_waited_for():
    with postgres_service.private({"max_connections": "6"}) as server:
        url = server.address.replace("postgres@", "writer@")
        world = World(url)
        make_tables(server.address, world.layout)
        World(server.address).execute(*GRANTS)
        held = [psycopg.connect(url) for _ in range(3)]
        part = world.run()
        time.sleep(0.5)
        for each in held:
            each.close()
        write(part, range(3))
        part.close()
        assert World(server.address).seconds() == ns(range(3))


GRANTS = (
    "CREATE ROLE writer LOGIN",
    "GRANT USAGE ON SCHEMA riffle TO writer",
    "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA riffle TO writer",
    "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA riffle TO writer",
)


@pytest.mark.parametrize("code", ["53100", "53200", "58030", "40001", "40P01", "57P03", "57014"])
def test_what_time_mends_is_tried_again(world, code):
    """The disk is full, say: the server's own words for it, from a trigger."""
    world.execute(
        "CREATE TABLE trouble ()",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF to_regclass('public.trouble') IS NOT NULL THEN "
        f"RAISE EXCEPTION 'out of it' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON riffle.tiny_v1 FOR EACH ROW "
        "EXECUTE FUNCTION refuse()",
    )
    part = world.run()
    write(part, range(3))
    while not part.lane.counts.retries:
        time.sleep(0.01)
    world.execute("DROP TABLE trouble")
    part.close()
    assert world.seconds() == ns(range(3))


NO_VIEWS = """
DO $$ DECLARE each record; BEGIN
    FOR each IN SELECT viewname FROM pg_views WHERE schemaname = 'riffle' LOOP
        EXECUTE format('DROP VIEW IF EXISTS riffle.%I CASCADE', each.viewname);
    END LOOP;
END $$
"""


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("DROP TABLE riffle.tiny_v1", r"UndefinedTable .*run `riffle apply`, and start"),
        ("DROP TABLE riffle.progress", r"UndefinedTable .*run `riffle apply`, and start"),
        ("DROP SCHEMA riffle CASCADE", r"\((3F000|42P01).*run `riffle apply`, and start"),
        (
            "ALTER TABLE riffle.tiny_v1 DROP COLUMN seen",
            "(`seen` missing, not bigint|UndefinedColumn)",
        ),
        (
            "ALTER TABLE riffle.tiny_v1 ALTER seen TYPE float8, ALTER up TYPE text",
            "found `seen` double precision, not bigint, `up` text, not boolean; run `riffle apply`",
        ),
        (
            "ALTER TABLE riffle.tiny_v1 ADD COLUMN more int NOT NULL CHECK (more > 0)",
            "NotNullViolation",
        ),
    ],
)
@pytest.mark.parametrize("opened", [False, True])
def test_a_table_that_is_not_there_stops_the_flow(world, mistake, told, opened):
    part = None
    if opened:
        part = world.run()
        commit(part, [1])
        world.execute("DELETE FROM riffle.tiny_v1")
    world.execute(NO_VIEWS, mistake)
    with pytest.raises(DeliveryError, match=rf"lane `flow\.tiny\.v1\.00`: .*{told}"):
        commit(part or world.run(), [2])


def test_a_table_without_a_key_stops_the_flow(world):
    world.execute("ALTER TABLE riffle.tiny_v1 DROP CONSTRAINT tiny_v1_pkey")
    part = world.run(provisional=True)
    part.write_batch([tiny_vectors([1], final=False)])
    with pytest.raises(DeliveryError, match=r"42P10.*which creates the unique key"):
        part.snapshot()


def test_rights_that_lack_stop_the_flow(world):
    role = unique("reader")
    world.execute(
        f"CREATE ROLE {role} LOGIN",
        f"GRANT USAGE ON SCHEMA riffle TO {role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA riffle TO {role}",
        f"GRANT INSERT, UPDATE ON riffle.progress TO {role}",
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA riffle TO {role}",
    )
    url = world.url.replace("postgres@", f"{role}@")
    with pytest.raises(
        DeliveryError, match=r"permission denied for table tiny_v1.*deploy/sql/roles"
    ):
        commit(World(url).run(), [1])
    world.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_who_is_not_let_in_stops_the_flow(world, caplog):
    parts = urlsplit(world.url)
    url = parts._replace(netloc=parts.netloc.replace("postgres@", "ghost:s3cret@")).geturl()
    with pytest.raises(DeliveryError, match=r"role \"ghost\" does not exist\); mend") as caught:
        World(url).run().snapshot()
    assert "s3cret" not in str(caught.value) + caplog.text


def test_a_partition_that_was_dropped_is_made_again(world):
    part = world.run()
    commit(part, range(3))
    with psycopg.connect(world.url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits "
            "WHERE inhparent = 'riffle.tiny_v1'::regclass"
        ).fetchall()
        for (name,) in found:
            connection.execute(f"DROP TABLE {name}")
    commit(part, range(3, 6))
    part.close()
    assert found
    assert world.seconds() == ns(range(3, 6))


def test_an_outage_is_told(world, caplog):
    with relay(world.url) as way, caplog.at_level(logging.WARNING, "riffle.sinks"):
        part = World(way.url).run()
        commit(part, [1])
        way.lose(b"COPY", "the request")
        commit(part, [2])
        part.close()
    (line,) = caplog.messages
    assert line.startswith(f"lane {LANE}: trying again after OperationalError (")


FAILING = """
import sys
from tests.test_table_sink import World, write
part = World(sys.argv[1]).run()
write(part, range(100))
part.snapshot()
write(part, range(100, 200))
raise SystemExit(3)
"""


def test_a_process_that_fails_ends_at_once_though_its_lanes_are_at_work(world):
    command = [sys.executable, "-c", FAILING, world.url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (3, "")
    again = world.run()
    write(again, range(200))
    again.close()
    assert world.seconds() == ns(range(200))


# -- names ------------------------------------------------------------------------------------


def test_names_are_values_whatever_they_say(world):
    vectors = tiny_vectors([1], rows=len(INJECTIONS))
    named = replace(vectors, keys=replace(vectors.keys, names=tuple(INJECTIONS)))
    part = world.run()
    part.write_batch([named])
    part.close()
    other = world.run(lane="01")  # and when they are merged
    other.write_batch([named])
    other.close()
    assert other.lane.merges == 1
    assert set(world.rows()["instrument_id"].to_pylist()) == set(INJECTIONS)
    assert len(world.rows()) == len(INJECTIONS)


def test_a_name_with_a_nul_stops_the_flow_in_words(world):
    """No source lets one in; here is why it would not pass."""
    vectors = tiny_vectors([1])
    part = world.run()
    part.write_batch([replace(vectors, keys=replace(vectors.keys, names=("A\0B",)))])
    with pytest.raises(UnstorableTextError, match=r"column `instrument_id`: .* no NUL"):
        part.snapshot()


# -- TimescaleDB ------------------------------------------------------------------------------


@pytest.fixture
def hyper(timescale: str) -> Iterator[World]:
    world = World(timescale, unique("hyper"))
    make_tables(timescale, world.layout)
    yield world
    world.execute(f"DROP SCHEMA {world.schema} CASCADE")


def test_rows_reach_a_hypertable_and_meet_compressed_ones(hyper):
    first = hyper.run()
    first.write_batch([seen(tiny_vectors(range(50), rows=3), known=1)])
    first.close()
    table = hyper.layout.identifier.as_string(None)
    hyper.execute(f"SELECT compress_chunk(c) FROM show_chunks('{table}') c")
    second, third = hyper.run(), hyper.run(lane="01", provisional=True)
    late = seen(tiny_vectors([10**5, 10**6], rows=3), known=1)
    second.write_batch([late])
    second.close()
    third.write_batch([seen(tiny_vectors(range(40, 60), rows=3), known=2)])
    third.write_batch([seen(tiny_vectors(range(40, 62), rows=3, final=False), known=1)])
    third.close()
    known = hyper.rows()["known_at_ns"].to_numpy() - hyper.rows()["ts_ns"].to_numpy()
    assert hyper.seconds() == sorted(ns([*range(62), 10**5, 10**6]) * 3)
    assert Counter(known.tolist()) == {1: 3 * (40 + 2 + 2), 2: 3 * 20}


# -- in a flow --------------------------------------------------------------------------------


def test_a_flow_that_fails_and_resumes_writes_each_vector_once(world, tmp_path):
    """Bytewax takes the snapshots, replays, and closes the sink at the end."""
    init_db_dir(tmp_path, 1)
    items: list[Any] = []
    for second in range(60):
        items += [("00", tiny_vectors([second])), ("02", tiny_vectors([second], entity="C"))]
        if second in {20, 40}:
            items.append(TestingSource.ABORT())

    def run() -> None:
        flow = Dataflow("flow")
        read = op.input("read", flow, TestingSource(items))
        op.output("write", read, world.sink())
        run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(str(tmp_path)))

    for _ in range(3):
        run()
    assert world.seconds() == sorted(ns(range(60)) * 2)


def test_items_find_the_part_of_their_lane(world):
    sink = world.sink()
    assert sink.list_parts() == ["00", "01", "02"]
    assert [sink.part_fn(key) for key in ("00", "01", "02")] == [0, 1, 2]
