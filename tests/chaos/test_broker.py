"""A broker that dies, and one that is away for longer than a message may wait for it."""

from __future__ import annotations

from tests.chaos.account import account_problems
from tests.chaos.conftest import MEASURED
from tests.chaos.kills import live_on, run_until_resumed, wait_for_vectors
from tests.chaos.messages import Shape
from tests.chaos.proof import prove
from tests.chaos.world import World, world

SHAPE = Shape(instruments=400, news_per_s=160)
MESSAGE_TIMEOUT_S = 4.0
LONG_S = 3 * MESSAGE_TIMEOUT_S


def test_a_flow_survives_brokers_that_die(private_kafka, tmp_path, record_property):
    with world(private_kafka.bootstrap, tmp_path, shape=SHAPE) as made:
        units = made.make_units(2)
        made.start_feed()
        run_until_resumed(made, *units)
        took_s = []
        for _ in range(3):
            live_on(made, made.chance.uniform(0.5, 3.0))
            private_kafka.kill()
            live_on(made, made.chance.uniform(0.0, 2.0))
            took_s.append(come_back(made, private_kafka))
        must = prove(made)
        for unit in units:
            unit.drain()
        assert account_problems(made, must) == []
        record_property(MEASURED, f"vectors again after {max(took_s):.1f} s at most; {must}")


def test_a_flow_survives_an_outage_longer_than_messages_may_wait(
    private_kafka, tmp_path, record_property
):
    waits = {"message.timeout.ms": str(int(1_000 * MESSAGE_TIMEOUT_S))}
    with world(private_kafka.bootstrap, tmp_path, shape=SHAPE, properties=waits) as made:
        units = made.make_units(2)
        made.start_feed()
        run_until_resumed(made, *units)
        live_on(made, 2)
        private_kafka.kill()
        live_on(made, LONG_S)
        first_s = come_back(made, private_kafka)
        live_on(made, 2)
        private_kafka.pause()  # connections stay, and nothing answers
        live_on(made, LONG_S)
        private_kafka.resume()
        second_s = wait_for_vectors(made)
        must = prove(made)
        for unit in units:
            unit.drain()
        assert account_problems(made, must) == []
        took = f"vectors again {first_s:.1f} s after a death and {second_s:.1f} s after a pause"
        record_property(MEASURED, f"{took}; {must}")


def come_back(made: World, broker) -> float:
    """Starts the broker; gives how long it took from there until all partitions go on."""
    broker.start()
    return wait_for_vectors(made)
