"""Topics as an input: every message once, as a row or a letter, however reading is cut."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import bytewax.operators as op
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, run_main

from operators.batch import NO_CLOCK_NS, Batch
from operators.dead_letters import Record
from operators.streams import Field, Stream
from sources.alignment import Alignment
from sources.broker_clock import BrokerClock
from sources.kafka_client import Connection, KafkaInputError, murmur2, resolve_offsets, topic_facts
from sources.kafka_log import KafkaLog, OffsetGoneError
from sources.kafka_source import KafkaInput, KafkaPartition, KafkaSource, Span, State
from sources.messages import Messages, Read
from sources.pace import LONGEST_ROUND_S
from sources.stop import STOP
from tests.services.kafka import Topics
from tests.services.names import unique
from tests.test_broker_clock import stamp_of, until
from tests.test_kafka_log import PATIENCE_S, delete_before, produce, transaction

TICKS = Stream(
    "ticks",
    "id",
    (Field("price", above=0), Field("name", kind="id", nullable=True)),
    max_delay_ns=3600 * 10**9,
)
FAR_NS = 10**18


def now_ms() -> int:
    return time.time_ns() // 10**6


def message(**more: Any) -> bytes:
    return msgspec.json.encode({"id": "A", "ts": now_ms() - 500, "price": 1.5} | more)


def entities(number: int, partitions: int) -> list[str]:
    names = [f"E{n}" for n in range(200)]
    return [name for name in names if murmur2(name.encode()) % partitions == number]


class Flow:
    """A topic and what reads it, without Bytewax."""

    def __init__(self, kafka: str, topic: str, partitions: int = 1, **more: Any) -> None:
        self.connection = Connection(kafka)
        self.given = KafkaInput(TICKS, topic, partitions)
        self.group = unique("group")
        self.more: dict[str, Any] = {"alignment": Alignment(FAR_NS)} | more
        self.logs: list[KafkaLog] = []

    def log(self) -> KafkaLog:
        if not self.logs:
            self.logs.append(KafkaLog(self.connection, self.group))
        return self.logs[-1]

    def source(self, span: Span | None = None) -> KafkaSource:
        number = range(self.given.partitions)
        span = span or Span({(self.given.topic, n): 0 for n in number})
        return KafkaSource([self.given], self.log, span, **self.more)

    def close(self) -> None:
        for log in self.logs:
            log.close()
        self.logs.clear()


@pytest.fixture
def flow(kafka: str) -> Iterator[Callable[..., Flow]]:
    made: list[Flow] = []

    def make(topic: str, partitions: int = 1, **more: Any) -> Flow:
        made.append(Flow(kafka, topic, partitions, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def drain(part: KafkaPartition, until: Callable[[list[Read]], bool]) -> list[Read]:
    """What a partition gives until there is enough of it."""
    reads: list[Read] = []
    deadline = time.monotonic() + PATIENCE_S
    while not until(reads):
        assert time.monotonic() < deadline, reads
        found = part.next_batch()
        reads += found
        if not found:
            time.sleep(0.001)
    return reads


def stands_at(part: KafkaPartition, position: int, _: list[Read]) -> bool:
    return part.position == position


def has_read(part: KafkaPartition, count: int, _: list[Read]) -> bool:
    return part.account.rows == count


def has_enough(part: KafkaPartition, count: int, reads: list[Read]) -> bool:
    return part.position == 300 or sum(len(read.batch) for read in reads) >= count


def rows(reads: list[Read]) -> list[tuple[Any, ...]]:
    """Rows as plain values, floats by their bits."""
    found = []
    for batch in (read.batch for read in reads):
        assert batch.positions is not None
        assert batch.arrival_ns is not None
        columns = [
            values.view(np.int64).tolist()
            for values in batch.columns.values()
            if isinstance(values, np.ndarray)
        ]
        times = [batch.ts_ns.tolist(), batch.arrival_ns.tolist(), batch.positions.tolist()]
        found += list(zip(batch.keys.strings(), *times, *columns, strict=True))
    return found


def letters(reads: list[Read]) -> list[tuple[Any, ...]]:
    """Letters in the order of their messages."""
    return sorted(
        letter
        for read in reads
        for found in (read.dead, read.late)
        for letter in zip(
            found.positions, found.reasons, found.messages, found.originals, found.records,
            strict=True,
        )
    )  # fmt: skip


@dataclass(frozen=True, repr=False)
class Once:
    """A topic, and what it gives when it is read at once."""

    flow: Flow
    whole: Any


def mixed(count: int) -> list[bytes | None]:
    """Good messages, late ones and all kinds of bad ones."""
    kinds: list[Callable[[int], bytes | None]] = [
        lambda n: message(price=n + 0.1, name=n),
        lambda n: message(price=n + 0.1, name=f"name {n}"),
        lambda n: message(price=-n - 1),
        lambda n: b"garbage %d" % n,
        lambda _: None,
        lambda n: message(ts=now_ms() - 2 * 3600_000 - n),
        lambda n: message(id="other \\u00e4", price=n + 1),
        lambda n: message(price=n + 0.1, more={"deep": [n, {}]}),
    ]
    return [kinds[(n * 7) % len(kinds)](n) for n in range(count)]


def test_every_message_is_a_row_or_a_letter_with_its_place(topic, kafka, flow):
    name = topic(append_time=True)
    values = mixed(400)
    produce(kafka, name, values)
    part = flow(name).source().build_part("in", "ticks/0", None)
    reads = drain(part, lambda _: part.account.messages == 400)
    positions = [row[3] for row in rows(reads)] + [letter[0] for letter in letters(reads)]
    assert sorted(positions) == list(range(400))
    assert all(original == (values[at] or b"") for at, _, _, original, _ in letters(reads))
    assert (
        part.account.came_in
        == 400
        == part.account.rows + part.account.late + sum(part.account.dead.values())
    )
    assert set(part.account.dead) == {"out_of_bounds", "malformed", "tombstone", "bad_entity"}
    assert part.account.late == 50
    clocks = [read.batch.clock_ns for read in reads]
    assert clocks == sorted(clocks)
    assert clocks[-1] == max(row[2] for row in rows(reads)) or clocks[-1] > 0
    part.close()


@pytest.mark.parametrize("seed", range(6))
def test_any_cut_of_reads_and_runs_gives_the_same_rows(once, seed):
    chance = random.Random(seed)
    cuts = [chance.randrange(1, 60) for _ in range(chance.randrange(1, 8))]
    flow = once.flow
    reads: list[Read] = []
    state: State | None = None
    flow.more["batch_rows"] = chance.randrange(1, 120)
    for cut in [*cuts, 10**6]:
        part = flow.source().build_part("in", "ticks/0", state)
        if state is not None and state["clock_ns"] != NO_CLOCK_NS:
            greeting = part.next_batch()[0].batch
            assert (len(greeting), greeting.clock_ns) == (0, state["clock_ns"])
        reads += drain(part, partial(has_enough, part, cut))
        state = msgspec.json.decode(msgspec.json.encode(part.snapshot()))
        part.close()
        flow.logs.clear()
    assert (rows(reads), letters(reads)) == once.whole
    assert state is not None
    assert state["account"]["came_in"] == 300


@pytest.fixture(scope="module")
def once(kafka: str) -> Iterator[Once]:
    topics = Topics(kafka)
    name = topics(append_time=True)
    produce(kafka, name, mixed(300))
    flow = Flow(kafka, name)
    part = flow.source().build_part("in", "ticks/0", None)
    reads = drain(part, lambda _: part.position == 300)
    part.close()
    flow.logs.clear()
    yield Once(flow, (rows(reads), letters(reads)))
    topics.delete()


def test_a_bounded_read_ends_at_its_end(topic, kafka, flow):
    name = topic(append_time=True)
    produce(kafka, name, [message(price=n + 1) for n in range(30)])
    part = (
        flow(name).source(Span({(name, 0): 4}, {(name, 0): 20})).build_part("in", "ticks/0", None)
    )
    reads = drain(part, lambda reads: bool(reads) and reads[-1].batch.end)
    assert [row[3] for row in rows(reads)] == list(range(4, 20))
    with pytest.raises(StopIteration):
        part.next_batch()


def test_a_bounded_read_ends_where_a_transaction_was_given_up(topic, kafka, flow):
    name = topic(append_time=True)
    produce(kafka, name, [message()])
    transaction(kafka, name, [message()], commits=False)
    ends = {(name, 0): 3}
    # The record that ends a transaction is written behind the answer.
    until(lambda: resolve_offsets(Connection(kafka), [name], "latest") == ends)
    part = flow(name).source(Span({(name, 0): 0}, ends)).build_part("in", "ticks/0", None)
    reads = drain(part, lambda reads: bool(reads) and reads[-1].batch.end)
    assert len(rows(reads)) == 1
    part.close()


def test_an_empty_span_ends_at_once(topic, flow):
    name = topic(append_time=True)
    span = Span({(name, 0): 0}, {(name, 0): 0})
    part = flow(name).source(span).build_part("in", "ticks/0", None)
    assert part.next_batch()[0].batch.end
    part.close()


def test_a_stop_ends_the_input_but_not_the_data(topic, kafka, flow):
    name = topic(append_time=True)
    produce(kafka, name, [message()])
    part = flow(name).source().build_part("in", "ticks/0", None)
    reads = drain(part, lambda reads: bool(rows(reads)))
    assert not any(read.batch.end for read in reads)
    STOP.set()
    try:
        with pytest.raises(StopIteration):
            part.next_batch()
    finally:
        STOP.clear()
    assert part.snapshot()["offset"] == 1
    part.close()


def test_a_silent_partition_keeps_up_with_the_brokers_clock(topic, kafka, flow):
    ticks, name = topic(append_time=True), topic(append_time=True)
    clock = BrokerClock(
        Connection(kafka), ticks, topic_facts(Connection(kafka), [name]), tick_ms=10
    )
    part = flow(name, clock=clock).source().build_part("in", "ticks/0", None)
    assert part.end is None
    (read, *_) = drain(part, lambda reads: len(reads) >= 3)
    assert len(read.batch) == 0
    assert read.batch.clock_ns > NO_CLOCK_NS
    produce(kafka, name, [message()])
    found = drain(part, lambda reads: bool(rows(reads)))
    clocks = [one.batch.clock_ns for one in found]
    assert clocks == sorted(set(clocks)), "the clock is said when it moves"
    # What a transaction leaves behind does not hold the clock back.
    transaction(kafka, name, [message()], commits=False)
    said_ns = found[-1].batch.clock_ns
    drain(part, lambda _: part.position == 3 and part.clock_ns > said_ns)
    assert part.end is not None
    part.close()
    assert part.snapshot()["clock_ns"] == part.clock_ns


def test_a_partition_too_far_ahead_waits_for_the_others(topic, kafka, flow):
    name = topic(2, append_time=True)
    produce(kafka, name, [message(id=entities(0, 2)[0])], 0)
    time.sleep(0.05)
    produce(kafka, name, [message(id=entities(1, 2)[0])], 1)
    source = flow(name, 2, alignment=Alignment(10**6)).source()
    slow, fast = (source.build_part("in", f"ticks/{n}", None) for n in range(2))
    drain(fast, lambda reads: bool(rows(reads)))
    for wait_ms in (1, 2, 4, 8, 16, 20, 20):
        began = datetime.now(UTC)
        assert fast.next_batch() == []
        awake = fast.next_awake()
        assert awake - datetime.now(UTC) <= timedelta(milliseconds=wait_ms) <= awake - began
    drain(slow, lambda reads: bool(rows(reads)))
    assert fast.next_batch() == []
    slow.close()
    fast.close()


def test_partitions_take_turns_by_their_number(topic, kafka, flow):
    name = topic(2, append_time=True)
    for number in range(2):
        produce(kafka, name, [message(id=entities(number, 2)[0])], number)
    source = flow(name, 2).source()
    parts = [source.build_part("in", f"ticks/{n}", None) for n in range(2)]
    seen: list[int] = []
    deadline_s = time.monotonic() + 20
    while len(seen) < 2 and time.monotonic() < deadline_s:
        read = [n for n, part in enumerate(parts) if rows(part.next_batch())]
        assert len(read) <= 1
        seen += read
    assert sorted(seen) == [0, 1]
    soon = datetime.now(UTC) + timedelta(seconds=LONGEST_ROUND_S)
    for part in parts:
        part.next_batch()
        assert part.next_awake() <= soon
        part.close()


def test_an_entity_in_another_partition_is_a_dead_letter(topic, kafka, flow):
    name = topic(4, append_time=True)
    strays = [entities(number, 4)[0] for number in range(4)]
    for number in range(4):
        produce(kafka, name, [message(id=stray) for stray in strays], number)
    source = flow(name, 4).source()
    for number in range(4):
        part = source.build_part("in", f"ticks/{number}", None)
        reads = drain(part, partial(stands_at, part, 4))
        assert [row[0] for row in rows(reads)] == [strays[number]]
        assert part.account.dead == {"wrong_partition": 3}
        part.close()


def test_starts_by_name_time_and_offset(topic, kafka):
    name = topic(2, append_time=True)
    connection = Connection(kafka)
    produce(kafka, name, [b"a", b"b"], 0)
    time.sleep(0.02)
    between_ns = stamp_of(kafka, topic(append_time=True))
    time.sleep(0.02)
    produce(kafka, name, [b"c"], 0)
    both = [(name, 0), (name, 1)]
    for at, expected in (
        ("earliest", (0, 0)),
        ("latest", (3, 0)),
        (between_ns, (2, 0)),
        (0, (0, 0)),
        (between_ns + 10**12, (3, 0)),
        (dict(zip(both, (1, 0), strict=True)), (1, 0)),
    ):
        assert resolve_offsets(connection, [name], at) == dict(zip(both, expected, strict=True))
    with pytest.raises(
        KafkaInputError, match="must be earliest, latest, a time or offsets, got 'x'"
    ):
        resolve_offsets(connection, [name], "x")
    with pytest.raises(KafkaInputError, match=r"must be given for the partitions .* more or less"):
        resolve_offsets(connection, [name], {(name, 0): 1})


class Shelf:
    """Older messages that are kept elsewhere."""

    def __init__(self, values: Mapping[int, bytes], position: int) -> None:
        self.values = dict(values)
        self.position = position
        self.closed = False

    def take(self, most: int) -> Messages | None:
        offsets = [offset for offset in sorted(self.values) if offset >= self.position][:most]
        if not offsets:
            return None
        self.position = offsets[-1] + 1
        stamps = np.full(len(offsets), now_ms())
        held = [self.values[offset] for offset in offsets]
        return Messages(held, np.array(offsets), stamps, lambda _: Record(b"", (), 0))

    def close(self) -> None:
        self.closed = True


def test_an_archive_is_read_before_the_log_which_goes_on_behind_it(topic, kafka, flow):
    name = topic(append_time=True)
    values = [message(price=n + 1) for n in range(30)]
    produce(kafka, name, values)
    delete_before(kafka, name, 12)
    shelf = Shelf({n: values[n] for n in range(20)}, 3)
    span = Span({(name, 0): 3}, history=lambda *_: shelf)
    part = flow(name, batch_rows=7).source(span).build_part("in", "ticks/0", None)
    reads = drain(part, lambda _: part.position == 30)
    assert [row[3] for row in rows(reads)] == list(range(3, 30))
    assert shelf.closed
    part.close()


def test_a_gap_between_the_archive_and_the_log_stops_the_reading(topic, kafka, flow):
    name = topic(append_time=True)
    values = [message(price=n + 1) for n in range(30)]
    produce(kafka, name, values)
    delete_before(kafka, name, 12)
    shelf = Shelf({n: values[n] for n in range(10)}, 0)
    span = Span({(name, 0): 0}, history=lambda *_: shelf)
    part = flow(name).source(span).build_part("in", "ticks/0", None)
    with pytest.raises(OffsetGoneError, match=r"must hold offset 10, .* holds 12 to 29"):
        drain(part, lambda _: part.position == 30)
    part.close()


def test_a_carried_state_is_gone_on_from(topic, kafka, flow):
    name = topic(append_time=True)
    produce(kafka, name, [message(price=n + 1) for n in range(10)])
    state = {"offset": 7, "clock_ns": 5, "account": {"messages": 7, "came_in": 7, "rows": 7}}
    span = Span({(name, 0): 0}, carried={"ticks/0": state})
    part = flow(name).source(span).build_part("in", "ticks/0", None)
    assert part.next_batch()[0].batch.clock_ns == 5
    assert [row[3] for row in rows(drain(part, lambda _: part.position == 10))] == [7, 8, 9]
    assert part.account.rows == 10
    part.close()


def test_rows_are_the_same_from_arrow_and_json(topic, kafka, flow):
    names = [topic(append_time=True), topic(append_time=True)]
    made = [
        {"id": "A", "ts": now_ms() - n, "price": 0.1 * n + 1, "name": f"n{n}"} for n in range(50)
    ]
    produce(kafka, names[0], [msgspec.json.encode(row) for row in made])
    produce(kafka, names[1], [stream_of(made[start : start + 20]) for start in range(0, 50, 20)])
    found = []
    for name, form in zip(names, ("json", "arrow"), strict=True):
        one = flow(name)
        one.given = replace(one.given, form=form)
        part = one.source().build_part("in", "ticks/0", None)
        reads = drain(part, partial(has_read, part, 50))
        found.append([(*row[:2], *row[4:]) for row in rows(reads)])
        assert [row[3] for row in rows(reads)] == (
            list(range(50)) if form == "json" else [0] * 20 + [1] * 20 + [2] * 10
        )
        part.close()
    assert found[0] == found[1]


def stream_of(made: list[dict[str, Any]]) -> bytes:
    table = pa.Table.from_pylist(made)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def test_a_flow_resumes_where_its_snapshot_says(topic, kafka, flow, tmp_path: Path):
    name = topic(3, append_time=True)
    for number in range(3):
        made = [message(id=entities(number, 3)[n % 5], price=n + 1) for n in range(500)]
        produce(kafka, name, made, number)
    init_db_dir(tmp_path, 1)
    seen: list[Batch] = []
    source = flow(name, 3, batch_rows=50)

    def run(fails_at: int | None) -> None:
        ends = resolve_offsets(Connection(kafka), [name], "latest")
        span = Span(dict.fromkeys(ends, 0), ends)
        out: list[Read] = []
        count = 0

        def step(read: Read) -> Read:
            nonlocal count
            count += 1
            if count == fails_at:
                raise RuntimeError
            return read

        dataflow = Dataflow("reading")
        reads = op.input("in", dataflow, source.source(span))
        op.output("out", op.map("step", reads, step), TestingSink(out))
        try:
            run_main(
                dataflow,
                epoch_interval=timedelta(0),
                recovery_config=RecoveryConfig(str(tmp_path)),
            )
        finally:
            seen.extend(read.batch for read in out)
            source.close()

    with pytest.raises(RuntimeError):
        run(fails_at=13)
    run(None)
    found = [
        (b.partition, at) for b in seen if b.positions is not None for at in b.positions.tolist()
    ]
    assert set(found) == {(str(number), at) for number in range(3) for at in range(500)}
    assert len(found) <= 1500 + 3 * 50, "read again is at most what was not yet in a snapshot"
    assert sum(batch.end for batch in seen) == 3


def test_parts_are_those_of_the_given_partitions(flow, topic):
    name = topic(4)
    assert flow(name, 4).source().list_parts() == [f"ticks/{n}" for n in range(4)]
    assert flow(name, 4, numbers={1, 3}).source().list_parts() == ["ticks/1", "ticks/3"]


def test_a_partition_that_is_none_of_the_inputs_is_refused(flow, topic):
    source = flow(topic()).source()
    with pytest.raises(KafkaInputError, match=r"'in': .* found none for 'bars/0'"):
        source.build_part("in", "bars/0", None)


def test_a_partition_without_a_start_is_refused(flow, topic):
    source = flow(topic()).source(Span({}))
    with pytest.raises(KafkaInputError, match="a start must be given for 'ticks/0', found none"):
        source.build_part("in", "ticks/0", None)


def test_a_stream_is_read_from_one_topic(flow, topic):
    one = flow(topic())
    with pytest.raises(KafkaInputError, match="from one topic, found 'ticks/0' twice"):
        KafkaSource([one.given, one.given], one.log, Span({}), Alignment(0))


def test_batches_have_rows(flow, topic):
    with pytest.raises(ValueError, match="at least one row, got batch_rows=0"):
        flow(topic(), batch_rows=0).source()
