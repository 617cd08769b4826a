"""An online store that is emptied, dies without a trace, or stands still."""

from __future__ import annotations

import pytest

from tests.chaos import oracle
from tests.chaos.account import account_problems
from tests.chaos.conftest import MEASURED
from tests.chaos.kills import live_on, run_until_resumed, wait_for_vectors
from tests.chaos.messages import Shape
from tests.chaos.online import Online
from tests.chaos.places import ALL, Places
from tests.chaos.proof import problems, prove
from tests.chaos.watch import now_ms, until
from tests.chaos.world import World, world
from tests.services import redis

SHAPE = Shape(instruments=400, news_per_s=160)
FORGETFUL = {"appendonly": "no"}
"""Kept in memory only."""
WHOLE_S = 60.0
TIMES = 3
STILL_S = 12.0
MOST_GROWTH_MB = 64.0


@pytest.fixture
def forgetful_redis():
    with redis.private(FORGETFUL) as server:
        yield server


def wait_whole(made: World, before, since_ms: int) -> float:
    """Waits until all is served again that was, or newer; gives the seconds it took."""
    online = made.places.online
    assert online is not None
    key = oracle.KEY[:2]

    def whole() -> bool:
        live_on(made, 0)
        both = before.join(online.held(), on=key, suffix="_now")
        return len(both) == len(before) and bool((both["ts_ns_now"] >= both["ts_ns"]).all())

    until(whole, WHOLE_S, "the online store must be whole again")
    return (now_ms() - since_ms) / 1_000


def empty(online: Online) -> None:
    """Removes all there is."""
    with online.client() as client:
        client.flushall()


def test_an_online_store_that_is_emptied_or_dies_is_whole_again_at_once(
    kafka, database, forgetful_redis, tmp_path, record_property
):
    places = Places(ALL, database, forgetful_redis.address)
    with world(kafka, tmp_path, shape=SHAPE, places=places) as made:
        units = made.make_units(2)
        made.start_feed()
        run_until_resumed(made, *units)
        online = places.online
        assert online is not None
        live_on(made, 3)
        took_s = []
        for _ in range(TIMES):
            for dies in (False, True):
                live_on(made, made.chance.uniform(0.5, 2.0))
                before, since_ms = online.held(), now_ms()
                assert len(before) > SHAPE.instruments
                if dies:
                    forgetful_redis.kill()
                    live_on(made, made.chance.uniform(0.0, 2.0))
                    forgetful_redis.start()
                else:
                    empty(online)
                took_s.append(wait_whole(made, before, since_ms))
        wait_for_vectors(made)
        must = prove(made)
        empty(online)  # while nothing comes in
        took_s.append(wait_whole(made, oracle.latest(must.vectors), now_ms()))
        assert problems(made, must) == []
        for unit in units:
            unit.drain()
        assert account_problems(made, must) == []
        assert made.online_watch is not None
        told = f"emptied {TIMES + 1} times, killed {TIMES} times: whole again within"
        looks = f"never older in {made.online_watch.looks} looks"
        record_property(MEASURED, f"{told} {max(took_s):.1f} s, {looks}; {must}")


def test_an_online_store_that_is_emptied_while_no_flow_runs_is_whole_after_its_start(
    kafka, database, forgetful_redis, tmp_path, record_property
):
    places = Places(ALL, database, forgetful_redis.address)
    with world(kafka, tmp_path, shape=SHAPE, places=places) as made:
        (unit,) = made.make_units()
        feed = made.start_feed()
        run_until_resumed(made, unit)
        unit.live(4)
        feed.stop()
        prove(made)
        online = places.online
        assert online is not None
        before = online.held()
        unit.drain()
        empty(online)
        unit.start()
        took_s = wait_whole(made, before, now_ms())
        must = prove(made)
        unit.kill()
        empty(online)
        unit.start()
        again_s = wait_whole(made, before, now_ms())
        assert problems(made, must) == []
        took = f"whole {took_s:.1f} s after a start in order and {again_s:.1f} s after a kill"
        record_property(MEASURED, f"{len(before)} entities, no input: {took}")


def test_an_online_store_that_stands_still_holds_a_flow_back_without_filling_its_memory(
    kafka, places_of, private_redis, tmp_path, record_property
):
    with world(kafka, tmp_path, shape=SHAPE, places=places_of(ALL)) as made:
        units = made.make_units(2)
        made.start_feed()
        run_until_resumed(made, *units)
        live_on(made, 3)
        before_mb, most_mb = sum(unit.memory_mb for unit in units), 0.0
        since_ms = now_ms()
        private_redis.pause()
        while now_ms() - since_ms < 1_000 * STILL_S:
            live_on(made, 0.5)
            most_mb = max(most_mb, sum(unit.memory_mb for unit in units))
        private_redis.resume()
        back_s = wait_for_vectors(made)
        must = prove(made)
        for unit in units:
            unit.drain()
        assert account_problems(made, must) == []
        grown = f"grew by {most_mb - before_mb:.0f} MB from {before_mb:.0f} MB in {STILL_S:g} s"
        record_property(MEASURED, f"memory {grown}; vectors again after {back_s:.1f} s; {must}")
        assert most_mb - before_mb < MOST_GROWTH_MB
