"""A broker's topics with good and bad messages, a flow that reads them, and what came of it."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from dataflows.live_settings import LiveSettings, live_settings
from dataflows.topics import apply, wanted_topics
from operators.kernels.hashing import KEY_GROUPS
from sources.kafka_client import Connection, murmur2
from tests.chaos.flow import Unit
from tests.corpus.cases import ARRIVAL_MS, encoded, rfc3339
from tests.kafka_topics import Message, read_topic
from tests.services.names import unique
from tests.services.process import HOST, free_port

PARTITIONS = 4
CASE = "case"
"""Header of a message that must be refused; its value names it."""
LATER_MS = 600_000
"""After what is sent, everything is final for a clock that stands here."""
PATIENCE_S = 90.0
LOOK_S = 0.5
STREAMS = ("bars", "news")


@dataclass(frozen=True)
class Sent:
    """A message.

    Attributes:
        stream: to whose topic it goes.
        key, value: its bytes.
        case: its name, if it must be refused.
        partition: where it goes; where its key belongs, if that is None.
        stamp_ms: when it arrives.
    """

    stream: str
    key: bytes | None
    value: bytes | None
    case: str | None = None
    partition: int | None = None
    stamp_ms: int = ARRIVAL_MS


def home(entity: str) -> int:
    """The partition of an entity."""
    return murmur2(entity.encode()) % PARTITIONS


def closing() -> Iterator[Sent]:
    """Rows that move the clock of every partition beyond all others."""
    ts = rfc3339(ARRIVAL_MS + LATER_MS)
    names = {home(name): name for name in map("closing-{}".format, range(KEY_GROUPS))}
    for partition, name in names.items():
        for stream in STREAMS:
            value = encoded(stream, instrument_id=name, ts=ts)
            stamp_ms = ARRIVAL_MS + LATER_MS
            yield Sent(stream, name.encode(), value, partition=partition, stamp_ms=stamp_ms)


@dataclass
class World:
    """A flow and its topics.

    Attributes:
        bootstrap: address of the broker.
        settings: of the flow.
        flow: its process.
        metrics: what it told of itself at last.
    """

    bootstrap: str
    settings: LiveSettings
    flow: Unit
    metrics: str = ""

    def log(self) -> list[str]:
        """The lines that the flow has logged."""
        text = self.flow.log.read_bytes().decode()
        return [line for line in text.split("\n") if line and not line.startswith("-- started")]

    def send(self, messages: Sequence[Sent]) -> None:
        """Sends, each with the stamp of its arrival."""
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "message.max.bytes": 2_000_000,
            }
        )
        for message in messages:
            headers: list[Any] = [("own", b"\0\xff"), ("own", None)]
            if message.case is not None:
                headers.append((CASE, message.case.encode()))
            own = {} if message.partition is None else {"partition": message.partition}
            place: dict[str, Any] = own
            producer.produce(
                self.settings.topic_of(message.stream),
                message.value,
                message.key,
                timestamp=message.stamp_ms,
                headers=headers,
                **place,
            )
            producer.poll(0)
        assert producer.flush(30) == 0

    def letters(self, stream: str, end: str) -> list[Message]:
        """The dead letters, or the late ones, of a stream."""
        return read_topic(self.bootstrap, self.settings.topic_of(stream) + end)

    def vectors(self) -> list[Message]:
        """The committed vectors."""
        (table,) = self.settings.sets.values()
        return read_topic(self.bootstrap, table.topic)

    def run(self, vectors: int, letters: int) -> None:
        """Runs the flow until it has given so much, then drains it."""

        def there() -> tuple[int, int]:
            self.flow.check_alive()
            if (given := len(self.vectors())) < vectors:
                return given, 0  # reading a topic takes a second
            told = [self.letters(stream, end) for stream in STREAMS for end in (".dlq", ".late")]
            return given, sum(map(len, told))

        self.flow.start()
        try:
            deadline_s = time.monotonic() + PATIENCE_S
            wanted = (vectors, letters)
            while (found := there()) != wanted:
                said = f"{wanted} vectors and letters must be there in time, found {found}"
                assert time.monotonic() < deadline_s, said
                time.sleep(LOOK_S)
            with urllib.request.urlopen(f"http://{self.settings.listen}/metrics") as answer:
                self.metrics = answer.read().decode()
            self.flow.drain()
        except AssertionError as error:
            error.add_note(self.flow.last_lines())
            raise
        finally:
            self.flow.end()


@contextmanager
def world(bootstrap: str, folder: Path, feature_set: str) -> Iterator[World]:
    """Makes topics for a flow of one set over bars and news."""
    prefix = unique("corpus", "-")
    path = folder / "flow.toml"
    path.write_text(
        f"""
        name = "{prefix}"
        recovery = "{folder}/state"
        listen = "{HOST}:{free_port()}"
        snapshot_every = "1s"
        alignment = "1h"
        [kafka]
        bootstrap = "{bootstrap}"
        clock_topic = "{prefix}-clock"
        progress_topic = "{prefix}-progress"
        [inputs.bars]
        topic = "{prefix}-bars"
        arrival = "producer"
        [inputs.news]
        topic = "{prefix}-news"
        arrival = "producer"
        [sets."{feature_set}"]
        topic = "{prefix}-vectors"
        """
    )
    settings = live_settings(path)
    admin = Connection(bootstrap).admin()
    try:
        # The messages are of another year, and must not expire meanwhile.
        kept = {"retention.ms": "-1"}
        wanted = [NewTopic(settings.topic_of(s), PARTITIONS, 1, config=kept) for s in STREAMS]
        for done in admin.create_topics(wanted).values():
            done.result(30)
        made = apply(settings, PARTITIONS, 1)
        assert all(each.ok for each in made), made
        yield World(bootstrap, settings, Unit(settings, path, folder / "log"))
    finally:
        for done in admin.delete_topics([t.name for t in wanted_topics(settings, None)]).values():
            done.result(30)
