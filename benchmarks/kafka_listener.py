"""Listens to topics of vectors as any reader would, and notes when each one came.

``python -m benchmarks.kafka_listener JSON PATH`` listens until its input is closed and no more
comes, then writes the times of the vectors and those at which they came, in ns.
"""

from __future__ import annotations

import gc
import select
import sys
import time
from typing import Any

import msgspec
import numpy as np
import polars as pl
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from benchmarks.kafka_broker import ANSWER_S, reader

MARK = b'"ts":"'
QUIET_S = 3.0
"""No vector for so long once the feeder has ended: a flow that was behind has caught up."""
FIRST_S = 60.0
"""No vector at all for so long: none will come."""


def listen(bootstrap: str, names: list[str]) -> tuple[Any, Any]:
    """Listens until its input is closed and no more comes: the times in the vectors, and when."""
    consumer = reader(bootstrap, **{"fetch.wait.max.ms": 100, "enable.partition.eof": False})
    facts = consumer.list_topics(timeout=ANSWER_S).topics
    consumer.assign(
        [TopicPartition(name, part, 0) for name in names for part in facts[name].partitions]
    )
    texts: list[bytes] = []
    came: list[tuple[int, int]] = []
    gc.disable()
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    ended, last_s = False, time.monotonic()
    while True:
        first = consumer.poll(0.05)
        if first is None:
            ended = ended or bool(select.select([sys.stdin], [], [], 0)[0])
            if ended and time.monotonic() - last_s > (QUIET_S if texts else FIRST_S):
                break
            continue
        now_ns, last_s = time.time_ns(), time.monotonic()
        piece = [first, *consumer.consume(10_000, 0)]
        for message in piece:
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF or error.retriable():
                    continue
                raise KafkaException(error)
            value = message.value() or b""
            at = value.find(MARK) + len(MARK)
            texts.append(value[at : value.index(b'"', at)])
        came.append((now_ns, len(texts)))
    consumer.close()
    return texts, came


def main(told: str, path: str) -> None:
    """Listens and writes."""
    texts, came = listen(**msgspec.json.decode(told))
    times = pl.Series([text.decode() for text in texts], dtype=pl.String)
    ts_ns = times.str.to_datetime("%+", time_unit="ns", time_zone="UTC").to_physical().to_numpy()
    moments = np.array([moment for moment, _ in came], np.int64)
    counts = np.diff([0, *(count for _, count in came)])
    np.savez(path, ts_ns=ts_ns, came_ns=np.repeat(moments, counts))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
