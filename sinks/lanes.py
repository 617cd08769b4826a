"""The end of a flow of (lane, item) whose parts are lanes: what all such sinks share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from operators.extract import key_of

X = TypeVar("X")
"""What is written."""
S = TypeVar("S")
"""What a snapshot keeps of a lane."""
P = TypeVar("P", bound=StatefulSinkPartition[Any, Any])
"""A lane."""


class LanesSink(FixedPartitionedSink[X, S], Generic[X, S, P]):
    """A sink whose parts are the lanes of a flow.

    Args:
        name: of the sink; the names of its lanes begin with the flow's and this.
        flow: name of the flow.
        lanes: numbers of those that come: all of a cluster's flow, or a shard's own.
        carried: what earlier snapshots, of a flow that was cut otherwise, keep of lanes.
        beat: is called while the sink waits.
    """

    def __init__(
        self,
        name: str,
        flow: str,
        lanes: Sequence[int],
        carried: Mapping[str, S] | None,
        beat: Callable[[], None],
    ) -> None:
        self.beat = beat
        self._prefix = f"{flow}.{name}"
        self._lanes = {key_of(number): number for number in sorted(lanes)}
        # Bytewax counts the parts in the order of their names.
        self._index = {part: index for index, part in enumerate(sorted(self._lanes))}
        self._carried = carried or {}

    @abstractmethod
    def _part(self, name: str, number: int, resumed: S | None) -> P:
        """Opens a lane, which ends what an earlier run of it had not committed."""

    def list_parts(self) -> list[str]:
        """The lanes; every worker can build each."""
        return list(self._lanes)

    def part_fn(self, item_key: str) -> int:
        """Gives a lane's items to its part."""
        return self._index[item_key]

    def build_part(self, step_id: str, for_part: str, resume_state: S | None) -> P:
        """Opens a lane where Bytewax's snapshots, or those that were carried, leave it."""
        resumed = resume_state or self._carried.get(for_part)
        return self._part(f"{self._prefix}.{for_part}", self._lanes[for_part], resumed)
