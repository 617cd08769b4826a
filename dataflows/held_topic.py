"""The vectors that an output topic holds for readers of committed messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from operators.durations import NS_PER_UNIT
from operators.feature_set import FeatureSet
from operators.frames import TIMESTAMP
from sinks.vector_messages import VectorMessages
from sources.kafka_client import Connection, list_offsets, topic_facts
from sources.kafka_log import KafkaLog
from sources.log_bounds import committed_bounds

MESSAGES_AT_ONCE = 20_000
WAIT_S = 0.002
EARLY_NS = NS_PER_UNIT["h"]
"""How long before its time a vector may have been appended; rows can't be so far ahead."""


class _Whose(msgspec.Struct):
    """What tells whose vector a message is."""

    feature_set: str = ""
    version: str = ""


class TopicHeld:
    """The vectors of an output topic.

    Args:
        connection: how to reach the cluster.
        topic: its name.

    Attributes:
        name: what messages call it.
    """

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self.name = f"topic {topic}"

    def tables(
        self, feature_set: FeatureSet, from_ns: int, to_ns: int, watch: Callable[[int, int], None]
    ) -> Iterator[pa.Table]:
        """The final vectors of a set and its version with times of a range.

        Args:
            feature_set: whose vectors.
            from_ns: their least time.
            to_ns: the time before which they are.
            watch: is told the offsets done and the offsets there are.

        Raises:
            UnreadableMessageError: when a message says that it is of the set, but has not its
                columns.
            KafkaInputError: when the topic can't be read.
        """
        reads = VectorMessages(feature_set).read
        for values in self._values(from_ns, watch):
            own = [value for value in values if value is not None and _is_of(feature_set, value)]
            table = reads(own)
            low, high = (pa.scalar(at_ns, TIMESTAMP) for at_ns in (from_ns, to_ns))
            inside = pc.and_(pc.greater_equal(table["ts"], low), pc.less(table["ts"], high))
            yield table.filter(pc.and_(inside, table["final"]))

    def _values(
        self, from_ns: int, watch: Callable[[int, int], None]
    ) -> Iterator[Sequence[bytes | None]]:
        connection, topic = self._connection, self._topic
        facts = topic_facts(connection, [topic])[topic]
        places = [(topic, number) for number in range(facts.partitions)]
        bounds = committed_bounds(connection, places)
        starts = {place: first for place, (first, _) in bounds.items()}
        if facts.append_time:
            found = list_offsets(connection, places, max(0, (from_ns - EARLY_NS) // 10**6))
            starts = {p: at if at >= 0 else bounds[p][1] for p, at in found.items()}
        ends = {place: end for place, (_, end) in bounds.items()}
        total = sum(max(0, ends[place] - starts[place]) for place in places)
        log = KafkaLog(connection, "riffle-verify")
        readers = {
            place: log.open(*place, starts[place])
            for place in places
            if starts[place] < ends[place]
        }
        reading = dict(readers)
        done = 0
        try:
            while reading:
                heard = False
                for place, reader in list(reading.items()):
                    before = reader.position
                    messages = reader.take(MESSAGES_AT_ONCE)
                    done += min(reader.position, ends[place]) - min(before, ends[place])
                    if messages is not None:
                        heard = True
                        yield messages.values[: int((messages.offsets < ends[place]).sum())]
                    if reader.position >= ends[place]:
                        del reading[place]
                watch(done, total)
                if not heard and reading:
                    time.sleep(WAIT_S)
        finally:
            for reader in readers.values():
                reader.close()


def _is_of(feature_set: FeatureSet, value: bytes) -> bool:
    """Whether a message holds vectors of a set and its version."""
    wanted = (feature_set.name, feature_set.version)
    if value[:1] == b"{":
        try:
            whose = msgspec.json.decode(value, type=_Whose)
        except msgspec.DecodeError:
            return False
        return (whose.feature_set, whose.version) == wanted
    try:
        with pa.ipc.open_stream(value) as stream:
            first = next(iter(stream), None)
    except (pa.ArrowException, OSError):
        return False
    if first is None or not len(first) or not {"feature_set", "version"} <= set(first.schema.names):
        return False
    return (first["feature_set"][0].as_py(), first["version"][0].as_py()) == wanted
