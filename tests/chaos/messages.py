"""What the feeder sends: the same messages for the same seed, but for the time it begins at.

Bars of many instruments in two timeframes and news about them, as a market sends them on a bad day:
out of order, late, twice, corrected, at equal times, and some that no one can read.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

Encoded: TypeAlias = tuple[bytes, bytes | None]
"""Key and value."""

TIMEFRAMES_MS = {"500ms": 500, "1s": 1_000}
STEP_MS = 100
BAD = "bad"
"""Header of a message that can't be used; its value says why not."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message, and when it is to be sent.

    Attributes:
        due_ms: when, in ms since the epoch.
        partition: where to, if not where its key belongs.
        bad: what is wrong with it, if anything is.
    """

    due_ms: int
    topic: str
    key: bytes
    value: bytes | None
    partition: int | None = None
    bad: str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """How much of what there is.

    Attributes:
        instruments: number of entities.
        partitions: of each topic.
        news_per_s: of all instruments together.
        bad: share of messages that can't be used.
        late: share of rows that come too late for a delay of 3 s.
    """

    instruments: int = 1_000
    partitions: int = 4
    news_per_s: int = 400
    bad: float = 0.003
    late: float = 0.02
    silent: float = 0.01
    again: float = 0.01
    corrected: float = 0.01

    def without_letters(self) -> Shape:
        """The same without what becomes a letter; what comes again may be late, too."""
        return replace(self, bad=0, late=0, again=0, corrected=0)


def partition_of(key: bytes, partitions: int) -> int:
    """Where Kafka's own clients put a key: murmur2, as its Java source computes it."""
    mask = 0xFFFFFFFF
    m, h = 0x5BD1E995, (0x9747B28C ^ len(key)) & mask
    whole = len(key) // 4 * 4
    for start in range(0, whole, 4):
        k = int.from_bytes(key[start : start + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    rest = key[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return ((h ^ h >> 15) & 0x7FFFFFFF) % partitions


def compact(row: dict[str, Any]) -> bytes:
    """A row as JSON."""
    return json.dumps(row, separators=(",", ":")).encode()


def rfc3339(ts_ms: int) -> str:
    """A time as text."""
    import datetime

    at = datetime.datetime.fromtimestamp(ts_ms / 1000, datetime.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Market:
    """The rows of a market from some time on."""

    def __init__(self, seed: int, start_ms: int, shape: Shape) -> None:
        self.chance = random.Random(seed)
        self.shape = shape
        self.start_ms = start_ms - start_ms % 1_000
        self.names = [f"I{number:04d}" for number in range(shape.instruments)]
        self.price = {
            (name, frame): round(self.chance.uniform(5, 500), 2)
            for name in self.names
            for frame in TIMEFRAMES_MS
        }
        self.event = itertools.count()
        self.order = itertools.count()

    def messages(self) -> Iterator[Message]:
        """All messages in the order in which they are due, without end."""
        waiting: list[tuple[int, int, Message]] = []
        for step in itertools.count():
            now_ms = self.start_ms + step * STEP_MS
            while waiting and waiting[0][0] < now_ms:
                yield heapq.heappop(waiting)[2]
            for message in itertools.chain(self._bars(now_ms), self._news(now_ms)):
                heapq.heappush(waiting, (message.due_ms, next(self.order), message))

    def _bars(self, now_ms: int) -> Iterator[Message]:
        for frame, span_ms in TIMEFRAMES_MS.items():
            if now_ms % span_ms:
                continue
            for name in self.names:
                if self.chance.random() >= self.shape.silent:
                    yield from self._sent("bars", now_ms, self._bar(name, frame, now_ms))

    def _bar(self, name: str, frame: str, ts_ms: int) -> dict[str, Any]:
        before = self.price[name, frame]
        close = max(round(before * math.exp(self.chance.gauss(0, 0.002)), 4), 0.01)
        self.price[name, frame] = close
        return {
            "instrument_id": name,
            "timeframe": frame,
            "ts": ts_ms,
            "open": before,
            "high": max(before, close) + 0.01,
            "low": min(before, close) * 0.999,
            "close": close,
            "volume": self.chance.random() * 1_000,
        }

    def _news(self, now_ms: int) -> Iterator[Message]:
        for _ in range(self.shape.news_per_s * STEP_MS // 1_000):
            name = self.chance.choice(self.names)
            # Coarse times, so that several rows of an instrument have the same one.
            ts_ms = now_ms - self.chance.randrange(0, 1_000, 250)
            for _ in range(1 + (self.chance.random() < 0.05)):
                row = {
                    "instrument_id": name,
                    "event_id": f"e{next(self.event)}",
                    "ts": rfc3339(ts_ms),
                    "sentiment": self.chance.uniform(-1, 1),
                    "confidence": self.chance.random(),
                }
                yield from self._sent("news", ts_ms, row)

    def _sent(self, topic: str, ts_ms: int, row: dict[str, Any]) -> Iterator[Message]:
        """The messages that a row becomes: usually one, some time after it is true."""
        shape, chance = self.shape, self.chance
        key = row["instrument_id"].encode()
        due_ms = ts_ms + self._delay_ms()
        if chance.random() < shape.bad:
            yield self._spoilt(topic, due_ms, row)
        value = compact(row)
        yield Message(due_ms, topic, key, value)
        if chance.random() < shape.again:
            yield Message(due_ms + chance.randrange(2_000), topic, key, value)
        if chance.random() < shape.corrected:
            name = "volume" if topic == "bars" else "sentiment"
            value = compact({**row, name: chance.random()})
            yield Message(due_ms + chance.randrange(1_500), topic, key, value)

    def _delay_ms(self) -> int:
        kind = self.chance.random()
        if kind < self.shape.late:
            return self.chance.randrange(3_500, 9_000)
        return self.chance.randrange(400) if kind < 0.9 else self.chance.randrange(400, 2_200)

    def _spoilt(self, topic: str, due_ms: int, row: dict[str, Any]) -> Message:
        """A message that can't be used."""
        key, good = row["instrument_id"].encode(), compact(row)
        number = "close" if topic == "bars" else "confidence"
        ahead = {"ts": due_ms + 3_600_000}
        spoilt: dict[str, bytes | None] = {
            "cut short": good[: -self.chance.randrange(1, len(good) - 1)],
            "no JSON": b"\xff\xfe" + good,
            "no object": b"[" + good + b"]",
            "wrong type": compact({**row, number: "dear"}),
            "missing": compact({k: v for k, v in row.items() if k != number}),
            "out of bounds": compact({**row, number: -7.5}),
            "ahead": compact({**row, **ahead}),
            "in seconds": compact({**row, "ts": due_ms // 1_000}),
            "tombstone": None,
            "elsewhere": good,
        }
        kind = self.chance.choice(list(spoilt))
        right = partition_of(key, self.shape.partitions)
        elsewhere = (right + 1) % self.shape.partitions if kind == "elsewhere" else None
        return Message(due_ms, topic, key, spoilt[kind], elsewhere, kind)
