"""The services are real, and none outlives its users."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, KafkaException, Producer

from tests.kafka_topics import read_topic
from tests.services import cache, fixtures, shared
from tests.services import postgres as postgres_service
from tests.services.cache import CACHE, CHECKOUT, MissingError
from tests.services.kafka import KAFKA, admin
from tests.services.names import unique
from tests.services.postgres import POSTGRES, make_cluster
from tests.services.process import Server, ServiceError, becomes, free_port
from tests.services.redis import REDIS, RedisError, command
from tests.services.timescale import TIMESCALE

SOON_S = 20
MANY = 20_000


def write_transaction(bootstrap: str, topic: str, values: list[str], commit: bool = True) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": unique("writer")})
    producer.init_transactions(SOON_S)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, timestamp=1)
    producer.flush()
    (producer.commit_transaction if commit else producer.abort_transaction)(SOON_S)


def read_group(bootstrap: str, topic: str, group: str, count: int) -> list[tuple[str, int, int]]:
    """Value, kind of time and time of each record that is new to a group, `count` at most."""
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
    }
    consumer = Consumer(settings)
    try:
        consumer.subscribe([topic])
        found = []
        for message in consumer.consume(count, SOON_S):
            assert message.error() is None
            found.append(((message.value() or b"").decode(), *message.timestamp()))
        if found:
            consumer.commit(asynchronous=False)
        return found
    finally:
        consumer.close()


def test_kafka_shows_a_group_what_was_committed_and_dates_it(kafka, topic):
    name = topic(append_time=True)
    write_transaction(kafka, name, ["torn"], commit=False)
    write_transaction(kafka, name, ["a", "b"])
    write_transaction(kafka, name, ["c"])

    group = unique("group")
    first = read_group(kafka, name, group, 2)
    assert [value for value, _, _ in first] == ["a", "b"]
    assert {kind for _, kind, _ in first} == {2}
    assert all(time_ms > 1_700_000_000_000 for _, _, time_ms in first)
    assert [value for value, _, _ in read_group(kafka, name, group, 1)] == ["c"]


def test_kafka_keeps_the_newest_record_of_a_key(kafka, topic):
    assert topic(3, compacted=True, config={"retention.bytes": "1000000"}) in topic.names


def test_postgres_answers_in_a_database_of_the_test(database, postgres):
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE t AS SELECT generate_series(1, 3) AS a")
        assert connection.execute("SELECT sum(a) FROM t").fetchone() == (6,)
        assert connection.info.server_version >= 150_000
    assert database != postgres


def test_timescale_upserts_into_a_hypertable(timescale):
    table, start = unique("t"), datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    rows = [(start + datetime.timedelta(seconds=i), "a", float(i)) for i in range(MANY)]
    with psycopg.connect(timescale) as connection:
        connection.execute(
            f"CREATE TABLE {table} (ts timestamptz, entity text, v float8, UNIQUE (entity, ts))"
        )
        connection.execute("SELECT create_hypertable(%s, 'ts')", (table,))
        # Far more than a packet, in text and in the binary form.
        for options, half in (("", rows[::2]), ("WITH (FORMAT binary)", rows[1::2])):
            with connection.cursor().copy(f"COPY {table} FROM STDIN {options}") as copy:
                copy.set_types(["timestamptz", "text", "float8"])
                for row in half:
                    copy.write_row(row)
        connection.execute(
            f"INSERT INTO {table} VALUES (%s, %s, %s), (%s, %s, %s) ON CONFLICT (entity, ts)"
            f" DO UPDATE SET v = excluded.v WHERE {table}.v IS DISTINCT FROM excluded.v",
            (*rows[0][:2], -1.0, *rows[1]),
        )
        found = connection.execute(f"SELECT count(*), min(v), max(v) FROM {table}").fetchone()
        assert found == (MANY, -1.0, MANY - 1)
        chunks = connection.execute("SELECT count(*) FROM show_chunks(%s)", (table,)).fetchone()
        assert chunks == (1,)
        connection.execute(f"DROP TABLE {table}")


def tear_copy(connection: psycopg.Connection[tuple[object, ...]], table: str) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
        copy.write_row((9,))
        msg = "torn"
        raise ValueError(msg)


def test_clients_of_timescale_take_turns_and_an_unfinished_one_leaves_nothing(timescale):
    table = unique("t")
    with (
        psycopg.connect(timescale, autocommit=True) as one,
        psycopg.connect(timescale, autocommit=True) as two,
    ):
        one.execute(f"CREATE TABLE {table} (a int)")
        # From the fifth time on, the client names its statement, alike in both.
        for number in range(8):
            for client in (one, two):
                client.execute(f"INSERT INTO {table} VALUES (%s)", (number,))
        with pytest.raises(psycopg.errors.UndefinedColumn, match="nope"):
            two.execute(f"SELECT nope FROM {table} WHERE a = %s", (1,))
        with pytest.raises(ValueError, match="torn"):
            tear_copy(one, table)
        gone = psycopg.connect(timescale)
        gone.execute(f"INSERT INTO {table} VALUES (9)")
        gone.close()
        assert two.execute(f"SELECT count(*), max(a) FROM {table}").fetchone() == (16, 7)
        one.execute(f"DROP TABLE {table}")


def test_redis_sets_and_gets(redis):
    key = unique("key")
    assert command(redis, "SET", key, "a value") == "OK"
    assert command(redis, "GET", key) == "a value"
    assert command(redis, "MGET", key, unique("key")) == ["a value", None]
    assert command(redis, "DEL", key) == 1
    with pytest.raises(RedisError, match="unknown command"):
        command(redis, "NOPE")


def test_a_broker_keeps_its_data_when_it_is_killed_and_goes_on_when_it_is_paused(private_kafka):
    broker = private_kafka
    name = broker.topic()
    write_transaction(broker.bootstrap, name, ["before"])
    # A broker that is killed between its answer to a commit and the mark of it in the log was seen
    # to leave the mark out for ever, in one of four kills.
    assert becomes(lambda: len(read_topic(broker.bootstrap, name)) == 1, SOON_S)
    broker.kill()
    assert not broker.alive
    broker.start()
    write_transaction(broker.bootstrap, name, ["after"])

    client = admin(broker.bootstrap)
    broker.pause()
    with pytest.raises(KafkaException, match="Failed to get metadata"):
        client.list_topics(timeout=0.3)
    broker.resume()
    assert name in client.list_topics(timeout=SOON_S).topics

    found = [message.value for message in read_topic(broker.bootstrap, name)]
    assert found == [b"before", b"after"]


def test_postgres_keeps_what_was_committed_when_it_crashes(private_postgres):
    server = private_postgres
    with psycopg.connect(server.address, autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a")
        server.kill()
        with pytest.raises(psycopg.OperationalError, match="terminat"):
            connection.execute("SELECT 1")
    server.start()
    with psycopg.connect(server.address) as connection:
        assert connection.execute("SELECT a FROM t").fetchone() == (1,)
    # A paused one can be told to end as well.
    server.pause()
    server.stop()
    assert not server.alive


def test_redis_keeps_what_it_has_answered_when_it_is_killed(private_redis):
    command(private_redis.address, "SET", "a", 1)
    private_redis.kill()
    private_redis.start()
    assert command(private_redis.address, "GET", "a") == "1"


def test_a_server_says_when_it_cannot_be_told(private_redis):
    with pytest.raises(ServiceError, match="runs already"):
        private_redis.start()
    private_redis.stop()
    with pytest.raises(ServiceError, match="does not run"):
        private_redis.pause()


def test_a_service_that_fails_shows_its_log():
    with pytest.raises(ServiceError, match=r"ended while it started(.|\n)*not-a-mode"):
        Server(REDIS, {"appendonly": "not-a-mode"}).__enter__()


def test_a_service_that_a_variable_names_is_used_as_it_is(private_redis, monkeypatch):
    monkeypatch.setenv("RIFFLE_TEST_REDIS", private_redis.address)
    assert shared.address(REDIS) == private_redis.address


def test_a_variable_that_names_nothing_is_an_error(monkeypatch):
    monkeypatch.setenv("RIFFLE_TEST_REDIS", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setattr(shared, "NAMED_S", 0.1)
    with pytest.raises(ServiceError, match=r"RIFFLE_TEST_REDIS names .*, where no redis answers"):
        shared.address(REDIS)


@pytest.mark.parametrize(
    ("service", "advice"),
    [(KAFKA, "openjdk-17"), (TIMESCALE, r"Node\.js 20"), (POSTGRES, "install postgresql-15")],
)
def test_a_machine_that_cannot_have_a_service_skips_but_never_in_ci(
    service, advice, monkeypatch, tmp_path
):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(postgres_service, "PROGRAMS", Path("nowhere"))
    monkeypatch.setattr(cache, "CACHE", tmp_path)
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match=advice), fixtures.or_skipped():
        service.install()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(MissingError, match=advice), fixtures.or_skipped():
        service.install()


@pytest.mark.parametrize(("mode", "message"), [(0o644, "may not run"), (0o755, "initdb .* failed")])
def test_postgres_says_why_it_can_make_no_data(mode, message, tmp_path):
    program = tmp_path / "initdb"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(mode)
    with pytest.raises(MissingError, match=message):
        make_cluster(program, tmp_path, {}, None)


OWNER = """
import sys
from tests.services import redis, shared
url = shared.find_or_start(redis.REDIS)
with redis.private() as own:
    print(url, own.address, flush=True)
    sys.stdin.read()
"""


class Elsewhere:
    """A cache with the same programs, in which nothing runs but what the test starts."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.data = folder / "cache", folder / "data"
        self.cache.mkdir()
        self.data.mkdir()
        for installed in CACHE.glob("redis-*"):
            (self.cache / installed.name).symlink_to(installed)
        self.env = os.environ | {
            "RIFFLE_SERVICES_CACHE": str(self.cache),
            "TMPDIR": str(self.data),
        }

    def owner(self) -> subprocess.Popen[str]:
        """A process that uses the shared Redis, and has one of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", OWNER],
            cwd=CHECKOUT,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def make(self, verb: str) -> str:
        """What the command line says about Redis."""
        argv = [sys.executable, "-m", "tests.services", verb, "redis"]
        done = subprocess.run(
            argv, cwd=CHECKOUT, env=self.env, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    def processes(self, name: str = "") -> list[psutil.Process]:
        """All that were started from here, or those whose program is named so."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("TMPDIR") == str(self.data)
                if ours and name in " ".join(process.cmdline()[:3]):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def is_clean(self) -> bool:
        """Whether no process and no data is left."""
        return not self.processes() and not list(self.data.iterdir())


@pytest.fixture
def elsewhere(redis, tmp_path):
    place = Elsewhere(tmp_path)
    yield place
    place.make("stop")
    for process in place.processes():
        process.kill()


def test_a_killed_owner_leaves_no_process_and_no_data(elsewhere):
    with elsewhere.owner() as owner:
        for url in owner.stdout.readline().split():
            assert command(url, "PING") == "PONG"
        assert len(elsewhere.processes("redis-server")) == 2
        owner.kill()
    assert becomes(elsewhere.is_clean, SOON_S)


def test_a_shared_service_ends_with_its_last_user(elsewhere):
    with elsewhere.owner() as first, elsewhere.owner() as second:
        shared_url, own = first.stdout.readline().split()
        other_url, _ = second.stdout.readline().split()
        assert shared_url == other_url
        first.kill()
        assert becomes(lambda: not REDIS.answers(own), SOON_S)
        assert REDIS.answers(shared_url)
        second.communicate("")
        assert second.returncode == 0
    assert becomes(elsewhere.is_clean, SOON_S)


def test_a_killed_guard_takes_its_service_along_and_the_next_user_clears_up(elsewhere):
    with elsewhere.owner() as first:
        old, own = first.stdout.readline().split()
        guards = elsewhere.processes("guard.py")
        assert len(guards) == 2
        for guard in guards:
            guard.kill()
        assert becomes(lambda: not elsewhere.processes("redis-server"), SOON_S)
        with elsewhere.owner() as second:
            new, _ = second.stdout.readline().split()
            assert REDIS.answers(new)
            first.kill()
            second.communicate("")
    # The folder of the first owner has lost its guard and its owner; nobody is left to remove it.
    assert becomes(lambda: not elsewhere.processes(), SOON_S)
    assert len(list(elsewhere.data.iterdir())) == 1
    assert old != own


def test_the_command_line_lets_a_service_run_on_and_ends_it(elsewhere):
    started = elsewhere.make("start")
    with elsewhere.owner() as owner:
        url, _ = owner.stdout.readline().split()
        assert f"Redis 7          {url}   redis-cli -u {url}\n" in started
        assert url in elsewhere.make("status")
        owner.kill()
    assert becomes(lambda: len(elsewhere.processes()) == 2, SOON_S)
    assert REDIS.answers(url)
    assert url in elsewhere.make("start")
    assert elsewhere.make("stop") == "Redis 7 has ended.\n"
    assert elsewhere.make("status") == "Redis 7 does not run.\n"
    assert elsewhere.is_clean()


def test_the_guard_of_postgres_ends_it_though_it_runs_as_another_user(private_postgres):
    running = private_postgres.files.running()
    service = psutil.Process(running["service"])
    os.kill(running["guard"], signal.SIGKILL)
    assert becomes(lambda: not service.is_running(), SOON_S)
