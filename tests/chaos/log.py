"""Topics as the proofs see them: made, read to their end by a plain consumer, removed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

READ_S = 180.0
CHUNK = 10_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A message in a log."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    def header(self, name: str) -> str | None:
        """The last header of a name, as text."""
        found = [value for key, value in self.headers if key == name]
        return (found[-1] or b"").decode() if found else None


class TimedOutError(AssertionError):
    """Something that did not come about in time."""


def create(bootstrap: str, topics: Mapping[str, int], **settings: str) -> None:
    """Makes topics with so many partitions, stamped by the broker."""
    config = {"message.timestamp.type": "LogAppendTime", **settings}
    wanted = [NewTopic(name, count, 1, config=config) for name, count in topics.items()]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics(wanted).values():
        future.result(30)


def delete(bootstrap: str, topics: Iterable[str]) -> None:
    """Removes topics, those that there are."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_topics(list(topics)).values():
        try:
            future.result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise


def reader(bootstrap: str, *, committed: bool = True) -> Consumer:
    """A consumer that remembers nothing."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "proof",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "queued.max.messages.kbytes": 32_768,
        }
    )


def partitions(consumer: Consumer, topic: str) -> list[int]:
    """The partitions of a topic; none of one that is not there."""
    found = consumer.list_topics(topic, timeout=30).topics[topic]
    return sorted(found.partitions) if found.error is None else []


def ends(bootstrap: str, topic: str, *, committed: bool) -> list[int]:
    """Where the partitions of a topic end, for who waits for commits or for who does not."""
    consumer = reader(bootstrap, committed=committed)
    try:
        parts = [TopicPartition(topic, number) for number in partitions(consumer, topic)]
        return [consumer.get_watermark_offsets(part, timeout=30)[1] for part in parts]
    finally:
        consumer.close()


def chunks(bootstrap: str, topic: str, *, committed: bool = True) -> Iterator[Sequence[Entry]]:
    """All messages that a topic holds now, in the order of each partition."""
    consumer = reader(bootstrap, committed=committed)
    try:
        parts = [TopicPartition(topic, number, 0) for number in partitions(consumer, topic)]
        consumer.assign(parts)
        open_parts = {part.partition for part in parts}
        deadline = time.monotonic() + READ_S
        while open_parts:
            found = []
            for message in consumer.consume(CHUNK, 0.2):
                error = message.error()
                if error is None:
                    found.append(_entry(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_parts.discard(message.partition())
                elif not error.retriable():
                    raise KafkaException(error)
            yield found
            if time.monotonic() > deadline:
                said = f"{topic}: must be read to its end within {READ_S:.0f} s; {open_parts} left"
                raise TimedOutError(said)
    finally:
        consumer.close()


def _entry(message: object) -> Entry:
    m = message
    return Entry(
        m.partition(),  # type: ignore[attr-defined]
        m.offset(),  # type: ignore[attr-defined]
        m.timestamp()[1],  # type: ignore[attr-defined]
        m.key(),  # type: ignore[attr-defined]
        m.value(),  # type: ignore[attr-defined]
        tuple(m.headers() or ()),  # type: ignore[attr-defined]
    )


def entries(bootstrap: str, topic: str, *, committed: bool = True) -> list[Entry]:
    """All messages that a topic holds now."""
    return [entry for chunk in chunks(bootstrap, topic, committed=committed) for entry in chunk]
