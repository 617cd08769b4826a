"""Lanes to real stores: one writer, never back in time, complete again after a loss."""

from __future__ import annotations

import logging
import sqlite3
import time

import psycopg
import pytest
from redis import Redis

from sinks import online_lane
from sinks.errors import DeliveryError, FencedError, OwnedError
from sinks.feast import open_view
from sinks.online import OnlineOutput, OnlineSink
from sinks.online_lane import OnlineTenancy
from sinks.online_rows import Newest
from sinks.online_store import Fencing
from tests.online_repos import (
    PROBE,
    SECOND,
    opened,
    postgres_lines,
    redis_lines,
    repo,
    row,
    served,
    vectors,
)
from tests.services import redis as redis_service
from tests.services.names import unique

pytestmark = [
    pytest.mark.usefixtures("feast_lets_go"),
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]
WAIT_S = 30


class World:
    """A repository, and the sinks that write to its online store."""

    def __init__(self, kind, folder, lines, address):
        self.kind, self.folder, self.address = kind, folder, address
        self.project = unique("online")
        self.store = repo(folder, lines, [PROBE], self.project)
        self.parts = []

    def part(self, resumed=None, job="job", wait_s=0.02, lane="00", **options):
        take_over = options.pop("take_over", False)
        sink = OnlineSink(
            PROBE,
            OnlineOutput(lambda: opened(self.folder), wait_s, **options),
            OnlineTenancy("flow", job, take_over),
            [0, 1],
        )
        part = sink.build_part("online", lane, resumed)
        self.parts.append(part)
        return part

    def ret(self, *keys):
        found = served(self.store, keys or [("A", "1m")])
        return [each["ret"] for each in found]

    def empty(self):
        """Takes all that is ours out of the store."""
        if self.kind == "redis":
            client = Redis.from_url(self.address)
            for key in client.scan_iter(f"*{self.project}*"):
                client.delete(key)
        elif self.kind == "sqlite":
            with sqlite3.connect(self.folder / "online.db") as connection:
                connection.execute(f"DELETE FROM {self.project}_probe_v1")
        else:
            with psycopg.connect(self.address) as connection:
                connection.execute(f"TRUNCATE {self.project}_probe_v1")

    def wait(self, true):
        end_s = time.monotonic() + WAIT_S
        while not true():
            assert time.monotonic() < end_s
            time.sleep(0.02)


@pytest.fixture(params=["redis", "sqlite", "postgres"])
def world(request, tmp_path):
    kind, address = request.param, ""
    if kind == "redis":
        address = request.getfixturevalue("redis")
        lines = redis_lines(address)
    elif kind == "postgres":
        address = request.getfixturevalue("database")
        lines = postgres_lines(address)
    else:
        lines = "type: sqlite\npath: online.db"
    world = World(kind, tmp_path / "repo", lines, address)
    yield world
    for part in world.parts:
        part.lane._stop()


def give(part, *rows, final=True):
    part.write_batch([vectors(rows, final=final)])


def give_all(part, *rows):
    give(part, *rows)
    part.snapshot()


def test_a_snapshot_waits_until_all_is_served(world):
    part = world.part(wait_s=100)
    give(part, row(ret=1.0), row(("B", "1h"), ret=2.0))
    give(part, row(ts=1, ret=3.0))
    state = part.snapshot()
    assert world.ret(("A", "1m"), ("B", "1h")) == [3.0, 2.0]
    assert (part.given, part.lane.written, part.lane.newest.passed_over) == (3, 2, 1)
    assert set(state) == {"newest"}
    assert isinstance(state["newest"], bytes)
    part.close()


def test_vectors_are_served_without_a_snapshot(world):
    part = world.part()
    give(part, row(ret=1.0))
    world.wait(lambda: world.ret() == [1.0])


def test_older_ones_are_passed_over_and_corrections_at_the_same_time_are_visible(world):
    part = world.part()
    for known, n_rows, ret, wanted in (
        (5, 1, 1.0, 1.0), (4, 9, 2.0, 1.0), (5, 2, 3.0, 3.0), (6, 1, 4.0, 4.0)
    ):  # fmt: skip
        give(part, row(ts=0, known=known, n_rows=n_rows, ret=ret))
        part.snapshot()
        assert world.ret() == [wanted]
    give(part, row(ts=-1, known=99, ret=9.0))
    part.snapshot()
    assert world.ret() == [4.0]


def test_a_resumed_lane_serves_nothing_older_than_what_the_store_has(world):
    part = world.part()
    give(part, row(ret=1.0))
    state = part.snapshot()
    give(part, row(ts=2, ret=2.0), row(("B", "1m"), ts=2, ret=2.0))
    part.close()
    resumed = world.part(state)
    give(resumed, row(ts=1, ret=1.5), row(("B", "1m"), ts=1, ret=1.5))
    resumed.snapshot()
    assert world.ret(("A", "1m"), ("B", "1m")) == [2.0, 2.0]
    assert resumed.lane.written == 0
    give(resumed, row(ts=3, ret=3.0))
    resumed.snapshot()
    assert world.ret() == [3.0]


def test_provisional_vectors_are_served_where_they_are_wanted(world):
    part, early = world.part(), world.part(lane="01", provisional=True)
    give(part, row(ret=1.0), final=False)
    give(early, row(("B", "1m"), ret=1.0), final=False)
    give(early, row(("C", "1m"), known=7, ret=1.0), final=False)
    give(early, row(("C", "1m"), known=7, ret=2.0))
    give(early, row(("C", "1m"), known=7, ret=3.0), final=False)
    part.snapshot()
    early.snapshot()
    assert world.ret(("A", "1m"), ("B", "1m"), ("C", "1m")) == [None, 1.0, 2.0]


# -- one writer --------------------------------------------------------------------------------


def test_a_run_that_was_replaced_writes_nothing_more(world):
    first = world.part()
    give(first, row(ret=1.0))
    first.snapshot()
    second = world.part()
    second.snapshot()
    with pytest.raises(FencedError, match=r"must have one writer, found that another run"):
        give_all(first, row(ts=9, ret=9.0))
    assert world.ret() == [1.0]


def test_a_run_that_was_replaced_ends_without_anything_to_write(world):
    first = world.part()
    give(first, row(ret=1.0))
    first.snapshot()
    world.part().snapshot()
    world.wait(lambda: first.lane._error is not None)
    with pytest.raises(FencedError, match=r"must have one writer"):
        first.snapshot()


def test_another_job_is_refused_unless_it_is_to_take_over(world):
    world.part().snapshot()
    other = world.part(job="other")
    with pytest.raises(OwnedError, match=r"must be of job 'other', found .* of job 'job'; stop"):
        other.snapshot()
    taken = world.part(job="other", take_over=True)
    give(taken, row(ret=2.0))
    taken.snapshot()
    assert world.ret() == [2.0]


def test_lanes_do_not_hinder_each_other(world):
    parts = [world.part(lane=lane) for lane in ("00", "01")]
    for step in range(20):
        for number, part in enumerate(parts):
            give(part, row((f"K{number}", "1m"), ts=step, ret=float(step)))
            if step % 5 == 0:
                part.snapshot()
    for part in parts:
        part.close()
    assert world.ret(("K0", "1m"), ("K1", "1m")) == [19.0, 19.0]


# -- a store that has lost something -----------------------------------------------------------


def test_an_emptied_store_is_filled_again_even_if_nothing_comes(world, caplog):
    part = world.part()
    rows = [row((f"K{n}", "1m"), n, ret=float(n)) for n in range(1_200)]
    give(part, *rows)
    part.snapshot()
    with caplog.at_level(logging.WARNING):
        world.empty()
        world.wait(lambda: None not in world.ret(*(each["key"] for each in rows)))
    assert "the store was emptied; it is filled again" in caplog.text
    assert part.lane.refills == 1
    give(part, row(("K1", "1m"), 0, ret=9.0), row(("K2", "1m"), 3, ret=9.0))
    part.snapshot()
    assert world.ret(("K1", "1m"), ("K2", "1m")) == [1.0, 9.0]


def test_a_store_that_is_emptied_between_two_writes_is_filled_again(world):
    part = world.part()
    for step in range(8):
        give(part, row(("A", "1m"), ret=1.0), row(("B", "1m"), ts=step, ret=float(step)))
        part.snapshot()
        if step in (2, 5):
            world.empty()
    world.wait(lambda: world.ret(("A", "1m"), ("B", "1m")) == [1.0, 7.0])


def test_a_store_that_comes_back_older_is_compared_and_mended(world):
    part = world.part()
    give(part, row(ret=1.0), row(("B", "1m"), ret=1.0))
    part.snapshot()
    fence = part.lane._view.fence(part.name)
    for step in (1, 2):
        give(part, row(ts=step, ret=1.0 + step))
        part.snapshot()
    part.lane._idle = lambda: None  # it looks no more, so that the backup comes at once
    put_back(world, part.name, [row(ret=1.0)], fence)
    assert world.ret() == [1.0]
    del part.lane._idle
    world.wait(lambda: world.ret(("A", "1m"), ("B", "1m")) == [3.0, 1.0])
    assert part.lane.refills == 1


def put_back(world, lane, rows, fence):
    """Puts what was there before into the store, and the fence of then."""
    view = open_view(world.store, PROBE)
    old = Newest(PROBE)
    old.add(vectors(rows))
    assert view.write(old.rows(old.due(9)), Fencing(lane, view.fence(lane), fence))
    view.close()


def test_an_emptied_store_waits_for_a_resumed_lane_to_catch_up(world, monkeypatch):
    part = world.part()
    give(part, row(ret=1.0), row(("B", "1m"), ret=1.0))
    state = part.snapshot()
    give(part, row(ts=5, ret=5.0))
    part.close()
    assert world.ret() == [5.0]
    world.empty()
    resumed = world.part(state)
    for step in (1, 2, 3, 4):
        give(resumed, row(ts=step, ret=float(step)))
        resumed.snapshot()
        assert world.ret(("A", "1m"), ("B", "1m")) == [None, None]
    late = row(ts=6, ret=6.0)
    late["known"] = time.time_ns() + SECOND
    give(resumed, row(ts=5, ret=5.0))
    give(resumed, late)
    resumed.snapshot()
    assert world.ret(("A", "1m"), ("B", "1m")) == [6.0, 1.0]


def test_an_emptied_store_does_not_wait_for_ever(world, monkeypatch):
    monkeypatch.setattr(online_lane, "HOLD_S", 0.5)
    part = world.part()
    give(part, row(ret=1.0))
    state = part.snapshot()
    part.close()
    world.empty()
    resumed = world.part(state)
    world.wait(lambda: world.ret() == [1.0])
    resumed.snapshot()


def test_a_lane_that_crashes_before_it_has_filled_a_store_holds_it_back_again(world):
    part = world.part()
    give(part, row(ret=1.0))
    state = part.snapshot()
    part.close()
    world.empty()
    world.part(state).snapshot()
    again = world.part(state)
    give(again, row(ts=1, ret=2.0))
    again.snapshot()
    assert world.ret() == [None]


def test_a_run_that_stood_still_does_not_fill_an_emptied_store(world, monkeypatch):
    part = world.part()
    give(part, row(ret=1.0))
    part.snapshot()
    now_s = online_lane._now_s
    world.empty()
    monkeypatch.setattr(online_lane, "_now_s", lambda: now_s() + 3_600)
    with pytest.raises(FencedError, match=r"emptied while this run stood still"):
        give_all(part, row(ts=1, ret=2.0))
    assert world.ret() == [None]


# -- a store that is away ----------------------------------------------------------------------


def test_a_redis_that_is_killed_holds_the_flow_back_and_is_complete_again(tmp_path):
    with redis_service.private({"appendonly": "no"}) as server:
        world = World("redis", tmp_path / "r", redis_lines(server.address), None)
        beats = []
        part = world.part()
        part.lane._beat = lambda: beats.append(1)
        rows = [row((f"K{n}", "1m"), ret=float(n)) for n in range(3_000)]
        give(part, *rows)
        part.snapshot()
        server.kill()
        give(part, row(("K0", "1m"), ts=1, ret=-1.0))
        time.sleep(0.5)
        assert part.lane._done < part.lane._given
        server.start()
        began_s = time.monotonic()
        part.snapshot()
        keys = [each["key"] for each in rows]
        world.wait(lambda: None not in world.ret(*keys))
        assert time.monotonic() - began_s < 10
        assert world.ret(*keys[:3]) == [-1.0, 1.0, 2.0]
        assert beats
        part.close()


def test_a_redis_that_stands_still_is_waited_for(private_redis, tmp_path, caplog):
    password = "s3cret-word"
    Redis.from_url(private_redis.address).config_set("requirepass", password)
    text = redis_lines(private_redis.address, f"password={password}", "socket_timeout=0.3")
    world = World("redis", tmp_path / "r", text, None)
    part = world.part()
    give(part, row(ret=1.0))
    part.snapshot()
    private_redis.pause()
    give(part, row(ts=1, ret=2.0))
    time.sleep(1.5)
    private_redis.resume()
    part.snapshot()
    assert world.ret() == [2.0]
    assert "trying again after TimeoutError" in caplog.text
    assert password not in caplog.text
    part.close()


def test_a_sqlite_file_that_is_replaced_is_noticed(tmp_path):
    world = World("sqlite", tmp_path / "r", "type: sqlite\npath: online.db", None)
    part = world.part()
    give(part, row(ret=1.0))
    part.snapshot()
    for file in (tmp_path / "r").glob("online.db*"):
        file.unlink()
    world.store = opened(tmp_path / "r")

    def served_again():
        try:
            return world.ret() == [1.0]
        except sqlite3.OperationalError:
            world.store = opened(tmp_path / "r")
            return False

    world.wait(served_again)
    part.close()


def test_a_store_of_another_kind_is_refused_in_words(tmp_path):
    text = "type: sqlite\npath: online.db\nenable_openai_compatible_store: true"
    world = World("sqlite", tmp_path / "r", text, None)
    with pytest.raises(DeliveryError, match=r"the online store of a live flow must be Redis"):
        world.part().snapshot()


def test_a_store_without_the_view_is_refused_in_words(tmp_path):
    world = World("sqlite", tmp_path / "r", "type: sqlite\npath: online.db", None)
    world.store.delete_feature_service("probe_v1")
    world.store.delete_feature_view("probe_v1")
    with pytest.raises(LookupError, match=r"view `probe_v1` must be registered in project"):
        world.part().snapshot()


def test_no_thread_is_left(world):
    part = world.part()
    give(part, row(ret=1.0))
    part.close()
    assert not part.lane._thread.is_alive()
