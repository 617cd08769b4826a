"""Sources and sinks of a flow, with somebody watching: the same, timed and told of."""

from __future__ import annotations

from datetime import datetime
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from dataflows.counters import Durations
from dataflows.observed import Observed

if TYPE_CHECKING:
    from sinks.kafka import KafkaPart
    from sinks.kafka_lane import Lane
    from sinks.kafka_letters import LettersPart

X = TypeVar("X")
S = TypeVar("S")


class WatchedSource(FixedPartitionedSource[X, S]):
    """A source whose epochs are told of, and whose reads are timed.

    Args:
        source: what is watched; its parts are called ``stream/partition``.
        observed: where to tell.
    """

    def __init__(self, source: FixedPartitionedSource[X, S], observed: Observed) -> None:
        self._source = source
        self._observed = observed

    def list_parts(self) -> list[str]:
        """The parts of what is watched."""
        return self._source.list_parts()

    def build_part(
        self, step_id: str, for_part: str, resume_state: S | None
    ) -> StatefulSourcePartition[X, S]:
        """Builds a part of what is watched."""
        part = self._source.build_part(step_id, for_part, resume_state)
        return _SourcePart(part, for_part, self._observed)


class _SourcePart(StatefulSourcePartition[X, S]):
    def __init__(self, part: StatefulSourcePartition[X, S], name: str, observed: Observed) -> None:
        self._part = part
        self._name = name
        self._observed = observed
        self._spent = observed.durations("decode", name.partition("/")[0])

    def next_batch(self) -> list[X]:
        began_s = perf_counter()
        found = list(self._part.next_batch())
        # A part is asked a thousand times a second; only what it gives counts.
        if found:
            self._spent.add(perf_counter() - began_s)
        return found

    def next_awake(self) -> datetime | None:
        return self._part.next_awake()

    def snapshot(self) -> S:
        self._observed.part_snapshot(self._name)
        return self._part.snapshot()

    def close(self) -> None:
        self._part.close()


class WatchedSink(FixedPartitionedSink[X, S]):
    """A sink whose calls are timed: handing over what is to be written, and waiting for it.

    Args:
        sink: what is watched.
        spent: where the time of each call is added.
    """

    def __init__(self, sink: FixedPartitionedSink[X, S], spent: Durations) -> None:
        self._sink = sink
        self._spent = spent

    def list_parts(self) -> list[str]:
        """The parts of what is watched."""
        return self._sink.list_parts()

    def part_fn(self, item_key: str) -> int:
        """Gives an item to a part, as what is watched does."""
        return self._sink.part_fn(item_key)

    def build_part(
        self, step_id: str, for_part: str, resume_state: S | None
    ) -> StatefulSinkPartition[X, S]:
        """Builds a part of what is watched."""
        return _SinkPart(self._sink.build_part(step_id, for_part, resume_state), self._spent)


class _SinkPart(StatefulSinkPartition[X, S]):
    def __init__(self, part: StatefulSinkPartition[X, S], spent: Durations) -> None:
        self._part = part
        self._write_batch = spent.timed(part.write_batch)
        self._snapshot = spent.timed(part.snapshot)

    def write_batch(self, values: list[X]) -> None:
        self._write_batch(values)

    def snapshot(self) -> S:
        return self._snapshot()

    def close(self) -> None:
        self._part.close()


def vectors_counts(part: KafkaPart) -> dict[str, float]:
    """What a part of the vectors' sink has done, for :meth:`Observed.watch_sink`."""
    return _counts(part.lane, part.final + part.provisional, part.suppressed)


def letters_counts(part: LettersPart) -> dict[str, float]:
    """What a part of the letters' sink has done, for :meth:`Observed.watch_sink`."""
    return _counts(part.lane, part.written, part.suppressed)


def _counts(lane: Lane | None, records: int, suppressed: int) -> dict[str, float]:
    found: dict[str, float] = {"records": records, "suppressed": suppressed}
    if lane is not None:
        done = lane.counts
        found["transactions"] = done.transactions
        found["retries"] = done.retries
        found["commit_seconds"] = done.commit_s
        found["wait_seconds"] = done.waited_s
    return found
