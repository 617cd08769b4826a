"""Rows that did not become part of any vector, to Kafka: late ones and dead letters, exactly once.

The letters of topic `t` go to `t.dlq`, late ones to `t.late`. What a source refused keeps its key,
its bytes and its headers. What an engine refused is rendered as JSON, for the engine knows only
columns. Headers of ours, behind the message's own, say where it stood and why it was refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypedDict

import numpy as np
from bytewax.outputs import StatefulSinkPartition

from operators.account import Fate
from operators.batch import Batch, Int64s
from operators.dead_letters import DeadLetters, Reason
from operators.engine import Refused
from sinks.errors import ProgressLostError
from sinks.kafka_lane import Headers, KafkaLane, Records, Tenancy
from sinks.lane import Parcel, State
from sinks.lanes import LanesSink
from sinks.letters import rows_as_json

PREFIX = "__riffle.errors."
"""Of the names of our headers."""
OFFSET, STAMP = PREFIX + "offset", PREFIX + "timestamp_ms"
REASON, MESSAGE = PREFIX + "reason", PREFIX + "message"
GATHERED_S = 0.25
"""Letters wait this long for others: a few large transactions cost less than many small ones."""


def dead_topic(topic: str) -> str:
    """The topic with the dead letters of a topic.

    >>> dead_topic("bars")
    'bars.dlq'
    """
    return f"{topic}.dlq"


def late_topic(topic: str) -> str:
    """The topic with the late rows of a topic.

    >>> late_topic("bars")
    'bars.late'
    """
    return f"{topic}.late"


@dataclass(frozen=True, slots=True)
class RefusedBy:
    """What the engine of a set refused.

    Attributes:
        feature_set: name of the set.
        refused: the rows.
    """

    feature_set: str
    refused: Refused


Letters: TypeAlias = DeadLetters | RefusedBy


class Kept(TypedDict):
    """What a snapshot keeps of a lane.

    Attributes:
        positions: the last letter of each kind that Kafka holds: its offset, or the time of a row
            that has none.
    """

    positions: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Lot:
    """Letters of one kind: those of one topic's partition that come in one order.

    Attributes:
        kind: names them in the progress.
        order: what they are ordered by.
        render: gives the records of some of them.
        size: bytes of all, about.
    """

    kind: str
    order: Int64s
    render: Callable[[list[int]], Records]
    size: int


class LettersPart(StatefulSinkPartition[Letters, Kept]):
    """The letters of one lane.

    Attributes:
        lane: their way; its counts are for metrics.
        written, suppressed: letters handed over, and those that Kafka held already.
    """

    def __init__(self, name: str, number: int, sink: KafkaLettersSink, resumed: Kept | None):
        self.written = self.suppressed = 0
        self._name = name
        self._sink = sink
        self._resumed = resumed
        self._positions: dict[str, int] | None = None
        self.lane = KafkaLane(
            name, number, sink.tenancy, sink.targets, self._accept, sink.beat, GATHERED_S
        )

    def write_batch(self, values: list[Letters]) -> None:
        """Hands letters over."""
        for letters in values:
            for lot in self._sink.lots(letters):
                self._write(lot)

    def snapshot(self) -> Kept:
        """Waits until Kafka holds all letters, and gives how far they reach."""
        positions = self._known()
        self.lane.flush()
        return {"positions": dict(positions)}

    def close(self) -> None:
        """Waits until Kafka holds all letters."""
        self.lane.close()

    def abandon(self) -> None:
        """Lets go of the lane as it is, and waits for nothing."""
        self.lane.abandon()

    def _write(self, lot: _Lot) -> None:
        positions = self._known()
        kept = np.flatnonzero(lot.order > positions.get(lot.kind, -(2**63)))
        self.suppressed += len(lot.order) - len(kept)
        if len(kept):
            positions[lot.kind] = int(lot.order[kept].max())
            state = {"positions": dict(positions)}
            render = partial(_rendered, lot, kept.tolist())
            self.lane.put(Parcel(render, state, len(kept), lot.size))
            self.written += len(kept)

    def _known(self) -> dict[str, int]:
        if self._positions is None:
            self._positions = dict(self.lane.state().get("positions", {}))
        return self._positions

    def _accept(self, state: State) -> None:
        """Refuses to go on from a progress that is behind the snapshot."""
        wanted = self._resumed["positions"] if self._resumed else {}
        found = state.get("positions", {})
        behind = {kind: at for kind, at in wanted.items() if found.get(kind, -(2**63)) < at}
        if behind:
            msg = (
                f"lane `{self._name}`: topic `{self._sink.tenancy.progress.topic}` must say that "
                f"letters are written up to {behind}, as the snapshot does, found {found}; restore "
                "the topic, or start with a new recovery directory"
            )
            raise ProgressLostError(msg)


class KafkaLettersSink(LanesSink[Letters, Kept, LettersPart]):
    """Letters as the end of a flow of (lane, letters).

    Args:
        topics: the topic of each stream.
        tenancy: who writes.
        lanes: numbers of those that come.
        carried: what earlier snapshots, of a flow that was cut otherwise, keep of lanes.
        watch: is shown each part, for metrics.
        beat: is called while the sink waits for Kafka.

    Attributes:
        targets: the topics that letters go to.
    """

    def __init__(
        self,
        topics: Mapping[str, str],
        tenancy: Tenancy,
        lanes: Sequence[int],
        carried: Mapping[str, Kept] | None = None,
        watch: Callable[[LettersPart], None] = lambda part: None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__("letters", tenancy.flow, lanes, carried, beat)
        self._topics = topics
        self.targets = [name(t) for t in topics.values() for name in (dead_topic, late_topic)]
        self.tenancy = tenancy
        self._watch = watch

    def _part(self, name: str, number: int, resumed: Kept | None) -> LettersPart:
        part = LettersPart(name, number, self, resumed)
        self._watch(part)
        return part

    def lots(self, letters: Letters) -> Iterable[_Lot]:
        """Sorts letters by kind."""
        if isinstance(letters, RefusedBy):
            return [self._refused(letters)] if len(letters.refused.batch) else []
        late = np.full(len(letters), Reason.LATE in letters.reasons)
        if late.any():
            late[:] = [reason == Reason.LATE for reason in letters.reasons]
        kinds = (("dead", dead_topic, ~late), ("late", late_topic, late))
        return [
            self._read(letters, kind, topic_of, np.flatnonzero(chosen))
            for kind, topic_of, chosen in kinds
            if chosen.any()
        ]

    def _read(
        self, letters: DeadLetters, kind: str, topic_of: Callable[[str], str], rows: Int64s
    ) -> _Lot:
        """Letters of a source, as they stood in its log."""
        topic = self._topics[letters.stream]
        own = rows.tolist()
        place = self._marks(topic, letters.partition)

        def render(some: list[int]) -> Records:
            chosen = [own[index] for index in some]
            keys: list[bytes | None] = [None] * len(chosen)
            stood: list[Headers] = [place] * len(chosen)
            stamps: list[Headers] = [[]] * len(chosen)
            if letters.records:
                records = [letters.records[row] for row in chosen]
                keys = [record.key for record in records]
                stood = [[*record.headers, *place] for record in records]
                stamps = [[(STAMP, b"%d" % record.timestamp_ms)] for record in records]
            headers: list[Headers] = [
                [
                    *before,
                    (OFFSET, b"%d" % letters.positions[row]),
                    *stamp,
                    (REASON, letters.reasons[row].encode()),
                    (MESSAGE, letters.messages[row].encode()),
                ]
                for row, before, stamp in zip(chosen, stood, stamps, strict=True)
            ]
            values = [
                None if letters.reasons[row] == Reason.TOMBSTONE else letters.originals[row]
                for row in chosen
            ]
            return Records(topic_of(topic), keys, values, headers)

        order = np.array(letters.positions, np.int64)[rows]
        size = sum(len(letters.originals[row]) for row in own) + len(own) * 1_000
        return _Lot(f"{topic}/{letters.partition}/{kind}", order, render, size)

    def _refused(self, letters: RefusedBy) -> _Lot:
        """Letters of an engine, rendered."""
        refused, batch = letters.refused, letters.refused.batch
        topic = self._topics[batch.stream]
        dead = refused.fate == Fate.DEAD

        def render(some: list[int]) -> Records:
            rows: Batch = batch.take(np.array(some, np.int64))
            headers: list[Headers] = []
            for row in range(len(rows)):
                at_ns = None if rows.arrival_ns is None else int(rows.arrival_ns[row])
                headers.append(
                    [
                        *self._marks(topic, batch.partition),
                        *_mark("offset", None if rows.positions is None else rows.positions[row]),
                        *_mark("timestamp_ms", None if at_ns is None else at_ns // 10**6),
                        *_mark("reason", refused.fate.name.lower()),
                        *_mark("message", refused.reason),
                        *_mark("set", letters.feature_set),
                        *_mark("rendered", "true"),
                    ]
                )
            keys = [name.encode() for name in rows.keys.strings()]
            goes_to = dead_topic(topic) if dead else late_topic(topic)
            return Records(goes_to, keys, rows_as_json(rows).to_pylist(), headers)

        # Contradictions show when they are settled, in the order of time; the rest when it is read.
        settled = batch.positions is None
        order = batch.ts_ns if batch.positions is None else batch.positions
        what = "contradiction" if settled else refused.fate.name.lower()
        kind = f"{topic}/{batch.partition}/{letters.feature_set}/{what}"
        return _Lot(kind, order, render, len(batch) * 1_000)

    def _marks(self, topic: str, partition: str) -> Headers:
        return [
            *_mark("flow", self.tenancy.flow),
            *_mark("topic", topic),
            *_mark("partition", partition),
        ]


def _mark(name: str, value: object) -> Headers:
    return [] if value is None else [(PREFIX + name, str(value).encode())]


def _rendered(lot: _Lot, rows: list[int]) -> list[Records]:
    return [lot.render(rows)]
