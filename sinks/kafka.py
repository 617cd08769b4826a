"""Vectors to Kafka: final ones exactly once or at least once, provisional ones at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, TypedDict

import numpy as np
from bytewax.outputs import StatefulSinkPartition

from operators.batch import Vectors
from operators.extract import key_of
from operators.feature_set import FeatureSet
from sinks.kafka_direct import Direct
from sinks.kafka_errors import OutOfOrderError, ProgressLostError
from sinks.kafka_lane import MOST_RECORDS, Lane, Parcel, Records, Tenancy
from sinks.kafka_progress import State
from sinks.lanes import LanesSink
from sinks.vector_messages import Form, VectorMessages, sorted_by_time

Delivery: TypeAlias = Literal["exactly_once", "at_least_once"]

NEVER_NS = -(2**63)
"""Before every instant."""


class Written(TypedDict):
    """What a snapshot keeps of a lane.

    Attributes:
        settled_ns: time of the last vectors that Kafka holds; None where there are none yet, or
            where it is not remembered.
    """

    settled_ns: int | None


@dataclass(frozen=True, slots=True)
class KafkaOutput:
    """Where vectors go.

    Attributes:
        topic: of final vectors.
        delivery: whether readers of committed messages see each once, or each at least once and
            sooner.
        form: a JSON object a vector, or Arrow streams of many.
        provisional_topic: of provisional vectors, which are left out where there is none.
    """

    topic: str
    delivery: Delivery = "exactly_once"
    form: Form = "json"
    provisional_topic: str | None = None


class KafkaPart(StatefulSinkPartition[Vectors, Written]):
    """One lane of one set.

    Attributes:
        name: the lane's transactional id.
        lane: the way of final vectors, where it is by transactions; its counts are for metrics.
        final, provisional, suppressed: vectors handed over, and final ones that Kafka held already.
    """

    def __init__(
        self,
        name: str,
        number: int,
        sink: KafkaSink,
        resumed: Written | None,
    ) -> None:
        self.name = name
        self.final = self.provisional = self.suppressed = 0
        self._key = key_of(number).encode()
        self._sink = sink
        self._resumed = resumed
        self._settled_ns: int | None = None
        self._found_ns = self._last_ns = NEVER_NS
        self._opened = False
        self._direct: Direct | None = None
        self._early: Direct | None = None
        self.lane: Lane | None = None
        output, tenancy = sink.output, sink.tenancy
        topics = [topic for topic in (output.topic, output.provisional_topic) if topic]
        if output.delivery == "exactly_once":
            self.lane = Lane(name, number, tenancy, topics, self._accept, sink.beat)
        else:
            tenancy.progress.require(topics)

    def write_batch(self, values: list[Vectors]) -> None:
        """Hands vectors over."""
        if self._early is not None:
            self._early.check()
        for vectors in values:
            if not len(vectors):
                continue
            if not vectors.final:
                self._write_provisional(vectors)
            elif self.lane is not None:
                self._write_once(self.lane, vectors)
            else:
                self._direct = self._direct or self._producer("final")
                self._direct.write(self._records(self._sink.output.topic, vectors))
                self.final += len(vectors)

    def snapshot(self) -> Written:
        """Waits until Kafka holds all final vectors, and gives how far they reach."""
        if self._early is not None:
            self._early.check()
        if self._direct is not None:
            self._direct.flush()
        if self.lane is not None:
            self._open(self.lane)
            self.lane.flush()
        return {"settled_ns": self._settled_ns}

    def close(self) -> None:
        """Waits until Kafka holds everything."""
        for direct in (self._direct, self._early):
            if direct is not None:
                direct.close()
        if self.lane is not None:
            self.lane.close()

    def _producer(self, kind: str) -> Direct:
        sink = self._sink
        return Direct(sink.tenancy.progress.connection, f"{self.name} ({kind})", beat=sink.beat)

    def _write_provisional(self, vectors: Vectors) -> None:
        topic = self._sink.output.provisional_topic
        if topic is not None:
            self._early = self._early or self._producer("provisional")
            self._early.write(self._records(topic, vectors))
            self.provisional += len(vectors)

    def _records(self, topic: str, vectors: Vectors) -> Records:
        messages = self._sink.messages
        if self._sink.output.form == "arrow":
            values = messages.arrow(vectors)
            return Records(topic, [self._key] * len(values), values)
        return Records(topic, messages.keys(vectors), messages.values(vectors))

    # -- exactly once -----------------------------------------------------------------------

    def _accept(self, state: State) -> None:
        """Refuses to go on from a progress that is behind the snapshot."""
        wanted_ns = self._resumed["settled_ns"] if self._resumed else None
        found_ns = state.get("settled_ns")
        if wanted_ns is not None and (found_ns is None or found_ns < wanted_ns):
            msg = (
                f"lane `{self.name}`: topic `{self._sink.tenancy.progress.topic}` must say that "
                f"vectors are written up to {wanted_ns}, as the snapshot does, found {found_ns}; "
                "restore the topic, or start with a new recovery directory and output topic"
            )
            raise ProgressLostError(msg)

    def _open(self, lane: Lane) -> None:
        if not self._opened:
            self._settled_ns = lane.state().get("settled_ns")
            if self._settled_ns is not None:
                self._found_ns = self._last_ns = self._settled_ns
            self._opened = True

    def _write_once(self, lane: Lane, vectors: Vectors) -> None:
        self._open(lane)
        fresh = vectors.ts_ns > self._found_ns
        if not fresh.all():
            self.suppressed += len(vectors) - int(fresh.sum())
            vectors = vectors.take(np.flatnonzero(fresh))
            if not len(vectors):
                return
        first_ns = int(vectors.ts_ns.min())
        if first_ns <= self._last_ns:
            msg = (
                f"lane `{self.name}`: final vectors must come after those up to {self._last_ns}, "
                f"found some of {first_ns}; the lane's items must come from one engine, in order"
            )
            raise OutOfOrderError(msg)
        for piece in cut_between_instants(vectors, MOST_RECORDS):
            until_ns = int(piece.ts_ns.max())
            size = len(piece) * 8 * (len(piece.features) + 5)
            render = partial(self._rendered, piece)
            lane.put(Parcel(render, {"settled_ns": until_ns}, len(piece), size))
            self._settled_ns = self._last_ns = until_ns
        self.final += len(vectors)

    def _rendered(self, vectors: Vectors) -> Sequence[Records]:
        return [self._records(self._sink.output.topic, vectors)]


class KafkaSink(LanesSink[Vectors, Written, KafkaPart]):
    """One set's vectors as the end of a flow of (lane, vectors).

    A snapshot waits until Kafka holds what was written before it. What a resumed flow writes again
    is left out where Kafka holds it.

    Args:
        feature_set: whose vectors come.
        output: where they go.
        tenancy: who writes.
        lanes: numbers of those that come: all of a cluster's flow, or a shard's own.
        carried: what earlier snapshots, of a flow that was cut otherwise, keep of lanes.
        watch: is shown each part, for metrics.
        beat: is called while the sink waits for Kafka.

    Attributes:
        messages: renders the vectors.
    """

    def __init__(
        self,
        feature_set: FeatureSet,
        output: KafkaOutput,
        tenancy: Tenancy,
        lanes: Sequence[int],
        carried: Mapping[str, Written] | None = None,
        watch: Callable[[KafkaPart], None] = lambda part: None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        name = f"{feature_set.name}.{feature_set.version}"
        super().__init__(name, tenancy, lanes, carried, beat)
        self.messages = VectorMessages(feature_set)
        self.output = output
        self._watch = watch

    def _part(self, name: str, number: int, resumed: Written | None) -> KafkaPart:
        part = KafkaPart(name, number, self, resumed)
        self._watch(part)
        return part


def cut_between_instants(vectors: Vectors, most: int) -> Iterator[Vectors]:
    """Cuts vectors into pieces of about so many, never inside one instant.

    Args:
        vectors: in any order; a single piece keeps it.
        most: a piece has more only where an instant does.
    """
    if len(vectors) <= most:
        yield vectors
        return
    vectors = sorted_by_time(vectors)
    starts = np.flatnonzero(np.diff(vectors.ts_ns, prepend=NEVER_NS))
    start = 0
    while start < len(vectors):
        stop = len(vectors)
        if start + most < stop:
            # The last instant that begins within reach, or else the one after the first.
            later = starts[starts > start]
            within = later[later <= start + most]
            stop = int(within[-1]) if len(within) else int(later[0]) if len(later) else stop
        yield vectors.take(np.arange(start, stop))
        start = stop
