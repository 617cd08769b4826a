"""What is written past Feast is, cell for cell, what `store.push` writes, and Feast reads it."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import psycopg
import pytest
from redis import Redis

from feature_repo.names import join_keys, view_name
from operators.frames import vectors_table
from sinks.errors import DeliveryError
from sinks.feast import FeastOnline, open_view
from sinks.online_cells import MARK, KeyEncoder
from sinks.online_rows import Newest
from sinks.online_store import AwayError, Fence, Fencing
from tests.online_repos import (
    ASSET,
    PROBE,
    SECOND,
    T0,
    opened,
    postgres_lines,
    redis_lines,
    repo,
    row,
    served,
    vectors,
)
from tests.services.names import unique

# Feast closes no connection of its readers.
pytestmark = [
    pytest.mark.usefixtures("feast_lets_go"),
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning",
        "ignore:Discarding nonzero nanoseconds",
        "ignore::pytest.PytestUnraisableExceptionWarning",
    ),
]

KINDS = ["redis", "sqlite", "postgres"]
SECRET = "s3cret-word"


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def lines(kind, request):
    """The settings of an online store of each kind."""
    if kind == "redis":
        return redis_lines(request.getfixturevalue("redis"))
    if kind == "postgres":
        return postgres_lines(request.getfixturevalue("database"))
    return "type: sqlite\npath: online.db"


@pytest.fixture
def stores(tmp_path, lines):
    """Repositories of projects of their own, on the same store."""
    return [repo(tmp_path / name, lines, project=unique("online")) for name in ("push", "ours")]


def cells(store, folder, kind, request):
    """All that the store holds of a project, without its name and what is ours alone."""
    project = store.project
    if kind == "redis":
        client = Redis.from_url(request.getfixturevalue("redis"))
        found = {
            key.removesuffix(project.encode()): dict(client.hgetall(key))  # type: ignore[arg-type]
            for key in client.scan_iter(f"*{project}")
        }
        return {
            (key, field): value
            for key, fields in found.items()
            for field, value in fields.items()
            if not field.startswith(b"_mark:")
        }
    query = (
        "SELECT entity_key, feature_name, value, value_text, vector_value, event_ts, created_ts "
        f"FROM {project}_probe_v1 WHERE feature_name NOT IN ('__mark', '__fence')"
    )
    if kind == "sqlite":
        rows = sqlite3.connect(folder / "online.db").execute(query).fetchall()
    else:
        with psycopg.connect(request.getfixturevalue("database")) as connection:
            rows = connection.execute(query).fetchall()
    return {(bytes(key), name): tuple(rest) for key, name, *rest in rows}


ROWS = [
    row(("A", "1m"), 1_234_567_891, 5 * SECOND, ret=1.5, n=300, up=0.0, quality=1, coverage=0.25),
    row(("B", "1h"), 0, 1, ret=-0.0, n=0, up=1.0, quality=3),
    row(("É\r\nSET x y", "1d"), 86_400 * SECOND, up=1.0, quality=2),
    row(("", ""), 7, n=-5, ret=5e-324, quality=1),
]


def push(store, rows):
    frame = vectors_table(PROBE, vectors(rows)).to_pandas()
    unknown = ["feature_set", "version", "n_rows", "final"]
    frame = frame.drop(columns=unknown)
    for name in join_keys(PROBE):
        frame[name] = frame[name].astype(object)
    frame["n"] = frame["n"].astype("Int64")
    frame["up"] = frame["up"].astype("boolean")
    store.push("probe_v1_push", frame)


def test_each_cell_is_as_push_writes_it(stores, tmp_path, kind, request):
    theirs, ours = stores
    push(theirs, ROWS)
    FeastOnline(ours, PROBE).write(vectors(ROWS))
    wanted = cells(theirs, tmp_path / "push", kind, request)
    assert len({key for key, _ in wanted}) == len(ROWS)
    assert cells(ours, tmp_path / "ours", kind, request) == wanted


def test_feast_reads_what_is_written(stores):
    store = stores[1]
    FeastOnline(store, PROBE).write(vectors(ROWS))
    found = served(store, [each["key"] for each in ROWS])
    assert found[0] == {"ret": 1.5, "n": 300, "up": False, "quality": ["GAP"], "coverage": 0.25}
    assert found[2] == {"ret": None, "n": None, "up": True, "quality": ["STALE"], "coverage": 1.0}
    assert served(store, [("C", "1m")])[0]["coverage"] is None


def test_other_ways_to_read_are_feasts_own(stores):
    store = stores[1]
    FeastOnline(store, PROBE).write(vectors(ROWS))
    answer = store.get_online_features(
        [f"{view_name(PROBE)}:ret"], [dict(zip(join_keys(PROBE), ("A", "1m"), strict=True))]
    )
    assert answer.to_dict()["ret"] == [1.5]
    assert len(answer.to_df()) == 1


@pytest.fixture
def view(stores):
    found = open_view(stores[1], PROBE)
    yield found
    found.close()


def rows_of(rows):
    newest = Newest(PROBE)
    newest.add(vectors(rows))
    return newest.rows(newest.due(100))


def test_marks_come_back(view):
    rows = rows_of(ROWS)
    assert view.write(rows, None)
    assert (view.marks(rows.keys) == rows.marks).all()
    assert (view.marks([b"nobody"]) == -(2**63)).all()


def test_what_push_wrote_counts_by_its_time(stores):
    store = stores[0]
    push(store, [row(("A", "1m"), SECOND)])
    view = open_view(store, PROBE)
    key = KeyEncoder(join_keys(PROBE))(("A", "1m"))
    assert view.marks([key]).tolist() == [[T0 + SECOND, 0, 0, 0]]
    view.close()


def test_a_transaction_asks_for_the_fence(view):
    first, then = Fence("job", "a", 1), Fence("job", "a", 2)
    rows = rows_of(ROWS)
    assert view.fence("lane") is None
    assert not view.write(rows, Fencing("lane", first, then))
    assert (view.marks(rows.keys) == -(2**63)).all()
    assert view.write(rows_of(ROWS[:1]), Fencing("lane", None, first))
    assert not view.write(rows, Fencing("lane", None, then))
    assert view.write(rows, Fencing("lane", first, then))
    assert view.fence("lane") == then
    assert view.fence("another") is None


def test_what_is_no_fence_is_nobodys(view, kind, request, stores):
    assert view.write(rows_of(ROWS), Fencing("lane", None, Fence("job", "a", 1)))
    if kind == "redis":
        key = f"riffle:fence:{stores[1].project}:lane"
        Redis.from_url(request.getfixturevalue("redis")).set(key, "?")
        assert view.fence("lane") == Fence("", "", 0)


def test_entities_are_deleted(view):
    rows = rows_of(ROWS)
    view.write(rows, None)
    view.delete(rows.keys[:2])
    assert (view.marks(rows.keys)[:, 0] == -(2**63)).tolist() == [True, True, False, False]


def test_a_set_without_a_series(stores):
    FeastOnline(stores[1], ASSET).write(vectors([row("pump 1", mean=2.5)], ASSET))
    assert served(stores[1], [("pump 1",)], ASSET)[0]["mean"] == 2.5


def test_a_wide_view_of_many_entities(tmp_path, lines):
    from operators.feature_set import FeatureSet
    from tests.online_repos import LEVELS

    mean = LEVELS.col("value").rolling_mean
    wide = FeatureSet("wide", "v1", LEVELS, {f"f{n}": mean(n + 1) for n in range(600)})
    store = repo(tmp_path / "wide", lines, [wide], unique("online"))
    rows = [row(f"e{e}", **{f"f{n}": float(n * e) for n in range(600)}) for e in range(3)]
    FeastOnline(store, wide).write(vectors(rows, wide))
    found = served(store, [("e2",)], wide)[0]
    assert [found[f"f{n}"] for n in (0, 447, 448, 599)] == [0.0, 894.0, 896.0, 1198.0]


def test_names_are_plain_values(stores, tmp_path):
    names = [
        "'; DROP TABLE x; --", '"', "a\r\nFLUSHALL\r\n", "*1\r\n$8\r\nFLUSHALL\r\n", "\0", "é" * 9,
        "x" * 70_000, "__mark", "__riffle_probe__", "riffle:fence:lane", "%s%b{}", "", " ",
        "\u202e\U0001f600", "__fence",
    ]  # fmt: skip
    rows = [row((name, "1m"), ret=float(place)) for place, name in enumerate(names)]
    rows += [row(("A", name), ret=-float(place)) for place, name in enumerate(names)]
    store = stores[1]
    FeastOnline(store, PROBE).write(vectors(rows))
    found = served(opened(tmp_path / "ours"), [each["key"] for each in rows])
    assert [each["ret"] for each in found] == [each["ret"] for each in rows]


def test_what_is_no_number_is_null(stores):
    FeastOnline(stores[1], PROBE).write(vectors([row(ret=np.nan, n=np.nan, up=np.nan)]))
    assert served(stores[1], [("A", "1m")])[0] == {
        "ret": None, "n": None, "up": None, "quality": [], "coverage": 1.0
    }  # fmt: skip


def test_another_form_of_feasts_is_found_out_before_anything_is_written(stores, monkeypatch):
    import sinks.online_cells
    import sinks.online_redis

    for module in (sinks.online_cells, sinks.online_redis):
        monkeypatch.setattr(module, "NUMBER_TAG", b"\x31")
    with pytest.raises(DeliveryError, match=r"Feast must read .* what was written there"):
        open_view(stores[1], PROBE)


def test_another_form_of_keys_is_found_out(stores, monkeypatch):
    import sinks.online_cells

    monkeypatch.setattr(sinks.online_cells, "STRING", 3)
    with pytest.raises(Exception, match=r"must read|Unsupported key"):
        open_view(stores[1], PROBE)


def test_tables_that_are_gone_are_made_again(stores, tmp_path, kind, request):
    if kind == "redis":
        pytest.skip("there are none")  # 2026-11
    store = stores[1]
    view = open_view(store, PROBE)
    statement = f"DROP TABLE {store.project}_probe_v1"
    if kind == "sqlite":
        with sqlite3.connect(tmp_path / "ours" / "online.db") as connection:
            connection.execute(statement)
    else:
        with psycopg.connect(request.getfixturevalue("database")) as connection:
            connection.execute(statement)
    with pytest.raises(AwayError, match=r"made anew"):
        view.write(rows_of(ROWS), None)
    assert view.write(rows_of(ROWS), None)
    view.close()


# -- settings ----------------------------------------------------------------------------------


def test_a_key_expires_where_the_store_says_so(redis, tmp_path):
    text = redis_lines(redis) + "\nkey_ttl_seconds: 1000"
    store = repo(tmp_path / "r", text, project=unique("online"))
    FeastOnline(store, PROBE).write(vectors([row()]))
    client = Redis.from_url(redis)
    (key,) = client.scan_iter(f"*{store.project}")
    assert 0 < int(str(client.ttl(key))) <= 1000


def test_a_store_with_columns_of_feasts_own_is_written_by_feast_and_keeps_no_fence(tmp_path):
    text = "type: sqlite\npath: online.db\nenable_openai_compatible_store: true"
    store = repo(tmp_path / "r", text)
    online = FeastOnline(store, PROBE)
    assert online.write(vectors([row(ret=1.0)])) == 1
    assert online.write(vectors([row(ts=-1, ret=2.0)])) == 0
    assert FeastOnline(store, PROBE).write(vectors([row(ts=-1, ret=2.0)])) == 0
    assert served(store, [("A", "1m")])[0]["ret"] == 1.0
    view = open_view(store, PROBE)
    with pytest.raises(DeliveryError, match=r"of a live flow must be Redis .*SQLite or PostgreSQL"):
        view.fence("lane")
    with pytest.raises(DeliveryError, match=r"so that rows are written together with the lane's"):
        view.write(rows_of(ROWS), Fencing("lane", None, Fence("job", "a", 1)))


def test_other_versions_of_keys_are_refused(tmp_path):
    store = repo(tmp_path / "r", "type: sqlite\npath: online.db")
    store.config.entity_key_serialization_version = 2
    with pytest.raises(DeliveryError, match=r"version must be 3, found 2; set it in feature_store"):
        open_view(store, PROBE)


# -- errors ------------------------------------------------------------------------------------


def test_a_store_that_is_away_is_told_without_secrets(tmp_path, private_redis):
    private_redis.stop()
    text = redis_lines(private_redis.address, f"password={SECRET}")
    store = repo(tmp_path / "r", text, project=unique("online"))
    with pytest.raises(AwayError, match=r"ConnectionError \(Error 111") as caught:
        open_view(store, PROBE)
    assert SECRET not in str(caught.value)


def test_a_redis_with_a_password(tmp_path, private_redis):
    Redis.from_url(private_redis.address).config_set("requirepass", SECRET)
    text = redis_lines(private_redis.address, f"password={SECRET}")
    store = repo(tmp_path / "r", text, project=unique("online"))
    FeastOnline(store, PROBE).write(vectors([row(ret=1.0)]))
    assert served(store, [("A", "1m")])[0]["ret"] == 1.0
    wrong = redis_lines(private_redis.address, f"password={SECRET}-wrong")
    with pytest.raises(DeliveryError, match=r"Redis must do what it is asked") as caught:
        open_view(repo(tmp_path / "w", wrong, project=unique("online")), PROBE)
    assert SECRET not in str(caught.value)


def test_a_redis_that_is_full_is_waited_for(tmp_path):
    from tests.services import redis as service

    with service.private({"maxmemory": "1500kb", "maxmemory-policy": "noeviction"}) as server:
        store = repo(tmp_path / "r", redis_lines(server.address), project=unique("online"))
        view = open_view(store, PROBE)
        rows = rows_of([row(("x" * 5_000, str(n))) for n in range(400)])
        with pytest.raises(AwayError, match=r"OOM|OutOfMemory"):
            view.write(rows, Fencing("lane", None, Fence("job", "a", 1)))
        assert view.fence("lane") is None
        view.close()


def test_a_key_of_another_kind_is_refused(stores, kind, request, redis):
    if kind != "redis":
        pytest.skip("tables have one kind of rows")  # 2026-11
    rows = rows_of(ROWS)
    project = stores[1].project.encode()
    Redis.from_url(redis).set(rows.keys[0] + project, "text")
    view = open_view(stores[1], PROBE)
    with pytest.raises(DeliveryError, match=r"WRONGTYPE"):
        view.write(rows, None)
    view.close()


def test_a_file_that_is_no_database_is_refused(tmp_path):
    store = repo(tmp_path / "r", "type: sqlite\npath: online.db")
    (tmp_path / "r" / "online.db").write_bytes(b"no database" * 100)
    with pytest.raises(DeliveryError, match=r"SQLite must do .*not a database"):
        open_view(store, PROBE)


def test_a_file_in_use_is_waited_for(tmp_path, monkeypatch):
    import sinks.online_sqlite

    store = repo(tmp_path / "r", "type: sqlite\npath: online.db")
    monkeypatch.setattr(sinks.online_sqlite, "BUSY_S", 0.01)
    view = open_view(store, PROBE)
    other = sqlite3.connect(tmp_path / "r" / "online.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(AwayError, match=r"database is locked"):
        view.write(rows_of(ROWS), None)
    other.execute("ROLLBACK")
    assert view.write(rows_of(ROWS), None)
    view.close()


def test_postgres_without_rights_is_refused_without_secrets(database, tmp_path):
    place = urlsplit(database)
    user = unique("reader")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{SECRET}'")
        store = repo(tmp_path / "r", postgres_lines(database), project=unique("online"))
        text = postgres_lines(
            place._replace(netloc=f"{user}:{SECRET}@{place.netloc.rpartition('@')[2]}").geturl()
        )
        found = (tmp_path / "r" / "feature_store.yaml").read_text()
        head, _, rest = found.partition("online_store:\n")
        own = "\n".join(f"  {line}" for line in text.splitlines())
        (tmp_path / "r" / "feature_store.yaml").write_text(
            f"{head}online_store:\n{own}\noffline_store{rest.partition('offline_store')[2]}"
        )
        with pytest.raises(DeliveryError, match=r"PostgreSQL must do .*permission") as caught:
            open_view(opened(tmp_path / "r"), PROBE)
        assert SECRET not in str(caught.value)
        connection.execute(f"DROP ROLE {user}")
    assert store.project


def test_times_are_feasts_in_every_zone(tmp_path, monkeypatch):
    import time

    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        stores = [repo(tmp_path / name, "type: sqlite\npath: online.db") for name in "ab"]
        push(stores[0], ROWS)
        FeastOnline(stores[1], PROBE).write(vectors(ROWS))
        query = "SELECT entity_key, event_ts FROM riffle_probe_v1 WHERE feature_name = 'ret'"
        found = [
            sorted(sqlite3.connect(tmp_path / name / "online.db").execute(query)) for name in "ab"
        ]
        assert found[0] == found[1]
        view = open_view(stores[0], PROBE)
        key = KeyEncoder(join_keys(PROBE))(("A", "1m"))
        assert view.marks([key])[0, 0] == T0 + SECOND
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_mark_is_no_feature():
    assert MARK not in PROBE.feature_exprs
    assert pd.Timestamp(T0, tz="UTC").to_pydatetime() > datetime(2023, 1, 1).astimezone()
