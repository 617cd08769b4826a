"""PostgreSQL, with or without TimescaleDB: how to reach it, and what its errors mean."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

MASK = "[hidden]"
SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key")
"""Parts of a URL that are never shown."""
LONGEST_NAME_BYTES = 63
"""PostgreSQL cuts off what a name has more."""

CONNECTION = {
    "application_name": "riffle",
    "connect_timeout": 10,
    # A server that is gone without a word is noticed within half a minute, idle or busy.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""What the URL may say otherwise. Settings of the server are left to each transaction, because a
pooler takes none at the start of a connection."""

TURN_S = 10.0
"""How long a thread waits for a connection that others have."""

TRANSIENT_CLASSES = frozenset(
    {
        "08",  # the connection has broken
        "40",  # a deadlock, or a conflict with another transaction
        "53",  # disk full, out of memory, too many connections
        "57",  # the server stops, starts or has crashed; a statement took too long
        "58",  # the server's own files cannot be written
    }
)
TRANSIENT = frozenset(
    {
        "25006",  # read only: a server that another one is taking over from
        "25P03",  # the transaction was idle for too long, as when this process stood still
        "25P04",  # the transaction took too long
        "55006",  # in use by others
        "55P03",  # a lock was not to be had in time
    }
)
HOPELESS = frozenset(
    {
        "53400",  # beyond a limit that somebody has set
        "57P04",  # the database was dropped
        "58P01",  # a file of the server, such as an extension's, is not there
    }
)
REFUSALS = (
    "authentication failed",
    "certificate",
    "does not exist",
    "does not support SSL",
    "is not permitted to log in",
    "no password supplied",
    "no pg_hba.conf entry",
    "not currently accepting connections",
    "permission denied",
    "private key file",
)
"""Said while connecting, when an error has no code, by a server that nobody should ask again. In
another language than English they are taken for an outage, which is told and tried again."""

ADVICE = {
    "0A000": "this version of PostgreSQL is too old or has other extensions",
    "22021": "take the character that PostgreSQL cannot store out of the names",
    "3D000": "create the database",
    "3F000": "run `riffle apply`",
    "42501": "give this user the role that it needs, of those in deploy/sql/roles.sql",
    "42703": "run `riffle apply`, which adds the columns that are missing",
    "42P01": "run `riffle apply`",
    "42P10": "run `riffle apply`, which creates the unique key",
    "42883": "run `riffle apply`, which makes the functions",
    "42804": "the table is not that of this declaration: run `riffle apply`",
    "53400": "raise the limit",
}
"""What to do, by the code of an error."""


class DatabaseError(ValueError):
    """What a person must mend; the message says how."""


@dataclass(frozen=True, slots=True, repr=False)
class Database:
    """A database, and the schema in it that is ours.

    Args:
        url: as libpq reads it: ``postgresql://user:password@host:port/name``.
        schema: name of the schema.

    Raises:
        DatabaseError: when the URL is none, or the schema can't be a name; without secrets.

    >>> Database("postgresql://riffle:hunter2@db/features")
    Database('postgresql://riffle@db/features', schema='riffle')
    """

    url: str
    schema: str = "riffle"

    def __post_init__(self) -> None:
        try:
            self._parts()
        except psycopg.ProgrammingError:  # its words may hold the password
            msg = (
                "the URL of the database must be like postgresql://user:password@host:port/name, "
                "found one that cannot be read; characters such as @ : / in a password must be "
                "written as %40 %3A %2F"
            )
            raise DatabaseError(msg) from None
        size = len(self.schema.encode())
        if not 0 < size <= LONGEST_NAME_BYTES or "\0" in self.schema:
            msg = (
                f"the schema must be a name of 1 to {LONGEST_NAME_BYTES} bytes without NUL, "
                f"found {self.schema!r}"
            )
            raise DatabaseError(msg)

    def connect(self, **options: Any) -> psycopg.Connection[TupleRow]:
        """Opens a connection.

        Args:
            options: those of ``psycopg.connect``, such as ``autocommit`` or ``application_name``.

        Raises:
            psycopg.Error: when that fails; ask :func:`is_transient`.
        """
        given = self._parts()
        defaults = {name: value for name, value in CONNECTION.items() if name not in given}
        # Names may have any character, whatever the database is in.
        return psycopg.connect(self.url, **{**defaults, **options, "client_encoding": "UTF8"})

    @property
    def shown(self) -> str:
        """The URL without secrets, for messages."""
        parts = self._parts()
        user = f"{parts['user']}@" if "user" in parts else ""
        port = f":{parts['port']}" if "port" in parts else ""
        where = f"{parts.get('host', '')}{port}/{parts.get('dbname', '')}"
        return self.hide(f"postgresql://{user}{where}")

    def hide(self, text: object) -> str:
        """Gives a text without the secrets of the URL."""
        shown = str(text)
        for secret in self.secrets:
            shown = shown.replace(secret, MASK)
        return shown

    @property
    def secrets(self) -> list[str]:
        """What must not be shown, as it is and as the URL spells it; the longest first."""
        parts = self._parts()
        found = {str(parts[name]) for name in SECRETS if parts.get(name)}
        found |= {quote(secret, safe="") for secret in found}
        return sorted(found, key=len, reverse=True)

    def refused(self, where: str, error: psycopg.Error) -> DatabaseError:
        """Words an error that waiting does not mend.

        Args:
            where: what was being done, or by whom.
            error: what the server said.
        """
        must = f"{where}: database `{self.shown}` must do what it is asked"
        return DatabaseError(f"{must}, found {self.hide(words(error))}; {advice(error)}")

    def _parts(self) -> dict[str, Any]:
        return dict(conninfo_to_dict(self.url))

    def __repr__(self) -> str:
        return f"Database({self.shown!r}, schema={self.schema!r})"


class Connections:
    """A few connections that the threads of a process take in turns.

    Args:
        database: where they lead to.
        most: how many there are at the same time.
    """

    def __init__(self, database: Database, most: int = 4) -> None:
        self.database = database
        self.most = most
        self._turns = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._idle: list[psycopg.Connection[TupleRow]] = []

    @contextmanager
    def held(self) -> Iterator[psycopg.Connection[TupleRow]]:
        """A connection for one thread, which commits by itself and is in no transaction.

        Raises:
            TimeoutError: when others have all of them for too long.
            psycopg.Error: when there is none to be had.
        """
        if not self._turns.acquire(timeout=TURN_S):
            msg = f"the {self.most} connections to `{self.database.shown}` were all in use"
            raise TimeoutError(msg)
        try:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            # Nothing is prepared: a pooler forgets it, and a change of a table makes it invalid.
            connection = connection or self.database.connect(
                autocommit=True, prepare_threshold=None
            )
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            self._turns.release()

    @contextmanager
    def transaction(
        self, settings: Mapping[str, str] | None = None
    ) -> Iterator[psycopg.Connection[TupleRow]]:
        """A connection in a transaction, which is committed at the end or rolled back.

        Args:
            settings: of the server, for this transaction.

        Raises:
            TimeoutError: when others have all of the connections for too long.
            psycopg.Error: when anything fails; of what was to be committed it is unknown then
                whether it was.
        """
        statements: list[sql.Composable] = [sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED")]
        for name, value in (settings or {}).items():
            setting = sql.Identifier(*name.split("."))
            statements.append(sql.SQL("SET LOCAL {} = {}").format(setting, value))
        with self.held() as connection:
            connection.execute(sql.SQL("; ").join(statements))
            yield connection
            connection.execute("COMMIT")

    def close(self) -> None:
        """Closes those that nobody holds; who needs one again opens it."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _give_back(self, connection: psycopg.Connection[TupleRow]) -> None:
        try:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                connection.rollback()
        except psycopg.Error:
            connection.close()
        if connection.closed:
            self.close()  # the others lead to the same server
            return
        with self._lock:
            self._idle.append(connection)


def is_transient(error: BaseException) -> bool:
    """Whether a new attempt, on a new connection, may succeed.

    >>> (
    ...     is_transient(psycopg.errors.LockNotAvailable()),
    ...     is_transient(psycopg.errors.UndefinedTable()),
    ... )
    (True, False)
    """
    if not isinstance(error, psycopg.Error):
        return isinstance(error, TimeoutError)
    code = error.sqlstate
    if code is not None:
        return code not in HOPELESS and (code in TRANSIENT or code[:2] in TRANSIENT_CLASSES)
    # Without a code: the connection broke, or could not be had.
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    return not any(refusal in str(error) for refusal in REFUSALS)


def words(error: BaseException) -> str:
    r"""An error as messages say it, in one line: its kind, its code, and what the server found.

    >>> words(psycopg.OperationalError("server closed the connection\n\tunexpectedly"))
    'OperationalError (server closed the connection unexpectedly)'
    """
    if not isinstance(error, psycopg.Error):
        return "no answer in time" if isinstance(error, TimeoutError) else repr(error)
    said = error.diag.message_primary or str(error)
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(said.split()))
    code = f"{error.sqlstate}: " if error.sqlstate else ""
    return f"{type(error).__name__} ({code}{line})"


def advice(error: psycopg.Error) -> str:
    """What to do about an error that waiting does not mend."""
    code = error.sqlstate
    if code is None or code.startswith("28"):
        return "mend the address, the user, the password or the certificates of its URL"
    return ADVICE.get(code, "mend that, and start again: nothing is lost")
