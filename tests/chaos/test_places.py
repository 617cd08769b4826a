"""What proofs of tables and online stores see: nothing where all is right, and every difference."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import psycopg
import pytest

from dataflows.tables import apply_tables
from sinks.table_layout import TableLayout
from sinks.table_partitions import ensure_partitions, weeks_of
from sources.database import Database
from tests.chaos import oracle
from tests.chaos.online import strangers, watched
from tests.chaos.oracle import FLOATS, KEY
from tests.chaos.sets import market
from tests.chaos.tables import NAME, PROGRESS, Table, lane_of, settled_of
from tests.chaos.test_oracle import SHAPE, arrived

RELATIVE = 1e-9
COLUMNS = (
    "instrument_id", "timeframe", "ts", "ts_ns", *FLOATS, "event_count_10s", "quality", "coverage",
    "known_at", "known_at_ns", "n_rows", "final",
)  # fmt: skip


@pytest.fixture(scope="module")
def truth() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Vectors by formula, and by an engine in one go."""
    entries = arrived(7, 30)
    bars = oracle.read_input([entries["bars"]], oracle.Bar, SHAPE.partitions).rows
    news = oracle.read_input([entries["news"]], oracle.News, SHAPE.partitions).rows
    return oracle.expected_vectors(bars, news), oracle.in_one_go(bars, news)


@pytest.fixture
def problems(database, truth) -> Callable[..., list[str]]:
    """Says what is wrong with a table that had all vectors, after some statements."""
    by_formula, in_one_go = truth
    apply_tables(Database(database), [market])
    frame = in_one_go.with_columns(pl.col(name).fill_nan(None) for name in FLOATS)
    rows = frame.select(
        pl.col("ts", "known_at").dt.cast_time_unit("us"), pl.exclude("ts", "known_at")
    )
    with psycopg.connect(database) as connection:
        ensure_partitions(connection, TableLayout(market), weeks_of(in_one_go["ts_ns"].to_numpy()))
        copied = f"COPY {NAME} ({', '.join(COLUMNS)}) FROM STDIN"
        with connection.cursor().copy(copied) as copy:
            for row in rows.select(COLUMNS).iter_rows():
                copy.write_row(row)
        for lane, settled_ns in settled_of(in_one_go, SHAPE.partitions).items():
            connection.execute(
                f"INSERT INTO {PROGRESS} VALUES ('flow', %s, 'job', 'instance', %s, now())",
                [f"flow.{lane:02d}", settled_ns],
            )

    def found(*statements: str) -> list[str]:
        with psycopg.connect(database) as connection:
            for statement in statements:
                connection.execute(statement)
        return Table(database).problems(by_formula, in_one_go, SHAPE.partitions, RELATIVE)

    return found


ONE = f"ctid = (SELECT min(ctid) FROM {NAME} WHERE coverage > 0.2)"


def test_a_table_with_all_vectors_has_nothing_wrong_with_it(problems):
    assert problems() == []


@pytest.mark.parametrize(
    ("change", "symptom"),
    [
        (f"DELETE FROM {NAME} WHERE {ONE}", "1 vectors missing"),
        (f"UPDATE {NAME} SET instrument_id = 'I0001x' WHERE {ONE}", "1 vectors extra"),
        (f"UPDATE {NAME} SET coverage = coverage + 1e-16 WHERE {ONE}", "in bits: 1 values of cov"),
        (f"UPDATE {NAME} SET n_rows = n_rows + 1 WHERE {ONE}", "1 values of n_rows differ"),
        (f"UPDATE {NAME} SET known_at_ns = known_at_ns + 1 WHERE {ONE}", "values of known_at_ns"),
        (f"UPDATE {NAME} SET ret_5 = 'NaN' WHERE {ONE}", "1 vectors have NaN"),
        (f"UPDATE {NAME} SET quality = '{{ODD}}' WHERE {ONE}", "1 vectors have flags that are"),
        (f"UPDATE {NAME} SET final = false WHERE {ONE}", "1 vectors are not final"),
        (f"UPDATE {NAME} SET ts = ts + interval '1 us' WHERE {ONE}", "have another ts than"),
        (f"UPDATE {PROGRESS} SET settled_ns = settled_ns - 1", "the progress of the lanes must be"),
    ],
)
def test_a_table_that_differs_is_seen(problems, change, symptom):
    said = problems(change)
    assert any(symptom in each for each in said), said


def test_a_lane_is_known_by_the_end_of_its_name():
    assert lane_of("flow.set.v1.03") == 3


def test_vectors_that_are_none_are_seen_by_any_bit(truth):
    _, in_one_go = truth
    assert len(strangers(in_one_go, in_one_go)) == 0
    first = in_one_go[:1]
    for name in ("coverage", "volume_5s", "event_count_10s", "flags", "ts_ns"):
        odd = first.with_columns(pl.col(name) + 1)
        assert strangers(odd, in_one_go).select(KEY).rows() == odd.select(KEY).rows()


def test_some_entities_of_each_partition_are_watched():
    found = watched(1_000, 4)
    assert len(found) == 200
    assert len(set(found)) == 200
