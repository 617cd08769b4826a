"""What every Kafka client of ours shares: its configuration, its words, the facts of topics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka.admin import AdminClient

SECRET_NAMES = ("password", "secret", "token", "key", "jaas", "pem", "oauthbearer.config")
"""A property whose name holds one of these is never shown."""
MASK = "[hidden]"
TIMEOUT_S = 15.0
"""How long a question to the cluster may take."""

TopicPartitionId = tuple[str, int]
"""Topic and partition."""
Offsets = Mapping[TopicPartitionId, int]


class KafkaInputError(RuntimeError):
    """The cluster cannot give what was asked of it; the message says what to do."""


def is_secret(name: str) -> bool:
    """Whether a property's value must never be shown.

    >>> is_secret("sasl.password"), is_secret("sasl.username")
    (True, False)
    """
    return any(part in name.lower() for part in SECRET_NAMES)


@dataclass(frozen=True, slots=True, repr=False)
class Connection:
    """How to reach a cluster.

    Args:
        bootstrap: addresses of brokers, ``host:port``, separated by commas.
        properties: settings of librdkafka, such as those of TLS and SASL.

    >>> Connection("broker:9092", {"sasl.username": "riffle", "sasl.password": "hunter2"})
    Connection(bootstrap='broker:9092', properties={'sasl.username': 'riffle', \
'sasl.password': '[hidden]'})
    """

    bootstrap: str
    properties: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def config(self, defaults: Mapping[str, Any] | None = None, **own: Any) -> dict[str, Any]:
        """Gives the configuration of a client.

        Args:
            defaults: settings that the user may change.
            own: those that the client is built on, with ``_`` for the dots of their names.

        Raises:
            KafkaInputError: when the user sets one of those.
        """
        fixed = {
            name if callable(value) else name.replace("_", "."): value
            for name, value in own.items()
        }
        taken = sorted((fixed.keys() | {"bootstrap.servers"}) & self.properties.keys())
        if taken:
            msg = (
                f"the Kafka properties {taken} must be left to Riffle, which relies on them; take "
                "them out"
            )
            raise KafkaInputError(msg)
        given = {**(defaults or {}), **self.properties}
        return {**given, **fixed, "bootstrap.servers": self.bootstrap}

    def admin(self) -> AdminClient:
        """Gives a client for questions about the cluster."""
        return AdminClient(self.config())

    def hide(self, text: object) -> str:
        """Gives a text without the values of secret properties."""
        shown = str(text)
        secrets = {str(value) for name, value in self.properties.items() if is_secret(name)}
        for secret in sorted(secrets, key=len, reverse=True):
            if secret:
                shown = shown.replace(secret, MASK)
        return shown

    def __repr__(self) -> str:
        shown = {k: MASK if is_secret(k) else v for k, v in self.properties.items()}
        return f"Connection(bootstrap={self.bootstrap!r}, properties={shown})"
