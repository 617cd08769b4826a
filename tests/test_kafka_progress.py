"""The progress of lanes is read as it was committed, whatever else is in its topic."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from sinks import kafka_progress
from sinks.errors import MissingTopicError
from sinks.kafka_progress import Progress, ProgressLog
from sources.kafka_client import Connection
from tests.kafka_topics import read_topic
from tests.services.kafka import Topics, admin

PATIENCE_S = 30.0
READS = 50


def producer(topic: Topics, lane: str | None = None) -> Producer:
    """One that is in a transaction, if it has a name."""
    named = {} if lane is None else {"transactional.id": f"{topic.names[0]}.{lane}"}
    made = Producer({"bootstrap.servers": topic.bootstrap, **named})
    if lane is not None:
        made.init_transactions(30)
        made.begin_transaction()
    return made


def say(writer: Producer, name: str, lane: str, settled_ns: int, partition: int = 0) -> None:
    record = Progress("job", "run", {"settled_ns": settled_ns}).encode()
    writer.produce(name, record, lane, partition)


def log_of(topic: Topics, name: str) -> ProgressLog:
    return ProgressLog(Connection(topic.bootstrap), name)


def settled(log: ProgressLog, lane: str, number: int = 0, *, whole: bool = True) -> int | None:
    found = log.read(lane, number, whole=whole)
    return None if found is None else found.state["settled_ns"]


def once_read(topic: Topics, settled_ns: int) -> tuple[str, Producer, ProgressLog]:
    """A topic in which lane `a` has said how far it is, who writes to it, and who has read that."""
    name = topic()
    writer = producer(topic)
    say(writer, name, "a", settled_ns)
    writer.flush()
    log = log_of(topic, name)
    assert settled(log, "a") == settled_ns
    return name, writer, log


def test_the_last_record_of_each_lane_counts(topic):
    name = topic(2)
    writer = producer(topic)
    for settled_ns in range(3):
        say(writer, name, "a", settled_ns)
        say(writer, name, "b", settled_ns + 10, partition=1)
    writer.flush()
    log = log_of(topic, name)
    assert (settled(log, "a"), settled(log, "b", 1), settled(log, "c", 2)) == (2, 12, None)
    say(writer, name, "a", 7)
    writer.flush()
    assert settled(log, "a") == 7
    assert log.read("a", 0, whole=True) == Progress("job", "run", {"settled_ns": 7})


def test_what_was_aborted_does_not_count_though_it_is_the_last(topic):
    name = topic()
    writer = producer(topic, "a")
    say(writer, name, "a", 1)
    writer.commit_transaction()
    writer.begin_transaction()
    say(writer, name, "a", 2)
    writer.flush()
    writer.abort_transaction()
    assert settled(log_of(topic, name), "a") == 1


def test_whoever_reads_the_whole_waits_for_open_transactions(topic, monkeypatch):
    monkeypatch.setattr(kafka_progress, "MOST_WAIT_S", 1.0)
    name = topic()
    before, open_ = producer(topic, "a"), producer(topic, "b")
    say(before, name, "a", 1)
    before.commit_transaction()
    say(open_, name, "b", 5)
    open_.flush()
    log = log_of(topic, name)
    assert settled(log, "a", whole=False) == 1
    with pytest.raises(KafkaException, match="transactions before offset 3 must end first"):
        settled(log, "a")
    open_.commit_transaction()
    assert (settled(log, "a"), settled(log, "b")) == (1, 5)


def test_who_waits_for_a_transaction_waits_on_with_new_clients(topic, monkeypatch):
    monkeypatch.setattr(kafka_progress, "RENEWED_S", 0.2)
    name = topic()
    open_ = producer(topic, "a")
    say(open_, name, "a", 5)
    open_.flush()
    log = log_of(topic, name)
    with ThreadPoolExecutor() as threads:
        lanes = [threads.submit(settled, log, lane) for lane in "ab"]
        time.sleep(2)
        assert not any(lane.done() for lane in lanes)
        open_.commit_transaction()
        assert [lane.result(PATIENCE_S) for lane in lanes] == [5, None]


def test_a_client_that_stands_still_is_replaced(topic):
    name, writer, log = once_read(topic, 1)
    assert log._decided is not None
    log._decided.pause([TopicPartition(name, 0)])
    say(writer, name, "a", 2)
    writer.flush()
    began_s = time.monotonic()
    assert settled(log, "a") == 2
    assert time.monotonic() - began_s < kafka_progress.MOST_WAIT_S / 2


def test_a_topic_that_was_compacted_is_read_to_its_end(topic):
    name = topic(compacted=True)
    log = log_of(topic, name)
    deadline_s, written, first = time.monotonic() + 60, 0, 0
    while first == 0:
        assert time.monotonic() < deadline_s, "nothing was compacted"
        writer = producer(topic, "a")
        say(writer, name, "a", written)
        writer.commit_transaction()
        written += 1
        assert settled(log, "a") == written - 1
        first = read_topic(topic.bootstrap, name)[0].offset
    assert settled(log_of(topic, name), "a") == written - 1


def test_a_topic_that_was_made_anew_is_read_anew(topic):
    name = topic()
    writer = producer(topic)
    for settled_ns in range(5):
        say(writer, name, "a", settled_ns)
    writer.flush()
    log = log_of(topic, name)
    assert settled(log, "a") == 4
    client = admin(topic.bootstrap)
    client.delete_topics([name])[name].result()
    client.create_topics([NewTopic(name, 1, 1)])[name].result()
    deadline_s = time.monotonic() + 30
    found: int | None = 4
    while found == 4:
        assert time.monotonic() < deadline_s
        with suppress(KafkaException):  # the leader of the new topic is not known at once
            found = settled(log, "a")
    assert found is None


def test_a_topic_that_does_not_exist_is_named(topic, monkeypatch):
    monkeypatch.setattr(kafka_progress, "PATIENCE_S", 0.2)
    with pytest.raises(MissingTopicError, match=r"topic `no\.such` must exist, found none"):
        log_of(topic, "no.such").partition_of(0)


def test_who_is_asking_is_answered_though_another_gives_up(private_kafka, monkeypatch):
    monkeypatch.setattr(kafka_progress, "ANSWER_S", PATIENCE_S)
    topic = Topics(private_kafka.bootstrap)
    with ThreadPoolExecutor() as threads:
        name, _, log = once_read(topic, 3)
        private_kafka.pause()
        asked: list[Future[Any]] = [
            threads.submit(settled, log, "a", whole=True),
            threads.submit(settled, log, "a", whole=False),
            threads.submit(log.require, [name]),
        ]
        time.sleep(0.5)  # so that they have asked, most likely
        log.forget()
        private_kafka.resume()
        assert [answer.result(PATIENCE_S / 2) for answer in asked] == [3, 3, {name: 1}]


def test_lanes_that_read_at_the_same_time_find_all_there_is(topic, monkeypatch):
    name = topic()
    writer = producer(topic)
    for lane in "abcd":
        say(writer, name, lane, 1)
    writer.flush()
    log = log_of(topic, name)
    begun: list[int] = []
    begin = log._begin

    def noted(number: int) -> None:
        begun.append(number)
        begin(number)

    monkeypatch.setattr(log, "_begin", noted)

    def read(lane: str) -> list[int | None]:
        return [settled(log, lane, whole=number % 2 > 0) for number in range(READS)]

    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(read, lane) for lane in "abcd"]
        while not all(each.done() for each in asked):
            say(writer, name, "another", 1)
            writer.flush()
        assert [set(each.result()) for each in asked] == [{1}] * 4
    assert begun == [0]  # what others have read since is not taken for another topic
