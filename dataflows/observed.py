"""What a process of a live flow lets be seen: plain objects, read when somebody asks.

The flow's parts count for themselves, in attributes of their own; here they are only listed. So a
scrape costs the flow nothing but the moment in which it holds the interpreter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from dataflows.counters import Durations, VectorCounts
from dataflows.dependencies import Dependency
from operators.account import Fate
from operators.batch import NO_CLOCK_NS
from operators.engine import Engine


class SourcePart(Protocol):
    """A partition of a topic as it is read; counts are those since the part was built or before."""

    @property
    def stream(self) -> str:
        """The declared stream."""

    @property
    def topic(self) -> str:
        """The topic."""

    @property
    def partition(self) -> int:
        """The number of the partition."""

    @property
    def position(self) -> int:
        """Offset of the next message to read."""

    @property
    def end_offset(self) -> int | None:
        """Offset after the last message of the log, as last heard."""

    @property
    def clock_ns(self) -> int:
        """The partition's clock."""

    @property
    def counts(self) -> Mapping[str, int]:
        """``messages``, and what became of their rows: ``rows``, ``late``."""

    @property
    def dead(self) -> Mapping[str, int]:
        """Dead letters by reason."""


class SnapshotFacts:
    """The snapshots of a set's engines.

    Attributes:
        taken_s: when the newest was taken.
        durations: of taking one.
    """

    def __init__(self) -> None:
        self.taken_s: float | None = None
        self.durations = Durations()


class WatchedEngine:
    """An engine, with its account as it was when it came into view.

    A restored engine goes on with the counts of its snapshot, which are lower than those that the
    process before had shown; a counter has to start at 0 instead, or each crash would show as a
    burst of rows.

    Args:
        engine: a fresh or a restored one.
        compute: durations of its calls.
        snapshots: those of its set.
        progressed: is told of each snapshot.

    Attributes:
        snapshot_size: bytes of its newest snapshot.
    """

    def __init__(
        self,
        engine: Engine,
        compute: Durations,
        snapshots: SnapshotFacts,
        progressed: Callable[[], float],
    ) -> None:
        self.engine = engine
        self.snapshot_size = 0
        self._before = engine.account.counts.copy()
        self._snapshots = snapshots
        self._progressed = progressed
        self.computed = compute.add

    def written_down(self, seconds: float, size: int) -> None:
        """Says that a snapshot was taken."""
        self.snapshot_size = size
        self._snapshots.durations.add(seconds)
        self._snapshots.taken_s = self._progressed()

    def rows(self) -> Iterator[tuple[str, Fate, int]]:
        """Rows of each stream by fate, since it came into view."""
        account = self.engine.account
        # A partition that was added since has no row of before.
        fresh = account.counts.copy()
        fresh[: len(self._before)] -= self._before
        for (stream, _), i in account.number.items():
            for fate in Fate:
                yield stream, fate, int(fresh[i, fate])

    def pending(self) -> Iterator[tuple[str, int]]:
        """Rows of each stream that wait."""
        account = self.engine.account
        for (stream, _), i in account.number.items():
            yield stream, account.pending(i)

    @property
    def entities(self) -> int:
        """How many entities it knows, of the kind that has the most."""
        # `table.entities` would fill a cache that belongs to the flow's thread.
        tables = self.engine.tables
        return max((len({key[0] for key in tuple(table.keys)}) for table in tables), default=0)


class WatchedPart:
    """A part of a source, with its counts as they were when it came into view."""

    def __init__(self, part: SourcePart) -> None:
        self.part = part
        self._counts = dict(part.counts)
        self._dead = dict(part.dead)

    def counts(self) -> dict[str, int]:
        """Its counts since it came into view."""
        return {name: n - self._counts.get(name, 0) for name, n in dict(self.part.counts).items()}

    def dead(self) -> dict[str, int]:
        """Its dead letters by reason since it came into view."""
        return {str(r): n - self._dead.get(r, 0) for r, n in dict(self.part.dead).items()}

    @property
    def lag_records(self) -> int | None:
        """Messages of the log that are not read yet; None before the end has been heard of."""
        end = self.part.end_offset
        return None if end is None or end < 0 else max(0, end - self.part.position)

    def lag_s(self, now_ns: int) -> float:
        """How long ago what was read last had arrived; 0 when all is read, infinite before any is.

        Args:
            now_ns: the time of day.
        """
        if not self.lag_records:
            return 0.0
        clock_ns = self.part.clock_ns
        return math.inf if clock_ns <= NO_CLOCK_NS else max(0.0, (now_ns - clock_ns) / 1e9)


def process_age_s() -> float:
    """Seconds since this process was started, its imports among them."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    ticks_per_s = 100  # USER_HZ, which is 100 wherever Linux runs
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / ticks_per_s


class Observed:
    """What one process of a live flow lets be seen.

    The builder of the flow fills it, the flow's parts go on counting, and :mod:`dataflows.health`
    and :mod:`dataflows.metrics` read it.

    Args:
        flow: name of the flow.
        shard, shards: number of this process, and how many there are.
        now_s: a clock that never goes back.
        wall_ns: the time of day, to say how far behind a clock is.

    Attributes:
        draining: whether the process was asked to stop.
        failed: whether it can't go on, and is ending.
        recovery_s: how long the process took from its start until it went on; None before.
        started_s: when it was made, or recovered, on ``now_s``.
        epochs: how many epochs ended.
        progress_s: when one last did for a part of a source or an engine, on ``now_s``.
    """

    def __init__(
        self,
        flow: str,
        shard: int = 0,
        shards: int = 1,
        *,
        now_s: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.flow = flow
        self.shard = shard
        self.shards = shards
        self.now_s = now_s
        self.wall_ns = wall_ns
        self.draining = self.failed = False
        self.started_s = now_s()
        self.recovery_s: float | None = None
        self.epochs = 0
        self.progress_s: float | None = None
        self.epoch_durations = Durations()
        self.parts: list[WatchedPart] = []
        self.engines: list[WatchedEngine] = []
        self.sinks: list[tuple[str, Callable[[], Mapping[str, float]]]] = []
        self.dependencies: dict[str, Dependency] = {}
        self.vector_counts: dict[str, VectorCounts] = {}
        self.snapshots: dict[str, SnapshotFacts] = {}
        self.stages: dict[tuple[str, str], Durations] = {}
        self._asked: set[str] = set()
        self._epoch_began_s = self.started_s

    # -- filled when the flow is built ------------------------------------------------------

    def watch_part(self, part: SourcePart) -> None:
        """Shows a part of a source; its state must have been restored."""
        self.parts.append(WatchedPart(part))

    def watch_engine(self, engine: Engine) -> WatchedEngine:
        """Shows an engine; its state must have been restored.

        Returns:
            What is to be told of its calls and its snapshots.
        """
        facts = self.snapshots.setdefault(engine.set.name, SnapshotFacts())
        watched = WatchedEngine(
            engine, self.durations("compute", engine.set.name), facts, self._progressed
        )
        self.engines.append(watched)
        return watched

    def watch_sink(self, sink: str, counts: Callable[[], Mapping[str, float]]) -> None:
        """Shows a part of a sink.

        Args:
            sink: what it is called, such as ``market`` or ``letters``.
            counts: gives what the part has done: any of :data:`dataflows.metrics.SINK_COUNTS`.
        """
        self.sinks.append((sink, counts))

    def dependency(self, name: str, probe: Callable[[], str | None] = lambda: None) -> Dependency:
        """Something outside that the process needs; the same one for the same name.

        Args:
            name: what messages call it.
            probe: gives in words what is wrong with it, None while nothing is; must not wait.
        """
        return self.dependencies.setdefault(name, Dependency(name, self.now_s, probe))

    def vectors(self, feature_set: str, flags: tuple[str, ...]) -> VectorCounts:
        """The counters of a set's vectors."""
        return self.vector_counts.setdefault(feature_set, VectorCounts(flags))

    def durations(self, stage: str, of: str) -> Durations:
        """The durations of a stage.

        Args:
            stage: ``decode``, ``compute`` or ``sink``.
            of: the stream, the set or the sink.
        """
        return self.stages.setdefault((stage, of), Durations())

    @property
    def idle(self) -> bool:
        """Whether the process has nothing to do, as in a cluster of more processes than lanes."""
        return not self.parts and not self.engines

    # -- told by the running flow -----------------------------------------------------------

    def recovered(self) -> None:
        """Says that all state is there and the flow goes on; only the first time counts."""
        if self.recovery_s is None:
            self.recovery_s = process_age_s()
            self.started_s = self.now_s()

    def part_snapshot(self, part: str) -> None:
        """Says that Bytewax asked a part of a source for its snapshot.

        It does so once an epoch, and only after the epoch before is durable everywhere, also for a
        part that had nothing to read. An epoch has ended when a part is asked again.

        Args:
            part: its name.
        """
        now_s = self._progressed()
        if part in self._asked:
            self.epochs += 1
            self.epoch_durations.add(now_s - self._epoch_began_s)
            self._asked.clear()
        if not self._asked:
            self._epoch_began_s = now_s
        self._asked.add(part)

    def _progressed(self) -> float:
        """Notes that an epoch ended for somebody, and gives the time.

        A process of a cluster may have engines and no part of a source.
        """
        self.recovered()
        self.progress_s = now_s = self.now_s()
        for dependency in tuple(self.dependencies.values()):
            dependency.progressed()
        return now_s
