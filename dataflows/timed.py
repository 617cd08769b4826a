"""A sink whose calls are timed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from dataflows.counters import Durations

log = logging.getLogger("riffle")


class _Part(StatefulSinkPartition[Any, Any]):
    def __init__(self, part: StatefulSinkPartition[Any, Any], spent: Durations) -> None:
        self._write: Callable[[list[Any]], None] = spent.timed(part.write_batch)
        self._snapshot: Callable[[], Any] = spent.timed(part.snapshot)
        self._part = part

    def write_batch(self, values: list[Any]) -> None:
        self._write(values)

    def snapshot(self) -> Any:
        return self._snapshot()

    def close(self) -> None:
        """Closes the part; a failure is told, not raised.

        Bytewax closes parts while it unwinds from an error, too, and a second one would abort the
        process before the first is told. The last snapshot has seen all that counts written.
        """
        try:
            self._part.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, the one before it matters
            log.warning("a sink could not be closed: %s", error)


class TimedSink(FixedPartitionedSink[Any, Any]):
    """The same sink, with the time that its writes and snapshots take.

    Args:
        sink: the sink.
        spent: where the times are counted.
    """

    def __init__(self, sink: FixedPartitionedSink[Any, Any], spent: Durations) -> None:
        self._sink = sink
        self._spent = spent

    def list_parts(self) -> list[str]:
        """Those of the sink."""
        return self._sink.list_parts()

    def part_fn(self, item_key: str) -> int:
        """That of the sink."""
        return self._sink.part_fn(item_key)

    def build_part(
        self, step_id: str, for_part: str, resume_state: Any
    ) -> StatefulSinkPartition[Any, Any]:
        """Builds a part of the sink."""
        return _Part(self._sink.build_part(step_id, for_part, resume_state), self._spent)
