"""The messages of the Kafka questions: bars of many instruments, and news about them, as JSON.

Making them must cost little, since it is done while latencies are measured: each is a head, a time
and a tail, of which only the time is written anew.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PARTITIONS = 4
INSTRUMENTS = 1_000
MINUTE_MS = 60_000
SHAPES = 997
"""Distinct prices; not a divisor of anything, so that each instrument meets all of them."""
NEWS_EVERY = 20
"""One message in so many is news: three an hour of each instrument, with bars of a minute."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message, and where it goes."""

    topic: int
    key: bytes
    value: bytes
    stamp_ms: int


class Market:
    """Messages of a market by number: bars of one instrument after the other, and some news.

    Args:
        seed: of the prices.
        instruments: how many.
    """

    BARS, NEWS = 0, 1

    def __init__(self, seed: int = 0, instruments: int = INSTRUMENTS) -> None:
        rng = random.Random(seed)
        self.keys = [f"inst-{number:05d}".encode() for number in range(instruments)]
        self.heads = [b'{"instrument_id":"%s","timeframe":"1m","ts":"' % key for key in self.keys]
        self.news_heads = [b'{"instrument_id":"%s","ts":"' % key for key in self.keys]
        self.tails = [self._tail(rng) for _ in range(SHAPES)]
        self.news_tails = [
            b',"sentiment":%.4f,"confidence":%.4f}' % (rng.uniform(-1, 1), rng.random())
            for _ in range(SHAPES)
        ]
        self._second = (-1, b"")

    def _tail(self, rng: random.Random) -> bytes:
        low = rng.uniform(99.0, 100.0)
        first, last = rng.uniform(low, 101.0), rng.uniform(low, 101.0)
        high = max(first, last) + rng.random()
        prices = (first, high, low, last, rng.randrange(10_000))
        return b'","open":%.6f,"high":%.6f,"low":%.6f,"close":%.6f,"volume":%d}' % prices

    def text(self, ts_ns: int) -> bytes:
        """A time as RFC 3339, without its Z."""
        second, rest_ns = divmod(ts_ns, 10**9)
        if self._second[0] != second:
            whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, whole.encode())
        return b"%s.%09dZ" % (self._second[1], rest_ns)

    def message(self, number: int, ts_ns: int) -> tuple[int, bytes, bytes]:
        """Topic, key and value of a message."""
        which = number % len(self.keys)
        if number % NEWS_EVERY == 7:
            which = number // NEWS_EVERY % len(self.keys)
            told = b'%s%s","event_id":%d' % (self.news_heads[which], self.text(ts_ns), number)
            return self.NEWS, self.keys[which], told + self.news_tails[number % SHAPES]
        value = self.heads[which] + self.text(ts_ns) + self.tails[number % SHAPES]
        return self.BARS, self.keys[which], value

    def closing(self, start_ms: int) -> Iterator[Sent]:
        """A bar and news of each instrument, which move the clock of every partition."""
        for number, key in enumerate(self.keys):
            text = self.text(start_ms * 10**6)
            bar = self.heads[number] + text + self.tails[0]
            news = b'%s%s","event_id":%d' % (self.news_heads[number], text, -1 - number)
            yield Sent(self.BARS, key, bar, start_ms + 1_000)
            yield Sent(self.NEWS, key, news + self.news_tails[0], start_ms + 1_000)

    def history(self, count: int, start_ms: int) -> Iterator[Sent]:
        """So many messages, a round of all instruments a minute, each 1 s after its time."""
        for number in range(count):
            ts_ms = start_ms + number // len(self.keys) * MINUTE_MS
            topic, key, value = self.message(number, ts_ms * 10**6)
            yield Sent(topic, key, value, ts_ms + 1_000)


WAYS: tuple[Callable[[bytes], bytes], ...] = (
    lambda value: value[: len(value) // 2],
    lambda value: value[:-1] + b',"ts":1}',
    lambda value: value.replace(b'"instrument_id":"inst', b'"instrument_id":"inst \xc3\xa9'),
    lambda value: value.replace(b'"ts":"2', b'"ts":"1'),
    lambda value: value.replace(b'"instrument_id"', b'"instrument"'),
    lambda value: value.replace(b":", b"\xff", 1),
    lambda value: value.replace(b'"ts":"', b'"ts":"x'),
    lambda value: value[:-1] + b',"x":' + b"[" * 40 + b"]" * 40 + b"}",
    lambda value: value + value,
    lambda value: value[:-1] + b',"x":NaN}',
)
"""How a message is spoilt: cut, a key twice, a bad entity, an impossible time, no entity, no UTF-8,
no time, too deep, two in one, no number."""


def bad(number: int, value: bytes) -> bytes:
    """A message that can't be used, in one way after the other."""
    return WAYS[number % len(WAYS)](value)
