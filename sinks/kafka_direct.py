"""Records to Kafka without transactions: as soon as may be, at least once."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import KafkaError, Message, Producer

from sinks.kafka_errors import refused
from sinks.kafka_lane import Records
from sinks.lane import SLICE_S
from sources.kafka_client import Connection, words


class Direct:
    """An idempotent producer whose failures are raised by the next call.

    It tries again without limit what time may mend, and raises the rest. The flow's thread alone
    uses it.

    Args:
        connection: how to reach the cluster.
        name: says in errors whose it is.
        linger_ms: for how long a record waits for company.
        beat: is called while a call waits, so that a long outage is not taken for a hang.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        linger_ms: float = 1,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._name = name
        self._beat = beat
        self._failed: KafkaError | None = None
        self._producer = Producer(
            connection.config(
                {"compression.type": "lz4", "linger.ms": linger_ms},
                enable_idempotence=True,
                acks="all",
                partitioner="murmur2_random",
                message_timeout_ms=0,
                on_delivery=self._note_undelivered,
                delivery_report_only_error=True,
            )
        )

    def write(self, records: Records) -> None:
        """Hands records over; waits while there is no room for them.

        Raises:
            DeliveryError: when Kafka refused an earlier one, or one of these.
        """
        produce = self._producer.produce
        for key, value in zip(records.keys, records.values, strict=True):
            while True:
                try:
                    produce(records.topic, value, key)
                    break
                except BufferError:
                    self._producer.poll(SLICE_S)
                    self._beat()
                    self.check()
        self.check()

    def flush(self) -> None:
        """Waits until Kafka has acknowledged all.

        Raises:
            DeliveryError: when it refused one.
        """
        while self._producer.flush(SLICE_S):
            self._beat()
            self.check()
        self.check()

    def _note_undelivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failed is None:
            self._failed = error

    def close(self) -> None:
        """Waits as :meth:`flush` does and lets go of the cluster."""
        self.flush()
        self._producer.close()

    def abandon(self) -> None:
        """Drops what is on its way."""
        self._producer.purge()

    def check(self) -> None:
        """Raises the failure of an earlier record, if there was one."""
        self._producer.poll(0)
        if self._failed is not None:
            raise refused(self._name, self._connection.hide(words(self._failed)))
