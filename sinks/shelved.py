"""The end of a flow whose files become visible with its snapshots: what all such sinks share."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TypeVar

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from sinks.shelf import Owned, Shelf, State

X = TypeVar("X")
"""What is written."""


class ShelvedPart(StatefulSinkPartition[X, State]):
    """A partition whose files become visible with the snapshot, or at the end without any.

    Args:
        shelf: where its files are.
        durable: whether there will be a resume from the flow's snapshots.
    """

    def __init__(self, shelf: Shelf, durable: bool) -> None:
        self._shelf = shelf
        self._durable = durable

    @abstractmethod
    def _finish(self) -> None:
        """Writes what waits and closes the files."""

    def snapshot(self) -> State:
        """Makes the files visible and gives the number of the next one."""
        return self._show() if self._durable else {"seq": 0}

    def close(self) -> None:
        """Makes the files visible."""
        self._show()

    def _show(self) -> State:
        self._finish()
        return self._shelf.show()


class ShelvedSink(FixedPartitionedSink[X, State]):
    """A sink of (key group, item) whose partitions are shelves of one folder.

    Args:
        folder: where the files are.
        owned: whose files they are, and when they become visible.
    """

    def __init__(self, folder: Path, owned: Owned) -> None:
        self._folder = folder
        self._owned = owned

    @abstractmethod
    def _part(self, shelf: Shelf, durable: bool) -> ShelvedPart[X]:
        """Gives the partition that writes to a shelf."""

    def list_parts(self) -> list[str]:
        """Names the partitions; every worker can build each."""
        return list(self._owned.parts)

    def part_fn(self, item_key: str) -> int:
        """Gives a key group's items to one partition."""
        return int(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: State | None) -> ShelvedPart[X]:
        """Opens a partition and removes what will be replayed."""
        shelf = Shelf(self._folder, for_part, self._owned, resume_state)
        return self._part(shelf, self._owned.durable)
