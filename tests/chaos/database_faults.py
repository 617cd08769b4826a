"""What happens to a database: locked tables, no connections left, a death inside COMMIT."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from tests.chaos.tables import NAME, PROGRESS, Table
from tests.chaos.watch import until
from tests.services.process import Server

TRAP = 4711
"""Of advisory locks."""
WAIT_S = 30.0
FILL_S = 0.05
RESTARTED = "all server processes terminated"

_TRIGGER = f"""
    CREATE FUNCTION chaos_wait() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock_shared({TRAP}); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER chaos_wait AFTER UPDATE ON {PROGRESS}
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chaos_wait();
"""
_COMMITTING = """
    SELECT pid FROM pg_stat_activity
    WHERE wait_event = %s AND query ILIKE 'commit%%' AND pid <> pg_backend_pid()
"""


@contextmanager
def locked(table: Table) -> Iterator[None]:
    """Nobody else reads or writes the table meanwhile."""
    with table.connect() as connection, connection.transaction():
        connection.execute(f"LOCK TABLE {NAME} IN ACCESS EXCLUSIVE MODE")
        yield


class Crowd(threading.Thread):
    """Takes every connection that the server has, and each that becomes free."""

    def __init__(self, table: Table) -> None:
        super().__init__(name="crowd", daemon=True)
        self.refused = 0
        self._table = table
        self._held: list[psycopg.Connection[tuple[object, ...]]] = []
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._held.append(self._table.connect())
            except psycopg.OperationalError:
                self.refused += 1
                self._ended.wait(FILL_S)

    def leave(self) -> int:
        """Gives all connections back, and says how many there were."""
        self._ended.set()
        self.join(WAIT_S)
        for connection in self._held:
            connection.close()
        return len(self._held)


def end_others(table: Table) -> None:
    """Ends every other connection to the database."""
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    with table.connect() as connection:
        connection.execute(f"{others} AND backend_type = 'client backend'")


class Commits:
    """Holds commits to the table up, before or after what they commit will survive a crash.

    Args:
        server: the database's.
        table: of the flow.
    """

    def __init__(self, server: Server, table: Table) -> None:
        self._server = server
        self._table = table
        with table.connect() as connection:
            connection.execute(_TRIGGER)

    def settled_ns(self) -> int:
        """How far all lanes have come together, by what is committed."""
        with self._table.connect() as connection:
            asked = f"SELECT sum(settled_ns) FROM {PROGRESS}"
            (found,) = connection.execute(asked).fetchone() or (0,)
            return int(str(found))

    @contextmanager
    def held(self, *, durable: bool) -> Iterator[int]:
        """Gives the process of the server that waits in a COMMIT.

        Args:
            durable: whether what it commits is in the log already, so that it is there after a
                crash, though its client can't know.
        """
        if durable:
            # Commits wait for a copy of the log on another server, which there is not.
            self._setting("SET synchronous_standby_names = '*'")
            yield self._waiting("SyncRep")
        else:
            with self._table.connect() as connection:
                connection.execute(f"SELECT pg_advisory_lock({TRAP})")
                yield self._waiting("advisory")
                # Finds out whether the server is gone, which leaving the block would stumble over.
                with suppress(psycopg.OperationalError):
                    connection.execute("SELECT 1")

    def free(self) -> None:
        """Lets commits through again, after a crash."""
        self._setting("RESET synchronous_standby_names")

    def _setting(self, change: str) -> None:
        with self._table.connect() as connection:
            connection.execute(f"ALTER SYSTEM {change}")
            connection.execute("SELECT pg_reload_conf()")

    def _waiting(self, event: str) -> int:
        found: list[int] = []

        def waits() -> bool:
            with self._table.connect() as connection:
                rows = connection.execute(_COMMITTING, [event]).fetchall()
            found[:] = [int(str(pid)) for (pid,) in rows]
            return bool(found)

        until(waits, WAIT_S, f"a COMMIT must wait for {event}")
        return found[0]


def kill_backend(server: Server, pid: int) -> None:
    """Kills one process of the server, which then ends all others and starts them again."""
    before = server.log.count(RESTARTED)
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.log.count(RESTARTED) > before, WAIT_S, "the server must notice")
    until(lambda: server.service.answers(server.address), WAIT_S, "the server must be back")
