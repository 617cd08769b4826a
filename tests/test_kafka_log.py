"""A log is read from the offset that is said, whole, and never past data that was not read."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from operators.dead_letters import Record
from sources.kafka_client import Connection, KafkaInputError, list_offsets
from sources.kafka_log import KafkaLog, LogPartition, OffsetGoneError
from tests.services.kafka import Broker
from tests.services.names import unique

PATIENCE_S = 20.0


@pytest.fixture
def connection(kafka: str) -> Connection:
    return Connection(kafka)


@pytest.fixture
def log(connection: Connection) -> Iterator[KafkaLog]:
    opened = KafkaLog(connection, unique("group"))
    yield opened
    opened.close()


def produce(bootstrap: str, topic: str, values: Sequence[bytes | None], number: int = 0) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
    for value in values:
        producer.produce(topic, value, b"key", number)
    assert producer.flush(PATIENCE_S) == 0


def transaction(bootstrap: str, topic: str, values: Sequence[bytes], *, commits: bool) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": unique("id")})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, b"key", 0)
    assert producer.flush(PATIENCE_S) == 0
    if commits:
        producer.commit_transaction(PATIENCE_S)
    else:
        producer.abort_transaction(PATIENCE_S)


def read(
    partition: LogPartition, until: int, most: Callable[[], int] = lambda: 1000
) -> list[tuple[int, bytes | None]]:
    """What a partition gives until its position is there."""
    found: list[tuple[int, bytes | None]] = []
    deadline = time.monotonic() + PATIENCE_S
    while partition.position < until:
        assert time.monotonic() < deadline, f"stands at {partition.position}"
        messages = partition.take(most())
        if messages is None:
            time.sleep(0.001)
            continue
        assert len(messages) == len(messages.offsets) == len(messages.timestamps_ms)
        found.extend(zip(messages.offsets.tolist(), messages.values, strict=True))
    return found


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


def test_a_partition_is_read_from_its_offset_to_its_end(kafka, topic, log):
    name = topic()
    produce(kafka, name, numbered(50))
    partition = log.open(name, 0, 20)
    assert read(partition, 50) == [(n, b"%d" % n) for n in range(20, 50)]
    produce(kafka, name, numbered(5, 50))
    assert read(partition, 55) == [(n, b"%d" % n) for n in range(50, 55)]
    assert partition.take(10) is None


def test_keys_headers_stamps_and_tombstones_are_kept(kafka, topic, log):
    name = topic()
    producer = Producer({"bootstrap.servers": kafka})
    headers: list[Any] = [("a", b"1"), ("a", None), ("b", b"")]
    producer.produce(name, None, b"key", 0, timestamp=1_700_000_000_123, headers=headers)
    producer.produce(name, b"value", None, 0, timestamp=5)
    producer.flush(PATIENCE_S)
    partition = log.open(name, 0, 0)
    messages = None
    while messages is None:
        messages = partition.take(1)
    assert list(messages.values) == [None]
    assert messages.record(0) == Record(b"key", tuple(headers), 1_700_000_000_123)
    messages = partition.take(1)
    assert list(messages.values) == [b"value"]
    assert messages.record(0) == Record(None, (), 5)


def test_the_position_passes_over_what_transactions_leave_at_the_end(kafka, topic, log):
    name = topic()
    produce(kafka, name, [b"a"])
    partition = log.open(name, 0, 0)
    transaction(kafka, name, [b"b", b"c"], commits=True)
    transaction(kafka, name, [b"x", b"y"], commits=False)
    # a; b, c and their commit; x, y and their abort
    assert read(partition, 7) == [(0, b"a"), (1, b"b"), (2, b"c")]
    end = list_offsets(Connection(kafka), [(name, 0)], "latest")
    assert partition.position == end[name, 0] == 7
    produce(kafka, name, [b"d"])
    assert read(partition, 8) == [(7, b"d")]


def test_an_open_transaction_holds_the_position_back(kafka, topic, log):
    name = topic()
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": unique("id")})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    producer.produce(name, b"t", None, 0)
    producer.flush(PATIENCE_S)
    produce(kafka, name, [b"behind"])
    partition = log.open(name, 0, 0)
    for _ in range(300):
        assert partition.take(10) is None
        time.sleep(0.001)
    assert partition.position == 0
    producer.commit_transaction(PATIENCE_S)
    assert read(partition, 3) == [(0, b"t"), (1, b"behind")]


def test_partitions_of_several_topics_are_kept_apart(kafka, topic, log):
    names = [topic(3), topic(3)]
    for n, name in enumerate(names):
        for number in range(3):
            produce(kafka, name, [b"%d/%d/%d" % (n, number, i) for i in range(200)], number)
    parts = {(n, number): log.open(names[n], number, 0) for n in range(2) for number in range(3)}
    for (n, number), partition in parts.items():
        found = read(partition, 200, lambda: 7)
        assert [value for _, value in found] == [b"%d/%d/%d" % (n, number, i) for i in range(200)]


def test_nothing_is_lost_or_doubled_by_full_buffers(kafka, topic, connection):
    name = topic(2)
    values = [b"%06d" % n + bytes(3000) for n in range(8000)]
    for number in range(2):
        produce(kafka, name, values, number)
    log = KafkaLog(connection, unique("group"), buffer_bytes=1)
    fast, slow = log.open(name, 0, 0), log.open(name, 1, 0)
    chance = random.Random(7)
    paused = 0
    found: dict[int, list[bytes | None]] = {0: [], 1: []}
    deadline = time.monotonic() + 60
    while min(fast.position, slow.position) < len(values) and time.monotonic() < deadline:
        # One runs ahead while the other waits; then they change.
        chosen = fast if chance.random() < 0.5 else slow
        for _ in range(chance.randrange(40)):
            messages = chosen.take(chance.randrange(1, 400))
            paused += fast.paused or slow.paused
            if messages is not None:
                found[chosen.number] += messages.values
    log.close()
    assert paused
    assert found[0] == values
    assert found[1] == values


def test_what_was_deleted_before_the_offset_stops_the_reading(kafka, topic, connection, log):
    name = topic()
    produce(kafka, name, numbered(30))
    delete_before(kafka, name, 12)
    partition = log.open(name, 0, 5)
    msg = (
        rf"partition 0 of topic `{name}` must hold offset 5, .* but its log holds 12 to 29; "
        "read an archive of it first"
    )
    with pytest.raises(OffsetGoneError, match=msg):
        read(partition, 30)
    assert partition.position == 5


def test_reading_goes_on_at_the_earliest_where_the_setting_says_so(
    kafka, topic, connection, caplog
):
    name = topic()
    produce(kafka, name, numbered(30))
    delete_before(kafka, name, 12)
    log = KafkaLog(connection, unique("group"), on_gone="earliest")
    with caplog.at_level(logging.WARNING):
        assert read(log.open(name, 0, 5), 30) == [(n, b"%d" % n) for n in range(12, 30)]
    log.close()
    assert "offsets 5 to 11 are gone; passed over" in caplog.text


@pytest.mark.parametrize("on_gone", ["stop", "earliest"])
def test_a_log_that_ends_before_the_offset_stops_the_reading(kafka, topic, connection, on_gone):
    name = topic()
    produce(kafka, name, numbered(3))
    log = KafkaLog(connection, unique("group"), on_gone=on_gone)
    partition = log.open(name, 0, 7)
    msg = "must have offset 7, .* but its log holds 0 to 2; the topic was made anew"
    with pytest.raises(OffsetGoneError, match=msg):
        read(partition, 30)
    log.close()


def test_what_a_compacted_topic_lost_is_passed_over(kafka, topic, connection):
    name = topic(compacted=True)
    count = 0
    deadline = time.monotonic() + 60
    found: list[tuple[int, bytes | None]] = []
    # Of the segments that are not written any more, the newest value of the key stays.
    while len(found) == count and time.monotonic() < deadline:
        produce(kafka, name, numbered(50, count))
        count += 50
        log = KafkaLog(connection, unique("group"))
        found = read(log.open(name, 0, 0), count)
        log.close()
        time.sleep(0.6)
    assert 0 < len(found) < count, "nothing was compacted"
    assert found == [(offset, b"%d" % offset) for offset, _ in found]
    assert found[-1][0] == count - 1


def test_lag_is_seen_by_the_groups_own_tools(kafka, topic, connection):
    name, group = topic(), unique("group")
    produce(kafka, name, numbered(30))
    log = KafkaLog(connection, group)
    partition = log.open(name, 0, 0)
    read(partition, 30)
    log.commit(name, 0, 21)
    deadline = time.monotonic() + PATIENCE_S
    while committed(kafka, group, name) != 21:
        assert time.monotonic() < deadline, committed(kafka, group, name)
        partition.take(1)
        time.sleep(0.02)
    log.commit(name, 0, 30)
    partition.close()
    assert committed(kafka, group, name) == 30


def test_a_restart_of_the_broker_is_survived(private_kafka: Broker, caplog):
    broker = private_kafka
    name = broker.topic()
    produce(broker.bootstrap, name, numbered(10))
    log = KafkaLog(Connection(broker.bootstrap), unique("group"))
    partition = log.open(name, 0, 0)
    assert len(read(partition, 10)) == 10
    with caplog.at_level(logging.WARNING, "sources"):
        broker.kill()
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            assert partition.take(10) is None
            time.sleep(0.01)
    assert partition.position == 10
    broker.start()
    produce(broker.bootstrap, name, numbered(10, 10))
    assert [value for _, value in read(partition, 20)] == numbered(10, 10)
    log.close()
    said = [r.getMessage() for r in caplog.records if r.name == "sources.kafka_log"]
    assert said
    assert len(said) == len(set(said)), "an outage is said once"


def test_a_topic_that_is_not_there_is_an_error(kafka):
    name = unique("none")
    # Half a minute is left by default for a new topic to become known.
    log = KafkaLog(Connection(kafka, {"topic.metadata.propagation.max.ms": 100}), unique("group"))
    partition = log.open(name, 0, 0)
    with pytest.raises(KafkaInputError, match=rf"must be readable at .*UNKNOWN_TOPIC.*{name}"):
        read(partition, 1)
    log.close()


def test_a_partition_is_not_opened_twice(topic, log):
    name = topic()
    log.open(name, 0, 0)
    with pytest.raises(KafkaInputError, match="must be read once, found it open"):
        log.open(name, 0, 0)


def test_a_setting_that_reading_relies_on_is_not_for_the_user(kafka):
    connection = Connection(kafka, {"enable.auto.commit": True})
    msg = r"Kafka properties \['enable.auto.commit'\] must be left to Riffle"
    with pytest.raises(KafkaInputError, match=msg):
        KafkaLog(connection, "group")


def test_another_policy_for_what_is_gone_is_refused(connection):
    with pytest.raises(ValueError, match="must `stop` or go on `earliest`, got 'latest'"):
        KafkaLog(connection, "group", on_gone="latest")


def test_a_closed_log_cannot_be_read(topic, connection):
    log = KafkaLog(connection, unique("group"))
    partition = log.open(topic(), 0, 0)
    log.close()
    with pytest.raises(KafkaInputError, match="must be open to be read"):
        partition.take(1)


def test_messages_that_the_broker_did_not_stamp_are_refused_where_it_must(kafka, topic, log):
    name = topic()
    produce(kafka, name, [b"a"])
    partition = log.open(name, 0, 0, appended=True)
    with pytest.raises(KafkaInputError, match="that the broker stamped, found one at offset 0"):
        read(partition, 1)


def delete_before(bootstrap: str, topic: str, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for done in admin.delete_records([TopicPartition(topic, 0, offset)]).values():
        done.result(PATIENCE_S)


def committed(bootstrap: str, group: str, topic: str) -> int:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0)])
    (answer,) = admin.list_consumer_group_offsets([asked]).values()
    return int(answer.result(PATIENCE_S).topic_partitions[0].offset)
