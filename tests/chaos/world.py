"""All that a proof needs: topics, a feeder, the flow's settings, its units and a watch."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dataflows.live_settings import LiveSettings, live_settings
from dataflows.topics import apply, wanted_topics
from tests.chaos import log
from tests.chaos.flow import ROOT, Unit
from tests.chaos.messages import Shape
from tests.chaos.online import OnlineWatch
from tests.chaos.places import KAFKA, Places
from tests.chaos.tables import TableWatch
from tests.chaos.watch import Watch

SEED = "RIFFLE_CHAOS_SEED"
SET = "tests.chaos.sets:market"
FEEDER_S = 150.0


def seed() -> int:
    """The seed of this run; one that failed says its own."""
    given = os.environ.get(SEED)
    return int(given) if given else random.SystemRandom().randrange(10**6)


@dataclass
class Feed:
    """The feeder's process, and the file of its errors."""

    process: subprocess.Popen[bytes]
    errors: Path
    told: dict[str, Any] = field(default_factory=dict)

    def check_alive(self) -> None:
        """Sees that it has not ended by itself."""
        code = self.process.poll()
        assert self.told or code is None, f"the feeder ended with {code}: {self.last_words()}"

    def last_words(self) -> str:
        """What it said of errors."""
        return self.errors.read_text(errors="replace")

    def stop(self) -> dict[str, Any]:
        """Stops it, once the broker has all it sent; gives what it says of that."""
        if not self.told:
            self.process.send_signal(signal.SIGTERM)
            said, _ = self.process.communicate(timeout=FEEDER_S)
            self.told = json.loads(said)
            assert not self.told["failed"], self.told
            assert not self.told["left"], self.told
        return self.told


@dataclass
class World:
    """A flow with topics of its own.

    Attributes:
        chance: decides what happens when.
        shape: of what is fed.
        properties: of all Kafka clients of the flow.
        transaction: time between two commits.
        places: where its vectors go.
        prefix: of the names of its topics.
        folder: for settings, state and logs.
    """

    bootstrap: str
    number: int
    folder: Path
    shape: Shape = field(default_factory=Shape)
    properties: dict[str, str] = field(default_factory=dict)
    transaction: str = "100ms"
    places: Places = field(default_factory=Places)
    prefix: str = field(default_factory=lambda: f"chaos-{uuid.uuid4().hex[:8]}-")
    units: list[Unit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.number)
        self.config = self.folder / "flow.toml"
        self.config.write_text(self._toml())
        self.settings = self.settings_of()
        applied = apply(self.settings, self.shape.partitions, 1)
        assert all(each.ok for each in applied), applied
        self.places.make(self.settings, self.folder)
        self._start_watches()
        self.feed: Feed | None = None

    def _start_watches(self) -> None:
        places, shape = self.places, self.shape
        self.watch: Watch | None = None
        self.online_watch: OnlineWatch | None = None
        self.watches: list[Watch | TableWatch | OnlineWatch] = []
        if KAFKA in places.sinks:
            self.watch = Watch(self.bootstrap, self.vectors, shape.partitions)
            self.watches.append(self.watch)
        if places.table is not None:
            self.watches.append(TableWatch(places.table))
        if places.online is not None:
            self.online_watch = OnlineWatch(places.online, shape.instruments, shape.partitions)
            self.watches.append(self.online_watch)
        for watch in self.watches:
            watch.start()

    def heard_since(self, since_ms: int, parts: Iterable[int]) -> bool:
        """Whether vectors of each partition have come to all places after a time."""
        wanted = list(parts)
        return all(watch.heard_since(since_ms, wanted) for watch in self.watches)

    def _toml(self) -> str:
        properties = "".join(f'"{k}" = "{v}"\n' for k, v in self.properties.items())
        return f"""
            name = "{self.prefix}flow"
            recovery = "{self.folder / "state"}"
            snapshot_every = "1s"
            listen = ""
            [kafka]
            bootstrap = "{self.bootstrap}"
            clock_topic = "{self.prefix}clock"
            progress_topic = "{self.prefix}progress"
            [kafka.properties]
            {properties}
            [inputs.bars]
            topic = "{self.bars}"
            [inputs.news]
            topic = "{self.news}"
            [sets."{SET}"]
            topic = "{self.vectors}"
            transaction = "{self.transaction}"
            {self.places.of_set}
            {self.places.settings(self.folder)}
        """

    @property
    def bars(self) -> str:
        """The topic of bars."""
        return f"{self.prefix}bars"

    @property
    def news(self) -> str:
        """The topic of news."""
        return f"{self.prefix}news"

    @property
    def vectors(self) -> str:
        """The topic of vectors."""
        return f"{self.prefix}vectors"

    def settings_of(self, shards: int = 1, **given: Any) -> LiveSettings:
        """The flow's settings."""
        return live_settings(self.config, shards=shards, **given)

    def partitions_of(self, unit: Unit) -> list[int]:
        """Partitions of the output that only this unit writes."""
        every = range(self.shape.partitions)
        shards = 1 if unit.processes else unit.settings.shards
        return [part for part in every if part % shards == unit.number % shards]

    def make_units(
        self,
        shards: int = 1,
        processes: int = 0,
        *,
        module: str = "dataflows.live",
        environment: Mapping[str, str] | None = None,
        **given: Any,
    ) -> list[Unit]:
        """The units of the flow from now on: shards, or one cluster of so many processes.

        Args:
            shards: how many.
            processes: of the cluster; 0 for shards.
            module: of the flow.
            environment: variables beyond the flow's own.
            given: settings beyond those of the file.
        """
        settings = self.settings_of(shards, **given)
        made = [
            Unit(
                settings,
                self.config,
                self.folder / f"unit-{number}.log",
                number,
                processes,
                module,
                environment or {},
            )
            for number in range(1 if processes else shards)
        ]
        self.units += made
        return made

    def start_feed(self) -> Feed:
        """Starts the feeder."""
        arguments = [self.bootstrap, str(self.number), self.prefix, json.dumps(asdict(self.shape))]
        command = [sys.executable, "-m", "tests.chaos.feeder", str(os.getpid()), *arguments]
        path = self.folder / "feeder.log"
        with path.open("wb") as errors:
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors)
        self.feed = Feed(process, path)
        return self.feed

    def end(self) -> None:
        """Ends all processes and removes the topics."""
        for unit in self.units:
            unit.end()
        if self.feed is not None:
            self.feed.process.kill()
            self.feed.process.communicate()
        for watch in self.watches:
            watch.end()
        log.delete(self.bootstrap, [topic.name for topic in wanted_topics(self.settings, None)])

    def standing(self) -> str:
        """How far inputs and vectors are, twice: what grows meanwhile is not at a standstill."""
        kinds = {"committed": True, "all": False}
        topics = [self.bars, self.news, self.vectors]
        said = [
            f"{topic} ends at {log.ends(self.bootstrap, topic, committed=committed)} ({kind})"
            for _ in range(2)
            for topic in topics
            for kind, committed in kinds.items()
        ]
        return ", ".join(said)

    def told(self) -> str:
        """What a failed proof says of its world."""
        logs = {unit.log: unit for unit in self.units}
        said = [f"{path}:\n{unit.last_lines()}" for path, unit in logs.items()]
        if self.feed is not None:
            said.append(f"the feeder:\n{self.feed.last_words()}")
        return "\n".join([f"{SEED}={self.number} brings this again", *said])


@contextmanager
def world(bootstrap: str, folder: Path, **more: Any) -> Iterator[World]:
    """A world for one block; one that fails says its seed and shows what its processes printed."""
    made = World(bootstrap, seed(), folder, **more)
    try:
        yield made
    except BaseException as error:
        for unit in made.units:
            unit.show_stacks()
        error.add_note(made.told())
        raise
    finally:
        made.end()
