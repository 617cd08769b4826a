"""Replays a range of a set's vectors from a flow's topics into a dataset, a topic or its table."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from dataflows.live_context import database_of
from dataflows.live_plan import FlowPlan
from dataflows.live_settings import LiveSettings, SetTable
from dataflows.recovery_folder import new_job
from dataflows.settings import SettingsError
from operators.batch import Vectors
from operators.feature_set import FeatureSet
from sinks.lane import Parcel
from sinks.parquet import ParquetSink, dataset_folder
from sinks.settled import cut_between_instants
from sinks.shelf import OccupiedError, Owned
from sinks.table_lane import MOST_ROWS, TableLane, TableTenancy
from sinks.table_layout import TableLayout
from sinks.vector_messages import Form, VectorMessages
from sources.database import Connections
from sources.kafka_client import Connection, KafkaInputError, topic_facts, words

PART = "00"
POLL_S = 0.1
FLUSH_S = 1.0


class Target(Protocol):
    """Where replayed vectors go."""

    def write(self, vectors: Vectors) -> None:
        """Takes some vectors."""

    def finish(self) -> None:
        """Makes all of them lasting and visible."""


def settings_of_set(settings: LiveSettings, name: str, feature_set: FeatureSet) -> LiveSettings:
    """The settings of a flow that has one set alone.

    Args:
        settings: of the whole flow.
        name: of the set, as on the command line; it need not be one of the flow's.
        feature_set: the set.
    """
    streams = {stream.name for stream in feature_set.streams}
    return settings.model_copy(
        update={
            "sets": {name: settings.sets.get(name, SetTable())},
            "inputs": {k: table for k, table in settings.inputs.items() if k in streams},
            "shard": 0,
            "shards": 1,
        }
    )


class DatasetTarget:
    """A Parquet dataset, whose files become visible when all is written.

    Args:
        feature_set: whose vectors come.
        output: folder of the dataset.
        source: what they are made from, for the metadata.

    Raises:
        OccupiedError: when it holds vectors of the set already.
    """

    def __init__(self, feature_set: FeatureSet, output: Path, source: dict[str, object]) -> None:
        folder = dataset_folder(output, feature_set)
        if next(folder.rglob("*.parquet"), None) is not None:
            msg = f"{folder}: must be empty, found vectors of another run; choose another --output"
            raise OccupiedError(msg)
        owned = Owned(new_job(), (PART,), durable=False)
        sink = ParquetSink(feature_set, output, owned, source=source)
        self._part = sink.build_part("replay", PART, None)

    def write(self, vectors: Vectors) -> None:
        """Takes some vectors."""
        self._part.write_batch([vectors])

    def finish(self) -> None:
        """Makes the files visible."""
        self._part.close()


class TopicTarget:
    """A topic, in which the vectors of a replay that died in the middle stay.

    Args:
        feature_set: whose vectors come.
        connection: how to reach the cluster.
        topic: its name.
        form: of the messages.
    """

    def __init__(
        self, feature_set: FeatureSet, connection: Connection, topic: str, form: Form
    ) -> None:
        topic_facts(connection, [topic], stamps=False)
        self._messages = VectorMessages(feature_set)
        self._connection = connection
        self._topic = topic
        self._form = form
        self._failure: KafkaError | None = None
        self._producer = Producer(
            connection.config(
                {"compression.type": "lz4", "linger.ms": 20},
                enable_idempotence=True,
                partitioner="murmur2_random",
            )
        )

    def write(self, vectors: Vectors) -> None:
        """Takes some vectors.

        Raises:
            KafkaInputError: when the topic does not take them.
        """
        if self._form == "arrow":
            messages: list[tuple[bytes | None, bytes]] = [
                (None, value) for value in self._messages.arrow(vectors)
            ]
        else:
            values = self._messages.values(vectors)
            messages = list(zip(self._messages.keys(vectors), values, strict=True))
        for key, value in messages:
            self._produce(key, value)
        self._producer.poll(0)
        self._check()

    def _produce(self, key: bytes | None, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, key, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(POLL_S)
                self._check()
            except KafkaException as error:
                self._refuse(words(error))
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        self._failure = self._failure or error

    def _check(self) -> None:
        if self._failure is not None:
            self._refuse(words(self._failure))

    def _refuse(self, found: str) -> None:
        msg = (
            f"topic `{self._topic}`: must take all vectors, found {self._connection.hide(found)}; "
            "what was written before stays there"
        )
        raise KafkaInputError(msg)

    def finish(self) -> None:
        """Waits until all are there.

        Raises:
            KafkaInputError: when the topic does not take them.
        """
        while self._producer.flush(FLUSH_S):
            self._check()
        self._check()


class TableTarget:
    """The table of a set, in which the newer of two vectors of one instant stays.

    It is written as a flow writes it, by a lane of its own: of two replays at once, the later one
    goes on. What one that died in the middle has written stays.

    Args:
        feature_set: whose vectors come.
        flow: name of the flow.
        connections: to the database.
    """

    def __init__(self, feature_set: FeatureSet, flow: str, connections: Connections) -> None:
        self._count = 0
        name = f"{flow}.{feature_set.name}.{feature_set.version}.replay"
        layout = TableLayout(feature_set, connections.database.schema)
        tenancy = TableTenancy(flow, new_job(), connections, take_over=True)
        self._lane = TableLane(name, layout, tenancy)
        self._lane.state()

    def write(self, vectors: Vectors) -> None:
        """Takes some vectors.

        Raises:
            SinkError: when the table does not take them.
        """
        for piece in cut_between_instants(vectors, MOST_ROWS):
            self._count += len(piece)
            # Nobody goes on from here: all that counts is that no two states are alike.
            state = {"settled_ns": self._count}
            size = len(piece) * 8 * (len(piece.features) + 5)
            self._lane.put(Parcel(piece, state, len(piece), size))

    def finish(self) -> None:
        """Waits until all are there.

        Raises:
            SinkError: when the table does not take them.
        """
        self._lane.close()


@dataclass(frozen=True)
class Destination:
    """Where a replay goes: one of these.

    Attributes:
        output: the folder of a dataset.
        topic: the name of a topic.
        table: the set's own table.
    """

    output: Path | None = None
    topic: str | None = None
    table: bool = False

    def __str__(self) -> str:
        if self.table:
            return "its table"
        return f"{self.output}" if self.output else f"topic {self.topic}"


def target_of(
    plan: FlowPlan,
    feature_set: FeatureSet,
    destination: Destination,
    taken: Collection[str | None],
) -> Target:
    """Opens what a replay writes to.

    Args:
        plan: of a flow with this set alone.
        feature_set: the set.
        destination: where to.
        taken: topics that the flow itself writes to.

    Raises:
        SettingsError: when it is not one thing, or a topic that the flow itself reads or writes.
        SinkError: when the table can't be written.
    """
    output, topic = destination.output, destination.topic
    given = [
        name
        for name, told in (("--output", output), ("--topic", topic), ("--table", destination.table))
        if told
    ]
    if len(given) != 1:
        msg = (
            "riffle replay: must write to one of --output DIR, --topic T and --table, found "
            f"{' and '.join(given) or 'none'}"
        )
        raise SettingsError(msg)
    if output is not None:
        return DatasetTarget(feature_set, output, {"topics": dict(plan.topics)})
    if topic is None:
        connections = Connections(database_of(plan.settings))
        return TableTarget(feature_set, plan.settings.name, connections)
    if topic in {*plan.topics.values(), *taken}:
        msg = (
            f"--topic {topic}: must be a topic that the flow neither reads nor writes, found one "
            "of its own, whose readers would see vectors twice; make another one for the replay"
        )
        raise SettingsError(msg)
    (own,) = plan.settings.sets.values()
    return TopicTarget(feature_set, plan.connection, topic, own.form)
