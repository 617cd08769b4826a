"""Feast's offline half over tables: events see what the naive answer says, to the nanosecond."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dataflows.tables import apply_tables
from feature_repo import definitions
from feature_repo import store as stores
from feature_repo.feast_objects import all_objects
from feature_repo.names import join_keys, view_name
from feature_repo.sets import ALL
from feature_repo.store import apply, open_store, told_database
from feature_repo.training import EVENT_TIME, training_frame
from operators.batch import Labels, Vectors
from operators.feature_set import FeatureSet
from operators.frames import schema, vectors_table
from sinks.table_layout import TableLayout
from sources.database import Database, DatabaseError
from tests.schemas import a_schema, ask, fill
from tests.some_vectors import WEEK_NS, some_vectors
from tests.test_tables_apply import compress

TIMES_NS = (2_900 * WEEK_NS, 2_904 * WEEK_NS)
MARKET = ALL["market"]


@pytest.fixture(params=["postgres", "timescale"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with a_schema(request.getfixturevalue(request.param)) as found:
        yield found


@pytest.fixture
def plain(postgres: str) -> Iterator[Database]:
    with a_schema(postgres) as found:
        yield found


def filled(database: Database, *given: tuple[FeatureSet, Vectors]) -> None:
    apply_tables(database, [feature_set for feature_set, _ in given])
    for feature_set, vectors in given:
        fill(database, TableLayout(feature_set, database.schema), vectors)


def crowded(feature_set: FeatureSet, count: int, seed: int) -> Vectors:
    """Vectors of few entities, of which many differ by nanoseconds and are known late."""
    rng = np.random.default_rng(seed)
    vectors = some_vectors(feature_set, count, seed, TIMES_NS)
    step = (TIMES_NS[1] - TIMES_NS[0]) // 40
    ts_ns = TIMES_NS[0] + rng.integers(0, 40, count) * step + rng.integers(0, 3_000, count)
    late = rng.choice([0, 1, 400, 10**9, step, 3 * step], count)
    features = {  # what pandas, through which Feast answers, can't tell from a null
        name: np.where(np.isinf(values), 1.0, values) for name, values in vectors.features.items()
    }
    vectors = replace(vectors, ts_ns=ts_ns, known_at_ns=ts_ns + late, features=features)
    series = vectors.series.codes if vectors.series else np.zeros(count, np.int32)
    key = np.stack([vectors.keys.codes, series, vectors.ts_ns])
    return vectors.take(np.sort(np.unique(key, axis=1, return_index=True)[1]))


def some_events(feature_set: FeatureSet, vectors: Vectors, count: int, seed: int) -> pl.DataFrame:
    """Events at, before and behind the times of vectors, by nanoseconds; some of nobody's."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(vectors), count)
    moved = rng.choice([-400, -1, 0, 1, 400, 10**9, 10**15], count)
    names = [*vectors.keys.names, "nobody"]
    codes = np.where(rng.random(count) < 0.1, len(names) - 1, vectors.keys.codes[rows])
    columns: dict[str, Any] = {feature_set.entity: [names[code] for code in codes]}
    if vectors.series is not None and feature_set.series:
        columns[feature_set.series] = [
            vectors.series.names[code] for code in vectors.series.codes[rows]
        ]
    columns["id"] = range(count)
    columns[EVENT_TIME] = pl.Series(vectors.ts_ns[rows] + moved).cast(pl.Datetime("ns", "UTC"))
    return pl.DataFrame(columns)


def naive(
    feature_set: FeatureSet, vectors: Vectors, events: pl.DataFrame, *, as_known: bool
) -> list[dict[str, Any] | None]:
    """What each event sees, by looking at all vectors."""
    rows = vectors_table(feature_set, vectors).cast(schema(feature_set)).to_pylist()
    times = zip(vectors.ts_ns.tolist(), vectors.known_at_ns.tolist(), strict=True)
    marked = list(zip(times, rows, strict=True))
    keys = join_keys(feature_set)
    at_ns = events[EVENT_TIME].dt.timestamp("ns").to_list()
    answers: list[dict[str, Any] | None] = []
    for event, when_ns in zip(events.to_dicts(), at_ns, strict=True):
        seen = [
            (ts_ns, known_ns, row)
            for (ts_ns, known_ns), row in marked
            if all(row[key] == event[key] for key in keys)
            and ts_ns <= when_ns
            and (known_ns <= when_ns or not as_known)
        ]
        answers.append(max(seen, key=lambda each: each[:2])[2] if seen else None)
    return answers


def assert_seen(
    feature_set: FeatureSet, found: pl.DataFrame, expected: list[dict[str, Any] | None]
) -> None:
    names = [*feature_set.features, "coverage"]
    for row, answer in zip(found.to_dicts(), expected, strict=True):
        for name in names:
            wanted = answer[name] if answer else None
            value = row[name]
            assert (value is None) == (wanted is None), (name, row, answer)
            if wanted is not None:
                assert value == wanted, (name, row, answer)
        flags = list(row["quality"]) if row["quality"] is not None else []
        assert flags == (answer["quality"] if answer else [])


@pytest.mark.parametrize("as_known", [False, True], ids=["best knowledge", "as known"])
@pytest.mark.parametrize("name", ["market", "bars_from_trades"], ids=["series", "no series"])
def test_events_see_what_the_naive_answer_says(database, tmp_path, name, as_known):
    feature_set = ALL[name]
    vectors = crowded(feature_set, 400, 3)
    filled(database, (feature_set, vectors))
    compress(database)
    store = apply(tmp_path, tmp_path / "repo", [feature_set], database)
    events = some_events(feature_set, vectors, 150, 4)
    found = training_frame(store, feature_set, events, as_known=as_known)
    expected = naive(feature_set, vectors, events, as_known=as_known)
    assert 50 < sum(each is not None for each in expected) < 150
    assert found["id"].to_list() == events["id"].to_list()
    assert_seen(feature_set, found, expected)


def test_a_late_event_sees_what_an_early_one_could_not_know_yet(plain, tmp_path):
    at_ns = TIMES_NS[0]
    one = some_vectors(MARKET, 9, 1, TIMES_NS).take(np.array([0]))
    features = {name: np.array([2.0]) for name in one.features}
    vectors = replace(
        one, ts_ns=np.array([at_ns]), known_at_ns=np.array([at_ns + 10**12]), features=features,
        keys=Labels(np.zeros(1, np.int32), ("A",)), series=Labels(np.zeros(1, np.int32), ("1m",)),
    )  # fmt: skip
    filled(plain, (MARKET, vectors))
    store = apply(tmp_path, tmp_path / "repo", [MARKET], plain)
    times = pl.Series([at_ns + 10**11, at_ns + 10**12]).cast(pl.Datetime("ns", "UTC"))
    events = pl.DataFrame({"instrument_id": "A", "timeframe": "1m", EVENT_TIME: times})
    found = training_frame(store, MARKET, events, as_known=True)
    assert found["ret_1"].to_list() == [None, 2.0]


def test_sets_are_joined_side_by_side(plain, tmp_path):
    bars = ALL["bars_from_trades"]
    given = [(MARKET, crowded(MARKET, 200, 5)), (bars, crowded(bars, 200, 6))]
    filled(plain, *given)
    store = apply(tmp_path, tmp_path / "repo", [MARKET, bars], plain)
    events = some_events(MARKET, given[0][1], 60, 7)
    found = training_frame(store, [MARKET, bars], events)
    for feature_set, vectors in given:
        prefix = f"{view_name(feature_set)}__"
        names = [name for name in found.columns if name.startswith(prefix)]
        own = found.select(pl.col(name).alias(name.removeprefix(prefix)) for name in names)
        assert_seen(feature_set, own, naive(feature_set, vectors, events, as_known=False))


def test_tables_and_gold_dataset_give_the_same(plain, tmp_path):
    vectors = crowded(MARKET, 500, 8)
    filled(plain, (MARKET, vectors))
    folder = tmp_path / "gold" / "feature_set=market" / "version=fs_v1"
    folder.mkdir(parents=True)
    table = vectors_table(MARKET, vectors).cast(schema(MARKET))
    pl.DataFrame(pl.from_arrow(table)).write_parquet(folder / "a.parquet")
    events = some_events(MARKET, vectors, 200, 9)
    frames = [
        training_frame(
            apply(tmp_path / "gold", tmp_path / kind, [MARKET], where),
            MARKET,
            events,
            as_known=True,
        )
        for kind, where in (("table", plain), ("files", None))
    ]
    assert frames[0].equals(frames[1])


def test_an_event_frame_without_rows_and_an_empty_table(plain, tmp_path):
    apply_tables(plain, [MARKET])
    store = apply(tmp_path, tmp_path / "repo", [MARKET], plain)
    vectors = crowded(MARKET, 20, 8)
    events = some_events(MARKET, vectors, 5, 9)
    assert training_frame(store, MARKET, events)["ret_1"].to_list() == [None] * 5


def served(store: Any, vectors: Vectors) -> dict[str, Any]:
    keys = {
        "instrument_id": vectors.keys.names[vectors.keys.codes[0]],
        "timeframe": vectors.series.names[vectors.series.codes[0]] if vectors.series else "",
    }
    answer = store.get_online_features(
        features=store.get_feature_service("market_fs_v1"), entity_rows=[keys]
    ).to_dict()
    return {name: values[0] for name, values in answer.items()}


def test_the_newest_vectors_of_a_range_are_materialized(database, tmp_path):
    vectors = crowded(MARKET, 300, 10)
    one = np.full(len(vectors), 2, np.int32)
    vectors = replace(
        vectors, keys=replace(vectors.keys, codes=one), series=replace(vectors.keys, codes=one)
    ).take(np.unique(vectors.ts_ns, return_index=True)[1])
    filled(database, (MARKET, vectors))
    compress(database)
    store = apply(tmp_path, tmp_path / "repo", [MARKET], database)
    end_ns = int(vectors.ts_ns[150]) // 1_000 * 1_000
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    end = epoch + timedelta(microseconds=end_ns // 1_000)
    store.materialize(epoch + timedelta(microseconds=TIMES_NS[0] // 1_000), end)
    newest = int(np.flatnonzero(vectors.ts_ns <= end_ns)[-1])
    found = served(store, vectors)
    for name, values in vectors.features.items():
        assert found[name] == (None if np.isnan(values[newest]) else values[newest])


def test_all_rows_of_a_range_can_be_had(plain, tmp_path):
    vectors = crowded(MARKET, 200, 10)
    filled(plain, (MARKET, vectors))
    store = apply(tmp_path, tmp_path / "repo", [MARKET], plain)
    view = store.get_feature_view("market_fs_v1")
    job = stores.GoldOfflineStore.pull_all_from_table_or_query(
        store.config, view.batch_source, ["instrument_id"], ["ret_1"], "ts", "known_at"
    )
    assert sorted(job.to_arrow()["ts"].cast("int64").to_pylist()) == sorted(vectors.ts_ns.tolist())


def test_no_secret_is_registered(plain, tmp_path):
    parts = plain.url.replace("postgres@", "postgres:hunter2@")
    secret = Database(parts, plain.schema)
    store = apply(tmp_path, tmp_path / "repo", [MARKET], secret)
    source = store.get_feature_view("market_fs_v1").batch_source
    assert source.get_table_query_string() == f'"{plain.schema}"."market_fs_v1"'
    files = [path for path in (tmp_path / "repo").rglob("*") if path.is_file()]
    assert files
    assert not any(b"hunter2" in path.read_bytes() for path in files)
    assert "hunter2" not in repr(store.config.offline_store)


def test_the_environment_names_the_database(monkeypatch, tmp_path, plain):
    for name in (stores.URL, stores.URL_FILE, stores.NAMESPACE):
        monkeypatch.delenv(name, raising=False)
    assert told_database() is None
    monkeypatch.setenv(stores.URL_FILE, str(tmp_path / "url"))
    with pytest.raises(DatabaseError, match="RIFFLE_DATABASE__URL_FILE: must be a readable file"):
        told_database()
    (tmp_path / "url").write_text(f"{plain.url}\n")
    monkeypatch.setenv(stores.NAMESPACE, plain.schema)
    assert told_database() == plain
    vectors = crowded(MARKET, 100, 10)
    filled(plain, (MARKET, vectors))
    apply(tmp_path, tmp_path / "repo", [MARKET], plain)
    events = some_events(MARKET, vectors, 10, 9)
    found = training_frame(open_store(tmp_path / "repo"), MARKET, events)
    assert_seen(MARKET, found, naive(MARKET, vectors, events, as_known=False))


def test_a_table_without_a_database_is_told(monkeypatch, tmp_path, plain):
    for name in (stores.URL, stores.URL_FILE):
        monkeypatch.delenv(name, raising=False)
    apply(tmp_path, tmp_path / "repo", [MARKET], plain)
    events = some_events(MARKET, crowded(MARKET, 20, 1), 3, 9)
    with pytest.raises(DatabaseError, match="must have a database to read its table from"):
        training_frame(open_store(tmp_path / "repo"), MARKET, events)


def test_a_table_that_lacks_something_is_told(tmp_path, plain):
    store = apply(tmp_path, tmp_path / "repo", [MARKET], plain)
    events = some_events(MARKET, crowded(MARKET, 20, 1), 3, 9)
    with pytest.raises(DatabaseError, match="run `riffle apply`"):
        training_frame(store, MARKET, events)
    apply_tables(plain, [MARKET])
    ask(plain, "DROP VIEW S.market_fs_v1_latest, S.feature_vectors")
    ask(plain, "ALTER TABLE S.market_fs_v1 DROP COLUMN ret_5")
    with pytest.raises(DatabaseError, match=r"lacks \['ret_5'\]; run `riffle apply`"):
        training_frame(store, MARKET, events)


def test_without_a_database_the_past_is_in_the_gold_dataset():
    assert definitions.DATABASE is None
    kinds = {
        type(each.batch_source).__name__
        for name, each in all_objects([MARKET], Path("gold")).items()
        if name.startswith("PushSource")
    }
    assert kinds == {"FileSource"}
