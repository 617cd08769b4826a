"""What do one small batch and its provisional vectors cost an engine of many instruments?

The `market` set as a live flow asks it: batches of some bars with a few news, one engine for all.
What is provisional is compared with a copy of the engine whose partitions end, before it is timed.
Times are of the processor, which neighbours disturb less.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from benchmarks.contest import Timing
from benchmarks.report import Line
from benchmarks.workload import START_NS
from feature_repo.market import market
from feature_repo.streams import bars, news
from operators.batch import Batch, Labels, Vectors
from operators.engine import Engine
from operators.plan import compile_plan

MINUTE_NS = 60 * 10**9
MINUTES = 90
NEWS_PER_HOUR = 20
PARTITION = "0"
GOALS_US = {10: 700.0, 100: 1500.0}
"""Microseconds that the provisional vectors of so many touched instruments may take."""


def measure(instruments: int, rounds: int) -> tuple[list[Line], list[Timing]]:
    """Fills an engine, then gives it batches of each size and asks it for provisional vectors.

    Args:
        instruments: how many.
        rounds: batches of each size, in hundreds.
    """
    lines = []
    for size, goal_us in GOALS_US.items():
        live = _Live(instruments)
        for minute in range(MINUTES):
            live.give(np.arange(instruments), START_NS + minute * MINUTE_NS)
        live.check(size)
        process, provisional = [], []
        for _ in range(100 * rounds):
            start = time.thread_time()
            live.next(size)
            middle = time.thread_time()
            vectors = live.provisional.vectors()
            end = time.thread_time()
            assert vectors is not None, "bars of the last minute must wait"
            assert len(vectors) == size, "a vector for each bar must be provisional"
            process.append((middle - start) * 1e6)
            provisional.append((end - middle) * 1e6)
        what = f"{size} of {instruments:,} instruments of `market`"
        lines.append(Line.value(f"{what}: a batch of bars and one of news", process, "us"))
        found = Line.value(f"{what}: provisional vectors", provisional, "us")
        lines.append(replace(found, goal=f"<= {goal_us:g} us", met=found.found <= goal_us))
    return lines, []


class _Live:
    """An engine and the time of its input."""

    def __init__(self, instruments: int) -> None:
        partitions = [(bars.name, PARTITION), (news.name, PARTITION)]
        self.names = tuple(f"instrument-{number:05d}" for number in range(instruments))
        self.engine = Engine(compile_plan(market), partitions)
        self.provisional = self.engine.keep_provisional()
        self.rng = np.random.default_rng(0)
        self.first = 0
        self.now_ns = START_NS + MINUTES * MINUTE_NS

    def next(self, size: int) -> None:
        """A bar each of the next instruments; all have had one after a minute."""
        rows = (self.first + np.arange(size)) % len(self.names)
        self.first = int(rows[-1]) + 1
        self.now_ns += MINUTE_NS * size // len(self.names)
        self.give(np.sort(rows), self.now_ns)

    def give(self, rows: np.ndarray, now_ns: int) -> None:
        """A bar of some instruments, and news of some of them."""
        some = rows[self.rng.random(len(rows)) < NEWS_PER_HOUR / 60]
        close = 100.0 * np.exp(self.rng.normal(0.0, 0.001, len(rows)))
        self.engine.process(
            Batch(
                bars.name,
                PARTITION,
                now_ns,
                self._labels(rows),
                np.full(len(rows), now_ns),
                {
                    "open": close,
                    "high": close + 0.1,
                    "low": close - 0.1,
                    "close": close,
                    "volume": close,
                },
                Labels(np.zeros(len(rows), np.int32), ("1m",)),
                np.full(len(rows), now_ns),
            )
        )
        events = self.rng.integers(0, 2**62, len(some))
        sentiment, confidence = self.rng.uniform(-1, 1, len(some)), self.rng.random(len(some))
        self.engine.process(
            Batch(
                news.name,
                PARTITION,
                now_ns,
                self._labels(some),
                np.full(len(some), now_ns),
                {"event_id": events, "sentiment": sentiment, "confidence": confidence},
                None,
                np.full(len(some), now_ns),
            )
        )

    def _labels(self, rows: np.ndarray) -> Labels:
        return Labels(rows.astype(np.int32), self.names)

    def check(self, size: int) -> None:
        """Compares the provisional vectors of the next batch with those of a copy that ends.

        Raises:
            AssertionError: when any bit differs.
        """
        self.provisional.vectors()
        self.next(size)
        found = self.provisional.vectors()
        fork = self.engine.fork()
        nothing = np.zeros(0, np.int64)
        last: Vectors | None = None
        for stream, partition in list(fork.clocks):
            ended = Batch(stream, partition, 0, self._labels(nothing), nothing, end=True)
            last = fork.process(ended).vectors
        assert found is not None
        assert last is not None
        whole = _by_identity(last)
        assert all(whole[identity] == bits for identity, bits in _by_identity(found).items())


def _by_identity(vectors: Vectors) -> dict[tuple[str, int], list[bytes]]:
    """The bits of each vector; the set has one series here."""
    columns = [*vectors.features.values(), vectors.quality, vectors.coverage, vectors.n_rows]
    return {
        (key, int(vectors.ts_ns[i])): [column[i].tobytes() for column in columns]
        for i, key in enumerate(vectors.keys.strings())
    }
