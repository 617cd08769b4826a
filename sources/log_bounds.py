"""Where logs begin and end for whoever reads committed messages."""

from __future__ import annotations

from collections.abc import Iterable

from sources.kafka_client import Connection, TopicPartitionId, list_offsets

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
    asked = list(places)
    first = list_offsets(connection, asked, "earliest")
    end = list_offsets(connection, asked, "latest", committed=True)
    return {place: (first[place], end[place]) for place in asked}
