"""The roles of deploy/sql/roles.sql: each can do its work, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from dataflows.tables import apply_tables
from sinks.table import TableSink
from sinks.table_lane import TableTenancy
from sinks.table_layout import TableLayout
from sources.database import Connections, Database, DatabaseError
from tests.kafka_topics import TINY, tiny_vectors
from tests.schemas import a_schema, ask, fill
from tests.services import debian
from tests.services.postgres import POSTGRES, PROGRAMS
from tests.services.process import Server

ROLES = Path(__file__).parents[1] / "deploy" / "sql" / "roles.sql"

FORBIDDEN_TO_ALL = [
    "DELETE FROM S.tiny_v1",
    "TRUNCATE S.tiny_v1",
    "DROP TABLE S.tiny_v1",
    "ALTER TABLE S.tiny_v1 ADD COLUMN x int",
    "CREATE TABLE S.other (a int)",
    "CREATE OR REPLACE VIEW S.feature_vectors AS SELECT 1",
    "DELETE FROM S.progress",
    "COMMENT ON TABLE S.tiny_v1 IS 'mine'",
]
FORBIDDEN_TO_READERS = [
    "INSERT INTO S.tiny_v1 SELECT * FROM S.tiny_v1",
    "UPDATE S.tiny_v1 SET n_rows = 0",
    "UPDATE S.progress SET settled_ns = 0",
    "INSERT INTO S.progress (lane) VALUES ('x')",
]
READ = ["tiny_v1", "tiny_v1_latest", "feature_vectors", "extracted_features", "quality_log"]


def run_script(url: str, *options: str, script: str | None = None) -> None:
    """Runs the script, as its head says."""
    root = POSTGRES.install()
    env = {} if root == Path("/") else {"LD_LIBRARY_PATH": debian.libraries(root)}
    argv = [str(root / PROGRAMS / "psql"), "-X", "-q", *options, "-f", "-", url]
    text = script or ROLES.read_text()
    done = subprocess.run(argv, env=env, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def as_user(database: Database, user: str) -> Database:
    """The database, reached by another user."""
    parts = urlsplit(database.url)
    host = parts.netloc.rpartition("@")[2]
    return Database(parts._replace(netloc=f"{user}@{host}").geturl(), database.schema)


def make_users(database: Database) -> tuple[Database, Database, Database]:
    """Users in the three roles."""
    users = {"admin": "owner", "flow": "writer", "board": "reader"}
    for user, role in users.items():
        ask(database, f"CREATE ROLE {user} LOGIN IN ROLE riffle_{role}")
    admin, flow, board = (as_user(database, user) for user in users)
    return admin, flow, board


def write(database: Database, seconds: list[int]) -> None:
    """Writes vectors as a flow does."""
    sink = TableSink(
        TINY, TableTenancy("flow", "job", Connections(database)), [0], provisional=True
    )
    part = sink.build_part("step", "00", None)
    part.write_batch([tiny_vectors(seconds)])
    part.close()


def refused(database: Database, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(database, statement)


def test_each_role_can_do_its_work_and_nothing_else(private_postgres: Server) -> None:
    database = Database(private_postgres.address)
    run_script(database.url)
    run_script(database.url)
    admin, flow, board = make_users(database)
    with pytest.raises(DatabaseError, match="schema `riffle`: must be changed by `riffle_owner`"):
        apply_tables(flow, [TINY])
    assert all(each.ok for each in apply_tables(admin, [TINY]))
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'riffle'"
    assert ask(database, owners) == [("riffle_owner",)]
    write(flow, [1, 2])
    write(flow, [2, 3, 4])
    assert ask(board, "SELECT count(*)::int FROM S.tiny_v1") == [(len(tiny_vectors([1, 2, 3, 4])),)]
    # Vectors of weeks for which there is no partition, and of one that meets older rows.
    ask(flow, "SELECT S.ensure_partitions('tiny_v1', ARRAY['1999-01-01'::timestamptz])")
    ask(flow, "CREATE TEMPORARY TABLE staged (LIKE S.tiny_v1)")
    for name in READ:
        ask(board, f"SELECT * FROM S.{name}")
        ask(flow, f"SELECT * FROM S.{name}")
    for statement in FORBIDDEN_TO_ALL:
        refused(flow, statement)
        refused(board, statement)
    for statement in FORBIDDEN_TO_READERS:
        refused(board, statement)
    refused(board, "SELECT S.ensure_partitions('tiny_v1', ARRAY[now()])")
    refused(flow, "SELECT S.drop_partitions('tiny_v1', '2100-01-01')")
    # All is there, so that there is nothing to refuse.
    assert {each.state for each in apply_tables(flow, [TINY])} == {"there"}


def test_roles_may_come_after_the_tables(private_postgres: Server) -> None:
    database = Database(private_postgres.address, "lab")
    apply_tables(database, [TINY])
    write(database, [1])
    run_script(database.url, "-v", "schema=lab")
    admin, flow, board = make_users(database)
    assert {each.state for each in apply_tables(admin, [TINY])} == {"there"}
    write(as_user(database, "flow"), [2])
    assert ask(board, "SELECT count(*)::int FROM S.tiny_v1") == [(len(tiny_vectors([1, 2])),)]
    refused(flow, "DELETE FROM S.tiny_v1")


def test_the_function_of_the_owner_makes_nothing_but_partitions(private_postgres: Server) -> None:
    database = Database(private_postgres.address)
    run_script(database.url)
    admin, flow, _ = make_users(database)
    apply_tables(admin, [TINY])
    ask(database, "CREATE TABLE S.theirs (ts timestamptz) PARTITION BY RANGE (ts)")
    for name in ("theirs", "nothing", "tiny_v1; DROP TABLE riffle.tiny_v1", "pg_class"):
        with pytest.raises(psycopg.errors.UndefinedTable, match="must exist and be of the owner"):
            ask(flow, "SELECT S.ensure_partitions(%s, ARRAY[now()])", name)
    assert ask(flow, "SELECT S.ensure_partitions('progress', ARRAY[now()])") == [(0,)]
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="at most 1000 instants"):
        ask(
            flow,
            "SELECT S.ensure_partitions('tiny_v1', ARRAY(SELECT now() + i * INTERVAL '7 days' "
            "FROM generate_series(1, 1001) i))",
        )
    # Objects of the caller that are called like PostgreSQL's own are not taken for them.
    with flow.connect(autocommit=True) as connection:
        connection.execute("CREATE TEMPORARY TABLE pg_inherits (inhrelid oid, inhparent oid)")
        connection.execute("SET search_path = pg_temp, public")
        query = "SELECT riffle.ensure_partitions('tiny_v1', ARRAY[now(), 'epoch', NULL, 'epoch'])"
        assert connection.execute(query).fetchone() == (1,)


def test_on_timescaledb_the_writer_writes_compressed_chunks_too(timescale: str) -> None:
    with a_schema(timescale) as database:
        # The one backend there can't change what a role may do with its database.
        lines = ROLES.read_text().splitlines()
        script = "\n".join(line for line in lines if " ON DATABASE " not in line)
        run_script(database.url, "-v", f"schema={database.schema}", script=script)
        apply_tables(database, [TINY])
        fill(database, TableLayout(TINY, database.schema), tiny_vectors([1, 2, 3]))
        # All clients share one session there, so that nobody else may come between.
        with database.connect() as connection:

            def run(query: str) -> None:
                connection.execute(query.replace("S.", f"{database.schema}.").encode())

            run("SET LOCAL ROLE riffle_owner")
            run("SELECT compress_chunk(c) FROM show_chunks('S.tiny_v1') c")
            run("SET LOCAL ROLE riffle_writer")
            run(
                "INSERT INTO S.tiny_v1 AS t SELECT * FROM S.tiny_v1 ON CONFLICT (instrument_id, "
                "timeframe, ts, ts_ns) DO UPDATE SET n_rows = excluded.n_rows + 1"
            )
            run("CREATE TEMPORARY TABLE s ON COMMIT DROP AS SELECT * FROM S.tiny_v1")
            run("UPDATE s SET ts = ts - INTERVAL '1 year'")
            run("INSERT INTO S.tiny_v1 SELECT * FROM s")
            for role, statements in (
                ("writer", FORBIDDEN_TO_ALL),
                ("reader", [*FORBIDDEN_TO_ALL, *FORBIDDEN_TO_READERS]),
            ):
                run(f"SET LOCAL ROLE riffle_{role}")
                for name in READ:
                    run(f"SELECT * FROM S.{name}")
                for statement in statements:
                    with (
                        pytest.raises(psycopg.errors.InsufficientPrivilege),
                        connection.transaction(),
                    ):
                        run(statement)
            run("SET LOCAL ROLE NONE")
        assert ask(database, "SELECT DISTINCT n_rows FROM S.tiny_v1") == [(4,)]
