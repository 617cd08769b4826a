"""Letters reach their topics once, and as they stood in the log."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from time import monotonic

import numpy as np
import pytest
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from operators.account import Fate
from operators.batch import NO_CLOCK_NS, Batch, Labels
from operators.dead_letters import DeadLetters, Reason, Record
from operators.engine import Refused
from sinks import kafka_letters, lane
from sinks.errors import MissingTopicError, ProgressLostError
from sinks.kafka_lane import Records, Tenancy
from sinks.kafka_letters import (
    KafkaLettersSink,
    Kept,
    LettersPart,
    RefusedBy,
    dead_topic,
    late_topic,
)
from sinks.kafka_progress import ProgressLog
from sources.kafka_client import Connection
from tests.kafka_topics import Message, read_topic
from tests.services.kafka import Topics, admin
from tests.services.process import becomes

BYTES = bytes(range(256))
LONG_MS = 10_000
"""Between two commits: longer than any test waits for one."""


@dataclass
class World:
    """Topics for letters, and runs of a flow that write to them."""

    bootstrap: str
    topic: str
    progress: str

    def run(self, resumed: Kept | None = None, transaction_ms: float = 20) -> LettersPart:
        log = ProgressLog(Connection(self.bootstrap), self.progress)
        tenancy = Tenancy("flow", "job", log, transaction_ms=transaction_ms)
        sink = KafkaLettersSink({"bars": self.topic}, tenancy, [0, 1])
        return sink.build_part("step", "01", resumed)

    def dead(self) -> list[Message]:
        return read_topic(self.bootstrap, dead_topic(self.topic))

    def late(self) -> list[Message]:
        return read_topic(self.bootstrap, late_topic(self.topic))


@pytest.fixture
def world(topic: Topics) -> World:
    name = topic(1)
    make(topic, dead_topic(name))
    make(topic, late_topic(name))
    return World(topic.bootstrap, name, topic(2, config={"cleanup.policy": "compact"}))


def make(topics: Topics, name: str) -> None:
    """A topic of a name that a test must know."""
    client = admin(topics.bootstrap)
    large = {"max.message.bytes": "2000000"}
    client.create_topics([NewTopic(name, 2, 1, config=large)])[name].result()
    topics.names.append(name)


def letters(*offsets: int, reason: Reason = Reason.MALFORMED, value: bytes = BYTES) -> DeadLetters:
    """Messages that a source refused."""
    return DeadLetters(
        "bars",
        "1",
        offsets,
        (reason,) * len(offsets),
        tuple(f"line {offset}" for offset in offsets),
        (value,) * len(offsets),
        tuple(
            Record(b"key\x00\xff", (("h", b"\xff"), ("none", None), ("h", b"again")), 10 + offset)
            for offset in offsets
        ),
    )


def offsets(messages: list[Message]) -> list[int]:
    """Where the letters stood, by their headers."""
    return sorted(int(dict(m.headers)["__riffle.errors.offset"] or b"") for m in messages)


def refused(fate: Fate, rows: range, *, positions: bool) -> RefusedBy:
    """Rows that the engine of a set refused."""
    ts_ns = np.array(rows, np.int64) * 10**9
    batch = Batch(
        "bars",
        "1",
        NO_CLOCK_NS,
        Labels(np.zeros(len(rows), np.int32), ("é",)),
        ts_ns,
        {"close": np.full(len(rows), 0.1)},
        arrival_ns=ts_ns + 5 * 10**6,
        positions=np.array(rows, np.int64) if positions else None,
    )
    return RefusedBy("market", Refused(fate, batch, "more than 3 keys"))


def test_a_dead_letter_keeps_its_bytes_key_and_headers(world):
    part = world.run()
    part.write_batch([letters(7)])
    part.close()
    (found,) = world.dead()
    assert (found.key, found.value) == (b"key\x00\xff", BYTES)
    assert found.headers == [
        ("h", b"\xff"),
        ("none", None),
        ("h", b"again"),
        ("__riffle.errors.flow", b"flow"),
        ("__riffle.errors.topic", world.topic.encode()),
        ("__riffle.errors.partition", b"1"),
        ("__riffle.errors.offset", b"7"),
        ("__riffle.errors.timestamp_ms", b"17"),
        ("__riffle.errors.reason", b"malformed"),
        ("__riffle.errors.message", b"line 7"),
    ]
    assert world.late() == []


def test_late_rows_have_a_topic_of_their_own(world):
    part = world.run()
    mixed = replace(letters(1, 2, 3), reasons=(Reason.LATE, Reason.MALFORMED, Reason.LATE))
    part.write_batch([mixed])
    part.close()
    assert (offsets(world.dead()), offsets(world.late())) == ([2], [1, 3])


def test_a_tombstone_stays_one_and_an_empty_message_too(world):
    part = world.run()
    part.write_batch([letters(1, reason=Reason.TOMBSTONE, value=b""), letters(2, value=b"")])
    part.close()
    assert [message.value for message in world.dead()] == [None, b""]


def test_a_message_as_large_as_its_topic_allowed_is_taken(world):
    part = world.run()
    part.write_batch([letters(1, value=bytes(1_048_000))])
    part.close()
    assert [len(message.value or b"") for message in world.dead()] == [1_048_000]


def test_what_an_engine_refused_is_rendered_and_says_so(world):
    part = world.run()
    part.write_batch(
        [
            refused(Fate.DEAD, range(2, 3), positions=True),
            refused(Fate.REPAIR, range(4, 5), positions=True),
        ]
    )
    part.close()
    (dead,), (late,) = world.dead(), world.late()
    assert dead.key == "é".encode()
    said = {"key": "é", "ts_ns": 2 * 10**9, "arrival_ts_ns": 2_005_000_000, "close": 0.1}
    assert json.loads(dead.value or b"") == said
    assert dead.headers == [
        ("__riffle.errors.flow", b"flow"),
        ("__riffle.errors.topic", world.topic.encode()),
        ("__riffle.errors.partition", b"1"),
        ("__riffle.errors.offset", b"2"),
        ("__riffle.errors.timestamp_ms", b"2005"),
        ("__riffle.errors.reason", b"dead"),
        ("__riffle.errors.message", b"more than 3 keys"),
        ("__riffle.errors.set", b"market"),
        ("__riffle.errors.rendered", b"true"),
    ]
    assert ("__riffle.errors.reason", b"repair") in late.headers


def test_replayed_letters_are_left_out(world):
    first = world.run()
    first.write_batch([letters(1, 5), letters(4, reason=Reason.LATE)])
    first.write_batch([refused(Fate.DEAD, range(3), positions=False)])
    first.write_batch([refused(Fate.DEAD, range(2), positions=True)])
    state = first.snapshot()
    first.close()
    second = world.run(state)
    second.write_batch([letters(1), letters(5, 8), letters(4, 6, reason=Reason.LATE)])
    second.write_batch([refused(Fate.DEAD, range(5), positions=False)])
    second.write_batch([refused(Fate.DEAD, range(4), positions=True)])
    second.close()
    assert (second.written, second.suppressed) == (6, 8)
    plain = [m for m in world.dead() if ("__riffle.errors.reason", b"malformed") in m.headers]
    assert (offsets(plain), offsets(world.late())) == ([1, 5, 8], [4, 6])
    assert len(world.dead()) == 3 + 5 + 4


def test_records_that_lack_a_key_are_refused():
    with pytest.raises(ValueError, match=r"as many keys, values, headers, got \[1, 2, 2\]"):
        Records("bars.dlq", [b"key"], [b"1", b"2"])


def test_a_flow_without_letters_opens_no_transaction(world):
    part = world.run()
    assert part.snapshot() == {"positions": {}}
    part.write_batch([DeadLetters("bars", "1")])
    part.close()
    assert part.lane.counts.transactions == 0


def test_what_comes_after_a_pause_is_committed_at_once(world):
    part = world.run(transaction_ms=LONG_MS)
    part.write_batch([letters(1)])
    assert becomes(lambda: part.lane.counts.transactions == 1, LONG_MS / 2e3)
    part.write_batch([letters(2)])
    part.write_batch([letters(3)])
    part.close()
    assert part.lane.counts.transactions == 2
    assert offsets(world.dead()) == [1, 2, 3]


def test_letters_wait_a_moment_for_each_other(world, monkeypatch):
    monkeypatch.setattr(kafka_letters, "GATHERED_S", LONG_MS / 1e3)
    part = world.run(transaction_ms=0)
    part.snapshot()  # the lane is open
    for offset in range(1, 6):
        part.write_batch([letters(offset)])
    assert part.lane.counts.transactions == 0
    began_s = monotonic()
    part.close()
    assert monotonic() - began_s < LONG_MS / 2e3  # who ends does not wait
    assert part.lane.counts.transactions == 1
    assert offsets(world.dead()) == [1, 2, 3, 4, 5]


def test_who_waits_for_room_does_not_wait_for_the_next_commit(world, monkeypatch):
    monkeypatch.setattr(lane, "MOST_WAITING_BYTES", 2_000)  # one letter, then
    part = world.run(transaction_ms=LONG_MS)
    for offset in range(1, 6):
        part.write_batch([letters(offset)])
    assert part.lane.counts.waited_s < LONG_MS / 2e3
    part.close()
    assert offsets(world.dead()) == [1, 2, 3, 4, 5]


def test_a_progress_that_was_lost_stops_the_flow(world):
    with pytest.raises(ProgressLostError, match="must say that letters are written up to"):
        world.run({"positions": {"bars/1/dead": 3}}).snapshot()


def test_a_missing_topic_stops_the_flow(world):
    world.topic += "-missing"
    with pytest.raises(MissingTopicError, match=r"-missing\.dlq` must exist, found none"):
        world.run().snapshot()
