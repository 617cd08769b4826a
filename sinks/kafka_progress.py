"""How far the lanes of flows have come: a compacted topic, written inside their transactions.

A record's key is the lane's transactional id, its value a JSON object: ``job`` and ``instance``,
which say who wrote it, and what the lane says of itself, such as ``settled_ns``. A lane's records
are in the partition of its number, so that a lane reading its own waits for no open transaction of
a lane that another process has left behind.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from sinks.errors import MissingTopicError
from sinks.lane import State
from sources.kafka_client import Connection, error_of, is_hopeless, log_ends

SLICE_S = 0.05
"""How long one lane may read while others wait to."""
MOST_MESSAGES = 10_000
ANSWER_S = 5.0
"""How long a question to the cluster may take before it is asked again."""
MOST_WAIT_S = 30.0
"""How long a read waits for open transactions: longer than these may stay open."""
RENEWED_S = 3.0
"""After so long it waits with a new client: one that has outlived its broker may stand still."""
PATIENCE_S = 5.0
"""How long a topic may be unknown: a broker that starts does not know all of them at once."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The last record of a lane.

    Attributes:
        job: whose the lane is: the same in all runs that share a recovery directory.
        instance: which run wrote it.
        state: what the lane says of itself.
    """

    job: str
    instance: str
    state: State

    def encode(self) -> bytes:
        """Gives the record's value."""
        return json.dumps({"job": self.job, "instance": self.instance, **self.state}).encode()

    @staticmethod
    def decode(value: bytes) -> Progress:
        """Reads a record's value."""
        state = json.loads(value)
        return Progress(state.pop("job"), state.pop("instance"), state)


class ProgressLog:
    """The topic, read by all lanes of a process together.

    Args:
        connection: how to reach the cluster.
        topic: its name; compacted, so that it stays short.
    """

    def __init__(self, connection: Connection, topic: str = "riffle-progress") -> None:
        self.connection = connection
        self.topic = topic
        self._lock = threading.Lock()
        self._admin: AdminClient | None = None
        self._decided: Consumer | None = None
        self._undecided: Consumer | None = None
        self._partitions = 0
        self._positions: dict[int, int] = {}
        self._last: dict[int, dict[bytes, bytes]] = {}

    def partition_of(self, lane: int) -> int:
        """The partition with the records of a lane."""
        with self._lock:
            known = self._partitions
        if not known:
            known = self.require([self.topic])[self.topic]
            with self._lock:
                self._partitions = known
        return lane % known

    def require(self, topics: Iterable[str]) -> dict[str, int]:
        """Gives the number of partitions of topics.

        Raises:
            MissingTopicError: when one does not exist.
            KafkaException: when the cluster does not answer.
        """
        found: dict[str, int] = {}
        deadline_s = time.monotonic() + PATIENCE_S
        while missing := sorted({*topics} - found.keys()):
            found |= self._partitions_of(missing)
            if missing == sorted({*topics} - found.keys()):
                if time.monotonic() > deadline_s:
                    msg = (
                        f"topic `{missing[0]}` must exist, found none; create it, and start the "
                        "flow again"
                    )
                    raise MissingTopicError(msg)
                time.sleep(SLICE_S)
        return found

    def _partitions_of(self, topics: list[str]) -> dict[str, int]:
        """The number of partitions of those topics that the cluster knows at the moment."""
        found = {}
        with self._lock:
            self._admin = admin = self._admin or self.connection.admin()
        asked = admin.describe_topics(TopicCollection(topics), request_timeout=ANSWER_S)
        for name, answer in asked.items():
            try:
                found[name] = len(answer.result(timeout=2 * ANSWER_S).partitions)
            except KafkaException as error:
                held = error_of(error)
                if held is None or held.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
        return found

    def read(self, name: str, lane: int, *, whole: bool) -> Progress | None:
        """Reads the last committed record of a lane.

        Args:
            name: the lane's transactional id.
            lane: its number.
            whole: whether to wait until all that is in the log now has been committed or aborted.
                Whoever has just fenced the lane's earlier run reads its last word this way; others
                read what is committed by now.

        Raises:
            MissingTopicError: when the topic does not exist.
            KafkaException: when the cluster does not answer in time.
        """
        try:
            return self._read(name, self.partition_of(lane), whole=whole)
        except KafkaException:
            self.forget()
            raise

    def forget(self) -> None:
        """Asks with new clients from now on; what is being asked is answered all the same.

        A client may hold on to what it knew of a broker before that was restarted: one got
        FENCED_LEADER_EPOCH for ever.
        """
        with self._lock:
            given_up = self._admin, self._decided, self._undecided
            self._admin = self._decided = self._undecided = None
            self._partitions = 0  # the topic may be another one by then, with fewer of them
        del given_up  # to end a client takes a while, which nobody waits for

    def _read(self, name: str, number: int, *, whole: bool) -> Progress | None:
        with self._lock:
            known = self._positions.get(number, 0)
        end = self._end(number, whole=whole)
        with self._lock:
            # The end is compared with what was known before it was asked for: others read on.
            if number not in self._positions or end < known:  # not read yet, or another topic
                self._begin(number)
        began_s = time.monotonic()
        reader, since_s, patience_s = self._decided, began_s, RENEWED_S
        while (last := self._read_some(number, end)) is None:
            now_s = time.monotonic()
            if now_s - began_s > MOST_WAIT_S:
                where = f"partition {number} of topic `{self.topic}`"
                msg = f"{where}: the transactions before offset {end} must end first"
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, msg))
            if reader is not self._decided:  # another lane has renewed it
                reader, since_s = self._decided, now_s
            elif now_s - since_s > patience_s:
                patience_s *= 2  # where all is slow, a new one takes its time, too
                self._renew(reader)
        value = last.get(name.encode())
        return None if value is None else Progress.decode(value)

    def _end(self, number: int, *, whole: bool) -> int:
        """Where the partition ends: for all messages, or for those that are decided."""
        # Not by an admin client: when one lane gives that up, the others' questions after offsets
        # are never answered. Guarded by test_who_is_asking_is_answered_though_another_gives_up.
        with self._lock:
            consumer = self._reading_all() if whole else self._reading()
        place = (self.topic, number)
        return log_ends(consumer, [place], ANSWER_S)[place]

    def _read_some(self, number: int, end: int) -> dict[bytes, bytes] | None:
        """The last record of each lane, if they are known up to an offset; else reads on a moment.

        The lock is not held for long: another lane needs it to end the transaction of its earlier
        run, for which this one may be waiting.
        """
        with self._lock:
            if self._positions[number] < end:
                self._consume()
                return None
            return self._last[number]  # who begins anew makes a new one

    def _renew(self, reader: Consumer | None) -> None:
        """Reads on with a new client in place of one."""
        with self._lock:
            if self._decided is reader:
                self._decided = None  # who has it in hand, ends it

    def _begin(self, number: int) -> None:
        self._positions[number] = 0
        self._last[number] = {}
        self._assign(self._reading())

    def _assign(self, consumer: Consumer) -> None:
        consumer.assign([TopicPartition(self.topic, n, at) for n, at in self._positions.items()])

    def _reading(self) -> Consumer:
        if self._decided is None:
            self._decided = self._consumer("read_committed")
            self._assign(self._decided)
        return self._decided

    def _reading_all(self) -> Consumer:
        self._undecided = self._undecided or self._consumer("read_uncommitted")
        return self._undecided

    def _consumer(self, isolation: str) -> Consumer:
        return Consumer(
            self.connection.config(
                {"fetch.wait.max.ms": 20},
                group_id=f"{self.topic}-readers",  # asked for, though no group is joined
                isolation_level=isolation,
                enable_partition_eof=True,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
            )
        )

    def _consume(self) -> None:
        message: Any
        for message in self._reading().consume(MOST_MESSAGES, SLICE_S):
            number, offset, error = message.partition(), message.offset(), message.error()
            if error is None:
                self._last[number][message.key()] = message.value()
                self._positions[number] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                # Beyond the last message there may be marks of transactions, or compacted ones.
                self._positions[number] = max(self._positions[number], offset)
            elif is_hopeless(error):
                raise KafkaException(error)
