"""The broker of the benchmarks: where it is, its topics, and the core it may use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

ADDRESS = "RIFFLE_TEST_KAFKA"
"""The environment variable that names a broker that runs."""
STOCK = {
    "KAFKA_HEAP_OPTS": "-Xms1g -Xmx1g",
    "KAFKA_JVM_PERFORMANCE_OPTS": "-server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 "
    "-XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent",
}
"""How Kafka's own scripts run a broker; that of the tests has no time to be compiled so well."""
ROOT = Path(__file__).parents[1]
ANSWER_S = 30.0
READ_S = 300.0


class NoBrokerError(RuntimeError):
    """No Kafka to measure with."""


def address() -> str:
    """The broker that the environment names, or the one of the tests, started if need be.

    One that runs already is used as it is; one that is started runs as in production.
    """
    named = os.environ.get(ADDRESS)
    if named:
        return named
    told = subprocess.run(
        [sys.executable, "-m", "tests.services", "start", "kafka"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **STOCK},
    )  # fmt: skip
    found = re.search(r"\S+:\d+", told.stdout)
    if told.returncode or found is None:
        msg = f"{ADDRESS} must name a Kafka, or one must start, found none: {told.stderr.strip()}"
        raise NoBrokerError(msg)
    return found[0]


@contextmanager
def topics(bootstrap: str, partitions: Mapping[str, int], **settings: str) -> Iterator[list[str]]:
    """Topics of these names behind a prefix that no other has, removed at the end."""
    prefix = f"bench-{uuid.uuid4().hex[:10]}-"
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    wanted = [
        NewTopic(prefix + name, count, 1, config=settings) for name, count in partitions.items()
    ]
    try:
        for done in admin.create_topics(wanted).values():
            done.result(ANSWER_S)
        yield [topic.topic for topic in wanted]
    finally:
        remove(bootstrap, [topic.topic for topic in wanted])


def remove(bootstrap: str, names: Sequence[str]) -> None:
    """Removes topics, those that there are."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for done in admin.delete_topics(list(names)).values():
        try:
            done.result(ANSWER_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise


def reader(bootstrap: str, **more: Any) -> Consumer:
    """A consumer that is told where to read; what it lacks, it fetches at once.

    By default a consumer that has 100,000 messages waiting does not fetch for a second, so that a
    loop that empties it faster spends most of its time waiting.
    """
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "fetch.queue.backoff.ms": 1,
            "queued.min.messages": 1_000_000,
            **more,
        }
    )


def whole(consumer: Consumer, names: Sequence[str], take: int = 1_000) -> Iterator[list[Message]]:
    """All messages that topics hold, in pieces."""
    facts = consumer.list_topics(timeout=ANSWER_S).topics
    parts = [TopicPartition(name, part, 0) for name in names for part in facts[name].partitions]
    consumer.assign(parts)
    left = len(parts)
    deadline_s = time.monotonic() + READ_S
    while left:
        piece = consumer.consume(take, 0.05)
        told = [message for message in piece if message.error() is None]
        for message in piece:
            error = message.error()
            if error is None:
                continue
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            left -= 1
        if time.monotonic() > deadline_s:
            msg = f"{list(names)} must be read within {READ_S:.0f} s, {left} partitions are left"
            raise TimeoutError(msg)
        yield told


def given_out(consumer: Consumer, topic: str) -> int:
    """Offsets that a topic has given out, of all partitions together."""
    partitions = consumer.list_topics(topic, timeout=ANSWER_S).topics[topic].partitions
    parts = [TopicPartition(topic, partition) for partition in partitions]
    return sum(int(consumer.get_watermark_offsets(part, ANSWER_S)[1]) for part in parts)


def count_of(bootstrap: str, names: Sequence[str]) -> int:
    """Committed messages in topics."""
    consumer = reader(bootstrap)
    try:
        return sum(len(piece) for piece in whole(consumer, names))
    finally:
        consumer.close()


@contextmanager
def on_core(bootstrap: str, core: int) -> Iterator[bool]:
    """Keeps the broker to one core meanwhile; tells whether it is on this machine, so that it can.

    What is measured has the other core for itself then, and a rate per core means something.
    """
    pid = _owner(int(bootstrap.rpartition(":")[2]))
    if pid is None:
        yield False
        return
    before = os.sched_getaffinity(pid)
    _keep(pid, {core})
    try:
        yield True
    finally:
        _keep(pid, before)


def cpu_seconds(bootstrap: str) -> float:
    """Processor time that the broker has used; 0 when it is elsewhere."""
    import psutil

    pid = _owner(int(bootstrap.rpartition(":")[2]))
    if pid is None:
        return 0.0
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _keep(pid: int, cores: set[int]) -> None:
    for task in (Path("/proc") / str(pid) / "task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except ProcessLookupError:  # a thread that has just ended
            continue


def _owner(port: int) -> int | None:
    """The process that listens on a port of this machine."""
    import psutil

    for found in psutil.net_connections("tcp"):
        if found.status == psutil.CONN_LISTEN and found.laddr.port == port:
            return int(found.pid) if found.pid else None
    return None
