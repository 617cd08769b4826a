"""Ends other than a kill: asked to stop, the same flow twice, a copy of the state, a zombie."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Mapping
from urllib.request import urlopen

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from prometheus_client.parser import text_string_to_metric_families

from dataflows.demo import REFUSED
from tests.chaos import poison
from tests.chaos.account import account_problems
from tests.chaos.conftest import MEASURED
from tests.chaos.flow import Unit
from tests.chaos.kills import run_until_resumed
from tests.chaos.messages import Shape
from tests.chaos.places import ALL, KAFKA, ONLINE, TABLE
from tests.chaos.proof import prove
from tests.chaos.watch import now_ms, until
from tests.chaos.world import World, world

SHAPE = Shape(instruments=400, news_per_s=160)
REFUSED_S = 15.0
OPEN_MS = 120_000
"""For how long the broker leaves a transaction open; nobody waits for a flow that long."""
MODULE = "tests.chaos.sabotaged_live"
POISON = "poison"
SELDOM = "60s"
"""Between two snapshots: only an end in good order makes one in time."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def suppressed(port: int) -> float:
    """How many vectors and letters a process has left out, because they were committed before."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "riffle_sink_suppressed_total"
    )


def test_a_flow_that_is_asked_to_stop_goes_on_without_reading_anything_again(kafka, tmp_path):
    port = free_port()
    with world(kafka, tmp_path, shape=SHAPE) as made:
        listen = {"RIFFLE_LISTEN": f"127.0.0.1:{port}"}
        (unit,) = made.make_units(environment=listen, snapshot_every=SELDOM)
        made.start_feed()
        for _ in range(3):
            run_until_resumed(made, unit)
            unit.live(made.chance.uniform(0.2, 2.5))
            assert suppressed(port) == 0
            unit.drain()
        run_until_resumed(made, unit)  # what came until now is committed, and in no snapshot
        unit.kill()
        run_until_resumed(made, unit)
        assert suppressed(port) > 0, "a kill must show in this measure, or it measures nothing"
        must = prove(made)
        unit.drain()
        assert account_problems(made, must) == []


def test_a_flow_that_is_started_twice_is_refused(kafka, places_of, tmp_path):
    with world(kafka, tmp_path, shape=SHAPE, places=places_of(ALL)) as made:
        (first,) = made.make_units()
        made.start_feed()
        run_until_resumed(made, first)
        (second,) = made.make_units()
        second.log = tmp_path / "second.log"
        second.start()
        began_s = time.monotonic()
        assert second.wait() == [REFUSED]
        assert time.monotonic() - began_s < REFUSED_S
        assert "must be free, found another process that uses it" in second.last_lines()
        first.check_alive()
        prove(made)


@pytest.mark.parametrize(
    ("stopped", "sinks"),
    [(False, ALL), (True, ALL), (True, [TABLE]), (True, [ONLINE])],
    ids=["running", "stopped", "stopped, table alone", "stopped, online alone"],
)
def test_a_copy_of_the_state_fences_the_flow_it_was_copied_from(
    kafka, places_of, tmp_path, stopped, sinks, record_property
):
    # The fence of letters, which is Kafka's, must not do the work of the others'.
    shape = SHAPE if KAFKA in sinks else SHAPE.without_letters()
    with world(kafka, tmp_path, shape=shape, places=places_of(sinks)) as made:
        zombie, copy = fork(made, stopped=stopped)
        if stopped:
            wake(made, zombie)
        woken_ms = now_ms()
        until(lambda: None not in zombie.codes, 60, "the zombie must end")
        took_s = (now_ms() - woken_ms) / 1_000
        assert zombie.wait() == [REFUSED]
        assert "another" in zombie.last_lines()
        copy.live(2)
        must = prove(made)
        if stopped:
            told = f"the zombie ended {took_s:.1f} s after it was woken, and nothing was there of"
            record_property(MEASURED, f"{told} what it had computed; {must}")


def test_a_transaction_of_a_lane_that_has_nothing_to_write_is_not_waited_for(kafka, tmp_path):
    with world(kafka, tmp_path, shape=SHAPE.without_letters()) as made:
        left_open = transaction_of(made, "letters.01")
        (unit,) = made.make_units()
        made.start_feed()
        run_until_resumed(made, unit)
        with pytest.raises(KafkaException) as caught:
            left_open.commit_transaction(REFUSED_S)
        assert caught.value.args[0].code() == KafkaError._FENCED
        prove(made)


def transaction_of(made: World, lane: str) -> Producer:
    """What a lane leaves that is killed before its first snapshot, in all places of progress."""
    producer = Producer(
        {
            "bootstrap.servers": made.bootstrap,
            "transactional.id": f"{made.settings.name}.{lane}",
            "transaction.timeout.ms": OPEN_MS,
        }
    )
    producer.init_transactions(REFUSED_S)
    producer.begin_transaction()
    topic = made.settings.kafka.progress_topic
    for number in range(made.shape.partitions):  # metadata of a topic just made may lack some
        producer.produce(topic, b"{}", lane.encode(), partition=number)
    assert producer.flush(REFUSED_S) == 0
    return producer


def fork(
    made: World, *, stopped: bool = False, environment: Mapping[str, str] | None = None
) -> tuple[Unit, Unit]:
    """A running flow, and one that goes on from a copy of its state."""
    common = environment or {}
    poisoned = {**common, **poison.by(made.folder / POISON)}
    (zombie,) = made.make_units(module=MODULE, environment=poisoned)
    made.start_feed()
    run_until_resumed(made, zombie)
    zombie.live(1.5)
    if stopped:
        zombie.signal(signal.SIGSTOP)
    other = made.folder / "copy"
    shutil.copytree(made.folder / "state", other)
    (copy,) = made.make_units(recovery=other, module=MODULE, environment=common)
    copy.log = made.folder / "copy.log"
    run_until_resumed(made, copy)
    return zombie, copy


def wake(made: World, zombie: Unit) -> None:
    """Lets a stopped flow go on; what it computes from now on is false."""
    (made.folder / POISON).touch()
    zombie.signal(signal.SIGCONT)
