"""Reads whole topics for tests, and makes vectors of a small set to write there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, TopicPartition

from feature_repo.streams import bars
from operators.batch import Labels, Vectors
from operators.feature_set import FeatureSet

SECOND_NS = 10**9
START_NS = 1_767_225_600 * SECOND_NS

close = bars.col("close")
TINY = FeatureSet(
    name="tiny",
    version="v1",
    emit=bars,
    features={"close": close, "seen": close.rolling_count(3), "up": close > 1.0},
    quality={"HIGH": close > 100.0, "LOW": close < 0.5},
    labels={"venue": 'the "old" one'},
)


@dataclass(frozen=True)
class Message:
    """A message as it stands in its topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def read_topic(bootstrap: str, topic: str, isolation: str = "read_committed") -> list[Message]:
    """Everything in a topic up to its end, by partition and offset."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "tests",
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 20,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=15).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found: list[Message] = []
        ended: set[int] = set()
        each: Any
        while len(ended) < len(partitions):
            for each in consumer.consume(10_000, 1):
                error = each.error()
                if error is None:
                    headers = list(each.headers() or [])
                    place = (each.partition(), each.offset())
                    found.append(Message(*place, each.key(), each.value(), headers))
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    ended.add(each.partition())
    finally:
        consumer.close()
    return sorted(found, key=lambda message: (message.partition, message.offset))


def tiny_vectors(
    seconds: Sequence[int], *, entity: str = "A", final: bool = True, rows: int = 1
) -> Vectors:
    """Vectors of :data:`TINY`, so many entities at each of these seconds."""
    count = len(seconds) * rows
    ts_ns = START_NS + np.repeat(np.array(seconds, np.int64), rows) * SECOND_NS
    names = tuple(f"{entity}{row}" for row in range(rows))
    return Vectors(
        Labels(np.tile(np.arange(rows, dtype=np.int32), len(seconds)), names),
        Labels(np.zeros(count, np.int32), ("1m",)),
        ts_ns,
        {
            "close": ts_ns % 1_000_003 / 7.0,
            "seen": np.full(count, 3.0),
            "up": np.ones(count),
        },
        np.zeros(count, np.int64),
        np.ones(count),
        ts_ns + 5,
        np.full(count, 3, np.int64),
        final,
    )
