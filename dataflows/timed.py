"""A sink whose calls are timed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from dataflows.counters import Durations
from dataflows.observed import Observed

log = logging.getLogger("riffle")


@runtime_checkable
class Abandoned(Protocol):
    """A part of a sink that can be let go."""

    def abandon(self) -> None:
        """Lets go of it as it is, and waits for nothing."""


class _Part(StatefulSinkPartition[Any, Any]):
    def __init__(
        self, part: StatefulSinkPartition[Any, Any], spent: Durations, observed: Observed
    ) -> None:
        self._write: Callable[[list[Any]], None] = spent.timed(part.write_batch)
        self._snapshot: Callable[[], Any] = spent.timed(part.snapshot)
        self._part = part
        self._observed = observed

    def write_batch(self, values: list[Any]) -> None:
        with self._noted():
            self._write(values)

    def snapshot(self) -> Any:
        with self._noted():
            return self._snapshot()

    def close(self) -> None:
        """Closes the part; a failure is told, not raised.

        Bytewax closes parts while it unwinds from an error, too, and a second one would abort the
        process before the first is told. The last snapshot has seen all that counts written; after
        a failure nothing is waited for, since another place may be away for good.
        """
        if self._observed.failed and isinstance(self._part, Abandoned):
            self._part.abandon()
            return
        try:
            with self._noted():
                self._part.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, the one before it matters
            log.warning("a sink could not be closed: %s", error)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._observed.failed = True
            raise


class TimedSink(FixedPartitionedSink[Any, Any]):
    """The same sink, with the time that its writes and snapshots take.

    Args:
        sink: the sink.
        label: what it is called.
        observed: where the times are counted, and failures noted.
    """

    def __init__(
        self, sink: FixedPartitionedSink[Any, Any], label: str, observed: Observed
    ) -> None:
        self._sink = sink
        self._spent = observed.durations("sink", label)
        self._observed = observed

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
        part = self._sink.build_part(step_id, for_part, resume_state)
        return _Part(part, self._spent, self._observed)
