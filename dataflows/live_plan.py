"""What a live flow consists of, before it is built: sets, streams, topics, lanes and starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataflows import live_state
from dataflows.live_settings import LiveSettings
from dataflows.live_state import FlowState, SetFacts, new_state
from dataflows.settings import SettingsError
from dataflows.times import parse_time_ns
from dataflows.topics import TopicsError, connection_of, sets_of, streams_of
from operators.batch import NO_CLOCK_NS, Batch
from operators.durations import NS_PER_UNIT
from operators.engine import PartitionId
from operators.feature_set import FeatureSet
from operators.route import LANES, lane_of_partition, lanes_by_hash
from operators.streams import Stream
from sources.archive import Archive
from sources.kafka_client import (
    TIMEOUT_S,
    Connection,
    Offsets,
    TopicFacts,
    TopicPartitionId,
    resolve_offsets,
    topic_facts,
)
from sources.kafka_source import KafkaInput

if TYPE_CHECKING:
    from sources.table_source import TableInput

MS = NS_PER_UNIT["ms"]


@dataclass(frozen=True)
class FlowPlan:
    """A live flow.

    Attributes:
        settings: of the flow.
        connection: how its clients reach Kafka.
        sets: by their name in the settings.
        streams: by name.
        topics: of each stream; of one that is read from a table, the table.
        facts: of the topic of each stream that has one.
    """

    settings: LiveSettings
    connection: Connection
    sets: Mapping[str, FeatureSet]
    streams: Mapping[str, Stream]
    topics: Mapping[str, str]
    facts: Mapping[str, TopicFacts]

    @property
    def partitions(self) -> dict[str, int]:
        """How many partitions each stream's topic has; a table is one."""
        return {
            name: self.facts[name].partitions if name in self.facts else 1 for name in self.streams
        }

    @property
    def tables(self) -> list[str]:
        """The streams that are read from tables."""
        return [name for name in self.streams if name not in self.facts]

    @property
    def topic_ids(self) -> dict[str, str]:
        """What tells each stream's topic from another of its name."""
        return {
            name: self.facts[name].topic_id if name in self.facts else live_state.TABLE
            for name in self.streams
        }

    @property
    def co_partitioned(self) -> bool:
        """Whether an entity's rows are in the partitions of one number."""
        return self.settings.kafka.partitioner != "none"

    @property
    def lanes(self) -> int:
        """How many lanes there are."""
        return max(self.partitions.values()) if self.co_partitioned else LANES

    def own_lanes(self, *, cluster: bool) -> list[int]:
        """The lanes of this process; in a cluster Bytewax chooses among all."""
        shard, shards = (0, 1) if cluster else (self.settings.shard, self.settings.shards)
        return [lane for lane in range(self.lanes) if lane % shards == shard]

    @property
    def route(self) -> Callable[[Batch], list[tuple[int, Batch]]]:
        """Gives a batch's rows by lane, with its clock for every lane that hears it."""
        return lane_of_partition if self.co_partitioned else lanes_by_hash

    def kafka_input(self, stream: str) -> KafkaInput:
        """How a stream's topic is read."""
        given = self.settings.input_of(stream)
        return KafkaInput(
            self.streams[stream],
            self.topics[stream],
            self.partitions[stream],
            given.form,
            given.arrival,
            self.settings.kafka.partitioner,
        )

    def table_input(self, stream: str, start_us: int) -> TableInput:
        """How a stream's table is read, from an arrival on."""
        from sources.table_source import TableInput

        poll_s = self.settings.input_of(stream).poll / NS_PER_UNIT["s"]
        return TableInput(self.streams[stream], self.topics[stream], start_us, poll_s)

    def heard(self, feature_set: FeatureSet, batch: Batch) -> list[PartitionId]:
        """The partitions that the lane of a batch hears for a set."""
        if self.co_partitioned:
            return [(stream.name, batch.partition) for stream in feature_set.streams]
        return [
            (stream.name, str(partition))
            for stream in feature_set.streams
            for partition in range(self.partitions[stream.name])
        ]


def plan_flow(settings: LiveSettings) -> FlowPlan:
    """Looks at the settings and at the topics.

    Raises:
        SettingsError: when an input is of no stream that a set reads, or two sets have one name.
        TopicsError: when the topics do not fit each other.
        KafkaInputError: when the cluster can't be asked.
    """
    sets = sets_of(settings)
    names = [feature_set.name for feature_set in sets.values()]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        msg = f"sets: the sets of a flow must have different names, found {doubled} twice"
        raise SettingsError(msg)
    streams = streams_of(sets.values())
    unread = sorted(settings.inputs.keys() - streams.keys())
    if unread:
        msg = (
            f"inputs: must be of the streams that the sets read, {sorted(streams)}, found {unread}"
        )
        raise SettingsError(msg)
    connection = connection_of(settings)
    of_stream = {name: settings.topic_of(name) for name in streams}
    topics = {name: t for name, t in of_stream.items() if settings.input_of(name).table is None}
    facts = topic_facts(connection, topics.values()) if topics else {}
    for name, topic in topics.items():
        if settings.input_of(name).arrival == "broker" and facts[topic].append_time is False:
            msg = (
                f"topic `{topic}`: the broker must stamp messages as it appends them, found "
                "message.timestamp.type=CreateTime; set it to LogAppendTime, or say where the time "
                f'of arrival is by inputs.{name}.arrival = "column" or "producer"'
            )
            raise TopicsError(msg)
    plan = FlowPlan(
        settings,
        connection,
        sets,
        streams,
        of_stream,
        {name: facts[topic] for name, topic in topics.items()},
    )
    counts = {of_stream[name]: count for name, count in plan.partitions.items()}
    if plan.co_partitioned and len(set(counts.values())) > 1:
        msg = (
            "the input topics of a flow must have the same number of partitions, so that all rows "
            f"of an entity are in the partitions of one number, found {counts}; repartition them, "
            'or set kafka.partitioner = "none"'
        )
        raise TopicsError(msg)
    if settings.shards > plan.lanes:
        msg = f"shards: must be at most the number of partitions, {plan.lanes}, found more"
        raise SettingsError(msg)
    return plan


def new_flow(plan: FlowPlan, *, cluster: bool, found: FlowState | None = None) -> FlowState:
    """Describes the state that the flow would have if it began now.

    Args:
        plan: of the flow.
        cluster: whether its processes form one.
        found: the state that there is, which says where the flow began.
    """
    settings = plan.settings
    at: str | int = settings.start
    if settings.start not in {"earliest", "latest"}:
        at = parse_time_ns(settings.start, "start")
    starts = _starts(plan, at) if found is None else starts_of(found)
    emit_from = settings.emit_from
    return new_state(
        settings.name,
        {
            name: SetFacts(fs.name, fs.version, fs.fingerprint, settings.sets[name].topic)
            for name, fs in plan.sets.items()
        },
        {
            stream: live_state.TopicFacts(
                topic,
                plan.topic_ids[stream],
                plan.partitions[stream],
                [starts.get((topic, number), 0) for number in range(plan.partitions[stream])],
            )
            for stream, topic in plan.topics.items()
        },
        settings.kafka.partitioner,
        0 if cluster else settings.shards,
        NO_CLOCK_NS if emit_from is None else parse_time_ns(emit_from, "emit_from"),
    )


def _starts(plan: FlowPlan, at: str | int) -> dict[TopicPartitionId, int]:
    """The offsets at which a new flow begins to read: in the archives, where they reach further."""
    topics = {stream: plan.topics[stream] for stream in plan.facts}
    starts = resolve_offsets(plan.connection, topics.values(), at) if topics else {}
    starts |= {(plan.topics[stream], 0): _table_start_us(plan, at) for stream in plan.tables}
    if at == "latest":
        return starts
    for stream, topic in topics.items():
        archive = archive_of(plan, stream)
        for number in range(plan.partitions[stream]) if archive else ():
            held = archive.bounds(number) if archive else None
            if archive is None or held is None:
                continue
            found = archive.offset_at(number, -(-at // MS)) if isinstance(at, int) else held[0]
            if found is not None:
                starts[topic, number] = min(found, starts[topic, number])
    return starts


def _table_start_us(plan: FlowPlan, at: str | int) -> int:
    """The arrival of the first row of a table that a new flow reads, microseconds since 1970."""
    if isinstance(at, int):
        return -(-at // NS_PER_UNIT["us"])
    if at == "earliest":
        return live_state.FIRST_US
    from sources.database import Database
    from sources.table_feed import server_time_us

    return server_time_us(Database(plan.settings.database_url()))


def archive_of(plan: FlowPlan, stream: str) -> Archive | None:
    """The archive of a stream's topic, if there is one."""
    root = plan.settings.input_of(stream).archive
    if root is None:
        return None
    archive = Archive(root, plan.topics[stream])
    archive.check(plan.topic_ids[stream])
    return archive


def clock_margin_ns(plan: FlowPlan) -> int:
    """How far the clocks of brokers may be apart: as set, or not at all where there is one."""
    margin_ns = plan.settings.kafka.clock_margin
    if margin_ns is not None:
        return margin_ns
    brokers = plan.connection.admin().list_topics(timeout=TIMEOUT_S).brokers
    return 0 if len(brokers) == 1 else NS_PER_UNIT["s"]


def starts_of(state: FlowState) -> Offsets:
    """The offset at which the flow began to read each partition."""
    return {
        (facts.topic, number): offset
        for facts in state.inputs.values()
        for number, offset in enumerate(facts.starts)
    }
