"""A database that dies, dies inside COMMIT, is locked, or has no connection left."""

from __future__ import annotations

import signal
import time

from tests.chaos.account import account_problems
from tests.chaos.conftest import MEASURED
from tests.chaos.database_faults import Commits, Crowd, end_others, kill_backend, locked
from tests.chaos.kills import live_on, run_until_resumed, wait_for_vectors
from tests.chaos.messages import Shape
from tests.chaos.places import ALL, Places
from tests.chaos.proof import Truth, prove
from tests.chaos.world import World, world
from tests.services import postgres

SHAPE = Shape(instruments=400, news_per_s=160)
DEATHS = 5
LOCK_S = 60.0
MOST_GROWTH_MB = 16.0
READ_AHEAD = {"queued.max.messages.kbytes": "1024"}
"""What Kafka's client reads ahead; it would hide what the flow keeps."""
CROWDED_S = 6.0
CONNECTIONS = 24


def places_of(server, redis) -> Places:
    """A database and a Redis of the test's own, beside Kafka."""
    return Places(ALL, server.address, redis.address)


def proven(made: World) -> Truth:
    """Proves what came out, and that all that came in is accounted for."""
    must = prove(made)
    for unit in made.units:
        unit.drain()
    assert account_problems(made, must) == []
    return must


def test_a_flow_survives_databases_that_die(
    kafka, private_postgres, private_redis, tmp_path, record_property
):
    places = places_of(private_postgres, private_redis)
    with world(kafka, tmp_path, shape=SHAPE, places=places) as made:
        made.start_feed()
        run_until_resumed(made, *made.make_units(2))
        took_s = []
        for _ in range(DEATHS):
            live_on(made, made.chance.uniform(0.5, 3.0))
            private_postgres.kill()
            live_on(made, made.chance.uniform(0.0, 2.0))
            private_postgres.start()
            took_s.append(wait_for_vectors(made))
        must = proven(made)
        took = f"{DEATHS} immediate stops; vectors again after {max(took_s):.1f} s at most"
        record_property(MEASURED, f"{took}; {must}")


def test_a_flow_finds_out_what_became_of_a_commit_that_was_not_answered(
    kafka, private_postgres, private_redis, tmp_path, record_property
):
    places = places_of(private_postgres, private_redis)
    with world(kafka, tmp_path, shape=SHAPE, places=places) as made:
        (unit,) = made.make_units()
        made.start_feed()
        run_until_resumed(made, unit)
        assert places.table is not None
        commits = Commits(private_postgres, places.table)
        kept = {False: 0, True: 0}
        for durable in (False, True, False, True):
            for whole in (True, False):
                unit.live(made.chance.uniform(0.5, 1.5))
                with commits.held(durable=durable) as pid:
                    unit.signal(signal.SIGSTOP)  # it hears of it when all is over
                    before_ns = commits.settled_ns()
                    if whole:
                        private_postgres.kill()
                        private_postgres.start()
                    else:
                        kill_backend(private_postgres, pid)
                commits.free()
                kept[durable] += commits.settled_ns() > before_ns
                unit.signal(signal.SIGCONT)
                wait_for_vectors(made)
        assert kept == {False: 0, True: 4}
        must = proven(made)
        told = "8 deaths inside COMMIT; the transaction was there after 4 of them, not after 4"
        record_property(MEASURED, f"{told}; {must}")


def test_a_locked_table_holds_a_flow_back_without_filling_its_memory(
    kafka, private_postgres, private_redis, tmp_path, record_property
):
    places = places_of(private_postgres, private_redis)
    with world(kafka, tmp_path, places=places, properties=READ_AHEAD) as made:
        units = made.make_units(2)
        made.start_feed()
        run_until_resumed(made, *units)
        live_on(made, 5)
        assert places.table is not None
        before_mb, most_mb = sum(unit.memory_mb for unit in units), 0.0
        deadline = time.monotonic() + LOCK_S
        with locked(places.table):
            while time.monotonic() < deadline:
                live_on(made, 1)
                most_mb = max(most_mb, sum(unit.memory_mb for unit in units))
        back_s = wait_for_vectors(made)
        must = proven(made)
        grown = f"the flow's memory grew by {most_mb - before_mb:.0f} MB from {before_mb:.0f} MB"
        took = f"in {LOCK_S:g} s of a lock; vectors again after {back_s:.1f} s"
        record_property(MEASURED, f"{grown} {took}; {must}")
        assert most_mb - before_mb < MOST_GROWTH_MB


def test_a_flow_waits_for_a_connection_where_others_have_them_all(
    kafka, private_redis, tmp_path, record_property
):
    with postgres.private({"max_connections": str(CONNECTIONS)}) as server:
        places = places_of(server, private_redis)
        with world(kafka, tmp_path, shape=SHAPE, places=places) as made:
            (unit,) = made.make_units()
            made.start_feed()
            run_until_resumed(made, unit)
            assert places.table is not None
            told = []
            for restarted in (False, True):
                crowd = Crowd(places.table)
                if restarted:
                    unit.kill()
                    crowd.start()
                    unit.start()
                else:
                    end_others(places.table)
                    crowd.start()
                unit.live(CROWDED_S)
                told.append(crowd.leave())
                assert crowd.refused
                wait_for_vectors(made)
            must = proven(made)
            held = f"others held {told} of {CONNECTIONS} connections for {CROWDED_S:g} s each"
            record_property(MEASURED, f"{held}; {must}")
