"""A database is reached without telling its secrets, and its errors are told apart."""

from __future__ import annotations

import pickle
import threading
import time

import psycopg
import pytest
from psycopg import errors

from sources import database as module
from sources.database import Connections, Database, DatabaseError, advice, is_transient, words
from tests.relay import relay
from tests.services import postgres as postgres_service

SECRET = "hunter2/@ü"
URL = "postgresql://riffle:hunter2%2F%40%C3%BC@db.example:5433/features?sslpassword=k3y"


# -- secrets ----------------------------------------------------------------------------------


def test_a_database_shows_no_secret():
    database = Database(URL, "features")
    told = repr(database)
    assert told == "Database('postgresql://riffle@db.example:5433/features', schema='features')"
    assert database.hide(f"{URL} {SECRET} k3y") == (
        "postgresql://riffle:[hidden]@db.example:5433/features?sslpassword=[hidden] "
        "[hidden] [hidden]"
    )
    assert pickle.loads(pickle.dumps(database)) == database


@pytest.mark.parametrize(
    "url", ["postgresql//u:hunter2@h/n", "host=h password='hunter2", "hunter2"]
)
def test_a_url_that_cannot_be_read_is_refused_without_being_shown(url):
    with pytest.raises(DatabaseError, match=r"must be like postgresql://user:password") as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("schema", ["", "a" * 64, "ü" * 32, "a\0b"])
def test_a_schema_must_be_a_name(schema):
    with pytest.raises(DatabaseError, match="the schema must be a name of 1 to 63 bytes"):
        Database("postgresql://h/n", schema)


def test_a_refusal_says_where_what_and_what_to_do(postgres):
    database = Database(postgres)
    with database.connect() as connection, pytest.raises(errors.UndefinedTable) as caught:
        connection.execute("SELECT * FROM nowhere")
    told = str(database.refused("set `tiny`", caught.value))
    assert told.startswith("set `tiny`: database `postgresql://postgres@127.0.0.1:")
    assert 'UndefinedTable (42P01: relation "nowhere" does not exist); run `riffle apply`' in told


def test_what_a_server_says_is_one_line(postgres):
    with psycopg.connect(postgres) as connection, pytest.raises(errors.RaiseException) as caught:
        connection.execute("DO $$ BEGIN RAISE 'a\n\tb\x1b[2J\u2028c'; END $$")
    assert words(caught.value) == r"RaiseException (P0001: a b\x1b[2J c)"
    assert words(TimeoutError()) == "no answer in time"
    assert words(KeyError("x")) == "KeyError('x')"


# -- connecting -------------------------------------------------------------------------------


def test_the_url_may_say_otherwise_than_we_do(postgres):
    asked = "SELECT current_setting('application_name'), current_setting('client_encoding')"
    with Database(postgres).connect() as connection:
        assert connection.execute(asked).fetchone() == ("riffle", "UTF8")
        assert connection.info.get_parameters()["tcp_user_timeout"] == "30000"
    url = f"{postgres}?application_name=mine&tcp_user_timeout=5&client_encoding=LATIN1"
    with Database(url).connect(autocommit=True) as connection:
        assert connection.autocommit
        assert connection.execute(asked).fetchone() == ("mine", "UTF8")
        assert connection.info.get_parameters()["tcp_user_timeout"] == "5"


@pytest.mark.parametrize(
    ("kind", "mended"),
    [
        (errors.AdminShutdown, True),
        (errors.CannotConnectNow, True),
        (errors.ConnectionFailure, True),
        (errors.CrashShutdown, True),
        (errors.DeadlockDetected, True),
        (errors.DiskFull, True),
        (errors.IdleInTransactionSessionTimeout, True),
        (errors.IoError, True),
        (errors.LockNotAvailable, True),
        (errors.OutOfMemory, True),
        (errors.QueryCanceled, True),
        (errors.ReadOnlySqlTransaction, True),
        (errors.SerializationFailure, True),
        (errors.TooManyConnections, True),
        (psycopg.OperationalError, True),
        (psycopg.InterfaceError, True),
        (TimeoutError, True),
        (errors.CheckViolation, False),
        (errors.ConfigurationLimitExceeded, False),
        (errors.DatabaseDropped, False),
        (errors.InsufficientPrivilege, False),
        (errors.InvalidPassword, False),
        (errors.UndefinedColumn, False),
        (errors.UndefinedTable, False),
        (errors.UniqueViolation, False),
        (psycopg.DataError, False),
        (ValueError, False),
    ],
)
def test_time_mends_some_errors(kind, mended):
    assert is_transient(kind("said")) is mended


def failure(url: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error, match="connection failed") as caught:
        Database(url).connect(connect_timeout=3).close()
    return caught.value


def test_a_server_that_is_away_may_come_back(private_postgres):
    private_postgres.kill()
    assert is_transient(failure(private_postgres.address))


def test_who_is_refused_is_not_let_in_later(private_postgres):
    url = private_postgres.address
    for wrong in (url.replace("postgres@", "ghost@"), url + "_not_there"):
        error = failure(wrong)
        assert not is_transient(error)
        assert "does not exist" in words(error)
        assert (
            advice(error)
            == "mend the address, the user, the password or the certificates of its URL"
        )
    error = failure(f"{url}?sslmode=require")
    assert not is_transient(error), error
    with Database(url).connect(autocommit=True) as connection:
        connection.execute("CREATE ROLE someone LOGIN PASSWORD 'right'")
        (rules,) = connection.execute("SHOW hba_file").fetchone() or ()
        with open(rules, "w", encoding="utf-8") as file:  # noqa: PTH123 - it stays its owner's
            file.write("host all postgres all trust\nhost postgres all all scram-sha-256\n")
        connection.execute("SELECT pg_reload_conf()")
    someone = url.replace("postgres@", "someone:wrong@")
    database = Database(someone)
    error = failure(someone)
    assert "authentication failed" in words(error)
    assert "wrong" not in database.hide(words(error))
    assert not is_transient(error)
    assert not is_transient(failure(url.replace("postgres@", "someone@")))
    assert not is_transient(failure(someone.replace("/postgres", "/template1")))
    Database(someone.replace("wrong", "right")).connect().close()


def test_a_server_without_a_free_connection_may_have_one_later():
    with postgres_service.private({"max_connections": "5"}) as server:
        with psycopg.connect(server.address, autocommit=True) as connection:
            connection.execute("CREATE ROLE someone LOGIN")
        url = server.address.replace("postgres@", "someone@")
        held = [psycopg.connect(url) for _ in range(2)]
        error = failure(url)
        assert is_transient(error), error
        for each in held:
            each.close()


# -- connections that threads share -----------------------------------------------------------


def pids(connections: Connections, count: int) -> set[int]:
    found = set()
    for _ in range(count):
        with connections.held() as connection:
            found.add(connection.info.backend_pid)
    return found


def test_connections_are_used_again(postgres):
    connections = Connections(Database(postgres), most=2)
    assert len(pids(connections, 5)) == 1
    connections.close()
    assert len(pids(connections, 5)) == 1
    connections.close()


def test_there_are_no_more_connections_than_allowed(postgres, monkeypatch):
    monkeypatch.setattr(module, "TURN_S", 0.05)
    connections = Connections(Database(postgres), most=1)
    with connections.held():
        with pytest.raises(TimeoutError, match=r"the 1 connections to `postgresql://.*in use"):
            connections.held().__enter__()
        monkeypatch.setattr(module, "TURN_S", 10)
        later = threading.Thread(target=pids, args=(connections, 1))
        later.start()
        time.sleep(0.05)
    later.join(5)
    assert not later.is_alive()
    connections.close()


def test_a_transaction_that_fails_leaves_nothing_behind(database):
    connections = Connections(Database(database), most=1)
    with connections.transaction() as connection:
        connection.execute("CREATE TABLE t (x int PRIMARY KEY)")

    def insert_twice() -> None:
        with connections.transaction({"lock_timeout": "123ms"}) as connection:
            assert connection.execute("SHOW lock_timeout").fetchone() == ("123ms",)
            connection.execute("INSERT INTO t VALUES (1)")
            connection.execute("INSERT INTO t VALUES (1)")

    with pytest.raises(errors.UniqueViolation, match="t_pkey"):
        insert_twice()
    with connections.held() as connection:
        assert connection.execute("SELECT FROM t").fetchall() == []
        assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
    connections.close()


def test_a_connection_that_broke_is_not_used_again_nor_are_its_neighbours(postgres):
    with relay(postgres) as way:
        connections = Connections(Database(way.url), most=2)
        with connections.held() as first, connections.held() as second:
            old = {first.info.backend_pid, second.info.backend_pid}
        way.lose(b"SELECT 1", "the request")
        with (
            pytest.raises(psycopg.OperationalError, match="closed the connection") as caught,
            connections.held() as connection,
        ):
            connection.execute("SELECT 1")
        assert is_transient(caught.value)
        with connections.held() as first, connections.held() as second:
            assert not old & {first.info.backend_pid, second.info.backend_pid}
        connections.close()
