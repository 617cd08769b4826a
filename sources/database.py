"""PostgreSQL, with or without TimescaleDB: how to reach it, and what its errors mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict
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
    "42501": "grant this user the rights of a writer, as `riffle apply` prints them",
    "42703": "run `riffle apply`, which adds the columns that are missing",
    "42P01": "run `riffle apply`",
    "42P10": "run `riffle apply`, which creates the unique key",
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
        return psycopg.connect(self.url, **{**defaults, **options})

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
        parts = self._parts()
        secrets = {str(parts[name]) for name in SECRETS if parts.get(name)}
        secrets |= {quote(secret, safe="") for secret in secrets}
        for secret in sorted(secrets, key=len, reverse=True):
            shown = shown.replace(secret, MASK)
        return shown

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
