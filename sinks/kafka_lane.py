"""One lane's way into Kafka, exactly once: short transactions that carry their own progress.

A transaction holds records and the lane's progress after them. Whatever goes wrong with one, its
producer is thrown away, and the next one fences what is left of it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from sinks.errors import FencedError, OwnedError, ProgressLostError
from sinks.kafka_errors import is_transient, refused
from sinks.kafka_progress import Progress, ProgressLog
from sinks.lane import SLICE_S, Lane, Parcel, State, nothing
from sources.kafka_client import TIMEOUT_S, error_of, words

Headers: TypeAlias = list[tuple[str, str | bytes | None]]

TRANSACTION_TIMEOUT_MS = 20_000
"""After this the broker ends the transaction of a run that is gone, and readers go on."""
MOST_RECORDS = 20_000
"""A transaction that has more is committed before its time."""
GATHERED_S = 0.002
"""A transaction takes what comes within this time, though the next commit is due already."""
MOST_MESSAGE_BYTES = 16 * 2**20
"""Of one message; the topic has a limit of its own, and that one counts."""


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one topic.

    Attributes:
        topic: where they go.
        keys, values: their bytes.
        headers: of each record, if they have any.
    """

    topic: str
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers] | None = None

    def __post_init__(self) -> None:
        columns = (self.keys, self.values, self.values if self.headers is None else self.headers)
        counts = [len(column) for column in columns]
        if len(set(counts)) > 1:  # what has no counterpart would not be written
            msg = f"records of `{self.topic}`: must be as many keys, values, headers, got {counts}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Who writes, and how often it is committed.

    Attributes:
        flow: name of the flow.
        job: of the recovery directory; another one's lanes are not touched.
        progress: where the lanes' progress is.
        take_over: whether to go on with lanes of another job.
        transaction_ms: about the time between two commits, the most of it; a transaction ends with
            the last parcel that is expected within it. 0 commits whenever nothing is left.
    """

    flow: str
    job: str
    progress: ProgressLog
    take_over: bool = False
    transaction_ms: float = 100

    def __post_init__(self) -> None:
        most_ms = TRANSACTION_TIMEOUT_MS / 2
        if not 0 <= self.transaction_ms <= most_ms:
            msg = (
                f"flow `{self.flow}`: the time between two commits must be at most {most_ms:.0f} "
                f"ms, or the broker ends transactions before, found {self.transaction_ms} ms"
            )
            raise ValueError(msg)


Render: TypeAlias = Callable[[], Sequence[Records]]
"""Gives the records, in the lane's thread; a second time where a transaction failed."""


class KafkaLane(Lane[Render]):
    """A transactional producer with a thread of its own.

    Args:
        name: the transactional id.
        number: of the lane, which tells the partition of its progress.
        tenancy: who writes.
        topics: where records go; they must exist.
        accepts: is shown the progress that is found before anything is written, and raises where
            it cannot be gone on from.
        beat: is called while a call waits, so that a long outage is not taken for a hang.
        gather_s: how long the lane waits for more before it begins a transaction.
    """

    transient = (KafkaException, TimeoutError)

    def __init__(
        self,
        name: str,
        number: int,
        tenancy: Tenancy,
        topics: Iterable[str],
        accepts: Callable[[State], None] = lambda state: None,
        beat: Callable[[], None] = nothing,
        gather_s: float = 0.0,
    ) -> None:
        super().__init__(name, beat)
        self._number = number
        self._gather_s = gather_s
        self._tenancy = tenancy
        self._connection = tenancy.progress.connection
        self._topics = tuple(topics)
        self._accepts = accepts
        self._producer: Producer | None = None
        self._failed: KafkaError | None = None
        self._due_s = 0.0
        self._put_s, self._rhythm_s = -math.inf, math.inf
        self._start()

    def put(self, parcel: Parcel[Render]) -> None:
        """Hands a parcel over, as :meth:`sinks.lane.Lane.put` says."""
        now_s = time.monotonic()
        if now_s > self._put_s + GATHERED_S:  # parcels of one turn come together
            self._rhythm_s = now_s - self._put_s
        self._put_s = now_s
        super().put(parcel)

    def _enter(self) -> State:
        self._tenancy.progress.require(self._topics)
        self._owned(self._found(whole=False))  # before the fence: it would stop the owner
        self._replace_producer()
        state = self._owned(self._found(whole=True))
        self._accepts(state)
        producer = self._begun()
        self._produce_progress(producer, state)
        producer.commit_transaction()
        return state

    def _enter_again(self) -> State:
        self._tenancy.progress.require(self._topics)
        self._ours(self._found(whole=False))  # before the fence: it would stop the other
        self._replace_producer()
        return self._ours(self._found(whole=True))

    def _idle(self) -> None:
        if self._producer is not None:
            self._producer.poll(0)  # for what the client has to log

    def _let_go(self) -> None:
        self._producer = None

    def _write(self, parcels: list[Parcel[Render]]) -> None:
        """Writes one transaction."""
        self._gather(parcels)
        producer = self._begun()
        due_s = max(self._due_s, time.monotonic() + GATHERED_S)
        records = sum(self._produce(producer, parcel) for parcel in parcels)
        while records < MOST_RECORDS:
            soon_s = time.monotonic() + GATHERED_S
            if soon_s + self._rhythm_s > self._due_s:  # the next ones would come too late
                due_s = min(due_s, soon_s)
            if (parcel := self._take(due_s)) is None:
                break
            parcels.append(parcel)
            records += self._produce(producer, parcel)
        self._produce_progress(producer, parcels[-1].state)
        began_s = time.monotonic()
        # From commit to commit: what comes after a while without any is committed at once.
        self._due_s = began_s + self._tenancy.transaction_ms * 1e-3
        producer.commit_transaction()
        self.counts.commit_s += time.monotonic() - began_s

    def _gather(self, parcels: list[Parcel[Render]]) -> None:
        """Adds what comes before the transaction is begun."""
        deadline_s = time.monotonic() + self._gather_s
        rows = sum(parcel.rows for parcel in parcels)
        while rows < MOST_RECORDS and (parcel := self._take(deadline_s)) is not None:
            parcels.append(parcel)
            rows += parcel.rows

    def _begun(self) -> Producer:
        assert self._producer is not None  # noqa: S101
        self._failed = None
        self._producer.begin_transaction()
        return self._producer

    def _produce(self, producer: Producer, parcel: Parcel[Render]) -> int:
        count = 0
        for records in parcel.content():
            _write_all(producer, records)
            count += len(records.values)
        producer.poll(0)
        return count

    def _produce_progress(self, producer: Producer, state: State) -> None:
        log = self._tenancy.progress
        record = Progress(self._tenancy.job, self.instance, state).encode()
        number = log.partition_of(self._number)
        _write_all(producer, Records(log.topic, [self.name.encode()], [record]), number)

    def _replace_producer(self) -> None:
        if self._producer is not None:
            self._producer.purge()
            self._producer = None
        self._failed = None
        producer = Producer(
            self._connection.config(
                {
                    "compression.type": "lz4",
                    "linger.ms": 5,
                    "message.max.bytes": MOST_MESSAGE_BYTES,
                },
                transactional_id=self.name,
                transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
                enable_idempotence=True,
                acks="all",
                partitioner="murmur2_random",
                queue_buffering_max_messages=10 * MOST_RECORDS,
                on_delivery=self._note_undelivered,
                error_cb=self._note_fatal,
                delivery_report_only_error=True,
            )
        )
        producer.init_transactions(TIMEOUT_S)
        self._producer = producer

    def _note_undelivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failed is None:
            self._failed = error

    def _note_fatal(self, error: KafkaError) -> None:
        """Keeps why a producer has ended, which its calls then tell as no more than an end."""
        if error.fatal() and self._failed is None:
            self._failed = error

    def _found(self, *, whole: bool) -> Progress | None:
        return self._tenancy.progress.read(self.name, self._number, whole=whole)

    def _owned(self, found: Progress | None) -> State:
        """The progress to go on from when the lane is opened."""
        if found is None:
            return {}
        if found.job != self._tenancy.job and not self._tenancy.take_over:
            msg = (
                f"lane `{self.name}`: must be of job {self._tenancy.job!r}, found that flow "
                f"`{self._tenancy.flow}` is owned by another recovery directory, of job "
                f"{found.job!r}; stop that one, or go on in its place with take_over=True"
            )
            raise OwnedError(msg)
        return found.state

    def _ours(self, found: Progress | None) -> State:
        """The progress to go on from in the middle of a run."""
        if found is None:
            raise self._lost({})
        if found.instance != self.instance:
            msg = (
                f"lane `{self.name}`: must have one writer, found that another run of flow "
                f"`{self._tenancy.flow}` has taken it over; what this run had not committed "
                "stays invisible; let only one of the two run"
            )
            raise FencedError(msg)
        return found.state

    def _lost(self, found: State) -> ProgressLostError:
        msg = (
            f"lane `{self.name}`: topic `{self._tenancy.progress.topic}` must hold its progress "
            f"{self._state}, found {found}; the topic must be compacted, and only Riffle may write"
        )
        return ProgressLostError(msg)

    def _hopeless(self, error: Exception) -> Exception | None:
        held = error_of(error) if isinstance(error, KafkaException) else None
        for cause in (self._failed, held):
            if cause is not None and not is_transient(cause):
                return refused(self.name, self._connection.hide(words(cause)))
        return None

    def _words(self, error: Exception) -> str:
        text = words(error) if isinstance(error, KafkaException) else "no answer in time"
        return self._connection.hide(text)


def _write_all(producer: Producer, records: Records, partition: int = -1) -> None:
    """Writes records; waits where the client's queue is full."""
    columns: list[Iterable[Any]] = [
        itertools.repeat(records.topic), records.values, records.keys, itertools.repeat(partition)
    ]  # fmt: skip
    if records.headers is not None:
        # By their place, behind callbacks and a timestamp: a keyword costs 0.5 us a record.
        columns += [itertools.repeat(None), itertools.repeat(None), itertools.repeat(0)]
        columns.append(records.headers)
    for row in zip(*columns, strict=False):
        while True:
            try:
                producer.produce(*row)
                break
            except BufferError:
                producer.poll(SLICE_S)
