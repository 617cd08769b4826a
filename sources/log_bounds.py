"""Where logs begin and end for whoever reads committed messages."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaException, TopicPartition

from sources.kafka_client import TIMEOUT_S, Connection, TopicPartitionId, asking_failed

Bounds = tuple[int, int]
"""The first offset of a log, and the one behind its last committed message."""


def committed_bounds(
    connection: Connection, places: Iterable[TopicPartitionId]
) -> dict[TopicPartitionId, Bounds]:
    """Asks where the logs of partitions begin, and how far all transactions are decided.

    Args:
        connection: how to reach the cluster.
        places: the partitions.

    Raises:
        KafkaInputError: when the cluster cannot be asked.
    """
    config = connection.config(group_id="riffle-bounds", isolation_level="read_committed")
    consumer = Consumer(config)
    found = {}
    try:
        for topic, number in places:
            asked = TopicPartition(topic, number)
            try:
                found[topic, number] = consumer.get_watermark_offsets(asked, timeout=TIMEOUT_S)
            except KafkaException as error:
                where = f"partition {number} of topic `{topic}`"
                raise asking_failed(connection, where, error) from None
    finally:
        consumer.close()
    return found
