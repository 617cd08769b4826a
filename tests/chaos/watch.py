"""Looks at the output while it comes in, as a reader of committed messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaException, TopicPartition

from tests.chaos.log import TimedOutError, reader

POLL_S = 0.02


def until(holds: Callable[[], bool], wait_s: float, what: str) -> None:
    """Waits until something holds.

    Raises:
        TimedOutError: when it does not in time.
    """
    deadline = time.monotonic() + wait_s
    while not holds():
        if time.monotonic() > deadline:
            msg = f"{what}: not within {wait_s:g} s"
            raise TimedOutError(msg)
        time.sleep(POLL_S)


def now_ms() -> int:
    """The time on the wall."""
    return time.time_ns() // 10**6


class Watch(threading.Thread):
    """Counts the messages of a topic, and knows when each partition last had one.

    Attributes:
        count: messages seen.
        changed_s: when the last of them was seen, on the monotonic clock.
    """

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        super().__init__(name=f"watch {topic}", daemon=True)
        self.count = 0
        self.changed_s = time.monotonic()
        self._latest_ms: dict[int, int] = {}
        self._ended = threading.Event()
        self._consumer = reader(bootstrap)
        # Metadata of a topic just made may lack some of them.
        self._consumer.assign([TopicPartition(topic, n, 0) for n in range(partitions)])

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                messages = self._consumer.consume(2_000, 0.05)
            except KafkaException:
                continue  # the broker is away; the proofs see to that
            good = [message for message in messages if message.error() is None]
            for message in good:
                stamp_ms = message.timestamp()[1]
                part = int(message.partition() or 0)
                if stamp_ms > self._latest_ms.get(part, 0):
                    self._latest_ms[part] = stamp_ms
            if good:
                self.count += len(good)
                self.changed_s = time.monotonic()
        self._consumer.close()

    def end(self) -> None:
        """Ends the watch."""
        self._ended.set()
        self.join(30)

    def heard_since(self, since_ms: int, parts: Iterable[int]) -> bool:
        """Whether each partition has a visible message that was written after a time."""
        return all(self._latest_ms.get(part, 0) > since_ms for part in parts)

    def wait_complete(self, wanted: int, quiet_s: float) -> None:
        """Waits until there are so many messages, or until no more come."""
        start_s = time.monotonic()
        while self.count < wanted:
            if time.monotonic() - max(self.changed_s, start_s) > quiet_s:
                return
            time.sleep(POLL_S)
