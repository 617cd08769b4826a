"""How big is the state of many instruments, and how long do a snapshot and a resume take?

The `market` set over bars of a minute and over news, long enough that every window is full; one
engine for each key group, as a flow has them.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks.contest import Timing
from benchmarks.report import Line
from benchmarks.workload import START_NS
from feature_repo.market import market
from feature_repo.streams import bars, news
from operators.batch import Batch, Labels
from operators.engine import Engine
from operators.plan import Plan, compile_plan
from operators.route import route
from operators.snapshot import restore, snapshot

MINUTE_NS = 60 * 10**9
MINUTES = 90
NEWS_PER_HOUR = 2.0
PARTITIONS = [(bars.name, "bars"), (news.name, "news")]


def measure(instruments: int, rounds: int) -> tuple[list[Line], list[Timing]]:
    """Fills the state, and takes and restores snapshots of it.

    Args:
        instruments: how many.
        rounds: how often.
    """
    plan = compile_plan(market)
    engines = _filled(plan, instruments)
    taking, resuming, sizes = [], [], []
    for _ in range(rounds):
        start = time.perf_counter()
        taken = [snapshot(engine) for engine in engines]
        middle = time.perf_counter()
        resumed = [restore(plan, PARTITIONS, data) for data in taken]
        end = time.perf_counter()
        again = [snapshot(engine) for engine in resumed]
        assert again == taken, "a restored engine must give the snapshot it came from"
        taking.append((middle - start) * 1e3)
        resuming.append((end - middle) * 1e3)
        sizes.append(sum(map(len, taken)) / 1e6)
    what = f"state: {instruments:,} instruments of `market`"
    each = [size * 1e6 / instruments for size in sizes]
    return [
        Line.value(f"{what}, size", sizes, "MB"),
        Line.value(f"{what}, size each", each, "bytes"),
        Line.value(f"{what}, snapshot", taking, "ms"),
        Line.value(f"{what}, restore", resuming, "ms"),
    ], []


def _filled(plan: Plan, instruments: int) -> list[Engine]:
    """Engines of all key groups after some hours' rows."""
    engines: dict[int, Engine] = {}
    names = tuple(f"instrument-{number:05d}" for number in range(instruments))
    rng = np.random.default_rng(0)
    for minute in range(MINUTES):
        for batch in (_bars(names, minute, rng), _news(names, minute, rng)):
            for group, part in route(batch):
                if group not in engines:
                    engines[group] = Engine(plan, PARTITIONS)
                engines[group].process(part)
    return list(engines.values())


def _bars(names: tuple[str, ...], minute: int, rng: np.random.Generator) -> Batch:
    count = len(names)
    close = 100.0 * np.exp(rng.normal(0.0, 0.001, count))
    spread = rng.uniform(0.0, 0.1, count)
    ts_ns = np.full(count, START_NS // MINUTE_NS * MINUTE_NS + minute * MINUTE_NS)
    return Batch(
        bars.name,
        "bars",
        int(ts_ns[0]),
        Labels(np.arange(count, dtype=np.int32), names),
        ts_ns,
        {
            "open": close - spread / 2,
            "high": close + spread,
            "low": close - spread,
            "close": close,
            "volume": rng.uniform(1.0, 9.0, count),
        },
        series=Labels(np.zeros(count, np.int32), ("1m",)),
    )


def _news(names: tuple[str, ...], minute: int, rng: np.random.Generator) -> Batch:
    who = np.flatnonzero(rng.random(len(names)) < NEWS_PER_HOUR / 60).astype(np.int32)
    start_ns = START_NS // MINUTE_NS * MINUTE_NS + minute * MINUTE_NS
    ts_ns = np.sort(start_ns + rng.integers(0, MINUTE_NS, len(who)))
    return Batch(
        news.name,
        "news",
        start_ns,
        Labels(who, names),
        ts_ns,
        {
            "event_id": np.arange(len(who), dtype=np.int64) + minute * len(names),
            "sentiment": rng.uniform(-1.0, 1.0, len(who)),
            "confidence": rng.uniform(0.0, 1.0, len(who)),
        },
    )
