"""Counters that cost a fraction of a microsecond, taken apart only when somebody asks."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

from operators.batch import Vectors

P = ParamSpec("P")
R = TypeVar("R")

BOUNDS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Upper bounds of the buckets of durations: from a call of a kernel to a stuck broker."""

MOST_MASKS = 12
"""Quality flags up to which each combination has a counter of its own."""


class Durations:
    """A histogram of seconds.

    >>> spent = Durations()
    >>> spent.add(0.002)
    >>> spent.count, spent.total_s
    (1, 0.002)
    """

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    @property
    def count(self) -> int:
        """How many were added."""
        return sum(self.buckets)

    def add(self, seconds: float) -> None:
        """Counts one."""
        self.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s += seconds

    def timed(self, function: Callable[P, R]) -> Callable[P, R]:
        """Gives a function that does the same and is timed."""
        clock = time.perf_counter

        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            begun_s = clock()
            try:
                return function(*args, **kwargs)
            finally:
                self.add(clock() - begun_s)

        return called


class VectorCounts:
    """Vectors of a set, and how often each quality flag was raised in final ones.

    Args:
        flags: names of the set's quality flags, in the order of their bits.
    """

    def __init__(self, flags: tuple[str, ...]) -> None:
        self.flags = flags
        self.final = 0
        self.provisional = 0
        few = len(flags) <= MOST_MASKS
        # One pass over the masks for all flags; they are taken apart when somebody asks.
        self._masks = np.zeros(1 << len(flags), np.int64) if few else None
        self._raised = np.zeros(len(flags), np.int64)

    def add(self, vectors: Vectors) -> None:
        """Counts vectors."""
        if not vectors.final:
            self.provisional += len(vectors)
            return
        self.final += len(vectors)
        if self._masks is not None:
            counted = np.bincount(vectors.quality)
            self._masks[: len(counted)] += counted
            return
        for bit in range(len(self.flags)):
            self._raised[bit] += np.count_nonzero(vectors.quality >> bit & 1)

    def raised(self) -> dict[str, int]:
        """How often each flag was raised."""
        counts = self._raised
        if self._masks is not None:
            masks, bits = np.arange(len(self._masks)), range(len(self.flags))
            counts = np.array([self._masks[masks >> b & 1 == 1].sum() for b in bits])
        return dict(zip(self.flags, counts.tolist(), strict=True))
