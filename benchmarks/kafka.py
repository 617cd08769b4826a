"""From Kafka to Kafka: how many rows a core takes, beside the bare loops of the same messages.

The broker has one core, and each contender in turn the other. Messages are there before anything is
timed. A flow's time is told by the stamps of its vectors in the log: from the first fifth on, so
that starting it and opening its lanes are not counted, up to the last. What the broker needs beyond
its core would show as a core that is not busy, which is told too.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from confluent_kafka import Producer

from benchmarks.contest import Child, Timing, WrongOutputError
from benchmarks.kafka_broker import (
    ANSWER_S,
    address,
    count_of,
    on_core,
    reader,
    topics,
    whole,
)
from benchmarks.kafka_flow import Flow, running
from benchmarks.kafka_messages import INSTRUMENTS, MINUTE_MS, PARTITIONS, Market, Sent, bad
from benchmarks.report import Line
from feature_repo.market import market
from sinks.vector_messages import VectorMessages

PATIENCE_S = 180.0
BAD_EVERY = 9
"""A bad message after so many good ones: one in ten."""
BY_THE_BROKER = {"message.timestamp.type": "LogAppendTime"}
UNCOUNTED = 0.2
"""Share of the vectors during which a flow starts."""
GOAL_OF_LOOPS = 0.5
GOAL_OF_CLEAN = 0.8


@dataclass(frozen=True)
class Inputs:
    """Messages in their topics.

    Attributes:
        names: the topics of bars and of news.
        messages: how many there are.
        vectors: how many vectors they make.
        bad: how many can't be used.
        read: how many there are with those that close the partitions.
    """

    names: tuple[str, str]
    messages: int
    vectors: int
    bad: int
    read: int


@dataclass(frozen=True)
class Ran:
    """What a flow did.

    Attributes:
        seconds: for all messages, at the pace of the vectors that are counted.
        start_s: from its start to its first vector.
        busy: share of a core that it used meanwhile.
        used_s: processor time from its first vector on.
        keys, values: its vectors as they are in the log.
        dead: messages among the dead letters.
        late: among the late ones.
    """

    seconds: float
    start_s: float
    busy: float
    used_s: float
    keys: list[bytes]
    values: list[bytes]
    dead: int
    late: int


def measure(
    count: int, rounds: int, bootstrap: str | None = None
) -> tuple[list[Line], list[Timing]]:
    """Measures the loops, the flow, and the flow with bad input.

    Args:
        count: of sound messages.
        rounds: how often each is measured.
        bootstrap: address of the broker; by default the one that is found or started.
    """
    bootstrap = bootstrap or address()
    cores = sorted(os.sched_getaffinity(0), reverse=True)
    with ExitStack() as stack:
        stack.enter_context(on_core(bootstrap, cores[-1]))
        past = past_of(count)
        clean = filled(stack, bootstrap, ((message, True) for message in past))
        mixed = filled(stack, bootstrap, _spoilt(past))
        (produced,) = stack.enter_context(topics(bootstrap, {"vectors": PARTITIONS}))
        first, with_bad = (_run(bootstrap, inputs, cores[0]) for inputs in (clean, mixed))
        _check(first, with_bad, clean, mixed)
        _check_values(first.values, past)
        vectors = zip(first.keys, first.values, strict=True)
        _send(bootstrap, ((produced, key, value, 0) for key, value in vectors))
        loops = [
            Child(
                "benchmarks.kafka_loops:Consume",
                {"bootstrap": bootstrap, "names": clean.names}, cores[0],
            ),
            Child(
                "benchmarks.kafka_loops:Produce",
                {"bootstrap": bootstrap, "source": produced, "properties": {}}, cores[0],
            ),
        ]  # fmt: skip
        for child in loops:
            stack.callback(child.close)
            child.hear()
        found = [(_looped(loops), (first, with_bad))]
        for _ in range(rounds):
            seconds = _looped(loops)
            ran = (_run(bootstrap, clean, cores[0]), _run(bootstrap, mixed, cores[0]))
            found.append((seconds, ran))
        # Each loop must have done the whole work; the last run's topic is removed.
        done = [_rows(child) for child in loops]
        wanted = [clean.read, clean.vectors]
        if done != wanted:
            msg = f"the loops must read and write {wanted} messages, found {done}"
            raise WrongOutputError(msg)
        # The first round warms up, unless there is no other.
        return _told((clean, mixed), found[1:] or found)


def _rows(child: Child) -> int:
    """How many messages a loop took the last time."""
    with tempfile.TemporaryDirectory(prefix="riffle-bench-") as folder:
        path = Path(folder) / "rows.npz"
        child.tell(f"save {path}")
        child.hear()
        with np.load(path) as found:
            return int(found["rows"][0])


def _told(
    inputs: tuple[Inputs, Inputs],
    rounds: Sequence[tuple[Looped, tuple[Ran, Ran]]],
) -> tuple[list[Line], list[Timing]]:
    """What was found: seconds of both loops, and what the flow did without and with bad input."""
    looped, ran = [seconds for seconds, _ in rounds], [flows for _, flows in rounds]
    messages, vectors = inputs[0].messages, inputs[0].vectors
    seconds = {
        ("kafka: bare consume and decode", messages): [each.consumed_s for each in looped],
        ("kafka: bare produce", vectors): [each.produced_s for each in looped],
        ("kafka: flow, a message", messages): [clean.seconds for clean, _ in ran],
        ("kafka: flow with 10 % bad, a sound message", messages): [bad.seconds for _, bad in ran],
    }
    timings = [
        Timing(name, rows, [took_s * 1e9 / rows for took_s in took])
        for (name, rows), took in seconds.items()
    ]
    pairs = [(each, clean) for each, (clean, _) in zip(looped, ran, strict=True)]
    shares = [(each.consumed_s + each.produced_s) / clean.seconds for each, clean in pairs]
    by_processor = [each.used_s / clean.used_s for each, clean in pairs]
    of_clean = [clean.seconds / bad.seconds for clean, bad in ran]
    all_of_clean = [share * inputs[1].messages / messages for share in of_clean]
    flows = [clean for clean, _ in ran]
    used = [[1e6 * pair[kind].used_s / messages for pair in ran] for kind in (0, 1)]
    return [
        _share("kafka: share of what the loops allow together", shares, GOAL_OF_LOOPS),
        Line.value("kafka: the same by processor time", by_processor, "x"),
        _share("kafka: sound messages a second with 10 % bad over clean", of_clean, GOAL_OF_CLEAN),
        Line.value("kafka: the same, the bad messages counted", all_of_clean, "x"),
        Line.value(
            "kafka: messages of `market`, a core",
            [messages / f.seconds / 1e3 for f in flows],
            "k/s",
        ),
        Line.value(
            "kafka: share of its core that the flow used", [100 * f.busy for f in flows], "%"
        ),
        Line.value("kafka: processor time of the flow, a message", used[0], "µs"),
        Line.value("kafka: processor time with 10 % bad, a sound message", used[1], "µs"),
        Line.value("kafka: start to first vector in the log", [f.start_s for f in flows], "s"),
    ], timings


def _share(question: str, found: Sequence[float], goal: float) -> Line:
    middle = float(np.median(found))
    return Line(question, middle, min(found), max(found), "x", f">= {goal:g} x", middle >= goal)


@dataclass(frozen=True)
class Looped:
    """One run of each loop: seconds, and processor time of both."""

    consumed_s: float
    produced_s: float
    used_s: float


def _looped(loops: Sequence[Child]) -> Looped:
    found, used_s = [], 0.0
    for child in loops:
        before_s = child.cpu_seconds()
        child.tell("run")
        found.append(float(child.hear()))
        used_s += child.cpu_seconds() - before_s
    return Looped(found[0], found[1], used_s)


# -- messages ---------------------------------------------------------------------------------


def past_of(count: int) -> list[Sent]:
    """A market's last so many messages, stamped as if each had come 1 s after its time."""
    return list(Market().history(count, _start_ms(count)))


def _start_ms(count: int) -> int:
    minutes = count // 1_000 + 60
    return (time.time_ns() // 10**6 // MINUTE_MS - minutes) * MINUTE_MS


def filled(stack: ExitStack, bootstrap: str, messages: Iterable[tuple[Sent, bool]]) -> Inputs:
    """Topics with messages; each says whether it can be used."""
    bars, news = stack.enter_context(topics(bootstrap, {"bars": PARTITIONS, "news": PARTITIONS}))
    sent, closed = [0, 0, 0], 2 * INSTRUMENTS

    def records() -> Iterator[tuple[str, bytes | None, bytes, int]]:
        for each, sound in messages:
            sent[each.topic if sound else 2] += 1
            yield (bars, news)[each.topic], each.key, each.value, each.stamp_ms
        # Vectors become final as the partitions' clocks move on; nobody waits for these ones'.
        for last in Market().closing(each.stamp_ms + 10 * MINUTE_MS):
            yield (bars, news)[last.topic], last.key, last.value, last.stamp_ms

    _send(bootstrap, records())
    return Inputs((bars, news), sum(sent), sent[0], sent[2], sum(sent) + closed)


def _spoilt(messages: Iterable[Sent]) -> Iterator[tuple[Sent, bool]]:
    for number, message in enumerate(messages):
        yield message, True
        if number % BAD_EVERY == 0:
            value = bad(number // BAD_EVERY, message.value)
            yield Sent(message.topic, message.key, value, message.stamp_ms), False


def _send(bootstrap: str, records: Iterable[tuple[str, bytes | None, bytes, int]]) -> None:
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
        }
    )
    for topic, key, value, stamp_ms in records:
        while True:
            try:
                producer.produce(topic, value, key, timestamp=stamp_ms)
                break
            except BufferError:
                producer.poll(0.05)
    left = producer.flush(ANSWER_S)
    assert left == 0, f"{left} messages were not delivered"


# -- the flow ---------------------------------------------------------------------------------


def _run(bootstrap: str, inputs: Inputs, core: int) -> Ran:
    """Runs a flow over all there is, until all its vectors are in the log."""
    name = f"bench-{uuid.uuid4().hex[:10]}"
    output: dict[str, int] = {"vectors": PARTITIONS}
    with topics(bootstrap, output, **BY_THE_BROKER) as (made,):
        flow = Flow(
            name, bootstrap, dict(zip(("bars", "news"), inputs.names, strict=True)),
            "market", made, "producer",
        )  # fmt: skip
        with running(flow, core) as run:
            began_ms = time.time_ns() // 10**6
            run.until_offsets(made, 1, PATIENCE_S, quiet_s=0)
            before_s, seen_ms = run.cpu_seconds(), time.time_ns() // 10**6
            run.until_offsets(made, inputs.vectors, PATIENCE_S)
            used_s = run.cpu_seconds() - before_s
            run.drain()
            stamps, keys, values = _vectors(bootstrap, made)
            letters = flow.letters()
            dead = count_of(bootstrap, [name for name in letters if name.endswith(".dlq")])
            late = count_of(bootstrap, [name for name in letters if name.endswith(".late")])
    counted = np.sort(stamps)[int(len(stamps) * UNCOUNTED) :]
    seconds = (counted[-1] - counted[0]) / 1e3 / (1 - UNCOUNTED)
    start_s = (stamps.min() - began_ms) / 1e3
    busy = used_s * 1e3 / max(1.0, float(stamps.max()) - seen_ms)
    return Ran(float(seconds), float(start_s), busy, used_s, keys, values, dead, late)


def _vectors(bootstrap: str, topic: str) -> tuple[np.ndarray, list[bytes], list[bytes]]:
    consumer = reader(bootstrap)
    stamps: list[int] = []
    keys: list[bytes] = []
    values: list[bytes] = []
    for piece in whole(consumer, [topic]):
        stamps += [message.timestamp()[1] for message in piece]
        keys += [message.key() or b"" for message in piece]
        values += [message.value() or b"" for message in piece]
    consumer.close()
    return np.array(stamps), keys, values


def _check(clean: Ran, mixed: Ran, good: Inputs, spoilt: Inputs) -> None:
    """The same vectors, each once, and each bad message once among the dead letters."""
    for ran, inputs, what in ((clean, good, "clean"), (mixed, spoilt, "bad")):
        found = (len(ran.values), ran.dead, ran.late)
        wanted = (inputs.vectors, inputs.bad, 0)
        if found != wanted:
            msg = f"{what} input must give {wanted} vectors, dead and late, found {found}"
            raise WrongOutputError(msg)
    if sorted(clean.values) != sorted(mixed.values):
        msg = "bad messages among sound ones must change no vector, found others"
        raise WrongOutputError(msg)


def _check_values(values: Sequence[bytes], past: Iterable[Sent]) -> None:
    """The vectors of the flow are those of the same rows computed in one go."""
    found = pl.DataFrame(pl.from_arrow(VectorMessages(market).read(values)))
    sent: tuple[list[bytes], list[bytes]] = ([], [])
    stamps: tuple[list[int], list[int]] = ([], [])
    for each in past:
        sent[each.topic].append(each.value)
        stamps[each.topic].append(each.stamp_ms)
    frames = [
        pl.read_ndjson(b"\n".join(lines)).with_columns(arrival_ts_ms=pl.Series(at))
        for lines, at in zip(sent, stamps, strict=True)
    ]
    wanted = market.compute(bars=frames[0], news=frames[1])
    keys = ["instrument_id", "timeframe", "ts"]
    if not found.sort(keys).equals(wanted.select(found.columns).sort(keys)):
        msg = "the flow must give the vectors of the rows computed in one go, found others"
        raise WrongOutputError(msg)
