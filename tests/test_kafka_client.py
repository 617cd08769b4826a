"""Clients of Kafka share one configuration, whose secrets nobody ever sees."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from operators.batch import NO_CLOCK_NS
from sources import kafka_client
from sources.broker_clock import BrokerClock
from sources.kafka_client import (
    ClusterSilentError,
    Connection,
    KafkaInputError,
    TopicFacts,
    asking_failed,
    is_secret,
    list_offsets,
    murmur2,
    topic_facts,
    words,
)
from sources.kafka_log import KafkaLog
from tests.services.names import unique
from tests.test_broker_clock import until

CANARY = "canary-7f3a9"
SECRETS: dict[str, Any] = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.username": "riffle",
    "sasl.password": CANARY,
}


@pytest.mark.parametrize(
    "name",
    [
        "sasl.password", "ssl.key.password", "ssl.key.pem", "ssl.keystore.password",
        "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config", "sasl.jaas.config",
        "SASL.PASSWORD", "some.token",
    ],
)  # fmt: skip
def test_properties_with_secrets_are_known_by_their_names(name):
    assert is_secret(name)
    assert CANARY not in repr(Connection("broker:9092", {name: CANARY}))
    assert CANARY not in str({"connection": Connection("broker:9092", {name: CANARY})})


def test_other_properties_are_shown():
    connection = Connection("broker:9092", SECRETS)
    assert repr(connection) == (
        "Connection(bootstrap='broker:9092', properties={'security.protocol': 'SASL_PLAINTEXT', "
        "'sasl.mechanism': 'PLAIN', 'sasl.username': 'riffle', 'sasl.password': '[hidden]'})"
    )


def test_a_configuration_is_made_of_defaults_the_users_properties_and_our_own():
    connection = Connection("broker:9092", {"linger.ms": 7, "client.id": "us"})
    found = connection.config({"linger.ms": 5, "acks": 1}, enable_idempotence=True, error_cb=print)
    logger = found.pop("logger")
    assert found == {
        "linger.ms": 7, "client.id": "us", "acks": 1, "enable.idempotence": True,
        "error_cb": print, "bootstrap.servers": "broker:9092", "log.connection.close": False,
    }  # fmt: skip
    assert logger is not None


def test_what_is_ours_is_not_for_the_user():
    with pytest.raises(KafkaInputError, match=r"\['bootstrap.servers', 'group.id'\] must be left"):
        Connection("a:1", {"bootstrap.servers": "b:1", "group.id": "x"}).config(group_id="y")


def test_secrets_are_in_no_error_and_no_log(kafka, caplog, capfd, monkeypatch):
    """The broker speaks no SASL: all attempts fail, in every way and as loudly as can be."""
    monkeypatch.setattr(kafka_client, "TIMEOUT_S", 0.5)
    loud = {"debug": "all", "log_level": 7, "reconnect.backoff.max.ms": 100}
    connection = Connection(kafka, SECRETS | loud)
    said: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for ask in (
            lambda: topic_facts(connection, ["any"]),
            lambda: list_offsets(connection, [("any", 0)], "latest", timeout_s=0.5),
        ):
            with pytest.raises(KafkaInputError, match="must answer") as error:
                ask()
            said.append(str(error.value))
        log = KafkaLog(connection, unique("group"))
        part = log.open("any", 0, 0)
        deadline = time.monotonic() + 1.5
        try:
            while time.monotonic() < deadline:
                part.take(1)
                time.sleep(0.01)
        except KafkaInputError as failed:
            said.append(str(failed))
        log.close()
        clock = BrokerClock(connection, "any", {"any": TopicFacts(1, "")}, tick_ms=10)
        clock.join()
        time.sleep(0.3)
        assert clock.now_ns() == NO_CLOCK_NS
        clock.leave()
    assert [record for record in caplog.records if record.name == "riffle.kafka"]
    shown = "\n".join([*said, caplog.text, *capfd.readouterr()])
    assert CANARY not in shown


@pytest.mark.parametrize(
    "properties",
    [
        {"ssl.key.pem": CANARY, "security.protocol": "SSL"},
        {"ssl.keystore.location": "/none", "ssl.keystore.password": CANARY}
        | {"security.protocol": "SSL"},
        {"some.secret.key": CANARY},
        {"sasl.mechanism": "OAUTHBEARER", "sasl.oauthbearer.config": CANARY}
        | {"sasl.oauthbearer.method": CANARY, "security.protocol": "SASL_SSL"},
    ],
)
@pytest.mark.parametrize("kind", [Consumer, Producer])
def test_a_configuration_that_is_none_is_refused_without_its_secrets(kind, properties, capfd):
    connection = Connection("127.0.0.1:1", properties)
    with pytest.raises(KafkaInputError, match="must be those of librdkafka, found") as error:
        connection.client(kind, connection.config({"group.id": "x"} if kind is Consumer else {}))
    assert CANARY not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None
    assert CANARY not in "".join(capfd.readouterr())


def test_the_clients_own_log_passes_without_secrets(caplog):
    logger = Connection("a:1", {"sasl.password": CANARY}).config()["logger"]
    with caplog.at_level(logging.INFO, "riffle.kafka"):
        logger.log(logging.INFO, "%s [%s] %s", "CONF", "thrd", f"sasl.password = {CANARY}")
        logger.log(logging.DEBUG, "%s", "not shown")
    assert [record.getMessage() for record in caplog.records] == [
        "CONF [thrd] sasl.password = [hidden]"
    ]


def test_a_cluster_that_does_not_answer_is_told_from_a_topic_that_is_not_there(kafka):
    silent = KafkaException(KafkaError(KafkaError._TIMED_OUT))
    gone = KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    connection = Connection("broker:9092")
    assert isinstance(asking_failed(connection, "topic `x`", silent), ClusterSilentError)
    assert isinstance(asking_failed(connection, "topic `x`", TimeoutError()), ClusterSilentError)
    found = asking_failed(connection, "topic `x`", gone)
    assert not isinstance(found, ClusterSilentError)
    assert str(found) == "topic `x` must exist on broker:9092, found none; create it first"
    name = unique("none")
    with pytest.raises(KafkaInputError, match=f"topic `{name}` must exist on .*, found none"):
        topic_facts(Connection(kafka), [name])


def test_errors_are_said_by_name_and_words():
    error = KafkaError(KafkaError._ALL_BROKERS_DOWN, "3/3 brokers are down")
    assert (
        words(error) == words(KafkaException(error)) == "_ALL_BROKERS_DOWN (3/3 brokers are down)"
    )
    assert words(TimeoutError()) == "no answer in time"
    assert words(KafkaException("else")) == "else"


def test_entities_are_in_the_partitions_that_kafkas_own_clients_choose(kafka, topic):
    name = topic(7)
    found: dict[Any, Any] = {}
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random"})
    keys = [f"{'x' * (n % 9)}{n}".encode() for n in range(300)] + ["ä€𝄞".encode()]
    for key in keys:
        producer.produce(
            name, b"", key, on_delivery=lambda _, m: found.__setitem__(m.key(), m.partition())
        )
    producer.flush(20)
    until(lambda: len(found) == len(keys))
    assert found == {key: murmur2(key) % 7 for key in keys}
