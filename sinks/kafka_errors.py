"""What can go wrong on the way into Kafka, and which of it time mends."""

from __future__ import annotations

from confluent_kafka import KafkaError

from sinks.errors import DeliveryError

TRANSIENT = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._BAD_MSG,
        KafkaError._DESTROY,
        KafkaError._DESTROY_BROKER,  # of a question to a broker that stood still for long
        KafkaError._FATAL,
        KafkaError._FENCED,
        KafkaError._INCONSISTENT,  # of a commit whose records failed: theirs says why
        KafkaError._INTR,
        KafkaError._IN_PROGRESS,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._NOENT,  # of the leader of a partition, where a broker has just come back
        KafkaError._NO_OFFSET,  # of the end of a log, where a broker has just come back
        KafkaError._OUTDATED,
        KafkaError._PREV_IN_PROGRESS,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._PURGE_QUEUE,
        KafkaError._QUEUE_FULL,
        KafkaError._RESOLVE,
        KafkaError._RETRY,
        KafkaError._STATE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError._UNKNOWN_PARTITION,  # whether a topic is missing is asked before each attempt
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._WAIT_COORD,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.DUPLICATE_SEQUENCE_NUMBER,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.INVALID_TXN_STATE,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.PREFERRED_LEADER_NOT_AVAILABLE,
        KafkaError.PRODUCER_FENCED,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError.TRANSACTION_COORDINATOR_FENCED,
        KafkaError.UNKNOWN_LEADER_EPOCH,  # of a client that knows more than a broker just back
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)
"""Errors after which a new producer may succeed: of the network, of a broker that is away or has
moved, of a transaction that the broker has ended. Every other one stops the flow."""


def is_transient(error: KafkaError) -> bool:
    """Whether a new attempt may succeed."""
    return bool(error.retriable()) or error.code() in TRANSIENT


def refused(lane: str, error: str) -> DeliveryError:
    """Words an error that no new attempt mends."""
    msg = (
        f"lane `{lane}`: Kafka must take what is written, found {error}; mend the topic, its "
        "limits or the rights to it, and start the flow again: nothing is lost"
    )
    return DeliveryError(msg)
