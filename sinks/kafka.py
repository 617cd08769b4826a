"""Vectors to Kafka: final ones exactly once or at least once, provisional ones at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from bytewax.outputs import StatefulSinkPartition

from operators.batch import Vectors
from operators.extract import key_of
from operators.feature_set import FeatureSet
from sinks.kafka_direct import Direct
from sinks.kafka_lane import MOST_RECORDS, KafkaLane, Records, Render, Tenancy
from sinks.lanes import LanesSink
from sinks.settled import Settled, Written
from sinks.vector_messages import Form, VectorMessages

Delivery: TypeAlias = Literal["exactly_once", "at_least_once"]


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
        settled: how far final vectors are written.
        direct_rows, provisional: final vectors without transactions, and provisional ones.
    """

    def __init__(
        self,
        name: str,
        number: int,
        sink: KafkaSink,
        resumed: Written | None,
    ) -> None:
        output, tenancy = sink.output, sink.tenancy
        self.name = name
        self.direct_rows = self.provisional = 0
        self.settled = Settled(name, f"topic `{tenancy.progress.topic}`", resumed)
        self._key = key_of(number).encode()
        # They keep spellings at hand, and final vectors are rendered in the lane's thread.
        self._messages = {final: VectorMessages(sink.feature_set) for final in (False, True)}
        self._sink = sink
        self._direct: Direct | None = None
        self._early: Direct | None = None
        self.lane: KafkaLane | None = None
        topics = [topic for topic in (output.topic, output.provisional_topic) if topic]
        if output.delivery == "exactly_once":
            self.lane = KafkaLane(name, number, tenancy, topics, self.settled.accept, sink.beat)
        else:
            tenancy.progress.require(topics)

    @property
    def final(self) -> int:
        """Final vectors handed over."""
        return self.direct_rows + self.settled.given

    @property
    def suppressed(self) -> int:
        """Final vectors that Kafka held already."""
        return self.settled.suppressed

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
                self.settled.write(self.lane, vectors, self._render, MOST_RECORDS)
            else:
                self._direct = self._direct or self._producer("final")
                self._direct.write(self._records(self._sink.output.topic, vectors))
                self.direct_rows += len(vectors)

    def snapshot(self) -> Written:
        """Waits until Kafka holds all final vectors, and gives how far they reach."""
        if self._early is not None:
            self._early.check()
        if self._direct is not None:
            self._direct.flush()
        if self.lane is not None:
            self.settled.open(self.lane.state())
            self.lane.flush()
        return {"settled_ns": self.settled.until_ns}

    def close(self) -> None:
        """Waits until Kafka holds everything."""
        for direct in (self._direct, self._early):
            if direct is not None:
                direct.close()
        if self.lane is not None:
            self.lane.close()

    def abandon(self) -> None:
        """Lets go of everything as it is, and waits for nothing."""
        for way in (self._direct, self._early, self.lane):
            if way is not None:
                way.abandon()

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
        messages = self._messages[vectors.final]
        if self._sink.output.form == "arrow":
            values = messages.arrow(vectors)
            return Records(topic, [self._key] * len(values), values)
        return Records(topic, messages.keys(vectors), messages.values(vectors))

    def _render(self, vectors: Vectors) -> Render:
        return lambda: [self._records(self._sink.output.topic, vectors)]


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
        super().__init__(name, tenancy.flow, lanes, carried, beat)
        self.feature_set = feature_set
        self.output = output
        self.tenancy = tenancy
        self._watch = watch

    def _part(self, name: str, number: int, resumed: Written | None) -> KafkaPart:
        part = KafkaPart(name, number, self, resumed)
        self._watch(part)
        return part
