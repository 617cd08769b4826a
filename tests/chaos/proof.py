"""Holds what a flow has written, wherever that is, against what must come of its whole input."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from tests.chaos import log, oracle
from tests.chaos.log import Entry
from tests.chaos.places import ONLINE
from tests.chaos.sets import MAX_DELAY_NS
from tests.chaos.watch import now_ms, until
from tests.chaos.world import World

RELATIVE = 1e-9
QUIET_S = 20.0
CLOCK_MS = 1_500
"""The broker's clock is heard of well within this, and an epoch later all rows are settled."""


class NotProvenError(AssertionError):
    """Output that is not what must come of the input."""


@dataclass(frozen=True)
class Truth:
    """The input, and the vectors that must come of it: by formula, and by an engine in one go."""

    bars: oracle.Input
    news: oracle.Input
    vectors: pl.DataFrame
    in_one_go: pl.DataFrame

    def __str__(self) -> str:
        rows = sum(given.count for given in self.inputs.values())
        late = sum(len(given.late) for given in self.inputs.values())
        bad = sum(len(given.bad) for given in self.inputs.values())
        return f"{rows} messages ({late} late, {bad} bad), {len(self.vectors)} vectors"

    @property
    def inputs(self) -> dict[str, oracle.Input]:
        """The inputs by stream."""
        return {"bars": self.bars, "news": self.news}


def truth(world: World) -> Truth:
    """Computes what must come of all that the input topics hold, which must be all that was fed."""
    parts = world.shape.partitions
    bars = oracle.read_input(log.chunks(world.bootstrap, world.bars), oracle.Bar, parts)
    news = oracle.read_input(log.chunks(world.bootstrap, world.news), oracle.News, parts)
    if world.feed is not None:
        assert world.feed.stop()["delivered"] == {"bars": bars.count, "news": news.count}
    by_formula = oracle.expected_vectors(bars.rows, news.rows)
    return Truth(bars, news, by_formula, oracle.in_one_go(bars.rows, news.rows))


def letters(world: World, stream: str, kind: str) -> list[Entry]:
    """What a topic of letters holds."""
    return log.entries(world.bootstrap, f"{world.prefix}{stream}.{kind}")


def problems(world: World, must: Truth) -> list[str]:
    """Everything that is wrong with the output, in words."""
    said = messages_problems(world, must) if world.watch is not None else []
    shape, table, online = world.shape, world.places.table, world.places.online
    if table is not None:
        said += table.problems(must.vectors, must.in_one_go, shape.partitions, RELATIVE)
    if online is not None:
        newest = oracle.latest(must.vectors), oracle.latest(must.in_one_go)
        said += online.problems(*newest, shape.instruments, RELATIVE)
        assert world.online_watch is not None
        early = ONLINE in world.places.early
        said += world.online_watch.problems(None if early else must.in_one_go)
    for stream, given in must.inputs.items():
        for kind, expected in (("dlq", given.bad), ("late", given.late)):
            wrong = oracle.same_letters(letters(world, stream, kind), expected, oracle.PLACE)
            said += [f"{stream}.{kind}: {each}" for each in wrong]
    return said


def messages_problems(world: World, must: Truth) -> list[str]:
    """Everything that is wrong with the vectors in Kafka, in words."""
    said = []
    found = oracle.read_vectors(log.chunks(world.bootstrap, world.vectors))
    said += oracle.compare_keys(found, must.vectors)
    said += oracle.compare_values(found, must.vectors, oracle.FORMULAS, RELATIVE)
    in_bits = oracle.compare_values(found, must.in_one_go, oracle.IN_BITS, 0)
    return said + [f"against an engine in one go, in bits: {each}" for each in in_bits]


def wait_complete(world: World, must: Truth, quiet_s: float = QUIET_S) -> None:
    """Waits until the output has all it must have, or nothing comes any more."""
    if world.watch is not None:
        world.watch.wait_complete(len(must.vectors), quiet_s)
    if (table := world.places.table) is not None:
        table.wait_complete(len(must.vectors), quiet_s)
    if (online := world.places.online) is not None:
        online.wait_complete(oracle.latest(must.vectors), quiet_s)


def prove(world: World, quiet_s: float = QUIET_S) -> Truth:
    """Stops the feeder, waits for the output to be complete, and checks it.

    Raises:
        NotProvenError: saying everything that is wrong.
    """
    assert world.feed is not None
    world.feed.stop()
    settled_ms = now_ms() + MAX_DELAY_NS // 10**6 + CLOCK_MS
    must = truth(world)
    wait_complete(world, must, quiet_s)
    until(lambda: now_ms() > settled_ms, 30, "time must go on")
    found = problems(world, must)
    if found:
        raise NotProvenError("\n".join(found))
    return must
