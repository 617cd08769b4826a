"""Feast, embedded: real registry, real SQLite, real Parquet folders."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import bytewax.operators as op
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSource, run_main
from feast import FeatureStore
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.types import Array, Bool, Float64, Int64, String, from_feast_to_pyarrow_type

from feature_repo.feast_objects import (
    all_objects,
    dataset_folder,
    feature_refs,
)
from feature_repo.names import join_keys, view_name
from feature_repo.sets import SERVED
from feature_repo.store import GoldOfflineStore, apply, open_store
from feature_repo.training import EVENT_TIME, Join, point_in_time, training_frame
from operators.batch import Labels, Vectors
from operators.feature_set import FeatureSet
from operators.frames import schema
from operators.streams import Field, Stream
from sinks.feast import FeastOnline, FeastSink

ROOT = Path(__file__).parents[1]
SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND

BARS = Stream("bars", "instrument_id", (Field("close", unit="price"),), series="timeframe")
CLOSE = BARS.col("close")
PROBE = FeatureSet(
    "probe",
    "v1",
    BARS,
    {"ret": CLOSE.pct_change(1), "n": CLOSE.rolling_count(3), "up": CLOSE.diff() > 0},
    quality={"GAP": BARS.elapsed() > 60, "STALE": BARS.elapsed() > 3600},
    description="what the tests declare",
)
LEVELS = Stream("levels", "asset_id", (Field("value", unit="volt"),))
ASSET = FeatureSet("asset", "v2", LEVELS, {"mean": LEVELS.col("value").rolling_mean(3)})


def row(key=("A", "1m"), ts=T0, known_at=None, n_rows=1, quality=(), coverage=1.0, **features):
    return {
        "key": key,
        "ts": ts,
        "known_at": ts if known_at is None else known_at,
        "n_rows": n_rows,
        "quality": list(quality),
        "coverage": coverage,
        **features,
    }


def table(rows, feature_set=PROBE):
    """Rows as the gold dataset has them."""
    names = {"feature_set": feature_set.name, "version": feature_set.version, "final": True}
    keys = join_keys(feature_set)
    return pa.Table.from_pylist(
        [{**each, **names, **dict(zip(keys, each["key"], strict=True))} for each in rows],
        schema(feature_set),
    )


def write_gold(gold, rows, feature_set=PROBE, part="part-0.parquet"):
    days = defaultdict(list)
    for each in rows:
        day = datetime.fromtimestamp(each["ts"] // SECOND, UTC).strftime("%Y-%m-%d")
        days[day].append(each)
    for day, those in days.items():
        folder = dataset_folder(feature_set, gold) / f"date={day}"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(those, feature_set), folder / part)


def events(rows, feature_set=PROBE):
    columns = {name: [key[i] for key, _ in rows] for i, name in enumerate(join_keys(feature_set))}
    times = pl.Series([ts for _, ts in rows], dtype=pl.Int64).cast(pl.Datetime("ns", "UTC"))
    return pl.DataFrame({**columns, EVENT_TIME: times})


def served(store, key=("A", "1m"), feature_set=PROBE):
    answer = store.get_online_features(
        features=store.get_feature_service(view_name(feature_set)),
        entity_rows=[dict(zip(join_keys(feature_set), key, strict=True))],
    ).to_dict()
    return {
        name: values[0] for name, values in answer.items() if name not in join_keys(feature_set)
    }


@pytest.fixture
def gold(tmp_path):
    return tmp_path / "gold"


@pytest.fixture
def store(tmp_path, gold):
    return apply(gold, tmp_path / "repo", [PROBE, ASSET])


# -- objects ------------------------------------------------------------------------------------


def test_apply_needs_no_data_and_derives_all_from_the_set(store, gold, tmp_path):
    view = store.get_feature_view("probe_v1")
    assert {field.name: field.dtype for field in view.features} == {
        "ret": Float64,
        "n": Int64,
        "up": Bool,
        "quality": Array(String),
        "coverage": Float64,
    }
    ret = next(field for field in view.features if field.name == "ret")
    assert ret.description == PROBE.feature_exprs["ret"].formula
    assert (ret.tags["unit"], ret.tags["version"]) == ("1", "v1")
    assert [column.name for column in view.entity_columns] == ["instrument_id", "timeframe"]
    assert view.description == "what the tests declare"
    assert view.tags["fingerprint"] == PROBE.fingerprint
    assert view.batch_source.path == str(gold / "feature_set=probe" / "version=v1")
    assert view.batch_source.timestamp_field == "ts"
    assert view.batch_source.created_timestamp_column == "known_at"
    assert view.stream_source.name == "probe_v1_push"
    assert (tmp_path / "repo" / "data" / "registry.db").exists()
    assert (tmp_path / "repo" / "data" / "online.db").exists()


@pytest.mark.parametrize("feature_set", SERVED, ids=view_name)
def test_a_view_has_the_columns_and_types_of_the_gold_dataset(feature_set):
    objects = all_objects([feature_set], Path("gold"))
    view = objects[f"FeatureView_{view_name(feature_set)}"]
    columns = schema(feature_set)
    assert {field.name for field in view.schema} < set(columns.names)
    for field in view.schema:
        assert from_feast_to_pyarrow_type(field.dtype) == columns.field(field.name).type


def test_versions_of_a_set_are_served_side_by_side(tmp_path, gold):
    newer = FeatureSet("probe", "v2", BARS, {"ret_2": CLOSE.pct_change(2)})
    store = apply(gold, tmp_path, [PROBE, newer])
    FeastOnline(store, PROBE).write(table([row(ret=1.0)]))
    FeastOnline(store, newer).write(table([row(ret_2=2.0)], newer))
    assert served(store)["ret"] == 1.0
    assert served(store, feature_set=newer)["ret_2"] == 2.0
    assert {entity.name for entity in store.list_entities()} == {"instrument_id", "timeframe"}


def test_a_version_that_makes_no_table_name_is_refused(tmp_path, gold):
    odd = FeatureSet("probe", "1.2", BARS, {"ret": CLOSE.pct_change(1)})
    with pytest.raises(ValueError, match=r"letters, digits and `_`, got 'probe_1\.2'"):
        apply(gold, tmp_path, [odd])


def test_the_command_feast_apply_registers_the_served_sets(tmp_path):
    repo = tmp_path / "feature_repo"
    repo.mkdir()
    for name in ("definitions.py", "feature_store.yaml", ".feastignore"):
        shutil.copy(ROOT / "feature_repo" / name, repo)
    run = subprocess.run(
        [Path(sys.executable).with_name("feast"), "-c", repo, "apply"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RIFFLE_GOLD": "elsewhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = {view.name: view for view in open_store(repo).list_feature_views()}
    assert set(found) == {view_name(each) for each in SERVED}
    for each in SERVED:
        path = found[view_name(each)].batch_source.path
        assert path == str(dataset_folder(each, tmp_path / "elsewhere"))


# -- online -------------------------------------------------------------------------------------


def test_what_was_written_is_served_with_its_types(store):
    online = FeastOnline(store, PROBE)
    assert (
        online.write(table([row(ret=0.1 + 0.2, n=2**53, up=True, quality=["GAP", "STALE"])])) == 1
    )
    assert served(store) == {
        "ret": 0.1 + 0.2,
        "n": 2**53,
        "up": True,
        "quality": ["GAP", "STALE"],
        "coverage": 1.0,
    }
    assert served(store, ("B", "1m"))["ret"] is None


def test_series_of_an_entity_are_served_apart_and_a_set_without_series_by_its_key(store):
    online = FeastOnline(store, PROBE)
    online.write(table([row(("A", "1m"), ret=1.0), row(("A", "1h"), ret=2.0)]))
    FeastOnline(store, ASSET).write(table([row(("A",), mean=3.0)], ASSET))
    assert served(store, ("A", "1m"))["ret"] == 1.0
    assert served(store, ("A", "1h"))["ret"] == 2.0
    assert served(store, ("A",), ASSET) == {"mean": 3.0, "quality": [], "coverage": 1.0}


def test_a_null_is_served_as_none_and_not_as_the_value_before(store):
    online = FeastOnline(store, PROBE)
    online.write(table([row(ret=1.0, n=3, up=True, quality=["GAP"])]))
    online.write(table([row(ts=T0 + 1, coverage=0.0)]))
    assert served(store) == {"ret": None, "n": None, "up": None, "quality": [], "coverage": 0.0}


@pytest.mark.parametrize(
    "later", [{"known_at": T0 + 5}, {"n_rows": 2}], ids=["known later", "more rows"]
)
def test_a_correction_at_the_same_time_is_served_and_what_it_corrects_no_more(store, later):
    first, second = row(ret=1.0), row(ret=2.0, **later)
    FeastOnline(store, PROBE).write(table([first]))
    FeastOnline(store, PROBE).write(table([second]))
    assert served(store)["ret"] == 2.0
    FeastOnline(store, PROBE).write(table([first]))
    assert served(store)["ret"] == 2.0


def test_older_never_replaces_newer_however_writes_are_cut_shuffled_and_resumed(tmp_path, gold):
    rng = random.Random(7)
    for trial in range(8):
        store = apply(gold, tmp_path / str(trial), [PROBE])
        rows = [
            row((key, "1m"), T0 + ts, T0 + known, n, ret=float(number))
            for number, (key, ts, known, n) in enumerate(
                (
                    rng.choice("ABC"),
                    rng.choice([0, 1, 999, SECOND]),
                    rng.randrange(3),
                    rng.randrange(3),
                )
                for _ in range(40)
            )
        ]
        # Equal marks mean equal vectors.
        by_mark = {(r["key"], r["ts"], r["known_at"], r["n_rows"]): r for r in rows}
        rows = list(by_mark.values())
        rng.shuffle(rows)
        online = FeastOnline(store, PROBE)
        newest: dict[tuple[str, str], tuple[object, float]] = {}
        while rows:
            some = [rows.pop() for _ in range(min(len(rows), rng.randrange(1, 6)))]
            online.write(table(some))
            if rng.random() < 0.3:
                online = FeastOnline(open_store(tmp_path / str(trial)), PROBE)
            for each in some:
                mark = (each["ts"], each["known_at"], each["n_rows"])
                newest[each["key"]] = max(newest.get(each["key"], (mark, -1)), (mark, each["ret"]))
            assert {key: served(store, key)["ret"] for key in newest} == {
                key: value for key, (_, value) in newest.items()
            }


def test_vectors_are_taken_as_the_engine_gives_them_too(store):
    vectors = Vectors(
        keys=Labels(np.array([1, 0], np.int32), ("B", "A")),
        series=Labels(np.array([0, 0], np.int32), ("1m",)),
        ts_ns=np.array([T0, T0]),
        features={
            "ret": np.array([0.5, np.nan]),
            "n": np.array([3.0, 1.0]),
            "up": np.array([1.0, np.nan]),
        },
        quality=np.array([3, 0]),
        coverage=np.array([1.0, 0.5]),
        known_at_ns=np.array([T0, T0]),
        n_rows=np.array([3, 1]),
    )
    older = table([row(ts=T0 - 1, ret=9.0)])
    assert FeastOnline(store, PROBE).write(older, vectors) == 2
    expected = {"ret": 0.5, "n": 3, "up": True, "quality": ["GAP", "STALE"], "coverage": 1.0}
    assert served(store) == expected
    expected = {"ret": None, "n": 1, "up": None, "quality": [], "coverage": 0.5}
    assert served(store, ("B", "1m")) == expected


def test_an_hour_that_the_time_zone_of_the_machine_skips_is_an_hour_like_others(
    store, tmp_path, monkeypatch
):
    # Feast reads times from SQLite as local ones, and this one did not exist in New York.
    at = int(datetime(2024, 3, 10, 2, 30, tzinfo=UTC).timestamp()) * SECOND
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        for late, written in ((0, 1), (-1, 0), (60 * SECOND, 1)):
            online = FeastOnline(open_store(tmp_path / "repo"), PROBE)
            assert online.write(table([row(ts=at + late, ret=float(late))])) == written
    finally:
        monkeypatch.undo()
        time.tzset()
    assert served(store)["ret"] == 60.0 * SECOND


def test_every_vector_is_written_or_passed_over(store):
    online = FeastOnline(store, PROBE)
    assert online.write(table([row(ts=T0 + step, ret=float(step)) for step in range(5)])) == 1
    assert online.write(table([row(ts=T0, ret=9.0)])) == 0
    assert online.write(table([])) == online.write() == 0
    assert (online.written, online.passed_over) == (1, 5)


def test_more_entities_than_fit_a_batch_are_all_served(store):
    rows = [row((f"K{number}", "1m"), ret=float(number)) for number in range(25)]
    assert FeastOnline(store, PROBE).write(table(rows)) == 25
    assert [served(store, (f"K{number}", "1m"))["ret"] for number in (0, 10, 24)] == [
        0.0,
        10.0,
        24.0,
    ]


def pushed(rows):
    return table(rows).drop_columns(["feature_set", "version", "n_rows", "final"]).to_pandas()


def test_the_fast_path_serves_what_push_serves(tmp_path, gold):
    slow, fast = apply(gold, tmp_path / "a", [PROBE]), apply(gold, tmp_path / "b", [PROBE])
    rows = [
        row(("A", "1m"), ret=1.5, n=3, up=False, quality=["GAP"]),
        row(("B", "1h"), n=1, up=True),
    ]
    slow.push("probe_v1_push", pushed(rows))
    FeastOnline(fast, PROBE).write(table(rows))
    for key in (("A", "1m"), ("B", "1h")):
        expected = served(slow, key)
        # Feast's path through pandas makes null of an empty list.
        assert served(fast, key) == {**expected, "quality": expected["quality"] or []}


def test_a_value_that_push_wrote_is_not_replaced_by_an_older_one(store):
    store.push("probe_v1_push", pushed([row(ts=T0, ret=1.0, n=1, up=True)]))
    online = FeastOnline(store, PROBE)
    assert online.write(table([row(ts=T0 - SECOND, ret=0.0)])) == 0
    assert online.write(table([row(ts=T0 + SECOND, ret=2.0)])) == 1
    assert served(store)["ret"] == 2.0


def test_a_set_that_is_not_registered_is_refused(tmp_path, gold):
    store = apply(gold, tmp_path, [ASSET])
    with pytest.raises(
        LookupError, match=r"view `probe_v1` must be registered in project `riffle`"
    ):
        FeastOnline(store, PROBE)


def test_vectors_that_lack_a_column_are_refused(store):
    with pytest.raises(
        ValueError, match=r"sink of `probe_v1`: vectors must have .*, lack \['n_rows'\]"
    ):
        FeastOnline(store, PROBE).write(table([row()]).drop_columns(["n_rows"]))


# -- the sink of a dataflow -----------------------------------------------------------------------


def sink(tmp_path, **options):
    return FeastSink(lambda: open_store(tmp_path / "repo"), PROBE, **options)


def test_a_snapshot_has_flushed_is_plain_and_counts_on(store, tmp_path):
    part = sink(tmp_path, wait_s=3600).build_part("step", "00", None)
    part.write_batch([table([row(ret=1.0)]), table([row(ts=T0 + 1, ret=2.0)])])
    part.write_batch([table([row(ts=T0 - 1, ret=0.0)])])
    assert served(store)["ret"] is None
    state = part.snapshot()
    assert served(store)["ret"] == 2.0
    assert state == {"written": 1, "passed_over": 2}
    resumed = sink(tmp_path, wait_s=3600).build_part("step", "00", state)
    resumed.write_batch([table([row(ret=1.0)])])
    assert resumed.snapshot() == {"written": 1, "passed_over": 3}
    assert served(store)["ret"] == 2.0


def test_vectors_wait_for_company_only_so_long_and_only_so_many(store, tmp_path):
    at_once = sink(tmp_path, wait_s=0.0).build_part("step", "00", None)
    at_once.write_batch([table([row(ret=1.0)])])
    assert served(store)["ret"] == 1.0
    by_two = sink(tmp_path, wait_s=3600, batch=2).build_part("step", "00", None)
    by_two.write_batch([table([row(("B", "1m"), ret=1.0)])])
    assert served(store, ("B", "1m"))["ret"] is None
    by_two.write_batch([table([row(("C", "1m"), ret=2.0)])])
    assert served(store, ("B", "1m"))["ret"] == 1.0
    by_two.write_batch([table([row(("D", "1m"), ret=3.0)])])
    by_two.close()
    assert served(store, ("D", "1m"))["ret"] == 3.0


def test_a_dataflow_feeds_the_store(store, tmp_path):
    items = [
        ("group-1", table([row(ret=1.0)])),
        ("group-2", table([row(("B", "1m"), ret=5.0)])),
        ("group-1", table([row(ts=T0 + 1, ret=2.0)])),
    ]
    flow = Dataflow("feeds")
    op.output(
        "online", op.input("vectors", flow, TestingSource(items)), sink(tmp_path, partitions=2)
    )
    run_main(flow)
    assert served(store)["ret"] == 2.0
    assert served(store, ("B", "1m"))["ret"] == 5.0


# -- history ------------------------------------------------------------------------------------


def history(rng, n=300, step=1):
    return [
        row(
            (rng.choice("AB"), rng.choice(["1m", "1h"])),
            ts := T0 + rng.randrange(60) * step,
            ts + rng.randrange(20) * step,
            rng.randrange(3),
            ret=None if rng.random() < 0.1 else float(number),
            n=number,
            up=number % 2 == 0,
            quality=["GAP"] if number % 3 == 0 else [],
        )
        for number in range(n)
    ]


def unique(rows):
    """No two of the same mark, between which no order is declared."""
    marks = {(r["key"], r["ts"], r["known_at"], r["n_rows"]): r for r in rows}
    return list(marks.values())


def naive(rows, asked, *, as_known):
    """For each event a look at every row."""
    found = []
    for key, at in asked:
        seen = [
            r for r in rows
            if r["key"] == key and r["ts"] <= at and (r["known_at"] <= at or not as_known)
        ]  # fmt: skip
        newest = max(seen, key=lambda r: (r["ts"], r["known_at"], r["n_rows"]), default=None)
        names = ["ret", "n", "up", "quality", "coverage"]
        found.append([newest[name] if newest else None for name in names])
    return found


@pytest.mark.parametrize("as_known", [False, True])
@pytest.mark.parametrize("step", [1, SECOND, 3600 * SECOND], ids=["ns", "s", "h"])
def test_an_event_gets_the_newest_vector_it_can_see(store, gold, step, as_known):
    rng = random.Random(step)
    rows = unique(history(rng, step=step))
    rng.shuffle(rows)
    write_gold(gold, rows[:200], part="part-0.parquet")
    write_gold(gold, rows[200:], part="part-1.parquet")
    asked = [
        ((rng.choice("ABC"), rng.choice(["1m", "1h"])), T0 + rng.randrange(-5, 90) * step)
        for _ in range(200)
    ]
    frame = training_frame(store, PROBE, events(asked), as_known=as_known)
    answer = frame.select("ret", "n", "up", "quality", "coverage").rows()
    assert [list(each) for each in answer] == naive(rows, asked, as_known=as_known)
    assert frame.schema["n"] == pl.Int64
    assert frame.schema["up"] == pl.Boolean


def test_the_join_is_polars_join_asof_on_the_last_correction(store, gold):
    rng = random.Random(3)
    rows = unique(history(rng, step=SECOND))
    write_gold(gold, rows)
    asked = events([(("A", "1m"), T0 + second * SECOND) for second in range(-2, 70)])
    last = (
        pl.DataFrame(table(rows))
        .sort("ts", "known_at", "n_rows")
        .unique([*join_keys(PROBE), "ts"], keep="last", maintain_order=True)
        .select(*join_keys(PROBE), "ts", "ret", "n", "up", "quality", "coverage")
    )
    expected = asked.join_asof(
        last, left_on=EVENT_TIME, right_on="ts", by=join_keys(PROBE), check_sortedness=False
    ).drop("ts")
    assert training_frame(store, PROBE, asked).equals(expected)


def test_the_join_is_that_of_feasts_own_duckdb_store(store, gold, tmp_path):
    rng = random.Random(4)
    # DuckDB knows neither ties by n_rows nor, surely, nanoseconds.
    rows = list({(r["key"], r["ts"], r["known_at"]): r for r in history(rng, step=1000)}.values())
    write_gold(gold, rows)
    settings = (ROOT / "feature_repo" / "feature_store.yaml").read_text()
    theirs_yaml = tmp_path / "theirs.yaml"
    theirs_yaml.write_text(settings.replace("feature_repo.store.GoldOfflineStore", "duckdb"))
    theirs = FeatureStore(repo_path=str(tmp_path / "repo"), fs_yaml_file=theirs_yaml)
    asked = events([((rng.choice("ABC"), "1m"), T0 + rng.randrange(80) * 1000) for _ in range(50)])
    for as_known in (False, True):
        ours = training_frame(store, PROBE, asked, as_known=as_known)
        assert ours.equals(training_frame(theirs, PROBE, asked, as_known=as_known))


def test_a_vector_at_the_time_of_the_event_counts_and_one_a_nanosecond_later_does_not(store, gold):
    write_gold(gold, [row(ts=T0, ret=1.0), row(ts=T0 + 300, ret=2.0)])
    asked = [(("A", "1m"), T0 + late) for late in (-1, 0, 299, 300)]
    assert training_frame(store, PROBE, events(asked))["ret"].to_list() == [None, 1.0, 1.0, 2.0]


def test_rows_order_and_other_columns_of_the_events_stay(store, gold):
    write_gold(gold, [row(ts=T0, ret=1.0), row(ts=T0 + SECOND, ret=2.0)])
    asked = events([(("A", "1m"), T0 + SECOND), (("A", "1m"), T0), (("A", "1m"), T0 + SECOND)])
    asked = asked.with_columns(label=pl.Series([1, None, 3]), ts=pl.Series(["x", "y", "z"]))
    frame = training_frame(store, PROBE, asked)
    assert frame.select(asked.columns).equals(asked)
    assert frame["ret"].to_list() == [2.0, 1.0, 2.0]
    assert training_frame(store, PROBE, asked.to_pandas())["ret"].to_list() == [2.0, 1.0, 2.0]


def test_several_sets_are_joined_under_their_views_names(store, gold):
    write_gold(gold, [row(ret=1.0)])
    write_gold(gold, [row(("A",), mean=7.0)], ASSET)
    asked = events([(("A", "1m"), T0)]).with_columns(asset_id=pl.col("instrument_id"))
    frame = training_frame(store, [PROBE, ASSET], asked)
    assert frame.select("probe_v1__ret", "asset_v2__mean", "asset_v2__coverage").rows() == [
        (1.0, 7.0, 1.0)
    ]


def test_feasts_own_call_answers_by_service_and_keeps_the_answer(store, gold, tmp_path):
    write_gold(gold, [row(ret=1.0)])
    job = store.get_historical_features(
        entity_df=events([(("A", "1m"), T0)]).to_pandas(),
        features=store.get_feature_service("probe_v1"),
    )
    assert job.to_df()["ret"].to_list() == [1.0]
    assert not job.full_feature_names
    assert job.metadata.features == feature_refs(PROBE)
    storage = SavedDatasetFileStorage(str(tmp_path / "kept.parquet"))
    job.persist(storage)
    assert pl.read_parquet(tmp_path / "kept.parquet")["ret"].to_list() == [1.0]
    with pytest.raises(SavedDatasetLocationAlreadyExists, match=r"kept\.parquet"):
        job.persist(storage)


def test_feasts_materialize_serves_the_newest_of_the_gold_dataset(store, gold):
    write_gold(gold, [row(ret=1.0, n=3), row(ts=T0 + 60 * SECOND, ret=2.0, quality=["GAP"])])
    write_gold(gold, [row(("B", "1m"), T0 + 7200 * SECOND, ret=3.0)], part="part-1.parquet")
    start = datetime.fromtimestamp(T0 // SECOND - 60, UTC)
    store.materialize(start, start + timedelta(hours=1), [view_name(PROBE)])
    answer = served(store)
    assert (answer["ret"], answer["n"], answer["quality"]) == (2.0, None, ["GAP"])
    assert served(store, ("B", "1m"))["ret"] is None


def test_all_rows_of_a_range_can_be_pulled(store, gold):
    write_gold(gold, [row(ts=T0 + step * SECOND, ret=float(step)) for step in range(5)])
    source = store.get_feature_view(view_name(PROBE)).batch_source
    pull = partial(
        GoldOfflineStore.pull_all_from_table_or_query,
        store.config, source, join_keys(PROBE), ["ret"], "ts", "known_at",
    )  # fmt: skip
    first = datetime.fromtimestamp(T0 // SECOND, UTC)
    assert len(pull().to_df()) == 5
    within = pull(start_date=first + timedelta(seconds=1), end_date=first + timedelta(seconds=3))
    assert within.to_df()["ret"].to_list() == [1.0, 2.0, 3.0]


def test_files_that_are_being_written_are_not_read(store, gold):
    write_gold(gold, [row(ret=1.0)])
    folder = next(dataset_folder(PROBE, gold).iterdir())
    (folder / ".part-1.parquet").write_bytes(b"half")
    (dataset_folder(PROBE, gold) / "_aside").mkdir()
    (dataset_folder(PROBE, gold) / "_aside" / "part-2.parquet").write_bytes(b"half")
    assert training_frame(store, PROBE, events([(("A", "1m"), T0)]))["ret"].to_list() == [1.0]


def test_a_source_may_be_one_file_and_a_vector_may_expire(tmp_path):
    rows = pl.DataFrame(table([row(ts=T0, ret=1.0)]))
    join = Join(join_keys(PROBE), EVENT_TIME, "ts", None, {"ret": "r"}, ttl=timedelta(seconds=1))
    asked = events([(("A", "1m"), T0 + late) for late in (0, SECOND, SECOND + 1)])
    assert point_in_time(asked, rows, join)["r"].to_list() == [1.0, 1.0, None]


def test_history_without_data_says_where_it_looked(store, gold):
    with pytest.raises(
        FileNotFoundError, match=r"source `probe_v1_gold`: must have Parquet files under"
    ):
        training_frame(store, PROBE, events([(("A", "1m"), T0)]))


def test_events_without_a_key_are_refused(store):
    asked = events([(("A", "1m"), T0)]).drop("timeframe")
    with pytest.raises(ValueError, match=r"must have the columns .*, lacks \['timeframe'\]"):
        training_frame(store, PROBE, asked)


def test_events_as_sql_are_refused(store):
    with pytest.raises(TypeError, match=r"entity_df: must be a data frame .*, got SQL"):
        store.get_historical_features(entity_df="select 1", features=feature_refs(PROBE))
