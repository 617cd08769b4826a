"""The bare loops that a flow is held against: consume and decode, and produce, on one core.

They do nothing else with what they read, and are as fast as we know how to make them; both are run
by :mod:`benchmarks.child`, in a process of their own.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks.kafka_broker import ANSWER_S, reader, remove, whole
from benchmarks.workload import Arrays

POLL_EVERY = 1_000
"""Messages between two looks at what was delivered."""


class Bar(msgspec.Struct, gc=False):
    """A bar as JSON has it."""

    instrument_id: str
    timeframe: str
    ts: str
    open: float
    high: float
    low: float
    close: float
    volume: float


class News(msgspec.Struct, gc=False):
    """News as JSON has it."""

    instrument_id: str
    ts: str
    event_id: int
    sentiment: float
    confidence: float


class Consume:
    """Reads topics to their end and takes each message apart.

    Args:
        bootstrap: address of the broker.
        names: the topics of bars and of news.
    """

    def __init__(self, bootstrap: str, names: Sequence[str]) -> None:
        self.bootstrap = bootstrap
        self.names = list(names)
        self.rows = 0

    def prepare(self) -> None:
        """Forgets what was read, and connects anew."""
        self.rows = 0
        self.consumer = reader(self.bootstrap)
        self.consumer.list_topics(timeout=ANSWER_S)

    def run(self) -> None:
        """Reads."""
        bar, news = msgspec.json.Decoder(Bar).decode, msgspec.json.Decoder(News).decode
        bars = self.names[0]
        for piece in whole(self.consumer, self.names):
            decoded: list[Bar | News] = [
                (bar if message.topic() == bars else news)(message.value() or b"")
                for message in piece
            ]
            self.rows += len(decoded)
        self.consumer.close()

    def outputs(self) -> Arrays:
        """How many rows there were."""
        return {"rows": np.array([self.rows])}


class Produce:
    """Writes the messages of one topic into another one.

    Args:
        bootstrap: address of the broker.
        source: topic whose messages are written; they are read before it begins.
        properties: of the producer.
    """

    def __init__(self, bootstrap: str, source: str, properties: dict[str, Any]) -> None:
        self.bootstrap = bootstrap
        self.properties = properties
        self.topic = ""
        consumer = reader(bootstrap)
        self.partitions = len(
            consumer.list_topics(source, timeout=ANSWER_S).topics[source].partitions
        )
        self.messages = [
            (message.key(), message.value())
            for piece in whole(consumer, [source])
            for message in piece
        ]
        consumer.close()

    def prepare(self) -> None:
        """Makes a new topic, and connects anew."""
        if self.topic:
            remove(self.bootstrap, [self.topic])
        self.topic = f"bench-{uuid.uuid4().hex[:10]}-produced"
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        made = admin.create_topics([NewTopic(self.topic, self.partitions, 1)])
        made[self.topic].result(ANSWER_S)
        self.producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 1_048_576,
                **self.properties,
            }
        )
        self.producer.list_topics(self.topic, timeout=ANSWER_S)

    def run(self) -> None:
        """Writes, and waits until the broker has everything."""
        produce, topic = self.producer.produce, self.topic
        for number, (key, value) in enumerate(self.messages):
            while True:
                try:
                    produce(topic, value, key)
                    break
                except BufferError:
                    self.producer.poll(0.05)
            if number % POLL_EVERY == 0:
                self.producer.poll(0)
        left = self.producer.flush(ANSWER_S)
        assert left == 0, f"{left} messages were not delivered"

    def outputs(self) -> Arrays:
        """How many there were; the topic is removed."""
        remove(self.bootstrap, [self.topic])
        self.topic = ""
        return {"rows": np.array([len(self.messages)])}
