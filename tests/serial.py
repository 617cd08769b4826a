"""Runs the heavy tests after all others, one at a time, in the same session.

Tests that load the machine for minutes and measure how long something takes have no room for others
beside them. With several workers of pytest-xdist, they wait until every worker but one has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xdist.scheduler import LoadScheduling

if TYPE_CHECKING:
    import pytest
    from xdist.workermanage import WorkerController

FOLDERS = ("tests/chaos/",)
"""Where the heavy tests are."""


def is_serial(nodeid: str) -> bool:
    """Whether a test is a heavy one."""
    return nodeid.startswith(FOLDERS)


def put_last(items: list[pytest.Item]) -> None:
    """Puts the heavy tests behind the others."""
    items.sort(key=lambda item: is_serial(item.nodeid))


class SerialLast(LoadScheduling):  # type: ignore[misc]
    """Deals tests out as `--dist load` does, and the heavy ones to the last worker there is."""

    nodes: list[WorkerController]
    node2collection: dict[WorkerController, list[str]]
    collection: list[str] | None
    pending: list[int]
    maxschedchunk: int | None

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self.later: list[int] = []

    @property
    def tests_finished(self) -> bool:
        return not self.later and bool(super().tests_finished)

    @property
    def has_pending(self) -> bool:
        return bool(self.later or super().has_pending)

    def schedule(self) -> None:
        if self.collection is not None or not self._check_nodes_have_same_collection():
            super().schedule()
            return
        collection = next(iter(self.node2collection.values()))
        for index, nodeid in enumerate(collection):
            (self.later if is_serial(nodeid) else self.pending).append(index)
        self.collection = collection
        self.maxschedchunk = self.maxschedchunk or len(collection)
        share = len(self.pending) // len(self.nodes) // 4
        for node in self.nodes:
            self._send_tests(node, max(min(share, self.maxschedchunk), 2))
        for node in self.nodes:
            self.check_schedule(node)

    def check_schedule(self, node: WorkerController, duration: float = 0) -> None:
        if self.pending or not self.later:
            super().check_schedule(node, duration)
        elif len(self.nodes) == 1:
            self.pending, self.later = self.later, []
            self._send_tests(node, len(self.pending))
            node.shutdown()
        elif any(other is not node and not other.shutting_down for other in self.nodes):
            node.shutdown()

    def remove_node(self, node: WorkerController) -> str | None:
        crashed: str | None = super().remove_node(node)
        for other in self.nodes:
            self.check_schedule(other)
        return crashed
