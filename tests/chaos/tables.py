"""The table of vectors as the proofs see it: made by the command, read with plain SQL, watched."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterable

import polars as pl
import psycopg

from dataflows.live_settings import LiveSettings
from tests.chaos import oracle
from tests.chaos.messages import partition_of
from tests.chaos.oracle import FLAGS, FLOATS
from tests.chaos.sets import market

SCHEMA = "riffle"
NAME = f"{SCHEMA}.{market.name}_{market.version}"
PROGRESS = f"{SCHEMA}.progress"
POLL_S = 0.1
CONNECT_S = 5

_COUNTS = ("event_count_10s", "n_rows", "ts_ns", "known_at_ns")
_FLAGS = " + ".join(f"(quality @> ARRAY['{name}'])::int * {bit}" for name, bit in FLAGS.items())
_ROWS = f"""
    COPY (
        SELECT {", ".join(("instrument_id", "timeframe", *FLOATS, *_COUNTS))}, coverage,
            {_FLAGS} AS flags
        FROM {{source}}
    ) TO STDOUT (FORMAT csv, HEADER)
"""
_TYPES: dict[str, type[pl.DataType]] = {
    "instrument_id": pl.String,
    "timeframe": pl.String,
    **dict.fromkeys((*FLOATS, "coverage"), pl.Float64),
    **dict.fromkeys((*_COUNTS, "flags"), pl.Int64),
}
_ODD = f"""
    SELECT
        count(*) FILTER (WHERE NOT final),
        count(*) FILTER (WHERE (extract(epoch FROM ts) * 1000000)::bigint <> ts_ns / 1000),
        count(*) FILTER (
            WHERE (extract(epoch FROM known_at) * 1000000)::bigint <> known_at_ns / 1000
        ),
        count(*) FILTER (WHERE NOT quality <@ ARRAY{list(FLAGS)}),
        count(*) FILTER (WHERE 'NaN' IN ({", ".join((*FLOATS, "coverage"))}))
    FROM {NAME}
"""
_ODDITIES = (
    "are not final",
    "have another ts than ts_ns",
    "have another known_at than known_at_ns",
    "have flags that are none",
    "have NaN where there must be null",
)


class Table:
    """The table of the set, in a database of its own.

    Args:
        url: of the database.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def make(self, settings: LiveSettings) -> None:
        """Makes the table new, as ``riffle apply`` does."""
        from dataflows.tables import apply_tables
        from sources.database import Database

        with self.connect() as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        apply_tables(Database(settings.database_url()), [market])

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A plain connection."""
        return psycopg.connect(self.url, autocommit=True, connect_timeout=CONNECT_S)

    def rows(self, source: str = NAME) -> pl.DataFrame:
        """All vectors, with nulls as NaN."""
        asked = _ROWS.format(source=source).encode()
        with self.connect() as connection, connection.cursor().copy(asked) as copy:
            text = b"".join(bytes(block) for block in copy)
        found = pl.read_csv(io.BytesIO(text), schema_overrides=_TYPES)
        return found.with_columns(pl.col(name).fill_null(float("nan")) for name in FLOATS)

    def count(self) -> int:
        """How many final vectors there are."""
        asked = f"SELECT count(*) FROM {NAME} WHERE final"
        with self.connect() as connection:
            (count,) = connection.execute(asked).fetchone() or (0,)
            return int(str(count))

    def wait_complete(self, wanted: int, quiet_s: float) -> None:
        """Waits until there are so many vectors, or until no more come."""
        before, changed_s = -1, time.monotonic()
        while (count := self.count()) < wanted:
            if count != before:
                before, changed_s = count, time.monotonic()
            elif time.monotonic() - changed_s > quiet_s:
                return
            time.sleep(POLL_S)

    def problems(
        self, by_formula: pl.DataFrame, in_one_go: pl.DataFrame, partitions: int, relative: float
    ) -> list[str]:
        """Everything that is wrong with the table and its views, in words."""
        found = self.rows()
        said = oracle.compare_keys(found, by_formula)
        said += oracle.compare_values(found, by_formula, oracle.FORMULAS, relative)
        in_bits = oracle.compare_values(found, in_one_go, oracle.IN_BITS, 0)
        said += [f"against an engine in one go, in bits: {each}" for each in in_bits]
        newest = oracle.latest(in_one_go)
        latest = self.rows(f"{NAME}_latest")
        said += [f"latest: {each}" for each in oracle.compare_keys(latest, newest)]
        wrong = oracle.compare_values(latest, newest, oracle.IN_BITS, 0)
        said += [f"latest: {each}" for each in wrong]
        with self.connect() as connection:
            counts = connection.execute(_ODD).fetchone() or ()
            said += [
                f"{count} vectors {what}"
                for count, what in zip(counts, _ODDITIES, strict=True)
                if count
            ]
            of_view = f"SELECT count(*) FROM {SCHEMA}.feature_vectors WHERE feature_set = %s"
            (count,) = connection.execute(of_view, [market.name]).fetchone() or (0,)
            if count != len(found):
                said.append(f"feature_vectors must have {len(found)} vectors, has {count}")
            progress = connection.execute(f"SELECT lane, settled_ns FROM {PROGRESS}").fetchall()
        settled = {lane_of(str(name)): settled_ns for name, settled_ns in progress}
        must = settled_of(in_one_go, partitions)
        if settled != must:
            said.append(f"the progress of the lanes must be {must}, is {settled}")
        return [f"table: {each}" for each in said]


def lane_of(name: str) -> int:
    """The number of a lane, by its name."""
    return int(name.rpartition(".")[2])


def settled_of(vectors: pl.DataFrame, partitions: int) -> dict[int, int]:
    """The time of the last vector of each lane."""
    found: dict[int, int] = {}
    for name, ts_ns in vectors.group_by("instrument_id").agg(pl.col("ts_ns").max()).iter_rows():
        lane = partition_of(name.encode(), partitions)
        found[lane] = max(found.get(lane, 0), ts_ns)
    return found


class TableWatch(threading.Thread):
    """Knows when each lane of the table was last committed to, by the server's clock."""

    def __init__(self, table: Table) -> None:
        super().__init__(name="watch of the table", daemon=True)
        self._table = table
        self._settled_ns: dict[str, object] = {}
        self._latest_ms: dict[int, int] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._poll()
            except psycopg.Error:  # the server is away; the proofs see to that
                self._ended.wait(POLL_S)

    def _poll(self) -> None:
        asked = f"SELECT lane, settled_ns, extract(epoch FROM at) * 1000 FROM {PROGRESS}"
        with self._table.connect() as connection:
            while not self._ended.wait(POLL_S):
                for lane, settled_ns, at_ms in connection.execute(asked).fetchall():
                    name = str(lane)
                    # That a lane is opened is no vector that is there.
                    if settled_ns != self._settled_ns.get(name):
                        self._settled_ns[name] = settled_ns
                        self._latest_ms[lane_of(name)] = int(str(at_ms).partition(".")[0])

    def end(self) -> None:
        """Ends the watch."""
        self._ended.set()
        self.join(30)

    def heard_since(self, since_ms: int, parts: Iterable[int]) -> bool:
        """Whether each lane was committed to after a time."""
        return all(self._latest_ms.get(part, 0) > since_ms for part in parts)
