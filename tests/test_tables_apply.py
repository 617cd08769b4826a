"""Tables and views made from declarations, and changed with them, on real databases."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql
from rich.console import Console
from typer.testing import CliRunner

from dataflows import tables
from dataflows.cli import app
from dataflows.commands import tables as commands
from dataflows.live_settings import live_settings
from dataflows.table_plan import Applied
from dataflows.tables import apply_tables, policies_of, sql_of, wanted_tables
from feature_repo.sets import ALL
from feature_repo.streams import bars, trades
from operators.batch import Labels
from operators.expr import Expr
from operators.feature_set import FeatureSet
from operators.streams import Field, Stream
from sinks.table_ddl import Policies
from sinks.table_layout import LayoutError, TableLayout
from sinks.table_partitions import weeks_of
from sources.database import Database, DatabaseError
from tests.corpus.text_cases import HARMLESS, NAUGHTY
from tests.schemas import a_schema, ask, fill
from tests.services.names import unique
from tests.some_vectors import NAMES, WEEK_NS, some_vectors

TIMES_NS = (2_900 * WEEK_NS, 2_904 * WEEK_NS)
"""Four weeks of 2025."""
SETS = (ALL["market"], ALL["waveform"], ALL["bars_from_trades"])


@pytest.fixture
def plain(postgres: str) -> Iterator[Database]:
    with a_schema(postgres) as database:
        yield database


@pytest.fixture
def hyper(timescale: str) -> Iterator[Database]:
    with a_schema(timescale) as database:
        yield database


@pytest.fixture(params=["postgres", "timescale"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with a_schema(request.getfixturevalue(request.param)) as found:
        yield found


def probe(**features: Expr) -> FeatureSet:
    """A small set, by default with two features."""
    close = bars.col("close")
    return FeatureSet(
        "probe", "v1", bars, features or {"last": close, "rows": close.rolling_count(5)},
        quality={"RISING": close > close.shift(1)},
    )  # fmt: skip


LAST, ROWS = probe().feature_exprs.values()


def states(applied: list[Applied]) -> dict[str, str]:
    """What became of each, without the schema."""
    return {each.name.partition(".")[2] or "schema": each.state for each in applied}


def state_of(database: Database, feature_set: FeatureSet, **more: Any) -> Applied:
    """What becomes of a set's table."""
    name = f"{database.schema}.{TableLayout(feature_set).name}"
    applied = apply_tables(database, [feature_set], **more)
    return next(each for each in applied if each.name == name)


def test_everything_is_made_once(database):
    first = apply_tables(database, SETS)
    assert all(each.ok and each.state.startswith("made") for each in first)
    assert set(states(first)) == {
        "schema", "ensure_partitions", "drop_partitions", "progress", "market_fs_v1",
        "waveform_v1", "bars_from_trades_v1", "feature_vectors", "extracted_features",
        "quality_log", "market_fs_v1_latest", "waveform_v1_latest", "bars_from_trades_v1_latest",
    }  # fmt: skip
    before = ask(database, VERSIONS, database.schema)
    again = apply_tables(database, SETS)
    assert set(states(again).values()) == {"there"}
    assert ask(database, VERSIONS, database.schema) == before


VERSIONS = """
SELECT c.relname, c.xmin::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s ORDER BY 1
"""


def test_the_columns_of_a_table_are_those_of_its_layout(database):
    layout = TableLayout(ALL["market"], database.schema)
    apply_tables(database, [ALL["market"]])
    found = ask(
        database,
        "SELECT column_name, data_type, udt_name, is_nullable FROM information_schema.columns "
        "WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
        database.schema,
        layout.name,
    )
    assert [row[0] for row in found] == layout.names
    named = {"timestamptz": "timestamp with time zone", "text[]": "ARRAY"}
    for column, (_, kind, _, nullable) in zip(layout.columns, found, strict=True):
        assert kind == named.get(column.sql_type, column.sql_type)
        assert (nullable == "YES") == column.nullable
    (words,) = ask(
        database,
        "SELECT col_description(a.attrelid, a.attnum) FROM pg_attribute a "
        f"WHERE a.attrelid = '{layout.identifier.as_string(None)}'::regclass "
        "AND a.attname = 'sentiment_mean_1h'",
    )
    assert words == (ALL["market"].feature_exprs["sentiment_mean_1h"].formula,)


def test_several_at_once_make_everything_once(plain):
    results: list[Any] = []

    def apply() -> None:
        try:
            results.append(states(apply_tables(plain, SETS)))
        except DatabaseError as error:
            results.append(error)

    threads = [threading.Thread(target=apply) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted({*each.values()} == {"there"} for each in results) == [False] + [True] * 5


def test_views_show_the_vectors_of_all_versions_in_their_kind(database):
    newer = replace(ALL["market"], version="fs_v2")
    sets = [*SETS, newer]
    apply_tables(database, sets)
    for seed, each in enumerate(sets):
        fill(database, TableLayout(each, database.schema), some_vectors(each, 40, seed, TIMES_NS))
    counts = ask(
        database,
        "SELECT feature_set, version, count(*)::int, count(timeframe)::int, min(timeframe) "
        "FROM S.feature_vectors GROUP BY 1, 2 ORDER BY 1, 2",
    )
    assert [row[:4] for row in counts] == [
        ("bars_from_trades", "v1", 40, 40), ("market", "fs_v1", 40, 40), ("market", "fs_v2", 40, 40)
    ]  # fmt: skip
    assert counts[0][4] == "1m"
    (asset,) = ask(database, "SELECT version, count(*)::int FROM S.extracted_features GROUP BY 1")
    assert asset == ("v1", 40)
    ((features, ret_1),) = ask(
        database,
        "SELECT v.features, t.ret_1 FROM S.market_fs_v1 t JOIN S.feature_vectors v "
        "USING (instrument_id, timeframe, ts_ns) "
        "WHERE v.version = 'fs_v1' AND abs(t.ret_1) < 1e300 AND t.vol_20 IS NULL LIMIT 1",
    )
    assert list(features) == sorted(features, key=lambda n: (len(n), n))  # as jsonb has them
    assert set(features) == set(ALL["market"].features)
    assert features["ret_1"] == ret_1
    assert features["vol_20"] is None


def test_the_quality_log_has_a_row_a_raised_flag(database):
    apply_tables(database, SETS)
    for each in SETS:
        fill(database, TableLayout(each, database.schema), some_vectors(each, 30, 3, TIMES_NS))
    logged = ask(
        database,
        "SELECT flag, count(*)::int FROM S.quality_log WHERE feature_set = 'market' GROUP BY 1",
    )
    counted = ask(
        database, "SELECT f, count(*)::int FROM S.market_fs_v1, unnest(quality) f GROUP BY 1"
    )
    assert sorted(logged) == sorted(counted)
    assert {flag for flag, _ in logged} == set(ALL["market"].quality)
    entities = ask(database, "SELECT DISTINCT entity FROM S.quality_log")
    assert {name for (name,) in entities} <= set(NAMES)


@pytest.mark.parametrize("name", ["market", "bars_from_trades"], ids=["series", "no series"])
def test_the_latest_view_has_the_newest_vector_of_each(database, name):
    feature_set = ALL[name]
    layout = TableLayout(feature_set, database.schema)
    apply_tables(database, [feature_set])
    assert ask(database, f"SELECT * FROM S.{layout.latest}") == []
    vectors = some_vectors(feature_set, 300, 11, TIMES_NS)
    # Times that only their nanoseconds tell apart.
    vectors = replace(vectors, ts_ns=vectors.ts_ns // 10**14 * 10**14 + np.arange(300))
    fill(database, layout, vectors)
    keys = layout.key[:-2]
    newest: dict[tuple[str, ...], int] = {}
    labels = [vectors.keys, vectors.series][: len(keys)]
    for row, ts_ns in enumerate(vectors.ts_ns.tolist()):
        key = tuple(each.names[each.codes[row]] for each in labels if each is not None)
        newest[key] = max(ts_ns, newest.get(key, ts_ns))
    found = ask(database, f"SELECT {', '.join(keys)}, ts_ns FROM S.{layout.latest}")
    assert {row[:-1]: row[-1] for row in found} == newest
    assert len(found) == len(newest)


def test_a_set_that_gains_a_feature_gains_a_column(database):
    before, after = probe(), probe(last=LAST, rows=ROWS, twice=LAST * 2.0)
    assert state_of(database, before).ok
    fill(database, TableLayout(before, database.schema), some_vectors(before, 60, 1, TIMES_NS))
    rows = ask(database, "SELECT * FROM S.probe_v1 ORDER BY ts_ns, instrument_id, timeframe")
    compress(database)
    assert state_of(database, after).state == "altered: gains `twice`"
    gained = ask(database, "SELECT * FROM S.probe_v1 ORDER BY ts_ns, instrument_id, timeframe")
    assert gained == [(*row, None) for row in rows]
    late = (TIMES_NS[1], TIMES_NS[1] + WEEK_NS)
    fill(database, TableLayout(after, database.schema), some_vectors(after, 30, 2, late))
    (counts,) = ask(
        database,
        "SELECT count(*)::int, count(features -> 'twice')::int, count(features ->> 'twice')::int "
        "FROM S.feature_vectors",
    )
    assert counts[:2] == (90, 90)
    assert 10 < counts[2] < 30
    (column,) = ask(database, "SELECT count(twice)::int FROM S.probe_v1_latest")
    assert column[0] > 0
    assert state_of(database, after).state == "there"


def test_a_gained_feature_can_be_written_into_old_rows(database):
    before, after = probe(), probe(last=LAST, rows=ROWS, twice=LAST * 2.0)
    state_of(database, before)
    fill(database, TableLayout(before, database.schema), some_vectors(before, 20, 1, TIMES_NS))
    compress(database)
    state_of(database, after)
    ask(database, "UPDATE S.probe_v1 SET twice = 7")
    assert ask(database, "SELECT DISTINCT twice FROM S.probe_v1") == [(7.0,)]


def compress(database: Database) -> None:
    """Compresses all chunks there are, where there are chunks."""
    if ask(database, "SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'"):
        tables_there = ask(
            database,
            "SELECT hypertable_name FROM timescaledb_information.hypertables "
            "WHERE hypertable_schema = %s",
            database.schema,
        )
        for (name,) in tables_there:
            found = ask(
                database,
                f"SELECT compress_chunk(c) FROM show_chunks('\"{database.schema}\".{name}') c",
            )
            assert found


def test_the_column_of_a_vanished_feature_is_kept(database):
    both, one = probe(), probe(rows=ROWS)
    state_of(database, both)
    fill(database, TableLayout(both, database.schema), some_vectors(both, 20, 1, TIMES_NS))
    said = state_of(database, one)
    assert said.ok
    keeps = "keeps `last`, which the set no longer has, null in new rows"
    assert said.state == f"altered: declared anew; {keeps}"
    fill(database, TableLayout(one, database.schema), some_vectors(one, 20, 2, TIMES_NS))
    (counts,) = ask(database, "SELECT count(*)::int, count(last)::int FROM S.probe_v1")
    assert counts[0] == 40
    assert 0 < counts[1] <= 20
    assert state_of(database, one).state == f"there; {keeps}"
    # It may come back, but only as it was.
    wrong = state_of(database, probe(last=LAST * 2.0, rows=ROWS))
    assert not wrong.ok
    assert wrong.state.startswith("feature `last` must be as when the table was made, found it ")
    assert state_of(database, both).state == "altered: declared anew"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (probe(last=LAST * 2.0, rows=ROWS), "feature `last` must be as when the table was made"),
        (probe(last=LAST, rows=LAST), "`rows` must be double precision, found bigint; give the"),
        (replace(probe(), quality={"RISING": LAST > 0.0}), "flag `RISING` must be as when"),
        (replace(probe(), coverage=0.5), "coverage must be as when the table was made"),
        (replace(probe(), ttl="1d"), "instants must be as when the table was made"),
        (replace(probe(), labels={"venue": "X"}), "must have the column `venue`, found none"),
        (
            FeatureSet("probe", "v1", trades, {"last": trades.col("price")}),
            "must have the primary key instrument_id, ts, ts_ns, found instrument_id, timeframe",
        ),
    ],
    ids=["formula", "type", "flag", "coverage", "ttl", "label", "key"],
)
def test_what_would_mix_two_meanings_is_refused(plain, changed, words):
    state_of(plain, probe())
    before = probes(plain)
    applied = apply_tables(plain, [changed, ALL["asset"]])
    (wrong,) = [each for each in applied if not each.ok]
    assert words in wrong.state
    assert "give the set a new version" in wrong.state
    assert states(applied)["asset_v1"] == "made"
    assert probes(plain) == before


def probes(database: Database) -> list[tuple[Any, ...]]:
    """The table of `probe` and what hangs on it, with what tells a change."""
    found = ask(database, VERSIONS, database.schema)
    return [row for row in found if row[0].startswith("probe_v1")]


def test_another_label_is_another_set(plain):
    price = trades.col("price")
    minute = FeatureSet("bars", "v1", trades, {"last": price}, labels={"timeframe": "1m"})
    state_of(plain, minute)
    wrong = state_of(plain, replace(minute, labels={"timeframe": "1h"}))
    assert "labels must be {'timeframe': '1m'}, found {'timeframe': '1h'}" in wrong.state


def test_a_new_version_stands_beside_the_old(database):
    old, new = probe(), replace(probe(last=LAST * 2.0), version="v2")
    state_of(database, old)
    fill(database, TableLayout(old, database.schema), some_vectors(old, 20, 1, TIMES_NS))
    applied = states(apply_tables(database, [new]))
    assert applied["probe_v2"].startswith("made")
    assert applied["feature_vectors"] == "altered"
    assert applied["probe_v1_latest"] == "there"
    fill(database, TableLayout(new, database.schema), some_vectors(new, 10, 2, TIMES_NS))
    counted = "SELECT version, count(*)::int FROM S.feature_vectors GROUP BY 1 ORDER BY 1"
    assert ask(database, counted) == [("v1", 20), ("v2", 10)]


def test_a_version_can_be_retired(database):
    old, new = probe(), replace(probe(), version="v2")
    apply_tables(database, [old, new])
    ask(database, "COMMENT ON TABLE S.probe_v1 IS NULL")
    assert states(apply_tables(database, [new]))["quality_log"] == "altered"
    ask(database, "DROP VIEW S.probe_v1_latest")
    ask(database, "DROP TABLE S.probe_v1")
    assert set(states(apply_tables(database, [new])).values()) == {"there"}


def test_a_view_on_a_view_of_ours_outlives_a_change(database):
    state_of(database, probe())
    ask(database, "CREATE VIEW S.mine AS SELECT * FROM S.feature_vectors")
    ask(database, "CREATE VIEW S.newest AS SELECT * FROM S.probe_v1_latest")
    assert state_of(database, probe(last=LAST, rows=ROWS, twice=LAST * 2.0)).ok
    assert ask(database, "SELECT * FROM S.mine UNION ALL SELECT * FROM S.mine") == []


def test_tables_of_somebody_else_are_left_alone(plain):
    with plain.connect(autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {plain.schema}".encode())
    ask(plain, "CREATE TABLE S.probe_v1 (a int)")
    wrong = state_of(plain, probe())
    assert "must be partitioned or a hypertable, found a plain table" in wrong.state
    ask(plain, "DROP TABLE S.probe_v1")
    ask(plain, "CREATE TABLE S.progress_of_mine (a int)")
    ask(plain, "DROP TABLE S.progress")
    ask(plain, "CREATE TABLE S.progress (a int)")
    applied = apply_tables(plain, [probe()])
    (wrong,) = [each for each in applied if not each.ok]
    assert "must have the columns flow, lane, job, instance, settled_ns, at" in wrong.state


def test_sets_that_would_share_a_table_are_refused(plain):
    one, other = (
        replace(probe(), name="a_b", version="c"),
        replace(probe(), name="a", version="b_c"),
    )
    with pytest.raises(
        LayoutError, match="table `a_b_c`: must be of one set, found a_b c and a b_c"
    ):
        apply_tables(plain, [one, other])
    assert apply_tables(plain, [one])
    assert "must be the table of a b_c, found that of a_b c" in state_of(plain, other).state
    assert apply_tables(plain, [one, one])


def test_nothing_is_changed_when_something_fails(plain):
    state_of(plain, probe())
    ask(plain, "DROP VIEW S.extracted_features")
    ask(plain, "CREATE SEQUENCE S.extracted_features")  # in the way of a view that comes later
    with pytest.raises(DatabaseError, match=r"riffle apply: database .* must do what it is asked"):
        apply_tables(plain, [probe(last=LAST, rows=ROWS, twice=LAST * 2.0), ALL["asset"]])
    found = ask(plain, "SELECT relname FROM pg_class WHERE relname = 'asset_v1' AND "
                "relnamespace = %s::regnamespace", plain.schema)  # fmt: skip
    assert found == []
    ask(plain, "DROP SEQUENCE S.extracted_features")
    assert "twice" in state_of(plain, probe(last=LAST, rows=ROWS, twice=LAST * 2.0)).state


def test_a_table_in_use_is_waited_for_and_then_left(plain, monkeypatch):
    monkeypatch.setattr(tables, "LOCK_WAIT", "100ms")
    state_of(plain, probe())
    with plain.connect() as reader:
        reader.execute(f"SELECT * FROM {plain.schema}.probe_v1".encode())
        with pytest.raises(DatabaseError, match="must be free within 100ms to be changed"):
            state_of(plain, probe(last=LAST, rows=ROWS, twice=LAST * 2.0))
        assert state_of(plain, probe()).state == "there"


def test_a_database_that_does_not_answer_is_told_without_its_password():
    away = Database("postgresql://me:hunter2@127.0.0.1:1/nothing")
    with pytest.raises(DatabaseError, match="riffle apply: ") as caught:
        apply_tables(away, [probe()])
    assert "hunter2" not in str(caught.value)


def test_the_statements_can_be_had_without_being_executed(database):
    applied, statements = sql_of(database, SETS)
    assert all(each.state.startswith("made") for each in applied)
    assert ask(database, VERSIONS, database.schema) == []
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(statements.encode())
    assert set(states(apply_tables(database, SETS)).values()) == {"there"}


def test_policies_are_registered_changed_and_removed(hyper):
    policies = Policies(compress_after=timedelta(days=14), keep=timedelta(days=90))
    made = state_of(hyper, probe(), policies=policies)
    assert made.state == "made; compressed after 14 days; dropped after 90 days"
    assert state_of(hyper, probe(), policies=policies).state == "there"
    changed = Policies(compress_after=timedelta(hours=36), keep=None)
    said = state_of(hyper, probe(), policies=changed).state
    assert said == "altered: compressed after 1 day, 12:00:00, no longer dropped"
    assert jobs_of(hyper) == [("policy_compression", timedelta(hours=36))]
    never = Policies(compress_after=None)
    assert state_of(hyper, probe(), policies=never).state == "altered: no longer compressed"
    assert jobs_of(hyper) == []


def jobs_of(database: Database) -> list[tuple[Any, ...]]:
    return ask(
        database,
        "SELECT proc_name, coalesce(config ->> 'compress_after', config ->> 'drop_after')::interval"
        " FROM timescaledb_information.jobs WHERE hypertable_schema = %s ORDER BY 1",
        database.schema,
    )


def test_the_policies_of_timescaledb_do_what_they_say(hyper):
    state_of(hyper, probe(), policies=Policies(timedelta(days=30), timedelta(days=3650)))
    recent, ancient = (2_890 * WEEK_NS, 2_892 * WEEK_NS), (800 * WEEK_NS, 802 * WEEK_NS)
    for seed, times_ns in enumerate((recent, ancient)):
        vectors = some_vectors(probe(), 40, seed, times_ns)
        fill(hyper, TableLayout(probe(), hyper.schema), vectors)
    before = ask(hyper, "SELECT * FROM S.probe_v1 WHERE ts > '2020-01-01' ORDER BY ts_ns, 1, 2")
    run_jobs(hyper)
    chunks = ask(
        hyper,
        "SELECT is_compressed, range_end - range_start FROM timescaledb_information.chunks "
        "WHERE hypertable_schema = %s AND hypertable_name = 'probe_v1'",
        hyper.schema,
    )
    assert chunks == [(True, timedelta(days=7))] * len(chunks)
    assert len(chunks) in {2, 3}
    assert ask(hyper, "SELECT * FROM S.probe_v1 ORDER BY ts_ns, 1, 2") == before


def run_jobs(database: Database) -> None:
    """Does what the background jobs would, which do not run there."""
    for (job,) in ask(
        database,
        "SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_schema = %s",
        database.schema,
    ):
        ask(database, f"CALL run_job({int(job)})")


UPSERT = """
INSERT INTO S.probe_v1 AS t (instrument_id, timeframe, ts, ts_ns, last, rows, quality, coverage,
    known_at, known_at_ns, n_rows, final)
SELECT instrument_id, timeframe, ts, ts_ns, %s, rows, quality, coverage, known_at,
    known_at_ns + %s, n_rows, final FROM S.probe_v1
ON CONFLICT (instrument_id, timeframe, ts, ts_ns) DO UPDATE SET last = excluded.last,
    known_at_ns = excluded.known_at_ns
WHERE (excluded.known_at_ns, excluded.n_rows, excluded.final) >= (t.known_at_ns, t.n_rows, t.final)
"""


def test_newer_rows_win_in_compressed_chunks_too(database):
    state_of(database, probe())
    fill(database, TableLayout(probe(), database.schema), some_vectors(probe(), 50, 5, TIMES_NS))
    compress(database)
    ask(database, UPSERT, 1.5, 1)
    assert ask(database, "SELECT DISTINCT last FROM S.probe_v1") == [(1.5,)]
    compress(database)
    ask(database, UPSERT, 2.5, -1)
    assert ask(database, "SELECT DISTINCT last, count(*)::int FROM S.probe_v1 GROUP BY 1") == [
        (1.5, 50)
    ]


def test_old_partitions_are_dropped_where_vectors_are_kept_for_a_time(plain):
    state_of(plain, probe())
    for seed, times_ns in enumerate((TIMES_NS, (800 * WEEK_NS, 803 * WEEK_NS))):
        fill(plain, TableLayout(probe(), plain.schema), some_vectors(probe(), 40, seed, times_ns))
    state_of(plain, probe(), policies=Policies(keep=timedelta(days=3650)))
    (row,) = ask(plain, "SELECT count(*)::int, min(ts_ns) >= %s FROM S.probe_v1", TIMES_NS[0])
    assert row == (40, True)
    # A row of a dropped week may still come.
    fill(plain, TableLayout(probe(), plain.schema), some_vectors(probe(), 5, 9, (0, 9)))
    assert ask(plain, "SELECT count(*)::int FROM S.probe_v1") == [(45,)]


def test_queries_of_a_view_read_only_the_partitions_they_need(plain):
    apply_tables(plain, SETS)
    market = ALL["market"]
    vectors = some_vectors(market, 40, 1, TIMES_NS)
    fill(plain, TableLayout(market, plain.schema), vectors)
    assert len(weeks_of(vectors.ts_ns)) == 4
    lines = ask(
        plain,
        "EXPLAIN SELECT * FROM S.feature_vectors "
        "WHERE ts >= '2025-08-08' AND ts < '2025-08-09' AND version = 'fs_v1'",
    )
    read = {line.split(" on ")[1].split()[0] for (line,) in lines if " on market_fs_v1_p" in line}
    assert read == {"market_fs_v1_p20250807"}
    assert not any("waveform" in line or "bars_from" in line for (line,) in lines)


HARD_NAMES = {
    "select": "a reserved word",
    "group": "another",
    "é": "not ASCII",
    "名前": "not Latin",
    "percent": "plain",
    "x" * 63: "as long as PostgreSQL allows",
}


def test_names_of_columns_are_names_whatever_they_are(database):
    stream = Stream(
        'asset"; DROP SCHEMA public; --',
        entity="key\"'; --",
        series="%s\\n{}",
        fields=(Field("v"),),
    )
    value = stream.col("v")
    odd = FeatureSet(
        "odd", "v1", stream, {name: value * float(i + 1) for i, name in enumerate(HARD_NAMES)},
        quality={"'); DROP TABLE x; --": value > 0.0}, labels={"la\"bel'": "'; --"},
    )  # fmt: skip
    apply_tables(database, [odd])
    layout = TableLayout(odd, database.schema)
    vectors = some_vectors(odd, 30, 1, TIMES_NS)
    fill(database, layout, vectors)
    compress(database)
    rows = ask(database, "SELECT * FROM S.odd_v1")
    assert len(rows) == 30
    assert {row[0] for row in rows} == set(NAMES)
    assert {row[2] for row in rows} == {"'; --"}
    assert len(ask(database, "SELECT * FROM S.odd_v1_latest")) >= len(NAMES)
    flags = ask(database, "SELECT DISTINCT flag, entity FROM S.quality_log")
    assert {flag for flag, _ in flags} == {"'); DROP TABLE x; --"}
    assert set(states(apply_tables(database, [odd])).values()) == {"there"}
    grown = replace(odd, features={**odd.features, "table": value})
    assert state_of(database, grown).state == "altered: gains `table`"


def test_a_schema_may_be_called_anything(postgres):
    odd = Database(postgres, unique("a'b\"; DROP SCHEMA public; -- %s {} $$"))
    try:
        assert all(each.ok for each in apply_tables(odd, [probe()]))
        fill(odd, TableLayout(probe(), odd.schema), some_vectors(probe(), 20, 1, TIMES_NS))
        assert {each.state for each in apply_tables(odd, [probe()])} == {"there"}
    finally:
        with odd.connect(autocommit=True) as connection:
            name = sql.Identifier(odd.schema)
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))


def storable(name: str) -> bool:
    """Whether PostgreSQL can store it; the sink refuses the others in words."""
    return "\0" not in name and not any("\ud800" <= c <= "\udfff" for c in name)


def test_names_of_entities_are_plain_values(database):
    hard = {*HARMLESS.values(), *NAUGHTY.values(), *NAMES}
    names = tuple(sorted(name for name in hard if storable(name)))
    market = ALL["market"]
    apply_tables(database, [market])
    vectors = some_vectors(market, len(names), 1, TIMES_NS)
    labels = Labels(np.arange(len(names), dtype=np.int32), names)
    vectors = replace(vectors, keys=labels, series=labels)
    fill(database, TableLayout(market, database.schema), vectors)
    found = ask(database, "SELECT instrument_id, timeframe FROM S.market_fs_v1_latest")
    assert sorted(found) == sorted((name, name) for name in names)
    assert len(ask(database, "SELECT 1 FROM S.feature_vectors")) == len(names)


@pytest.fixture
def config(plain: Database, tmp_path: Path) -> Path:
    """The settings of a flow with a table."""
    path = tmp_path / "flow.toml"
    path.write_text(
        'kafka.bootstrap = "127.0.0.1:1"\n'
        f'database = {{ url = "{plain.url}", namespace = "{plain.schema}", keep = "3650d" }}\n'
        'sets.market.sinks = ["kafka", "table"]\nsets.asset = {}\n'
    )
    return path


def test_the_tables_of_a_flow_are_those_of_its_sets_with_that_sink(config):
    settings = live_settings(config)
    assert wanted_tables(settings) == [ALL["market"]]
    assert policies_of(settings) == Policies(timedelta(days=30), timedelta(days=3650))
    settings = live_settings(kafka={"bootstrap": "x"}, sets={"market": {}})
    assert wanted_tables(settings) == []
    assert commands.apply(Console(file=StringIO()), settings)


def test_the_command_shows_what_became_of_each(config, plain):
    def apply() -> tuple[bool, str]:
        told = StringIO()
        fits = commands.apply(Console(file=told, width=200), live_settings(config))
        return fits, told.getvalue()

    fits, told = apply()
    assert fits
    assert re.search(rf"{plain.schema}.market_fs_v1 .* vectors of market fs_v1 .* made", told)
    fits, told = apply()
    assert fits
    assert "made" not in told.replace("when the table was made", "")
    ask(plain, "DROP VIEW S.market_fs_v1_latest, S.feature_vectors")
    ask(plain, "ALTER TABLE S.market_fs_v1 DROP COLUMN coverage CASCADE")
    fits, told = apply()
    assert not fits
    assert "must have the column `coverage`" in told


def test_the_command_line_prints_the_statements(config, plain):
    runner = CliRunner()
    told = runner.invoke(app, ["apply", str(config), "--sql"])
    assert told.exit_code == 0, told.output
    assert ask(plain, VERSIONS, plain.schema) == []
    with psycopg.connect(plain.url, autocommit=True) as connection:
        connection.execute(told.output.encode())
    assert {each.state for each in apply_tables(plain, [ALL["market"]])} == {"there"}
