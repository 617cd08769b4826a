"""Topics of Kafka as an input of a Bytewax dataflow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from operators.batch import NO_CLOCK_NS
from operators.dead_letters import DeadLetters
from operators.streams import Stream
from sources.alignment import Alignment
from sources.broker_clock import BrokerClock
from sources.kafka_client import KafkaInputError, Offsets, TopicPartitionId
from sources.kafka_log import FEW, KafkaLog
from sources.message_decoder import MOST_BYTES, MessageDecoder
from sources.messages import MessageReader, Messages, Read
from sources.pace import Pace
from sources.stop import STOP

State = dict[str, Any]
"""Where a partition stands, as plain values."""
History = Callable[[str, int, int], MessageReader | None]
"""Gives a reader of older messages: of a topic and partition, from an offset on. It is exhausted
when it gives none; the log is read from its position on."""

SHORTEST_WAIT = timedelta(milliseconds=1)
LONGEST_WAIT = timedelta(milliseconds=20)
"""Between two looks at whether the others have caught up."""
BATCH_ROWS = 10_000
"""The most messages of a batch."""


@dataclass(frozen=True, slots=True)
class KafkaInput:
    """A topic that is read as a stream.

    Attributes:
        stream: what its rows are.
        topic: its name.
        partitions: how many it has.
        form: ``json`` or ``arrow``.
        arrival: ``broker``, ``producer`` or ``column``.
        partitioner: ``murmur2``, ``crc32`` or ``none``.
        most_bytes: the largest message that is read.
    """

    stream: Stream
    topic: str
    partitions: int
    form: str = "json"
    arrival: str = "broker"
    partitioner: str = "murmur2"
    most_bytes: int = MOST_BYTES

    def decoder(self) -> MessageDecoder:
        """What turns its messages into rows."""
        return MessageDecoder(
            self.stream,
            self.form,
            arrival=self.arrival,
            partitions=self.partitions,
            partitioner=self.partitioner,
            most_bytes=self.most_bytes,
        )


@dataclass(frozen=True, slots=True)
class Span:
    """From where to where partitions are read.

    Attributes:
        starts: the first offset of each, for those that no snapshot tells.
        ends: the offset behind the last; for a bounded input.
        carried: states that were taken over from another flow's snapshots, by part.
        history: gives older messages, to be read before the log.
    """

    starts: Offsets
    ends: Offsets | None = None
    carried: Mapping[str, State] = field(default_factory=dict)
    history: History | None = None


@dataclass(slots=True)
class Account:
    """What became of the rows of a partition.

    Attributes:
        messages: how many were read.
        came_in: rows that they held, or one for a message that could not be taken apart.
        rows: those that went on.
        late: those that arrived too late.
        dead: those that could not be used, by reason.
    """

    messages: int = 0
    came_in: int = 0
    rows: int = 0
    late: int = 0
    dead: dict[str, int] = field(default_factory=dict)

    def add(self, messages: int, read: Read) -> None:
        """Counts one read.

        Raises:
            RuntimeError: when a row is missing.
        """
        dead, late = read.dead.rows_by_reason(), sum(read.late.rows_by_reason().values())
        if read.came_in != len(read.batch) + sum(dead.values()) + late:
            msg = (
                f"{read.batch.stream}/{read.batch.partition}: {read.came_in} rows came in, but "
                f"{len(read.batch)} went on, {sum(dead.values())} were dead and {late} late"
            )
            raise RuntimeError(msg)
        self.messages += messages
        self.came_in += read.came_in
        self.rows += len(read.batch)
        self.late += late
        for reason, rows in dead.items():
            self.dead[str(reason)] = self.dead.get(str(reason), 0) + rows


class ArchiveThenLog:
    """Older messages, then those of the log from exactly the next offset on.

    Args:
        archive: gives the older ones.
        open_log: opens the log at an offset.
    """

    def __init__(self, archive: MessageReader, open_log: Callable[[int], MessageReader]) -> None:
        self._reader = archive
        self._open_log: Callable[[int], MessageReader] | None = open_log

    @property
    def position(self) -> int:
        """The offset of the next message that was not yet taken."""
        return self._reader.position

    def take(self, most: int) -> Messages | None:
        """At most so many messages from the position on; None when there are none at the moment."""
        messages = self._reader.take(most)
        if messages is None and self._open_log is not None:
            archive, self._reader = self._reader, self._open_log(self._reader.position)
            self._open_log = None
            archive.close()
            messages = self._reader.take(most)
        return messages

    def close(self) -> None:
        """Lets go of both."""
        self._reader.close()


class KafkaPartition(StatefulSourcePartition[Read, State]):
    """One partition of a topic; it waits while it is too far ahead of the others.

    Args:
        name: the partition's name among all streams.
        reader: gives its messages.
        decoder: turns them into rows.
        source: what it shares with the others.
        state: where an earlier one stopped.
        place: topic and number.

    Attributes:
        name, topic, number: which it is.
        clock_ns: its clock.
        account: what became of its rows.
    """

    def __init__(
        self,
        name: str,
        place: TopicPartitionId,
        reader: MessageReader,
        decoder: MessageDecoder,
        source: KafkaSource,
        state: State | None,
    ) -> None:
        self.name = name
        self.topic, self.number = place
        self._reader = reader
        self._decoder = decoder
        self._source = source
        ends = source.span.ends
        self._end = None if ends is None else ends[place]
        state = state or {}
        self.clock_ns: int = state.get("clock_ns", NO_CLOCK_NS)
        self.account = Account(**state.get("account", {}))
        # Who keeps clocks in memory must hear where a resumed partition stands.
        self._greets = self.clock_ns != NO_CLOCK_NS
        self._done = False
        self._wait = SHORTEST_WAIT
        self._awake: datetime | None = None
        source.alignment.join(name, self.clock_ns)

    @property
    def position(self) -> int:
        """The offset of the next message."""
        return self._reader.position

    @property
    def end(self) -> int | None:
        """Where the log ended when the broker was last asked; None if it never was."""
        clock = self._source.clock
        return None if clock is None else clock.end(self.topic, self.number)

    def next_batch(self) -> list[Read]:
        """One read, or nothing while none has come or the others catch up."""
        if STOP.is_set() or self._done:
            raise StopIteration
        source = self._source
        if source.clock is not None:
            source.clock.check()
        if self._greets:
            self._greets = False
            return [self._clock_alone()]
        if not source.alignment.may_read(self.name):
            self._awake = datetime.now(UTC) + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            return []
        self._wait = SHORTEST_WAIT
        if not source.pace.may_read(self.name, self.number):
            self._awake = datetime.now(UTC)
            return []
        self._awake = None
        messages = None if self._ended() else self._reader.take(source.batch_rows)
        messages = self._before_end(messages)
        if messages is not None:
            if len(messages) < FEW:
                self._awake = source.pace.next_round(self.number)
            return [self._read(messages)]
        if self._ended():
            self._done = True
            source.alignment.leave(self.name)
            said = self._clock_alone()
            return [replace(said, batch=replace(said.batch, end=True))]
        self._awake = source.pace.next_round(self.number)
        return self._ticked()

    def next_awake(self) -> datetime | None:
        """When to look again: the others are to catch up, or messages to become more."""
        return self._awake

    def snapshot(self) -> State:
        """Where the next read begins, and what became of the rows before it."""
        offset = self._reader.position
        self._source.log().commit(self.topic, self.number, offset)
        return {"offset": offset, "clock_ns": self.clock_ns, "account": asdict(self.account)}

    def close(self) -> None:
        """Lets go of the partition."""
        self._source.alignment.leave(self.name)
        self._reader.close()
        if self._source.clock is not None:
            self._source.clock.leave()

    def _read(self, messages: Messages) -> Read:
        read = self._decoder.decode(messages, str(self.number), self.clock_ns)
        self.account.add(len(messages), read)
        self.clock_ns = read.batch.clock_ns
        self._source.alignment.report(self.name, self.clock_ns)
        return read

    def _ended(self) -> bool:
        return self._end is not None and self._reader.position >= self._end

    def _before_end(self, messages: Messages | None) -> Messages | None:
        """The messages that are still to be read, of those that were taken."""
        if messages is None or self._end is None or messages.offsets[-1] < self._end:
            return messages
        return messages.first(int(messages.offsets.searchsorted(self._end)))

    def _ticked(self) -> list[Read]:
        """The clock alone, if the broker's has moved it."""
        clock = self._source.clock
        if clock is None or not self._decoder.told_by_broker:
            return []
        clock_ns = clock.clock_ns(self.topic, self.number, self._reader.position)
        if clock_ns <= self.clock_ns:
            return []
        self.clock_ns = clock_ns
        self._source.alignment.report(self.name, clock_ns)
        return [self._clock_alone()]

    def _clock_alone(self) -> Read:
        batch = self._decoder.nothing(str(self.number), self.clock_ns)
        nothing = DeadLetters(batch.stream, batch.partition)
        return Read(batch, nothing, nothing)


class KafkaSource(FixedPartitionedSource[Read, State]):
    """The partitions of some topics, read in step.

    Args:
        inputs: the topics; a stream stands once.
        log: opens the log that is shared by the partitions of the process; called when the first
            of them is opened, and often after that.
        span: from where to where.
        alignment: how far partitions may be ahead of each other; shared with other sources of the
            process, if there are any.
        clock: the broker's; without it the clock of a partition stands at its last row.
        numbers: the partitions to read of each topic; all of them by default.
        batch_rows: the most messages of a batch.
        watch: is shown each partition, for what people see of it.
    """

    def __init__(
        self,
        inputs: Sequence[KafkaInput],
        log: Callable[[], KafkaLog],
        span: Span,
        alignment: Alignment,
        clock: BrokerClock | None = None,
        numbers: Collection[int] | None = None,
        batch_rows: int = BATCH_ROWS,
        watch: Callable[[KafkaPartition], None] = lambda partition: None,
    ) -> None:
        if batch_rows < 1:
            msg = f"batches must have at least one row, got batch_rows={batch_rows}"
            raise ValueError(msg)
        self.log = log
        self.span = span
        self.alignment = alignment
        self.clock = clock
        self.batch_rows = batch_rows
        self.pace = Pace()
        self._watch = watch
        self._inputs: dict[str, tuple[KafkaInput, int]] = {}
        for given in inputs:
            for number in range(given.partitions):
                if numbers is None or number in numbers:
                    name = f"{given.stream.name}/{number}"
                    if name in self._inputs:
                        msg = f"a stream must be read from one topic, found {name!r} twice"
                        raise KafkaInputError(msg)
                    self._inputs[name] = (given, number)

    def list_parts(self) -> list[str]:
        """The partitions, each under its stream and number."""
        return list(self._inputs)

    def build_part(self, step_id: str, for_part: str, resume_state: State | None) -> KafkaPartition:
        """Opens a partition, where an earlier run stopped, or at its start.

        Raises:
            KafkaInputError: when it is none of the inputs, or nothing says where it starts.
        """
        if for_part not in self._inputs:
            msg = (
                f"step {step_id!r}: the partitions must be those of the run that is resumed, found "
                f"none for {for_part!r}; read the same topics, or start over without the snapshot"
            )
            raise KafkaInputError(msg)
        given, number = self._inputs[for_part]
        place = (given.topic, number)
        state = resume_state or self.span.carried.get(for_part)
        offset = self.span.starts.get(place) if state is None else state["offset"]
        if offset is None:
            msg = f"step {step_id!r}: a start must be given for {for_part!r}, found none"
            raise KafkaInputError(msg)
        decoder = given.decoder()
        if self.clock is not None:
            self.clock.join()
        reader = self._reader(place, int(offset), decoder)
        partition = KafkaPartition(for_part, place, reader, decoder, self, state)
        self._watch(partition)
        return partition

    def _reader(
        self, place: TopicPartitionId, offset: int, decoder: MessageDecoder
    ) -> MessageReader:
        def open_log(at: int) -> MessageReader:
            return self.log().open(*place, at, appended=decoder.told_by_broker)

        archive = self.span.history(*place, offset) if self.span.history else None
        return open_log(offset) if archive is None else ArchiveThenLog(archive, open_log)
