"""The clock of a partition at its end follows the broker's, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    NewPartitions,
)

from operators.batch import NO_CLOCK_NS
from sources import broker_clock
from sources.broker_clock import BrokerClock, PartitionsChangedError, check_unchanged
from sources.kafka_client import (
    Connection,
    KafkaInputError,
    TopicFacts,
    asking_failed,
    list_offsets,
    log_ends,
    topic_facts,
)
from tests.services.kafka import Broker
from tests.services.names import unique
from tests.test_kafka_log import PATIENCE_S, produce, transaction

Start = Callable[..., BrokerClock]


@pytest.fixture
def start() -> Iterator[Start]:
    begun: list[BrokerClock] = []

    def clock(connection: Connection, ticks: str, *topics: str, margin_ns: int = 0) -> BrokerClock:
        facts = topic_facts(connection, topics)
        begun.append(BrokerClock(connection, ticks, facts, margin_ns=margin_ns, tick_ms=10))
        begun[-1].join()
        return begun[-1]

    yield clock
    for one in begun:
        one.leave()


def until(what: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def stamp_of(bootstrap: str, topic: str) -> int:
    """Appends a message and gives the broker's stamp of it in ns."""
    stamps: list[int] = []
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(
        topic, b"", on_delivery=lambda _, message: stamps.append(message.timestamp()[1])
    )
    producer.flush(PATIENCE_S)
    return stamps[0] * 10**6


def test_the_clock_of_a_partition_at_its_end_advances_with_the_brokers(kafka, topic, start):
    ticks, name = topic(append_time=True), topic(2, append_time=True)
    produce(kafka, name, [b"a", b"b"])
    before_ns = stamp_of(kafka, ticks)
    clock = start(Connection(kafka), ticks, name)
    until(lambda: clock.clock_ns(name, 0, 2) >= before_ns)
    after_ns = clock.clock_ns(name, 0, 2)
    assert clock.clock_ns(name, 0, 1) == NO_CLOCK_NS, "a message is still to be read"
    assert clock.clock_ns(name, 1, 0) >= after_ns
    assert clock.end(name, 0) == 2
    assert clock.end("another", 0) is None
    until(lambda: clock.clock_ns(name, 0, 2) > after_ns)
    assert clock.now_ns() <= stamp_of(kafka, ticks)


def test_whatever_is_appended_after_the_clock_is_stamped_no_earlier(kafka, topic, start):
    ticks, name = topic(append_time=True), topic(append_time=True)
    clock = start(Connection(kafka), ticks, name)
    for end in range(50):
        until(partial(_told, clock, name, end))
        said_ns = clock.clock_ns(name, 0, end)
        assert stamp_of(kafka, name) >= said_ns


def _told(clock: BrokerClock, name: str, position: int) -> bool:
    return clock.clock_ns(name, 0, position) > NO_CLOCK_NS


def test_the_records_that_end_a_transaction_count(kafka, topic, start):
    ticks, name = topic(append_time=True), topic(append_time=True)
    transaction(kafka, name, [b"x"], commits=False)
    clock = start(Connection(kafka), ticks, name)
    until(lambda: clock.clock_ns(name, 0, 2) > NO_CLOCK_NS)
    assert clock.end(name, 0) == 2
    assert clock.clock_ns(name, 0, 1) == NO_CLOCK_NS


def test_the_margin_is_taken_off(kafka, topic, start):
    ticks, name = topic(append_time=True), topic(append_time=True)
    clock = start(Connection(kafka), ticks, name, margin_ns=3600 * 10**9)
    until(lambda: clock.now_ns() > NO_CLOCK_NS)
    assert stamp_of(kafka, ticks) - clock.now_ns() >= 3600 * 10**9


def test_the_clock_stands_while_the_broker_is_away(private_kafka: Broker, start):
    broker = private_kafka
    ticks, name = broker.topic(append_time=True), broker.topic(append_time=True)
    clock = start(Connection(broker.bootstrap), ticks, name)
    until(lambda: clock.now_ns() > NO_CLOCK_NS)
    broker.kill()
    time.sleep(0.1)
    stands_ns = clock.now_ns()
    time.sleep(1)
    assert clock.now_ns() == stands_ns
    clock.check()
    broker.start()
    until(lambda: clock.now_ns() > stands_ns, 30)


def test_ticks_that_the_broker_does_not_stamp_are_an_error(kafka, topic, start, monkeypatch):
    monkeypatch.setattr(broker_clock, "PATIENCE_S", 0)
    ticks, name = topic(), topic(append_time=True)
    clock = start(Connection(kafka), ticks, name)
    msg = f"`{ticks}`, which tells the broker's time, must have message.timestamp.type=LogAppend"
    with pytest.raises(KafkaInputError, match=msg):
        until(lambda: bool(clock.check()))


def test_a_topic_for_ticks_that_is_not_there_is_an_error(kafka, topic, start, monkeypatch):
    monkeypatch.setattr(broker_clock, "PATIENCE_S", 0)
    name = unique("none")
    connection = Connection(kafka, {"topic.metadata.propagation.max.ms": 100})
    clock = start(connection, name, topic(append_time=True))
    with pytest.raises(KafkaInputError, match=f"`{name}`, .* must take our records, found"):
        until(lambda: bool(clock.check()))


def test_a_changed_number_of_partitions_stops_the_reading(kafka, topic, start, monkeypatch):
    monkeypatch.setattr(broker_clock, "FACTS_S", 0.05)
    ticks, name = topic(append_time=True), topic(2, append_time=True)
    clock = start(Connection(kafka), ticks, name)
    until(lambda: clock.now_ns() > NO_CLOCK_NS)
    clock.check()
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_partitions([NewPartitions(name, 3)])[name].result(PATIENCE_S)
    msg = f"number of partitions of `{name}` must stay 2 .* found 3; stop the producers"
    with pytest.raises(PartitionsChangedError, match=msg):
        until(lambda: bool(clock.check()))


def test_a_topic_that_was_made_anew_is_another(kafka, topic):
    name = topic()
    facts = topic_facts(Connection(kafka), [name])
    check_unchanged(facts, facts)
    other = {name: replace(facts[name], topic_id="other")}
    with pytest.raises(PartitionsChangedError, match=r"must stay the topic other .* found another"):
        check_unchanged(other, facts)


def test_facts_of_topics(kafka, topic):
    stamped, other = topic(3, append_time=True), topic()
    facts = topic_facts(Connection(kafka), [stamped, other])
    assert facts[stamped] == TopicFacts(3, facts[stamped].topic_id, append_time=True)
    assert facts[other] == TopicFacts(1, facts[other].topic_id, append_time=False)
    assert facts[stamped].topic_id != facts[other].topic_id


@pytest.mark.parametrize(("isolation", "end"), [("read_uncommitted", 2), ("read_committed", 1)])
def test_the_ends_of_logs_are_told_each_time_they_are_asked_for(kafka, topic, isolation, end):
    name, empty = topic(2, append_time=True), topic(append_time=True)
    produce(kafka, name, [b"a"], 1)
    transaction(kafka, name, [b"x"], commits=False)
    connection = Connection(kafka)
    reader = connection.client(
        Consumer, connection.config(group_id=name, isolation_level=isolation)
    )
    undecided = Producer({"bootstrap.servers": kafka, "transactional.id": name})
    undecided.init_transactions(PATIENCE_S)
    undecided.begin_transaction()
    undecided.produce(name, b"y", partition=1)
    assert undecided.flush(PATIENCE_S) == 0
    places = [(name, 0), (name, 1), (empty, 0)]
    # A message, one that is undecided; one that was aborted, and the record that says so.
    wanted = {(name, 0): 2, (name, 1): end, (empty, 0): 0}
    committed = isolation == "read_committed"
    assert list_offsets(connection, places, "latest", committed=committed) == wanted
    for _ in range(1_000):
        assert log_ends(reader, places, PATIENCE_S) == wanted
    with pytest.raises(KafkaException) as caught:
        log_ends(reader, [(unique("none"), 0)], PATIENCE_S)
    failed = asking_failed(connection, "ends", caught.value)
    assert str(failed).startswith("ends must exist")
    undecided.abort_transaction(PATIENCE_S)
    reader.close()
