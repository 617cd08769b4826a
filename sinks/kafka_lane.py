"""One lane's way into Kafka, exactly once: short transactions that carry their own progress.

A transaction holds records and the lane's progress after them, so that both are there or neither.
Who opens a lane fences its earlier run and reads how far that came; what is given again is left
out by the sink. Whatever goes wrong with a transaction, its producer is thrown away and the next
one reads from the progress whether it was committed: there is one way to recover, and it is the way
of every start.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import uuid4

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from sinks.kafka_errors import FencedError, OwnedError, ProgressLostError, is_transient, refused
from sinks.kafka_progress import Progress, ProgressLog, State
from sources.kafka_client import TIMEOUT_S, error_of, words

Headers: TypeAlias = list[tuple[str, str | bytes | None]]

TRANSACTION_TIMEOUT_MS = 20_000
"""After this the broker ends the transaction of a run that is gone, and readers go on."""
MOST_RECORDS = 20_000
"""A transaction that has more is committed before its time."""
MOST_MESSAGE_BYTES = 16 * 2**20
"""Of one message; the topic has a limit of its own, and that one counts."""
MOST_WAITING_BYTES = 16 * 2**20
"""Of what is handed over and not committed; who has more to give waits."""
SLICE_S = 0.05
"""How long a call waits before it says that it is still there."""
IDLE_S = 1.0
"""How often a lane without work looks at what its client has to say."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Between two attempts to reach the cluster."""

_log = logging.getLogger("riffle.kafka")


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
class Parcel:
    """What must not be torn apart: it is in one transaction.

    Attributes:
        render: gives the records, in the lane's thread; a second time where a transaction failed.
        state: what the lane says of itself when they are committed.
        rows: how many records, about.
        size: bytes that they take while they wait, about.
    """

    render: Callable[[], Sequence[Records]]
    state: State
    rows: int
    size: int


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Who writes, and how often it is committed.

    Attributes:
        flow: name of the flow.
        job: of the recovery directory; another one's lanes are not touched.
        progress: where the lanes' progress is.
        take_over: whether to go on with lanes of another job.
        transaction_ms: time between two commits; 0 commits whenever nothing is left to write.
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


@dataclass(slots=True)
class Counts:
    """What a lane has done, for metrics.

    Attributes:
        transactions, records: committed ones; records without those of the progress.
        retries: how often a producer was replaced.
        commit_s: time spent in commits.
        waited_s: time for which there was no room to hand over more.
    """

    transactions: int = 0
    records: int = 0
    retries: int = 0
    commit_s: float = 0.0
    waited_s: float = 0.0


def _nothing() -> None:
    pass


class Lane:
    """A transactional producer with a thread of its own.

    Args:
        name: the transactional id.
        number: of the lane, which tells the partition of its progress.
        tenancy: who writes.
        topics: where records go; they must exist.
        accepts: is shown the progress that is found before anything is written, and raises where
            it cannot be gone on from.
        beat: is called while a call waits, so that a long outage is not taken for a hang.

    Attributes:
        counts: what has been done.
    """

    def __init__(
        self,
        name: str,
        number: int,
        tenancy: Tenancy,
        topics: Iterable[str],
        accepts: Callable[[State], None] = lambda state: None,
        beat: Callable[[], None] = _nothing,
    ) -> None:
        self.name = name
        self.counts = Counts()
        self.instance = uuid4().hex
        self._number = number
        self._tenancy = tenancy
        self._connection = tenancy.progress.connection
        self._topics = tuple(topics)
        self._accepts = accepts
        self._beat = beat
        self._changed = threading.Condition()
        self._waiting: deque[Parcel] = deque()
        self._size = 0
        self._given = self._done = 0
        self._hurry = False
        self._closing = False
        self._error: BaseException | None = None
        self._state: State | None = None
        self._producer: Producer | None = None
        self._failed: KafkaError | None = None
        self._pause_s = FIRST_PAUSE_S
        self._thread = threading.Thread(target=self._run, name=f"lane {name}", daemon=True)
        self._thread.start()

    # -- the flow's thread ------------------------------------------------------------------

    def state(self) -> State:
        """The progress that was found when the lane was opened; waits for that.

        Raises:
            OwnedError: when the lane is another job's.
        """
        with self._changed:
            self._wait(lambda: self._state is not None)
            assert self._state is not None  # noqa: S101
            return self._state

    def put(self, parcel: Parcel) -> None:
        """Hands a parcel over; waits while too much is on its way.

        Raises:
            DeliveryError: when an earlier one cannot be written.
            FencedError: when another run has taken the lane over.
        """
        with self._changed:
            began_s = time.monotonic()
            self._wait(lambda: not self._size or self._size + parcel.size <= MOST_WAITING_BYTES)
            self.counts.waited_s += time.monotonic() - began_s
            self._waiting.append(parcel)
            self._size += parcel.size
            self._given += 1
            self._changed.notify_all()

    def flush(self) -> None:
        """Waits until all that was handed over is committed; raises what :meth:`put` does."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._wait(lambda: self._done == self._given and self._state is not None)
            self._hurry = False

    def close(self) -> None:
        """Commits what was handed over and lets go of the lane."""
        try:
            self.flush()
        finally:
            self._stop()

    def _stop(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout=LONGEST_PAUSE_S)

    def _wait(self, ready: Callable[[], bool]) -> None:
        while self._error is None and not ready():
            self._changed.wait(SLICE_S)
            self._beat()
        if self._error is not None:
            raise self._error

    # -- the lane's thread ------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._open()
            while not self._closing:
                if (parcel := self._take(time.monotonic() + IDLE_S)) is not None:
                    self._commit([parcel])
                elif self._producer is not None:
                    self._producer.poll(0)  # for what the client has to log
        except BaseException as error:  # noqa: BLE001 - it is raised again in the flow's thread
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            self._producer = None

    def _open(self) -> None:
        """Fences earlier runs, reads how far they came, and says that the lane is ours."""
        while True:
            try:
                self._tenancy.progress.require(self._topics)
                self._owned(self._found(whole=False))  # before the fence: it would stop the owner
                self._replace_producer()
                state = self._owned(self._found(whole=True))
                self._accepts(state)
                producer = self._begun()
                self._produce_progress(producer, state)
                producer.commit_transaction()
            except (KafkaException, TimeoutError) as error:
                self._pause(error)
                continue
            self._pause_s = FIRST_PAUSE_S
            with self._changed:
                self._state = state
                self._changed.notify_all()
            return

    def _take(self, deadline_s: float) -> Parcel | None:
        """The next parcel; None when there was none until the deadline or is none in a hurry."""
        with self._changed:
            while not self._closing:
                left_s = deadline_s - time.monotonic()
                if self._waiting and left_s > 0:
                    return self._waiting.popleft()
                if left_s <= 0 or (self._hurry and self._given > self._done):
                    return None
                self._changed.wait(left_s)
            return None

    def _commit(self, parcels: list[Parcel]) -> None:
        """Commits parcels and those that come in the meantime, in as many attempts as it takes."""
        while True:
            try:
                self._write(parcels)
                break
            except (KafkaException, TimeoutError) as error:
                found = self._recover(error)
            if found == parcels[-1].state:  # it was committed, though we were not told
                break
            if found != self._state:
                raise self._lost(found)
        self._pause_s = FIRST_PAUSE_S
        with self._changed:
            self._state = parcels[-1].state
            self._done += len(parcels)
            self._size -= sum(parcel.size for parcel in parcels)
            self.counts.transactions += 1
            self.counts.records += sum(parcel.rows for parcel in parcels)
            self._changed.notify_all()

    def _write(self, parcels: list[Parcel]) -> None:
        """Writes one transaction."""
        producer = self._begun()
        deadline_s = time.monotonic() + max(self._tenancy.transaction_ms * 1e-3, 1e-6)
        records = sum(self._produce(producer, parcel) for parcel in parcels)
        while records < MOST_RECORDS and (parcel := self._take(deadline_s)) is not None:
            parcels.append(parcel)
            records += self._produce(producer, parcel)
        self._produce_progress(producer, parcels[-1].state)
        began_s = time.monotonic()
        producer.commit_transaction()
        self.counts.commit_s += time.monotonic() - began_s

    def _begun(self) -> Producer:
        assert self._producer is not None  # noqa: S101
        self._failed = None
        self._producer.begin_transaction()
        return self._producer

    def _produce(self, producer: Producer, parcel: Parcel) -> int:
        count = 0
        for records in parcel.render():
            _write_all(producer, records)
            count += len(records.values)
        producer.poll(0)
        return count

    def _produce_progress(self, producer: Producer, state: State) -> None:
        log = self._tenancy.progress
        record = Progress(self._tenancy.job, self.instance, state).encode()
        number = log.partition_of(self._number)
        _write_all(producer, Records(log.topic, [self.name.encode()], [record]), number)

    # -- recovery ---------------------------------------------------------------------------

    def _recover(self, error: KafkaException | TimeoutError) -> State:
        """Replaces the producer, and gives the progress that is committed."""
        while True:
            self._pause(error)
            self.counts.retries += 1
            try:
                self._tenancy.progress.require(self._topics)
                self._ours(self._found(whole=False))  # before the fence: it would stop the other
                self._replace_producer()
                return self._ours(self._found(whole=True))
            except (KafkaException, TimeoutError) as another:
                error = another

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

    def _pause(self, error: KafkaException | TimeoutError) -> None:
        """Waits before the next attempt, longer each time; raises what no attempt mends."""
        held = error_of(error) if isinstance(error, KafkaException) else None
        for cause in (self._failed, held):
            if cause is not None and not is_transient(cause):
                raise refused(self.name, self._connection.hide(words(cause))) from None
        text = words(error) if isinstance(error, KafkaException) else "no answer in time"
        _log.warning("lane %s: trying again after %s", self.name, self._connection.hide(text))
        with self._changed:
            if self._closing:
                raise error
            self._changed.wait_for(lambda: self._closing, self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


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
