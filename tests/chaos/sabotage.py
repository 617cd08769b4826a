"""Live flows that are broken on purpose, each in one small place.

Every one of them is a mistake that streaming systems make. A breaker patches the modules of the
process that it is called in, for good; its docstring says what is wrong with the flow then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
from bytewax.outputs import DynamicSink, FixedPartitionedSink, StatelessSinkPartition
from confluent_kafka import Producer

from dataflows import live, live_sinks
from operators import extract
from operators import snapshot as state
from operators.batch import Vectors
from operators.engine import Engine
from sinks import kafka_lane, settled
from sinks.kafka import KafkaPart
from sinks.kafka_lane import KafkaLane
from sinks.kafka_letters import LettersPart
from sinks.kafka_progress import Progress
from sinks.online_lane import OnlineLane
from sinks.online_rows import Newest
from sinks.online_store import ServedView
from sinks.settled import Settled
from sinks.table_lane import TableLane
from sources.kafka_client import Connection
from sources.kafka_log import KafkaLog, LogPartition
from tests.chaos.places import KAFKA, ONLINE, TABLE
from tests.chaos.tables import PROGRESS

VARIABLE = "CHAOS_SABOTAGE"
"""Names the breaker, to the module that the broken flow is started from."""
PIECES, PIECE_S = 6, 0.07
"""A lane gives vectors twice a second, so that it is at work most of the time."""
BETWEEN_S = 0.2
SHORT, LONG = "100ms", "3s"
Breaker = Callable[[], None]


@dataclass(frozen=True)
class Broken:
    """A broken flow.

    Attributes:
        breaker: breaks it.
        scenario: in which it must fail: ``kills``, ``copy``, ``stopped``, ``outage``.
        symptom: what the proof must say of it.
        transaction: time between two commits of the flow. With a long one a kill finds one open,
            though the real flow commits at each snapshot; with a short one, some since the last.
        sinks: where its vectors go.
        early: those of them that are given provisional vectors.
    """

    breaker: Breaker
    scenario: str
    symptom: str
    transaction: str = SHORT
    sinks: Sequence[str] = (KAFKA,)
    early: Sequence[str] = ()


BROKEN: dict[str, Broken] = {}
"""Every broken flow by name."""


def broken(scenario: str, symptom: str, *more: Any, **named: Any) -> Callable[[Breaker], Breaker]:
    """Enters a breaker into the table."""

    def enter(breaker: Breaker) -> Breaker:
        BROKEN[breaker.__name__] = Broken(breaker, scenario, symptom, *more, **named)
        return breaker

    return enter


def sabotage() -> None:
    """Breaks this process as the environment says; not at all where it does not say."""
    name = os.environ.get(VARIABLE)
    if name:
        BROKEN[name].breaker()


def patch(owner: Any, name: str, value: object) -> None:
    """Replaces an attribute for good."""
    setattr(owner, name, value)


# -- sinks ----------------------------------------------------------------------------------------


@broken("kills", "vectors missing", LONG)
def sink_not_flushed_at_snapshot() -> None:
    """Takes a snapshot while vectors before it are still on their way."""
    patch(KafkaPart, "snapshot", lambda self: {"settled_ns": None})


@broken("kills", "vectors missing", LONG)
def progress_written_ahead() -> None:
    """Notes how far the vectors reach before they are there, outside their transaction."""
    produce = KafkaLane._produce

    def ahead(self: KafkaLane, producer: Producer, parcel: Any) -> int:
        log = self._tenancy.progress
        record = Progress(self._tenancy.job, self.instance, parcel.state).encode()
        plain = Producer(self._connection.config())
        plain.produce(log.topic, record, self.name, log.partition_of(self._number))
        plain.flush()
        return produce(self, producer, parcel)

    patch(KafkaLane, "_produce", ahead)


@broken("copy", "vectors (twice|missing)")
def no_fence() -> None:
    """Gives every run transactional ids of its own, so that none ends those of another."""
    config = Connection.config

    def unfenced(self: Connection, defaults: Any = None, **own: Any) -> dict[str, Any]:
        if "transactional_id" in own:
            own["transactional_id"] += uuid4().hex
        return config(self, defaults, **own)

    patch(Connection, "config", unfenced)


@broken("kills", "vectors twice")
def vectors_not_suppressed() -> None:
    """Writes again after a restart what is there already."""
    patch(Settled, "open", lambda self, state: None)


@broken("kills", "stands twice")
def letters_not_suppressed() -> None:
    """Writes letters again after a restart that are there already."""
    known = LettersPart._known

    def forgetful(self: LettersPart) -> dict[str, int]:
        if self._positions is None:
            known(self)
            self._positions = {}
        return self._positions

    patch(LettersPart, "_known", forgetful)


@broken("outage", r"vectors missing|ended with \[2\]", LONG)  # its own checks may find it
def delivery_errors_ignored() -> None:
    """Takes vectors for written that the broker has not taken."""
    commit = KafkaLane._commit

    def careless(self: KafkaLane, parcels: list[Any]) -> None:
        tried: list[bool] = []

        def once(self: KafkaLane, parcels: list[Any]) -> None:
            if tried:
                self._state = parcels[-1].state
                self._begun()
                self._produce_progress(self._producer, parcels[-1].state)  # type: ignore[arg-type]
                self._producer.commit_transaction()  # type: ignore[union-attr]
                return
            tried.append(True)
            write(self, parcels)

        self._write = once.__get__(self)  # type: ignore[method-assign]
        commit(self, parcels)

    write = KafkaLane._write
    patch(KafkaLane, "_commit", careless)


class Loose(StatelessSinkPartition[Any]):
    """Writes to the parts of a sink, which it never asks for a snapshot."""

    def __init__(self, sink: FixedPartitionedSink[Any, Any]) -> None:
        self.parts = {key: sink.build_part("", key, None) for key in sink.list_parts()}

    def write_batch(self, items: list[Any]) -> None:
        for key, vectors in items:
            self.parts[key].write_batch([vectors])


class LooseSink(DynamicSink[Any]):
    """Takes no part in snapshots, as the sink for Kafka that comes with Bytewax."""

    def __init__(self, sink: FixedPartitionedSink[Any, Any]) -> None:
        self.sink = sink

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Loose:
        return Loose(self.sink)


@broken("kills", "vectors missing", LONG)
def dynamic_sink() -> None:
    """Writes to a sink that Bytewax does not wait for."""
    sinks_of = live_sinks.sinks_of

    def loose(*args: Any) -> dict[str, LooseSink]:
        return {place: LooseSink(sink._sink) for place, sink in sinks_of(*args).items()}

    patch(live, "sinks_of", loose)


@broken("kills", "vectors missing")
def transactions_cut_inside_instants() -> None:
    """Commits a part of an instant's vectors, and takes the instant for done."""

    def pieces(vectors: Vectors, most: int) -> Iterator[Vectors]:
        order = np.argsort(vectors.ts_ns, kind="stable")
        for piece in np.array_split(order, min(PIECES, len(order))):
            yield vectors.take(piece)

    write = KafkaLane._write

    def paced(self: KafkaLane, parcels: list[Any]) -> None:
        write(self, parcels)
        time.sleep(PIECE_S)  # so that a kill comes between two of them

    patch(settled, "cut_between_instants", pieces)
    patch(kafka_lane, "MOST_RECORDS", 1)
    patch(KafkaLane, "_write", paced)


# -- tables -------------------------------------------------------------------------------------


@broken("stopped", "table: .* values of coverage differ", sinks=[TABLE])
def no_fence_of_tables() -> None:
    """Writes to a table whoever has the lane by now."""

    def unfenced(self: TableLane, connection: Any, state: Any) -> None:
        sql = f"UPDATE {PROGRESS} SET settled_ns = %s, at = now() WHERE lane = %s"
        connection.execute(sql, (state.get("settled_ns"), self.name))

    patch(TableLane, "_advance", unfenced)
    patch(TableLane, "_enter_again", lambda self: self._state)


@broken("kills", "table: .* vectors missing", sinks=[TABLE])
def table_progress_outside_the_transaction() -> None:
    """Commits how far a table has come, and then what has come."""
    advance, store = TableLane._advance, TableLane._store

    def ahead(self: TableLane, vectors: list[Vectors], written: Any) -> None:
        with self._transaction() as connection:
            advance(self, connection, written)
        time.sleep(BETWEEN_S)
        store(self, vectors, written)

    patch(TableLane, "_store", ahead)
    patch(TableLane, "_advance", lambda self, connection, written: None)


@broken("kills", "a second time", sinks=[TABLE], early=[TABLE])
def table_batch_not_deduplicated() -> None:
    """Gives a table several vectors of one instant in a statement."""
    patch(TableLane, "_newest", lambda self, rows: rows)


# -- online stores --------------------------------------------------------------------------------


@broken("stopped", "online: (served .* that are none|.* went back in time)", sinks=[ONLINE])
def no_fence_of_online_stores() -> None:
    """Writes to an online store whoever has the lane by now."""
    patch(ServedView, "holds", lambda self, found, held: True)
    patch(OnlineLane, "_check", lambda self, found: None)


@broken("kills", "online: .* went back in time", sinks=[ONLINE], early=[ONLINE])
def older_vectors_served() -> None:
    """Serves what came last, not what is newest."""
    patch(Newest, "may_replace", lambda self, marks, served: np.ones(len(marks), np.bool_))


# -- sources, clocks, state -----------------------------------------------------------------------


@broken("kills", "vectors missing|values of .* differ|letters missing")
def resumed_an_offset_too_far() -> None:
    """Goes on one message behind the one that was to be read next."""
    opened = KafkaLog.open

    def further(self: KafkaLog, topic: str, number: int, offset: int, **more: Any) -> LogPartition:
        return opened(self, topic, number, offset + 1 if offset else 0, **more)

    patch(KafkaLog, "open", further)


@broken("kills", "letters extra")
def late_by_the_clock_on_the_wall() -> None:
    """Calls rows late by when they are read, not by when they arrived."""
    take = LogPartition.take

    def stamped_now(self: LogPartition, most: int) -> Any:
        found = take(self, most)
        if found is None:
            return None
        now_ms = time.time_ns() // 10**6
        return replace(found, timestamps_ms=np.full_like(found.timestamps_ms, now_ms))

    patch(LogPartition, "take", stamped_now)


@broken("kills", "vectors missing|values of .* differ")
def clock_by_wall_time() -> None:
    """Takes what time it is for how far the input has been read."""
    patch(Engine, "clock_ns", property(lambda self: time.time_ns()))


@broken("kills", "vectors missing|values of .* differ")
def pending_rows_left_out() -> None:
    """Saves what is settled and loses the rows that are waiting."""
    whole = state.snapshot

    def without(engine: Engine) -> bytes:
        found = state.read(whole(engine))
        return msgspec.msgpack.encode(msgspec.structs.replace(found, pending={}))

    patch(extract, "snapshot", without)


def names(scenario: str) -> Sequence[str]:
    """The broken flows that must fail in a scenario."""
    return [name for name, each in BROKEN.items() if each.scenario == scenario]
