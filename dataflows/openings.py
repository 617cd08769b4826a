"""An input that has the sinks of a flow open their lanes before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from bytewax.inputs import DynamicSource, StatelessSourcePartition

from operators.extract import key_of

X = TypeVar("X")
"""What a sink writes."""


class _Once(StatelessSourcePartition[tuple[str, X]]):
    def __init__(self, items: list[tuple[str, X]]) -> None:
        self._items = items

    def next_batch(self) -> list[tuple[str, X]]:
        if not self._items:
            raise StopIteration
        items, self._items = self._items, []
        return items


class Openings(DynamicSource[tuple[str, X]], Generic[X]):
    """An item for each lane, once, with nothing to write in it.

    Bytewax makes the part of a sink for the first item that comes to it, and a lane that is opened
    waits until all transactions are over that have the same place for their progress. One that a
    killed run has left open ends at once when its own lane is opened, and else by the broker's
    timeout. So all are opened together: a lane whose first item comes late would be waited for by
    the flow that is to bring it. Guarded by
    test_a_transaction_of_a_lane_that_has_nothing_to_write_is_not_waited_for.

    Args:
        lanes: their numbers; another worker's are opened by that one.
        item: nothing, as the sink's items are.
    """

    def __init__(self, lanes: Sequence[int], item: X) -> None:
        self._items = [(key_of(number), item) for number in lanes]

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Once[X]:
        """Gives all of them to every worker, which hands those of other workers over."""
        return _Once(list(self._items))
