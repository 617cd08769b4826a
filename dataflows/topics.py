"""The topics of a live flow: what each must be, which there are, and making those that lack."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
)

from dataflows.live_settings import LiveSettings
from dataflows.named_sets import named_set
from operators.feature_set import FeatureSet
from operators.streams import Stream
from sinks.kafka_letters import dead_topic, late_topic
from sources.kafka_client import TIMEOUT_S, Connection

BROKER_STAMPS = {"message.timestamp.type": "LogAppendTime"}
CLOCK = {**BROKER_STAMPS, "retention.ms": "3600000", "segment.ms": "3600000"}
"""Nobody reads the ticks; only their stamps count."""
PROGRESS = {
    "cleanup.policy": "compact",
    "segment.bytes": str(16 * 2**20),
    "min.cleanable.dirty.ratio": "0.1",
}
"""Its last records are the flows' progress, so that it must never expire. A start reads all
of it: ten records a second of each lane, which are cleaned up only in segments that are full."""


class TopicsError(ValueError):
    """Topics that the flow can't use as they are, or that can't be made."""


LETTERS = {"max.message.bytes": str(2 * 2**20)}
"""A letter is its message and some headers: larger than the largest message of an input, which is
1 MiB unless a broker is told otherwise. One that did not fit would stop the flow at each start."""
CHECKED = {"message.timestamp.type", "cleanup.policy", "max.message.bytes"}
"""The settings of topics that are there which matter; of sizes, larger ones fit too."""
KNOWN_S = 0.05
"""How long to wait before a broker is asked again whether it knows of a new topic."""


@dataclass(frozen=True)
class Topic:
    """What a topic must be.

    Attributes:
        name: of the topic.
        use: what it is for, in words.
        partitions: how many it must have; None for any number.
        config: what it must be set to.
    """

    name: str
    use: str
    partitions: int | None = None
    config: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Applied:
    """What became of a topic: ``made``, ``there``, or what is wrong with it."""

    topic: Topic
    state: str
    ok: bool = True


def connection_of(settings: LiveSettings) -> Connection:
    """How the flow's clients reach Kafka."""
    return Connection(settings.kafka.bootstrap, settings.client_properties())


def sets_of(settings: LiveSettings) -> dict[str, FeatureSet]:
    """The flow's sets, by their name in the settings."""
    return {name: named_set(name) for name in settings.sets}


def streams_of(sets: Iterable[FeatureSet]) -> dict[str, Stream]:
    """The streams that sets read, by name.

    Raises:
        TopicsError: when two sets declare a stream of one name differently.
    """
    found: dict[str, Stream] = {}
    for each in sets:
        for stream in each.streams:
            other = found.setdefault(stream.name, stream)
            if (other.fingerprint, other.fields) != (stream.fingerprint, stream.fields):
                msg = (
                    f"stream `{stream.name}`: the sets of a flow must declare it alike, found two "
                    f"declarations, one of `{each.name}`; run them as flows of different names"
                )
                raise TopicsError(msg)
    return found


def wanted_topics(settings: LiveSettings, partitions: int | None) -> list[Topic]:
    """The topics of a flow.

    Args:
        settings: of the flow.
        partitions: of its inputs; None for any.
    """
    found: dict[str, Topic] = {}

    def want(topic: Topic) -> None:
        found.setdefault(topic.name, topic)

    for name in streams_of(sets_of(settings).values()):
        given, topic = settings.input_of(name), settings.topic_of(name)
        stamps = BROKER_STAMPS if given.arrival == "broker" else {}
        if given.table is None:
            want(Topic(topic, f"input: {name}", partitions, stamps))
        want(Topic(dead_topic(topic), f"dead letters of {topic}", partitions, LETTERS))
        want(Topic(late_topic(topic), f"late rows of {topic}", partitions, LETTERS))
    for name, table in settings.sets.items():
        want(Topic(table.topic, f"vectors of {name}"))
        if table.provisional_topic:
            want(Topic(table.provisional_topic, f"provisional vectors of {name}"))
    want(Topic(settings.kafka.clock_topic, "the broker's clock", 1, CLOCK))
    want(Topic(settings.kafka.progress_topic, "progress of the sinks", None, PROGRESS))
    return list(found.values())


def apply(settings: LiveSettings, partitions: int, replication: int) -> list[Applied]:
    """Makes the topics that lack; those that are there are only looked at.

    Args:
        settings: of the flow.
        partitions: of the topics to make.
        replication: of the topics to make; -1 for the brokers' default.

    Raises:
        TopicsError: when the cluster refuses to make one.
    """
    connection = connection_of(settings)
    admin = connection.admin()
    topics = wanted_topics(settings, None)
    there = set(admin.list_topics(timeout=TIMEOUT_S).topics)
    lacking = [topic for topic in topics if topic.name not in there]
    new = [
        NewTopic(
            topic.name,
            num_partitions=topic.partitions or partitions,
            replication_factor=replication,
            config=topic.config,
        )
        for topic in lacking
    ]
    made = set()
    for name, answer in (admin.create_topics(new) if new else {}).items():
        try:
            answer.result(TIMEOUT_S)
            made.add(name)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue  # made by someone else meanwhile, or not yet known to the broker asked
            msg = f"topic {name!r}: can't be made: {connection.hide(error.args[0].str())}"
            raise TopicsError(msg) from None
    _wait_until_known(admin, {topic.name for topic in lacking})
    checked = check(admin, [topic for topic in topics if topic.name not in made])
    states = {each.topic.name: each for each in checked}
    return [states.get(topic.name, Applied(topic, "made")) for topic in topics]


def _wait_until_known(admin: AdminClient, names: set[str]) -> None:
    """A controller answers before the brokers know of a topic: a start at once would miss it."""
    until = time.monotonic() + TIMEOUT_S
    while lacking := sorted(names - set(admin.list_topics(timeout=TIMEOUT_S).topics)):
        if time.monotonic() > until:
            msg = (
                f"topics: made, but after {TIMEOUT_S} s the broker asked does not tell of "
                f"{lacking}; look at the cluster's controller, then run this again"
            )
            raise TopicsError(msg)
        time.sleep(KNOWN_S)


def check(admin: AdminClient, topics: Iterable[Topic]) -> list[Applied]:
    """Compares topics that are there with what they must be."""
    asked = {ConfigResource("topic", topic.name): topic for topic in topics}
    facts = admin.list_topics(timeout=TIMEOUT_S).topics
    applied = []
    for resource, answer in (admin.describe_configs(list(asked)) if asked else {}).items():
        topic = asked[resource]
        config = answer.result(TIMEOUT_S)
        wrong = [
            f"{name} must be {value}, found {config[name].value}"
            for name, value in topic.config.items()
            if name in CHECKED and not _fits(config[name].value, value)
        ]
        count = len(facts[topic.name].partitions)
        if topic.partitions is not None and count != topic.partitions:
            wrong.append(f"must have {topic.partitions} partitions, found {count}")
        applied.append(Applied(topic, "; ".join(wrong) or "there", not wrong))
    return applied


def _fits(found: str | None, wanted: str) -> bool:
    if found is not None and wanted.isdigit():
        return int(found) >= int(wanted)
    return found == wanted
