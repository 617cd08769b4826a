r"""From vectors to a table of PostgreSQL: how fast the sink is beside ``\copy`` of the same rows.

``\copy`` reads a file that lies ready, in psql's text form, and knows nothing of vectors; the sink
is handed vectors, makes rows of them, and commits them with its progress. Table and server are the
same, and what is in the table is compared before a time counts. Upserts are newer rows of all
vectors that are there already. The server has the settings of the tests, so it waits for no disk.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psycopg

from benchmarks.contest import Timing, WrongOutputError
from benchmarks.report import Line
from dataflows.tables import apply_tables
from feature_repo.market import market
from operators.batch import Labels, Vectors
from sinks.table import TableSink
from sinks.table_lane import TableTenancy
from sinks.table_layout import TableLayout
from sources.database import Connections, Database

ADDRESS = "RIFFLE_TEST_POSTGRES"
"""The environment variable that names a PostgreSQL that runs."""
ROOT = Path(__file__).parents[1]
INSTRUMENTS = 1_000
BATCH = 5
"""Instants that the sink is handed at once."""
START_NS = 1_767_225_600 * 10**9
MINUTE_NS = 60 * 10**9
SHARE_OF_NULLS = 0.02
SHARE_OF_FLAGS = 0.05
GOAL_OF_NEW = 0.8
GOAL_OF_UPSERTS = 0.4


class NoDatabaseError(RuntimeError):
    """No PostgreSQL to measure with."""


def address() -> str:
    """The server that the environment names, or the one of the tests, started if need be."""
    if named := os.environ.get(ADDRESS):
        return named
    told = subprocess.run(
        [sys.executable, "-m", "tests.services", "start", "postgres"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"postgresql://\S+", told.stdout)
    if told.returncode or found is None:
        must = f"{ADDRESS} must name a PostgreSQL, or one must start"
        msg = f"{must}, found none: {told.stderr.strip()}"
        raise NoDatabaseError(msg)
    return found[0]


@contextmanager
def database(server: str) -> Iterator[Database]:
    """A database of our own, removed at the end."""
    name = f"bench_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield Database(urlsplit(server)._replace(path=f"/{name}").geturl())
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def some_vectors(count: int) -> list[Vectors]:
    """Vectors of `market`, in batches as an engine settles them."""
    random = np.random.default_rng(7)
    labels = tuple(f"INST{number:04d}" for number in range(INSTRUMENTS))
    found = []
    for first in range(0, max(1, count // INSTRUMENTS), BATCH):
        rows = BATCH * INSTRUMENTS
        ts_ns = START_NS + np.repeat(np.arange(first, first + BATCH), INSTRUMENTS) * MINUTE_NS
        features = {}
        for name, expr in market.feature_exprs.items():
            values = random.normal(size=rows) if expr.kind == "number" else np.full(rows, 3.0)
            values[random.random(rows) < SHARE_OF_NULLS] = np.nan
            features[name] = values
        found.append(
            Vectors(
                keys=Labels(np.tile(np.arange(INSTRUMENTS, dtype=np.int32), BATCH), labels),
                series=Labels(np.zeros(rows, np.int32), ("1m",)),
                ts_ns=ts_ns,
                features=features,
                quality=(random.random(rows) < SHARE_OF_FLAGS).astype(np.int64),
                coverage=np.ones(rows),
                known_at_ns=ts_ns + 1_000,
                n_rows=np.full(rows, 21),
            )
        )
    return found


@dataclass
class Table:
    """The table that is written, and the ways to write it.

    Args:
        database: where it is.
        folder: for the ready file.
    """

    database: Database
    folder: Path

    def __post_init__(self) -> None:
        apply_tables(self.database, [market])
        self.layout = TableLayout(market, self.database.schema)
        self.name = self.layout.identifier.as_string(None)
        self.columns = ", ".join(f'"{name}"' for name in self.layout.names)
        self.file = self.folder / "rows.txt"
        self.runs = 0

    def empty(self) -> None:
        """Removes all rows."""
        with self.database.connect(autocommit=True) as connection:
            connection.execute(f"TRUNCATE {self.name}")

    def checked(self) -> str:
        """What is in the table: how many rows, and a sum over all that they say."""
        with self.database.connect() as connection:
            return str(
                connection.execute(
                    f"SELECT count(*), sum(hashtextextended(row({self.columns})::text, 0)) "
                    f"FROM {self.name}"
                ).fetchone()
            )

    def keep(self) -> None:
        """Writes the ready file."""
        self._psql(f"\\copy {self.name} ({self.columns}) to '{self.file}'", select=True)

    def copy(self) -> float:
        r"""Seconds of ``\copy``, its start included: it is some 10 ms."""
        began_s = time.perf_counter()
        self._psql(f"\\copy {self.name} ({self.columns}) from '{self.file}'")
        return time.perf_counter() - began_s

    def _psql(self, command: str, *, select: bool = False) -> None:
        if select:  # a partitioned table is no source of COPY
            command = command.replace(
                f"{self.name} ({self.columns})", f"(SELECT {self.columns} FROM {self.name})"
            )
        url = self.database.url
        subprocess.run(["psql", "-X", "-q", "-c", command, url], check=True)

    def sink(self, batches: list[Vectors]) -> float:
        """Seconds of the sink, from the first batch to the end of the snapshot."""
        self.runs += 1
        connections = Connections(self.database)
        tenancy = TableTenancy(f"bench{self.runs}", "bench", connections)
        part = TableSink(market, tenancy, [0]).build_part("write", "00", None)
        part.lane.state()
        began_s = time.perf_counter()
        for batch in batches:
            part.write_batch([batch])
        part.snapshot()
        seconds = time.perf_counter() - began_s
        part.close()
        return seconds


def measure(count: int, rounds: int) -> tuple[list[Line], list[Timing]]:
    r"""Measures new rows and upserts beside ``\copy``.

    Args:
        count: of rows, about.
        rounds: how often each is measured.
    """
    batches = some_vectors(count)
    newer = [replace(each, n_rows=each.n_rows + 1) for each in batches]
    rows = sum(map(len, batches))
    copied, new, upserted = (
        Timing(name, rows) for name in ("\\copy", "sink, new rows", "sink, upserts")
    )
    with (
        database(address()) as where,
        tempfile.TemporaryDirectory(prefix="riffle-bench-") as folder,
    ):
        table = Table(where, Path(folder))
        table.sink(batches)
        wanted = table.checked()
        table.keep()
        table.empty()
        table.sink(newer)
        wanted_newer = table.checked()
        for number in range(rounds + 1):  # the first is not counted
            found = []
            table.empty()
            found.append(table.copy())
            _check("\\copy", wanted, table.checked())
            table.empty()
            found.append(table.sink(batches))
            _check("new rows", wanted, table.checked())
            found.append(table.sink(newer))
            _check("upserts", wanted_newer, table.checked())
            for timing, seconds in zip((copied, new, upserted), found, strict=True):
                if number or not rounds:
                    timing.ns_per_row.append(seconds * 1e9 / rows)
    lines = [
        Line.ratio("new rows: the table sink over \\copy", copied, new, GOAL_OF_NEW),
        Line.ratio("upserts: the table sink over \\copy", copied, upserted, GOAL_OF_UPSERTS),
    ]
    return lines, [copied, new, upserted]


def _check(what: str, wanted: str, found: str) -> None:
    if found != wanted:
        msg = f"{what}: the table must hold {wanted}, found {found}"
        raise WrongOutputError(msg)
