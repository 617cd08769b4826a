"""Sends a market's messages to Kafka in its own process, at the pace of their times.

``python -m tests.chaos.feeder PARENT BOOTSTRAP SEED PREFIX SHAPE`` sends until SIGTERM, waits until
the broker has everything, and prints what it sent as JSON. It survives a broker that is away.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter
from typing import Any

from confluent_kafka import KafkaException, Producer

from dataflows.processes import die_with_parent
from tests.chaos.messages import BAD, Market, Message, Shape

ASKED = threading.Event()
FLUSH_S = 120.0


class Feeder:
    """Sends messages, and counts those that the broker has."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.prefix = prefix
        self.delivered: Counter[str] = Counter()
        self.failed: list[str] = []
        self.producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "message.timeout.ms": 0,  # a broker that is away is waited for, however long
                "queue.buffering.max.messages": 1_000_000,
            }
        )

    def send(self, message: Message) -> None:
        """Hands a message over, waiting where there is no room."""
        more: dict[str, Any] = {}
        if message.bad is not None:
            more["headers"] = [(BAD, message.bad.encode())]
        if message.partition is not None:
            more["partition"] = message.partition
        while True:
            try:
                self.producer.produce(
                    self.prefix + message.topic,
                    message.value,
                    message.key,
                    on_delivery=self._delivered,
                    **more,
                )
                return
            except BufferError:
                self.producer.poll(0.1)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            self.failed.append(str(error))
        else:
            self.delivered[str(message.topic()).removeprefix(self.prefix)] += 1

    def end(self) -> dict[str, Any]:
        """Waits until the broker has everything, and says what it has."""
        left = self.producer.flush(FLUSH_S)
        return {"delivered": dict(self.delivered), "failed": self.failed, "left": left}


def feed(feeder: Feeder, market: Market) -> int:
    """Sends until asked to stop; gives how late the latest message was sent, in ms."""
    behind_ms = 0
    for message in market.messages():
        while (ahead_ms := message.due_ms - time.time_ns() // 10**6) > 0:
            feeder.producer.poll(0)
            if ASKED.wait(min(ahead_ms, 20) / 1_000):
                return behind_ms
        behind_ms = max(behind_ms, -ahead_ms)
        feeder.send(message)
        if ASKED.is_set():
            return behind_ms
    return behind_ms


def main(parent: str, bootstrap: str, seed: str, prefix: str, shape: str) -> None:
    die_with_parent(int(parent))
    signal.signal(signal.SIGTERM, lambda *_: ASKED.set())
    market = Market(int(seed), time.time_ns() // 10**6, Shape(**json.loads(shape)))
    feeder = Feeder(bootstrap, prefix)
    try:
        behind_ms = feed(feeder, market)
    except KafkaException as error:
        msg = f"the feeder failed: {error}"
        raise SystemExit(msg) from error
    sys.stdout.write(json.dumps({**feeder.end(), "behind_ms": behind_ms}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
