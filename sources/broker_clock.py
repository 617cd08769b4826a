"""The broker's clock, for partitions at the end of their log.

A record appended to a topic of our own tells the broker's time T; asked afterwards, the broker says
where the logs of the inputs end. Whoever has read a partition to that end knows that all else in it
was appended later, so its clock may advance to T although no row says so. The clock of the wall has
no part in this: while the broker is away, clocks stand.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
)
from confluent_kafka.admin import AdminClient

from operators.batch import NO_CLOCK_NS
from sources.kafka_client import (
    ClusterSilentError,
    Connection,
    KafkaInputError,
    TopicFacts,
    TopicPartitionId,
    asking_failed,
    is_hopeless,
    log_ends,
    topic_facts,
    topics_of,
    words,
)

LOGGER = logging.getLogger(__name__)

TICK_MS = 50
"""How often the broker's time is asked for."""
FACTS_S = 5.0
"""How often the topics are looked at."""
PATIENCE_S = 30.0
"""How long an error that waiting does not mend may stand while brokers start."""
ANSWER_S = 2.0
"""How long the broker may take for one tick."""
ASKED_ONCE_S = 5.0
"""How long it may take where it is asked only once."""


class PartitionsChangedError(KafkaInputError):
    """A topic no longer has the partitions that the flow's state was made with."""


def check_unchanged(known: Mapping[str, TopicFacts], found: Mapping[str, TopicFacts]) -> None:
    """Refuses topics that are not those that a flow's state was made with.

    Raises:
        PartitionsChangedError: when one has another number of partitions, or was made anew.
    """
    for topic, facts in known.items():
        now = found[topic]
        if now.partitions != facts.partitions:
            msg = (
                f"the number of partitions of `{topic}` must stay {facts.partitions} while the "
                f"flow's state exists, found {now.partitions}; stop the producers, let the flow "
                "read what they wrote, stop it, and start it with a new recovery directory and "
                "the topics' history"
            )
            raise PartitionsChangedError(msg)
        if now.topic_id != facts.topic_id:
            msg = (
                f"`{topic}` must stay the topic {facts.topic_id} while the flow's state exists, "
                f"found another of that name, {now.topic_id}; start the flow with a new recovery "
                "directory"
            )
            raise PartitionsChangedError(msg)


def _appended(
    producer: Producer, topic: str, answer_s: float
) -> tuple[KafkaError | None, Message] | None:
    """Appends a tick, and gives the broker's answer; None where there is none in time."""
    answers: list[tuple[KafkaError | None, Message]] = []
    try:
        producer.produce(
            topic,
            b"",
            b"tick",
            0,
            on_delivery=lambda error, message: answers.append((error, message)),
        )
    except (BufferError, KafkaException):
        producer.poll(0)
        return None
    producer.flush(answer_s)
    return answers[-1] if answers else None


def broker_time_ns(connection: Connection, topic: str) -> int | None:
    """The broker's time, asked for once; None where it does not tell it.

    What is appended after this has no earlier stamp.

    Args:
        connection: how to reach the cluster.
        topic: of the clock, whose messages nobody reads.
    """
    producer = connection.client(Producer, _ticking(connection, ASKED_ONCE_S))
    answer = _appended(producer, topic, ASKED_ONCE_S)
    error, message = answer or (None, None)
    if message is None or error is not None:
        return None
    kind, stamp_ms = message.timestamp()
    return stamp_ms * 10**6 if kind == TIMESTAMP_LOG_APPEND_TIME else None


def _ticking(connection: Connection, answer_s: float, **own: Any) -> dict[str, Any]:
    """The configuration of a producer of ticks."""
    tuning = {"linger.ms": 0, "message.timeout.ms": int(answer_s * 1000)}
    return connection.config(tuning, acks="all", **own)


class BrokerClock:
    """Asks for the broker's time and the ends of logs, in a thread of its own.

    Args:
        connection: how to reach the cluster.
        topic: where the ticks are appended; the broker must stamp its messages.
        inputs: the topics read, and what is known about them.
        margin_ns: how much the brokers' clocks may differ; nothing where there is one broker.
        tick_ms: how often to ask.
    """

    def __init__(
        self,
        connection: Connection,
        topic: str,
        inputs: Mapping[str, TopicFacts],
        *,
        margin_ns: int = 0,
        tick_ms: int = TICK_MS,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._inputs = dict(inputs)
        self._places = [
            (name, n) for name, facts in inputs.items() for n in range(facts.partitions)
        ]
        self._margin_ns = margin_ns
        self._tick_s = tick_ms / 1000
        # Replaced as a whole, so that readers need no lock.
        self._seen: tuple[int, Mapping[TopicPartitionId, int]] = (NO_CLOCK_NS, {})
        self._failure: KafkaInputError | None = None
        self._trouble_began_s: float | None = None
        self._stopped = Event()
        self._users = 0
        self._lock = Lock()
        self._thread: Thread | None = None

    def join(self) -> None:
        """Starts to ask, if nobody has yet."""
        with self._lock:
            self._users += 1
            if self._thread is None:
                self._stopped.clear()
                self._thread = Thread(target=self._run, name="broker-clock", daemon=True)
                self._thread.start()

    def leave(self) -> None:
        """Stops to ask behind the last who joined."""
        with self._lock:
            self._users -= 1
            thread, self._thread = self._thread, None if self._users <= 0 else self._thread
            if self._users > 0 or thread is None:
                return
            self._stopped.set()
        thread.join(2 * ANSWER_S)

    def clock_ns(self, topic: str, number: int, position: int) -> int:
        """The clock of a partition that is read up to a position; unknown when more is there."""
        clock_ns, ends = self._seen
        end = ends.get((topic, number))
        return clock_ns if end is not None and position >= end else NO_CLOCK_NS

    def end(self, topic: str, number: int) -> int | None:
        """Where the log of a partition ended when it was last asked; None before that."""
        return self._seen[1].get((topic, number))

    def now_ns(self) -> int:
        """The broker's time, when it was last asked, less the margin."""
        return self._seen[0]

    def check(self) -> None:
        """Says what has been found wrong.

        Raises:
            PartitionsChangedError: when a topic has changed.
            KafkaInputError: when the ticks cannot be what they must be.
        """
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        config = _ticking(self._connection, ANSWER_S, error_cb=self._note)
        try:
            producer = self._connection.client(Producer, config)
            admin, reader = self._asking()
        except KafkaInputError as error:
            self._failure = error
            return
        looked_s = monotonic()
        while self._failure is None and not self._stopped.wait(self._tick_s):
            try:
                self._tick(producer, reader)
                if monotonic() - looked_s > FACTS_S:
                    looked_s = monotonic()
                    found = topic_facts(self._connection, self._inputs, admin, stamps=False)
                    check_unchanged(self._inputs, found)
                self._trouble_began_s = None
            except PartitionsChangedError as error:
                self._failure = error
            except ClusterSilentError:
                # After a restart of its broker, one and the same client has been seen to be told
                # FENCED_LEADER_EPOCH for ever.
                admin, reader = self._asking()
            except KafkaInputError as error:
                self._endure(error)
                admin, reader = self._asking()
        producer.purge()
        producer.flush(ANSWER_S)

    def _asking(self) -> tuple[AdminClient, Consumer]:
        """New clients to ask about topics, and about the ends of their logs."""
        config = self._connection.config(
            group_id=f"{self._topic}-readers",  # asked for, though no group is joined
            isolation_level="read_uncommitted",
            enable_auto_commit=False,
        )
        return self._connection.admin(), self._connection.client(Consumer, config)

    def _tick(self, producer: Producer, reader: Consumer) -> None:
        answer = _appended(producer, self._topic, ANSWER_S)
        if answer is None:
            return
        error, message = answer
        where = f"topic `{self._topic}`, which tells the broker's time,"
        if error is not None:
            if is_hopeless(error):
                found = self._connection.hide(words(error))
                msg = f"{where} must take our records, found {found}; create it, or allow writing"
                raise KafkaInputError(msg)
            return
        kind, stamp_ms = message.timestamp()
        if kind != TIMESTAMP_LOG_APPEND_TIME:
            msg = (
                f"{where} must have message.timestamp.type=LogAppendTime, found the stamps of its "
                "producers; change the setting"
            )
            raise KafkaInputError(msg)
        try:
            ends = log_ends(reader, self._places, ANSWER_S)
        except KafkaException as failed:
            where = f"ends of {topics_of(self._places)}"
            raise asking_failed(self._connection, where, failed) from None
        clock_ns = max(self._seen[0], stamp_ms * 10**6 - self._margin_ns)
        self._seen = (clock_ns, ends)

    def _endure(self, error: KafkaInputError) -> None:
        """Notes an error that waiting may not mend, and believes it when it stays."""
        began_s = self._trouble_began_s = self._trouble_began_s or monotonic()
        if monotonic() - began_s > PATIENCE_S:
            self._failure = error

    def _note(self, error: KafkaError) -> None:
        LOGGER.debug("%s", self._connection.hide(words(error)))
