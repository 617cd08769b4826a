"""What every Kafka client of ours shares: its configuration, its words, the facts of topics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any, TypeVar
from zlib import crc32

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

SECRET_NAMES = ("password", "secret", "token", "key", "jaas", "pem", "oauthbearer.config")
"""A property whose name holds one of these is never shown."""
MASK = "[hidden]"
ATTEMPT_S = 1.0
"""How long one attempt at a question may take."""
TIMEOUT_S = 15.0
"""How long a question to the cluster may take."""

NEW_TOPIC_S = 1.0
"""How long a topic that was just created may not be known everywhere."""

Client = TypeVar("Client")

TopicPartitionId = tuple[str, int]
"""Topic and partition."""
Offsets = Mapping[TopicPartitionId, int]


class KafkaInputError(RuntimeError):
    """The cluster cannot give what was asked of it; the message says what to do."""


class ClusterSilentError(KafkaInputError):
    """The cluster does not answer at the moment."""


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
        given = {"log.connection.close": False, **(defaults or {}), **self.properties}
        said = {"bootstrap.servers": self.bootstrap, "logger": _Hiding(self)}
        return {**given, **fixed, **said}

    def client(self, kind: Callable[[dict[str, Any]], Client], config: dict[str, Any]) -> Client:
        """Makes a client of a kind.

        Raises:
            KafkaInputError: when the configuration is none; without its secrets.
        """
        try:
            return kind(config)
        except KafkaException as error:
            msg = f"the Kafka properties must be those of librdkafka, found {words(error)}"
        raise KafkaInputError(self.hide(msg))

    def admin(self) -> AdminClient:
        """Gives a client for questions about the cluster."""
        return self.client(AdminClient, self.config())

    @property
    def secrets(self) -> list[str]:
        """The values of secret properties."""
        return [str(value) for name, value in self.properties.items() if is_secret(name)]

    def hide(self, text: object) -> str:
        """Gives a text without the values of secret properties."""
        shown = str(text)
        for secret in sorted(set(self.secrets), key=len, reverse=True):
            if secret:
                shown = shown.replace(secret, MASK)
        return shown

    def __repr__(self) -> str:
        shown = {k: MASK if is_secret(k) else v for k, v in self.properties.items()}
        return f"Connection(bootstrap={self.bootstrap!r}, properties={shown})"


class _Hiding:
    """What the clients log to: the logger ``riffle.kafka``, without secrets."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._logger = logging.getLogger("riffle.kafka")

    def log(self, level: int, text: str, *values: object) -> None:
        """Passes a line of the client's log on."""
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", self._connection.hide(text % values))


# -- errors -----------------------------------------------------------------------------------

NOT_THERE = frozenset(
    {
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
"""What the brokers say of a topic that does not exist, and what the client does."""
HOPELESS = NOT_THERE | frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._BAD_COMPRESSION,
        KafkaError._BAD_MSG,
        KafkaError._FATAL,
        KafkaError._SSL,
        KafkaError._INVALID_ARG,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.UNKNOWN_TOPIC_ID,
    }
)
"""Errors that waiting does not mend."""


def is_hopeless(error: KafkaError) -> bool:
    """Whether an error stays until somebody does something."""
    return bool(error.fatal()) or error.code() in HOPELESS


def words(error: KafkaError | Exception) -> str:
    """An error as messages say it: its name, and what the client found."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if not isinstance(error, KafkaError):
        held = error_of(error)
        if held is None:
            return str(error)
        error = held
    return f"{error.name()} ({error.str()})"


def error_of(error: Exception) -> KafkaError | None:
    """The error that an exception of a client holds."""
    held = error.args[0] if error.args else None
    return held if isinstance(held, KafkaError) else None


# -- facts of topics --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What the cluster says about a topic.

    Attributes:
        partitions: how many it has.
        topic_id: tells it from another of its name that was there before or comes after.
        append_time: whether the broker stamps its messages; None where it does not tell us.
    """

    partitions: int
    topic_id: str
    append_time: bool | None = None


def topic_facts(
    connection: Connection,
    topics: Iterable[str],
    admin: AdminClient | None = None,
    *,
    stamps: bool = True,
) -> dict[str, TopicFacts]:
    """Asks the cluster about some topics.

    Args:
        connection: how to reach it.
        topics: their names.
        admin: a client to ask with; a new one by default.
        stamps: whether to ask who stamps the messages, too.

    Raises:
        KafkaInputError: when one does not exist, or the cluster cannot be asked.
    """
    names = sorted(set(topics))
    admin, deadline = admin or connection.admin(), monotonic() + NEW_TOPIC_S
    facts: dict[str, TopicFacts] = {}
    while missing := [name for name in names if name not in facts]:
        answers = admin.describe_topics(TopicCollection(missing), request_timeout=TIMEOUT_S)
        for name, answer in answers.items():
            try:
                found = answer.result(timeout=TIMEOUT_S + 5)
            except (KafkaException, TimeoutError) as error:
                failed = asking_failed(connection, f"topic `{name}`", error)
                if isinstance(failed, ClusterSilentError) or monotonic() > deadline:
                    raise failed from None
                sleep(0.05)
            else:
                facts[name] = TopicFacts(len(found.partitions), str(found.topic_id))
    if not stamps:
        return facts
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    for resource, answer in admin.describe_configs(resources, request_timeout=TIMEOUT_S).items():
        try:
            kind = answer.result(timeout=TIMEOUT_S + 5)["message.timestamp.type"].value
        except (KafkaException, TimeoutError) as error:
            held = error_of(error)
            if held is None or held.code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise asking_failed(connection, f"topic `{resource.name}`", error) from None
            continue  # who may not read settings reads the kind of stamp off the messages
        known = facts[resource.name]
        append_time = kind == "LogAppendTime"
        facts[resource.name] = TopicFacts(known.partitions, known.topic_id, append_time)
    return facts


def asking_failed(connection: Connection, where: str, error: Exception) -> KafkaInputError:
    """Words a question that the cluster did not answer, for who reads its log."""
    held = error_of(error)
    if held is not None and held.code() in NOT_THERE:
        msg = f"{where} must exist on {connection.bootstrap}, found none; create it first"
    else:
        found = connection.hide(words(error))
        msg = f"{where}: {connection.bootstrap} must answer, found {found}; check the connection"
        if held is None or not is_hopeless(held):
            return ClusterSilentError(msg)
    return KafkaInputError(msg)


# -- offsets ----------------------------------------------------------------------------------


def topics_of(places: Iterable[TopicPartitionId]) -> str:
    """Names the topics of partitions, for messages.

    >>> topics_of([("b", 0), ("a", 0), ("a", 1)])
    '`a`, `b`'
    """
    return ", ".join(sorted({f"`{topic}`" for topic, _ in places}))


def list_offsets(
    connection: Connection,
    places: Iterable[TopicPartitionId],
    at: str | int,
    admin: AdminClient | None = None,
    timeout_s: float = TIMEOUT_S,
    *,
    committed: bool = False,
) -> dict[TopicPartitionId, int]:
    """Asks where the logs of partitions begin or end, or have a time.

    Args:
        connection: how to reach the cluster.
        places: the partitions.
        at: ``earliest``; ``latest``, behind all messages, the ones in open transactions and the
            records that control these among them; or a stamp in ms, for the first message that
            has it or a greater one, -1 where there is none.
        admin: a client to ask with; a new one by default.
        timeout_s: how long to go on asking.
        committed: whether the ``latest`` is the one up to which all transactions are decided.

    Raises:
        KafkaInputError: when the cluster cannot be asked.
    """
    isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
    specs: Any = OffsetSpec
    spec = specs.for_timestamp(at) if isinstance(at, int) else getattr(specs, at)()
    admin, deadline = admin or connection.admin(), monotonic() + timeout_s
    wanted, found = set(places), dict[TopicPartitionId, int]()
    while missing := wanted - found.keys():
        # The leader of a partition may be moving: then the answer is an error, or none at all.
        asked = {TopicPartition(*place): spec for place in missing}
        try:
            for place, answer in admin.list_offsets(
                asked, isolation_level=isolation, request_timeout=ATTEMPT_S
            ).items():
                found[place.topic, place.partition] = int(answer.result(timeout=ATTEMPT_S).offset)
        except (KafkaException, TimeoutError) as error:
            held = error_of(error)
            if monotonic() > deadline or (held is not None and is_hopeless(held)):
                where = f"offsets of {topics_of(missing)}"
                raise asking_failed(connection, where, error) from None
            sleep(0.05)
    return found


def log_ends(
    consumer: Consumer, places: Iterable[TopicPartitionId], timeout_s: float
) -> dict[TopicPartitionId, int]:
    """Asks where logs end, for those who ask often: behind all that the consumer may read.

    :func:`list_offsets` takes six times as long, and one of some 300 such questions was seen to get
    no answer at all (librdkafka 2.16), of thousands of these none.

    Args:
        consumer: to ask with.
        places: the partitions.
        timeout_s: how long the cluster may take.

    Raises:
        KafkaException: when the cluster does not tell.
    """
    asked = [TopicPartition(*place, OFFSET_END) for place in places]
    found = consumer.offsets_for_times(asked, timeout=timeout_s)
    for end in found:
        if end.error is not None or end.offset < 0:
            raise KafkaException(end.error or KafkaError(KafkaError._NO_OFFSET))
    return {(end.topic, end.partition): end.offset for end in found}


def resolve_offsets(
    connection: Connection, topics: Iterable[str], at: str | int | Offsets
) -> dict[TopicPartitionId, int]:
    """Turns a place in the logs into an offset for every partition.

    Args:
        connection: how to reach the cluster.
        topics: whose partitions.
        at: ``earliest``, ``latest``; or a time in ns, meaning the first message that was stamped
            then or after, or the end where there is none; or an offset for each partition.

    Raises:
        KafkaInputError: when a topic does not exist, given offsets are not those of its
            partitions, or the cluster cannot be asked.
    """
    admin = connection.admin()
    facts = topic_facts(connection, topics, admin, stamps=False)
    places = [(topic, n) for topic, known in facts.items() for n in range(known.partitions)]
    if isinstance(at, Mapping):
        wrong = sorted(set(places) ^ set(at))
        if wrong:
            must = f"offsets must be given for the partitions {sorted(places)}"
            msg = f"{must}, found more or less: {wrong}"
            raise KafkaInputError(msg)
        return dict(at)
    if isinstance(at, str):
        if at not in ("earliest", "latest"):
            msg = f"a place in a log must be earliest, latest, a time or offsets, got {at!r}"
            raise KafkaInputError(msg)
        return list_offsets(connection, places, at, admin)
    # A stamp is of whole milliseconds: the first one that is not before the time.
    found = list_offsets(connection, places, -(-at // 10**6), admin)
    behind = [place for place, offset in found.items() if offset < 0]
    return found | list_offsets(connection, behind, "latest", admin)


# -- partitioners -----------------------------------------------------------------------------


def murmur2(data: bytes) -> int:
    """The hash by which Kafka's own clients choose the partition of a key.

    >>> murmur2(b"21"), murmur2(b"foobar")
    (1173551340, 1357151166)
    """
    length = len(data)
    mixed = (0x9747B28C ^ length) & 0xFFFFFFFF
    whole = length & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * 0x5BD1E995 & 0xFFFFFFFF
        word = (word ^ (word >> 24)) * 0x5BD1E995 & 0xFFFFFFFF
        mixed = (mixed * 0x5BD1E995 & 0xFFFFFFFF) ^ word
    if rest := data[whole:]:
        mixed = (mixed ^ int.from_bytes(rest, "little")) * 0x5BD1E995 & 0xFFFFFFFF
    mixed = (mixed ^ (mixed >> 13)) * 0x5BD1E995 & 0xFFFFFFFF
    return (mixed ^ (mixed >> 15)) & 0x7FFFFFFF


PARTITIONERS: dict[str, Callable[[bytes], int]] = {"murmur2": murmur2, "crc32": crc32}
"""Hashes of keys; the partition is the remainder by the number of partitions."""
