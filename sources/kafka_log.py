"""Topics of Kafka as logs: read from given offsets on, and never past data that was not read.

The group is told where the reading stands, so that lag can be seen; nobody reads from there.
"""

from __future__ import annotations

import gc
import logging
from collections import deque
from itertools import groupby
from threading import RLock
from time import monotonic
from typing import Any

import numpy as np
from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from operators.dead_letters import Record
from sources.kafka_client import (
    Connection,
    KafkaInputError,
    TopicPartitionId,
    is_hopeless,
    list_offsets,
    words,
)
from sources.messages import Messages

LOGGER = logging.getLogger(__name__)

MOST_AT_ONCE = 30_000
"""The most messages that the consumer is asked for at once: what waits is worked off in fewer turns
(of 10,000, a sound one costs 7 % more, and a tenth where one in ten is bad)."""
BUFFER_BYTES = 64 * 2**20
"""Messages that wait for slower partitions, of all partitions together."""
COLLECT_AFTER = 200_000
"""New objects between two looks for garbage: more than messages that wait."""
MESSAGE_BYTES = 400
"""What a message takes in memory beside its value."""
NO_STAMP = -1
FEW = 256
"""Messages that are worth waiting for more."""
QUIET_S = 0.0005
"""How long the consumer is left alone when it had nothing, however many partitions ask."""
TUNING = {
    # Partitions that have nothing hold the request of others back: with the default of 500 ms, a
    # tenth of 2,000 messages a second were 57 ms late, with 10 ms 1.5 ms.
    "fetch.wait.max.ms": 10,
    # The default of a second leaves the log unread for as long each time the queue has been full.
    "fetch.queue.backoff.ms": 5,
    "queued.max.messages.kbytes": 32 * 1024,
}
GONE = frozenset(
    {
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError._LOG_TRUNCATION,
        KafkaError.OFFSET_OUT_OF_RANGE,
    }
)


class OffsetGoneError(KafkaInputError):
    """The log no longer holds the offset that is to be read next."""


class KafkaLog:
    """Partitions of topics, read by one consumer.

    Args:
        connection: how to reach the cluster.
        group: the consumer group that is told where the reading stands.
        on_gone: what to do when the log begins behind the offset that is to be read: ``stop``, or
            go on at the ``earliest`` there is. A log that ends before that offset always stops,
            since it is not the one that was read.
        committed: whether to leave out what transactions wrote that did not come to be.
        buffer_bytes: how much may be held for partitions that are not being read.
    """

    def __init__(
        self,
        connection: Connection,
        group: str,
        *,
        on_gone: str = "stop",
        committed: bool = True,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        if on_gone not in ("stop", "earliest"):
            msg = f"where data is gone, reading must `stop` or go on `earliest`, got {on_gone!r}"
            raise ValueError(msg)
        self._connection = connection
        self._on_gone = on_gone
        self._buffer_bytes = buffer_bytes
        self._partitions: dict[TopicPartitionId, LogPartition] = {}
        self._uncommitted: dict[TopicPartitionId, int] = {}
        self._failure: KafkaInputError | None = None
        self._troubles: set[str] = set()
        self._quiet_until_s = 0.0
        # Workers that are threads of one process share it.
        self.lock = RLock()
        self._config = connection.config(
            TUNING,
            group_id=group,
            isolation_level="read_committed" if committed else "read_uncommitted",
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            enable_partition_eof=True,
            auto_offset_reset="error",
            error_cb=self._hear,
        )
        self._consumer: Consumer | None = None

    def open(self, topic: str, number: int, offset: int, *, appended: bool = False) -> LogPartition:
        """Begins to read a partition at an offset.

        Args:
            topic: its topic.
            number: its number.
            offset: of the first message to read.
            appended: whether its messages must bear the broker's stamp.

        Raises:
            KafkaInputError: when it is open already.
        """
        place = (topic, number)
        with self.lock:
            if place in self._partitions:
                msg = f"partition {number} of topic `{topic}` must be read once, found it open"
                raise KafkaInputError(msg)
            if self._consumer is None:
                # Messages are many and in no cycle: looking through them for garbage made taking
                # over 50,000 at once 2.7 times as slow.
                young, *older = gc.get_threshold()
                gc.set_threshold(max(young, COLLECT_AFTER), *older)
                self._consumer = self._connection.client(Consumer, self._config)
            partition = LogPartition(self, topic, number, offset, appended=appended)
            self._partitions[place] = partition
            self._reader.incremental_assign([TopicPartition(topic, number, offset)])
        return partition

    def pump(self) -> None:
        """Takes over what has come, into the buffers of the partitions.

        Raises:
            OffsetGoneError: when data is gone that was to be read.
            KafkaInputError: when reading cannot go on.
        """
        with self.lock:
            messages = self._fetched()
            if messages:
                errors = list(map(Message.error, messages))
                start = 0
                # An error must not be compared with None, which the client does not expect.
                if any(errors):
                    for index, error in enumerate(errors):
                        if error is not None:
                            self._sort(messages[start:index])
                            self._event(messages[index], error)
                            start = index + 1
                self._sort(messages[start:])
                self._hold_back()
            if self._failure is not None:
                raise self._failure
            self._tell_group()

    def commit(self, topic: str, number: int, offset: int) -> None:
        """Tells the group, in a while and as well as may be, that reading stands at an offset."""
        with self.lock:
            self._uncommitted[topic, number] = offset

    def forget(self, partition: LogPartition) -> None:
        """Stops to read a partition; behind the last, lets go of the cluster."""
        place = (partition.topic, partition.number)
        with self.lock:
            if self._consumer is None or self._partitions.pop(place, None) is None:
                return
            self._tell_group()
            if self._partitions:
                self._consumer.incremental_unassign([TopicPartition(*place)])
            else:
                self.close()

    def close(self) -> None:
        """Lets go of the cluster."""
        with self.lock:
            if self._consumer is not None:
                consumer, self._consumer = self._consumer, None
                consumer.close()

    def resume(self, partition: LogPartition) -> None:
        """Fetches a partition again whose buffer was full."""
        self._reader.resume([TopicPartition(partition.topic, partition.number)])

    def _fetched(self) -> list[Message]:
        """What has come; nothing shortly after there was nothing."""
        if monotonic() < self._quiet_until_s:
            return []
        messages = self._reader.consume(MOST_AT_ONCE, 0)
        if not messages:
            self._quiet_until_s = monotonic() + QUIET_S
        return messages

    @property
    def _reader(self) -> Consumer:
        if self._consumer is None:
            msg = "the log must be open to be read, found it closed"
            raise KafkaInputError(msg)
        return self._consumer

    def _sort(self, messages: list[Message]) -> None:
        """Hands messages to their partitions."""
        if not messages:
            return
        numbers = np.fromiter(map(Message.partition, messages), np.int32, len(messages))
        ends = [*(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(messages)]
        start = 0
        for end in ends:
            run = messages[start:end]
            number = int(numbers[start])
            start = end
            topics = list(map(Message.topic, run))
            if topics.count(topics[0]) == len(topics):
                self._hand(topics[0], number, run)
                continue
            for topic, part in groupby(run, Message.topic):
                self._hand(topic, number, list(part))

    def _hand(self, topic: str | None, number: int, run: list[Message]) -> None:
        partition = self._partitions.get((topic or "", number))
        if partition is not None:
            self._troubles.clear()
            partition.add(run)

    def _event(self, message: Message, error: KafkaError) -> None:
        partition = self._partitions.get((message.topic() or "", message.partition() or 0))
        if partition is None:
            self._hear(error)
        elif error.code() == KafkaError._PARTITION_EOF:
            partition.ends_at(message.offset() or 0)
        elif error.code() in GONE:
            self._gone(partition)
        else:
            where = f"partition {partition.number} of topic `{partition.topic}`"
            self._hear(error, where)

    def _hear(self, error: KafkaError, where: str = "Kafka") -> None:
        """Notes an error: a passing one in the log, once until it is over; another to raise."""
        found = self._connection.hide(words(error))
        if is_hopeless(error):
            msg = (
                f"{where} must be readable at {self._connection.bootstrap}, found {found}; check "
                "that it is there, the credentials and what they may read"
            )
            self._failure = self._failure or KafkaInputError(msg)
        elif error.name() not in self._troubles:
            self._troubles.add(error.name())
            LOGGER.warning("%s: %s; reading goes on when it is over", where, found)

    def _gone(self, partition: LogPartition) -> None:
        """Data that was to be read is not there: stops, or goes on at the first that is."""
        place, wanted = (partition.topic, partition.number), partition.fetched
        first = list_offsets(self._connection, [place], "earliest")[place]
        end = list_offsets(self._connection, [place], "latest")[place]
        where = f"partition {partition.number} of topic `{partition.topic}`"
        held = f"{first} to {end - 1}" if end > first else f"none, and ends at {end}"
        if wanted > end:
            must = f"{where} must have offset {wanted}, which is to be read next"
            do = (
                "the topic was made anew or lost data; bring its data back, or start over with a "
                "new recovery directory"
            )
        elif wanted < first and self._on_gone == "earliest":
            LOGGER.warning("%s: offsets %d to %d are gone; passed over", where, wanted, first - 1)
            self._reader.incremental_unassign([TopicPartition(*place)])
            self._reader.incremental_assign([TopicPartition(*place, first)])
            partition.ends_at(first)
            return
        elif first <= wanted:
            # The log was cut or grew between the refusal and the question: asked again.
            self._reader.incremental_unassign([TopicPartition(*place)])
            self._reader.incremental_assign([TopicPartition(*place, wanted)])
            return
        else:
            must = f"{where} must hold offset {wanted}, which is to be read next"
            do = (
                'read an archive of it first, start over, or set on_gone = "earliest" to leave '
                "out what is gone; and keep messages for longer than the flow may stand still"
            )
        msg = f"{must}, but its log holds {held}; {do}"
        self._failure = self._failure or OffsetGoneError(msg)

    def _hold_back(self) -> None:
        """Fetches no more of partitions that nobody reads at the moment."""
        share = max(self._buffer_bytes // len(self._partitions), 2**20)
        full = [p for p in self._partitions.values() if not p.paused and p.held_bytes > share]
        if full:
            self._reader.pause([TopicPartition(p.topic, p.number) for p in full])
            for partition in full:
                partition.paused = True

    def _tell_group(self) -> None:
        if not self._uncommitted:
            return
        offsets = [TopicPartition(*place, at) for place, at in self._uncommitted.items()]
        self._uncommitted.clear()
        try:
            self._reader.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            LOGGER.info("group: %s", self._connection.hide(words(error)))


class LogPartition:
    """One partition of a log.

    Attributes:
        position: the offset of the next message that was not yet taken.
        fetched: the offset of the next message that has not come yet.
        held_bytes: what the messages that have come, but were not taken, hold in memory.
        paused: whether it is not fetched at the moment.
    """

    def __init__(
        self, log: KafkaLog, topic: str, number: int, offset: int, *, appended: bool
    ) -> None:
        self.topic = topic
        self.number = number
        self._log = log
        self._appended = appended
        self._runs: deque[list[Message]] = deque()
        self.position = self.fetched = offset
        self.held_bytes = 0
        self.paused = False

    def take(self, most: int) -> Messages | None:
        """At most so many messages from the position on; None when there are none at the moment."""
        with self._log.lock:
            # What came for others filled the buffers a while ago: newer messages may be there.
            if sum(map(len, self._runs)) < FEW:
                self._log.pump()
            if not self._runs:
                return None
            taken = self._cut(most)
            messages = self._messages(taken)
            self.held_bytes -= _bytes(taken)
            if self.paused and not self._runs:
                self.paused = False
                self._log.resume(self)
            # Where nothing waits, the end that was heard of says more than the last message.
            at_end = self.fetched if not self._runs else int(messages.offsets[-1]) + 1
            self.position = at_end
        return messages

    def close(self) -> None:
        """Lets go of the partition."""
        self._runs.clear()
        self._log.forget(self)

    def add(self, run: list[Message]) -> None:
        """Takes messages over that have come."""
        if (run[0].offset() or 0) < self.fetched:  # fetched again behind a pause
            run = [message for message in run if (message.offset() or 0) >= self.fetched]
            if not run:
                return
        self._runs.append(run)
        self.held_bytes += _bytes(run)
        self.fetched = (run[-1].offset() or 0) + 1

    def ends_at(self, offset: int) -> None:
        """Notes that nothing more comes below an offset; what has come is still given."""
        self.fetched = max(self.fetched, offset)
        if not self._runs:
            self.position = self.fetched

    def _cut(self, most: int) -> list[Message]:
        """The first messages that wait."""
        taken = self._runs.popleft()
        while len(taken) < most and self._runs:
            taken += self._runs.popleft()
        if len(taken) > most:
            self._runs.appendleft(taken[most:])
            taken = taken[:most]
        return taken

    def _messages(self, taken: list[Message]) -> Messages:
        def record(index: int) -> Record:
            message = taken[index]
            headers: Any = message.headers() or ()
            return Record(message.key(), tuple(headers), message.timestamp()[1])

        count, offsets = len(taken), map(Message.offset, taken)
        stamps = [
            stamp if kind == TIMESTAMP_LOG_APPEND_TIME or not self._appended else NO_STAMP
            for kind, stamp in map(Message.timestamp, taken)
        ]
        if min(stamps) == NO_STAMP and self._appended:
            at = taken[stamps.index(NO_STAMP)].offset()
            msg = (
                f"partition {self.number} of topic `{self.topic}` must hold messages that the "
                f"broker stamped, found one at offset {at} that its producer did; set "
                "message.timestamp.type=LogAppendTime on the topic and start behind it, or read "
                'the topic with arrival = "producer"'
            )
            raise KafkaInputError(msg)
        return Messages(
            list(map(Message.value, taken)),
            np.fromiter(offsets, np.int64, count),
            np.fromiter(stamps, np.int64, count),
            record,
        )


def _bytes(run: list[Message]) -> int:
    return sum(map(len, run)) + MESSAGE_BYTES * len(run)
