"""A view in SQLite: a row per feature of each entity, in Feast's table.

One statement writes all features of an entity, 5 times as fast as `store.push`, which executes one
for each (benchmarks/online.py). The file is put into SQLite's WAL mode, in which readers and a
writer do not wait for each other, and a commit does not wait for the disk: what a power cut takes
is written again, for the lane finds what is missing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from operators.batch import Int64s
from operators.feature_set import FeatureSet
from sinks.errors import DeliveryError
from sinks.online_cells import (
    FENCE,
    MARK,
    Marks,
    bytes_cell,
    fence_key,
    read_bytes_cell,
    read_marks,
    texts,
)
from sinks.online_rows import Rows
from sinks.online_store import AwayError, Fence, Fencing, ServedView, decode_fence, value_columns

BUSY_S = 5.0
"""How long another one's transaction is waited for."""
MOST_PARAMETERS = 900
"""Of one statement; SQLite may have been built for at most 999."""
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - Feast's times in SQLite have no zone
HOPELESS = (
    "not a database",
    "malformed",
    "readonly",
    "read-only",
    "no such column",
    "has no column",
)


class SqliteView(ServedView):
    """A view in a SQLite file.

    Args:
        path: the file.
        table: Feast's table of the view.
        feature_set: whose vectors are written.
        make_tables: has Feast create its tables.
    """

    batch = 1_000

    def __init__(
        self, path: Path, table: str, feature_set: FeatureSet, make_tables: Callable[[], None]
    ) -> None:
        self._path = path
        self._name = table
        self._table = quoted(table)
        self._set = feature_set
        self._make_tables = make_tables
        self._names = [*feature_set.feature_exprs, "quality", "coverage", MARK]
        self._kinds = [expr.kind for expr in feature_set.feature_exprs.values()]
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def marks(self, keys: Sequence[bytes]) -> Marks:
        """Reads the marks of some entities, or else the times of what is served of them."""
        found: dict[bytes, bytes] = {}
        times: dict[bytes, int] = {}
        with self.errors() as connection:
            for some in _pieces(keys):
                wanted = f"entity_key IN ({', '.join('?' * len(some))})"
                found |= connection.execute(
                    f"SELECT entity_key, value FROM {self._table} "
                    f"WHERE {wanted} AND feature_name = '{MARK}'",
                    some,
                ).fetchall()
                if lacking := [key for key in some if key not in found]:
                    wanted = f"entity_key IN ({', '.join('?' * len(lacking))})"
                    times |= connection.execute(
                        f"SELECT entity_key, CAST(max(event_ts) AS INTEGER) FROM {self._table} "
                        f"WHERE {wanted} GROUP BY entity_key",
                        lacking,
                    ).fetchall()
        return read_marks(
            [found.get(key) for key in keys],
            [utc_ns(times[key]) if key in times else None for key in keys],
        )

    def write(self, rows: Rows, fencing: Fencing | None) -> bool:
        """Writes rows, and the fence of their lane, in one transaction."""
        parameters = self._parameters(rows)
        with self.errors() as connection, _transaction(connection):
            if fencing is not None:
                if not self.holds(self._found(connection, fencing.lane), fencing.held):
                    return False
                connection.execute(
                    f"INSERT INTO {self._table} (entity_key, feature_name, value) "
                    "VALUES (?, ?, ?) ON CONFLICT(entity_key, feature_name) "
                    "DO UPDATE SET value = excluded.value",
                    (fence_key(fencing.lane), FENCE, bytes_cell(fencing.then.encode())),
                )
            for statement, values in parameters:
                connection.executemany(statement, values)
            return True

    def fence(self, lane: str) -> Fence | None:
        """Reads the fence of a lane."""
        with self.errors() as connection:
            return self._found(connection, lane)

    def delete(self, keys: Sequence[bytes]) -> None:
        """Deletes entities of the view."""
        with self.errors() as connection:
            connection.executemany(
                f"DELETE FROM {self._table} WHERE entity_key = ?",
                [(key,) for key in keys],
            )

    def close(self) -> None:
        """Closes the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _found(self, connection: sqlite3.Connection, lane: str) -> Fence | None:
        row = connection.execute(
            f"SELECT value FROM {self._table} WHERE entity_key = ? AND feature_name = ?",
            (fence_key(lane), FENCE),
        ).fetchone()
        return decode_fence(read_bytes_cell(row[0])) if row else None

    def _parameters(self, rows: Rows) -> list[tuple[str, Iterable[tuple[Any, ...]]]]:
        """Statements, each with what it needs of every row."""
        values = value_columns(self._set, rows)
        shown = [texts(kind, rows.features[:, n]) for n, kind in enumerate(self._kinds)]
        shown += [[None] * len(rows), texts("number", rows.coverage), [None] * len(rows)]
        times = [local_seconds(rows.marks[:, n]) for n in (0, 1)]
        most = (MOST_PARAMETERS - 3) // 2
        found: list[tuple[str, Iterable[tuple[Any, ...]]]] = []
        for start in range(0, len(self._names), most):
            names = self._names[start : start + most]
            pairs = zip(values[start : start + most], shown[start : start + most], strict=True)
            columns = [column for pair in pairs for column in pair]
            found.append((self._upsert(names), zip(rows.keys, *times, *columns, strict=True)))
        return found

    def _upsert(self, names: Sequence[str]) -> str:
        values = ", ".join(
            f"(?1, {literal(name)}, ?{4 + 2 * place}, ?{5 + 2 * place}, ?2, ?3)"
            for place, name in enumerate(names)
        )
        written = ("value", "value_text", "event_ts", "created_ts")
        sets = ", ".join(f"{column} = excluded.{column}" for column in written)
        return (
            f"INSERT INTO {self._table} (entity_key, feature_name, {', '.join(written)}) "
            f"VALUES {values} ON CONFLICT(entity_key, feature_name) DO UPDATE SET {sets}"
        )

    def _opened(self) -> sqlite3.Connection:
        """The connection to the file that is there now; it may be another one than before."""
        if self._connection is not None and self._file != _identity(self._path):
            self.close()
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._connection = connection
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -32768")
            self._file = _identity(self._path)
        return self._connection

    @contextmanager
    def errors(self) -> Iterator[sqlite3.Connection]:
        """Sorts errors into those that time may mend and others; has tables made that are gone."""
        try:
            yield self._opened()
        except (sqlite3.Error, OSError) as error:
            said = f"{type(error).__name__} ({error})"
            self.close()
            if "no such table" in str(error):
                with suppress(sqlite3.Error, OSError):
                    self._make_tables()
                msg = f"{said}; made anew"
                raise AwayError(msg) from None
            away = isinstance(error, sqlite3.OperationalError | OSError)
            if away and not any(word in str(error) for word in HOPELESS):
                raise AwayError(said) from None
            msg = (
                f"table `{self._name}` of {self._path}: SQLite must do what it is asked, found "
                f"{said}; mend the file or its rights, and start again"
            )
            raise DeliveryError(msg) from None


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Has the file to itself from the first look at the fence."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _pieces(keys: Sequence[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), MOST_PARAMETERS):
        yield list(keys[start : start + MOST_PARAMETERS])


def local_seconds(times_ns: Int64s) -> list[int]:
    """Times as Feast has SQLite keep them: in seconds, of which it takes UTC for local time."""
    known = {time_ns: int(naive(time_ns).timestamp()) for time_ns in set(times_ns.tolist())}
    return [known[time_ns] for time_ns in times_ns.tolist()]


def naive(time_ns: int) -> datetime:
    """A time without its zone, UTC, as Feast hands it to stores."""
    return EPOCH + timedelta(microseconds=time_ns // 1_000)


def utc_ns(kept: int) -> int:
    """Reads a time that Feast keeps in SQLite."""
    local = datetime.fromtimestamp(kept)  # noqa: DTZ006 - as Feast's reader does
    return int(local.replace(tzinfo=UTC).timestamp()) * 10**9


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"
