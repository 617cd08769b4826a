"""What the parts of a live flow let be seen, as :mod:`dataflows.observed` wants it."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from dataflows.observed import Observed
from sinks.kafka import KafkaPart
from sinks.lane import Lane
from sources.kafka_source import KafkaPartition, KafkaSource, State
from sources.messages import Read

if TYPE_CHECKING:
    from sources.table_source import TablePartition, TableSource

Partition: TypeAlias = "KafkaPartition | TablePartition"
"""What can be seen as it is read."""


class SeenPart:
    """A partition as it is read.

    Args:
        stream: what its rows are.
        part: the part of the source.
    """

    def __init__(self, stream: str, part: Partition) -> None:
        self.stream = stream
        self.topic = part.topic
        self.partition = part.number
        self._part = part

    @property
    def position(self) -> int:
        """Offset of the next message to read."""
        return self._part.position

    @property
    def end_offset(self) -> int | None:
        """Offset after the last message of the log, as last heard."""
        return self._part.end

    @property
    def clock_ns(self) -> int:
        """The partition's clock."""
        return self._part.clock_ns

    @property
    def counts(self) -> Mapping[str, int]:
        """Messages, and what became of their rows."""
        account = self._part.account
        return {"messages": account.messages, "rows": account.rows, "late": account.late}

    @property
    def dead(self) -> Mapping[str, int]:
        """Dead letters by reason."""
        return self._part.account.dead


class _SeenPartition(StatefulSourcePartition[Read, State]):
    """A part of a source that tells of its reads and of the epochs."""

    def __init__(self, part: Partition, observed: Observed) -> None:
        stream = part.name.rpartition("/")[0]
        self._part = part
        self._observed = observed
        self._spent = observed.durations("decode", stream)
        observed.watch_part(SeenPart(stream, part))

    def next_batch(self) -> list[Read]:
        began_s = perf_counter()
        try:
            reads = self._part.next_batch()
        except Exception as error:
            self._observed.failed |= not isinstance(error, StopIteration)
            raise
        if reads:
            self._observed.recovered()
            self._spent.add(perf_counter() - began_s)
        return reads

    def next_awake(self) -> datetime | None:
        return self._part.next_awake()

    def snapshot(self) -> State:
        _keep_what_is_loaded()
        self._observed.part_snapshot(self._part.name)
        return self._part.snapshot()

    def close(self) -> None:
        self._part.close()


class SeenSource(FixedPartitionedSource[Read, State]):
    """The same source, with its parts shown.

    Args:
        source: the source.
        observed: what is shown of the process.
    """

    def __init__(self, source: KafkaSource | TableSource, observed: Observed) -> None:
        self._source = source
        self._observed = observed

    def list_parts(self) -> list[str]:
        """Those of the source."""
        return self._source.list_parts()

    def build_part(self, step_id: str, for_part: str, resume_state: State | None) -> _SeenPartition:
        """Opens a part of the source."""
        part = self._source.build_part(step_id, for_part, resume_state)
        return _SeenPartition(part, self._observed)


@cache
def _keep_what_is_loaded() -> None:
    """Takes what is in memory out of the search for garbage.

    Kernels and libraries, loaded by the first rows, stay: to look through them stood still for 130
    ms, once in ten seconds. To look once more before took 100 ms, and found 2,000 objects.
    """
    gc.freeze()


class Part(Protocol):
    """A part of a sink."""

    @property
    def lane(self) -> Lane[Any] | None:
        """The way of what it is given; None where each record goes by itself."""


def done_by(part: Part) -> dict[str, float]:
    """What a part of a sink has done."""
    found: dict[str, float] = {}
    if isinstance(part, Suppressing):
        found["suppressed"] = part.suppressed
    if part.lane is not None:
        counts = part.lane.counts
        found |= {
            "records": counts.records,
            "transactions": counts.transactions,
            "retries": counts.retries,
            "commit_seconds": counts.commit_s,
            "wait_seconds": counts.waited_s,
        }
    elif isinstance(part, KafkaPart):
        found["records"] = part.final + part.provisional
    return found


@runtime_checkable
class Suppressing(Protocol):
    """A part that leaves out what the other side has already."""

    @property
    def suppressed(self) -> int:
        """How much that was."""
