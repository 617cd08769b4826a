"""Keeps partitions in step, so that a dense one beside a sparse one needs no memory."""

from __future__ import annotations

from threading import Lock

from operators.batch import NO_CLOCK_NS


class Alignment:
    """Lets no partition run further than a limit ahead of the slowest that has not ended.

    Args:
        limit_ns: how far ahead.

    >>> alignment = Alignment(limit_ns=10)
    >>> alignment.join("dense"), alignment.join("sparse")
    (None, None)
    >>> alignment.report("dense", 25), alignment.report("sparse", 14)
    (None, None)
    >>> alignment.may_read("dense"), alignment.may_read("sparse")
    (False, True)
    >>> alignment.leave("sparse")
    >>> alignment.may_read("dense")
    True
    """

    def __init__(self, limit_ns: int) -> None:
        if limit_ns < 0:
            msg = f"partitions must be let ahead of each other by 0 ns or more, got {limit_ns}"
            raise ValueError(msg)
        self.limit_ns = limit_ns
        self._clocks: dict[str, int] = {}
        self._slowest: str | None = None
        # Workers that are threads of one process share it.
        self._lock = Lock()

    def join(self, partition: str, clock_ns: int = NO_CLOCK_NS) -> None:
        """Counts a partition among those that the others wait for."""
        self.report(partition, clock_ns)

    def report(self, partition: str, clock_ns: int) -> None:
        """Notes a partition's clock."""
        with self._lock:
            self._clocks[partition] = clock_ns
            self._slowest = None

    def leave(self, partition: str) -> None:
        """Forgets a partition that has ended."""
        with self._lock:
            self._clocks.pop(partition, None)
            self._slowest = None

    def may_read(self, partition: str) -> bool:
        """Whether a partition is close enough to the slowest; one that has not joined is."""
        with self._lock:
            clock_ns = self._clocks.get(partition)
            if clock_ns is None or clock_ns == NO_CLOCK_NS:
                return True
            if self._slowest is None:
                self._slowest = min(self._clocks, key=self._clocks.__getitem__)
            return clock_ns - self._clocks[self._slowest] <= self.limit_ns
