"""Copies topics from Kafka into their archives, from where these end to the end of the log.

The log's end is that of committed messages when the copy starts, so that a run ends on a busy topic
too. Messages of aborted transactions are not copied; nobody who reads committed ones sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    Message,
    TopicPartition,
)

from sources.archive import (
    FILE_BYTES,
    GROUP_BYTES,
    Archive,
    ArchiveError,
    Identity,
    PartitionWriter,
    only_run,
)
from sources.kafka_client import (
    TIMEOUT_S,
    Connection,
    is_hopeless,
    topic_facts,
    words,
)
from sources.log_bounds import committed_bounds

STAMPS = {
    TIMESTAMP_NOT_AVAILABLE: "NoTimestamp",
    TIMESTAMP_CREATE_TIME: "CreateTime",
    TIMESTAMP_LOG_APPEND_TIME: "LogAppendTime",
}
"""Kafka's names of what a message's stamp says."""
LOST = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
"""The log has forgotten the offset meanwhile."""
WAIT_S = 0.5
MESSAGES_AT_ONCE = 5_000
GROUP = "riffle-archive"
"""A consumer needs the name of a group; no offsets are committed under it."""
OVERHEAD_BYTES = 32
"""Of a message without key, value and headers, in a row group."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What a run has added to the archive of a partition.

    Attributes:
        topic, partition: which.
        first, end: the offsets from which and before which it was copied.
        messages: how many there were.
    """

    topic: str
    partition: int
    first: int
    end: int
    messages: int


@dataclass(frozen=True, slots=True)
class _Span:
    """The offsets of a partition that are to be copied."""

    archive: Archive
    partition: int
    first: int
    end: int


def archive_topics(
    connection: Connection,
    topics: Iterable[str],
    root: Path,
    watch: Callable[[int, int], None] = lambda done, total: None,
    *,
    group_bytes: int = GROUP_BYTES,
    file_bytes: int = FILE_BYTES,
) -> list[Copied]:
    """Brings the archives of topics up to the end that their logs have now.

    Args:
        connection: to the cluster.
        topics: their names.
        root: the folder of archives.
        watch: is told the offsets done and the offsets there are.
        group_bytes: bytes of messages in a row group.
        file_bytes: bytes of messages in a file.

    Raises:
        ArchiveError: when another run is at work there, the archive holds another topic, or the log
            begins behind the archive's end.
    """
    with only_run(root):
        consumer = Consumer(
            connection.config(
                {"queued.max.messages.kbytes": 32 << 10},
                group_id=GROUP,
                enable_auto_commit=False,
                enable_auto_offset_store=False,
                enable_partition_eof=True,
                auto_offset_reset="error",
                isolation_level="read_committed",
            )
        )
        try:
            spans = [span for t in topics for span in _spans(connection, t, root)]
            total = sum(span.end - span.first for span in spans)
            done, found = 0, []
            watch(0, total)
            for span in spans:
                writer = PartitionWriter(
                    span.archive, span.partition, span.first, group_bytes, file_bytes
                )
                try:
                    for position in _copy(connection, consumer, span, writer):
                        watch(done + position - span.first, total)
                finally:
                    writer.abandon()
                found.append(
                    Copied(
                        span.archive.topic, span.partition, span.first, span.end, writer.messages
                    )
                )
                done += span.end - span.first
        finally:
            consumer.close()
    return found


def _spans(connection: Connection, topic: str, root: Path) -> list[_Span]:
    """What is to be copied of a topic, partition by partition."""
    facts = topic_facts(connection, [topic], stamps=False)[topic]
    cluster = connection.admin().list_topics(topic, timeout=TIMEOUT_S).cluster_id
    archive = Archive(root, topic)
    archive.claim(Identity(str(cluster), topic, facts.topic_id))
    spans = []
    logs = committed_bounds(connection, [(topic, n) for n in range(facts.partitions)])
    for (_, partition), (start, end) in logs.items():
        bounds = archive.bounds(partition)
        first = start if bounds is None else bounds[1]
        where = f"partition {partition} of topic `{topic}`"
        held = f"up to which the archive {archive.folder} holds it"
        if first < start:
            msg = (
                f"{where}: the log must begin at offset {first} or before, {held}, found that it "
                f"begins at {start}: offsets {first} to {start - 1} were deleted before they were "
                "archived; archive into another folder, and more often than the log forgets"
            )
            raise ArchiveError(msg)
        if first > end:
            msg = (
                f"{where}: the log must reach offset {first}, {held}, found that it ends at {end}: "
                "messages were lost there; archive into another folder"
            )
            raise ArchiveError(msg)
        spans.append(_Span(archive, partition, first, end))
    return spans


def _copy(
    connection: Connection, consumer: Consumer, span: _Span, writer: PartitionWriter
) -> Iterator[int]:
    """Copies a partition, and tells how far it is."""
    topic = span.archive.topic
    position = span.first
    if position < span.end:
        consumer.assign([TopicPartition(topic, span.partition, position)])
    while position < span.end:
        for message in consumer.consume(MESSAGES_AT_ONCE, WAIT_S):
            error, offset = message.error(), message.offset()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF and offset is not None:
                    position = max(position, offset)
                elif is_hopeless(error) or error.code() in LOST:
                    msg = (
                        f"partition {span.partition} of topic `{topic}`: must be readable from "
                        f"offset {position} on, found {connection.hide(words(error))}"
                    )
                    raise ArchiveError(msg)
                continue
            if offset is None:
                continue
            position = offset + 1
            if offset < span.end:
                writer.add(*_row(message, span.partition))
        yield min(position, span.end)
    writer.close(span.end)
    yield span.end


def _row(message: Message, partition: int) -> tuple[tuple[object, ...], int]:
    """A message as a row of the archive, and its bytes."""
    kind, timestamp_ms = message.timestamp()
    key, value = message.key(), message.value()
    headers: Sequence[tuple[str, bytes | None]] | None = message.headers()  # type: ignore[assignment]
    size = OVERHEAD_BYTES + len(key or b"") + len(value or b"")
    pairs = None
    if headers is not None:
        pairs = [{"key": name, "value": content} for name, content in headers]
        size += sum(len(name) + len(content or b"") for name, content in headers)
    row = (partition, message.offset(), timestamp_ms, STAMPS[kind], key, value, pairs)
    return row, size
