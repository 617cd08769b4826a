"""When the partitions of a process are read: those of one number together, and no others with them.

A read costs about the same for one message and a hundred, and so does all that follows. Partitions
of one number are computed together, so they are read together, and the next time when it pays:
later, the more work was done since the last time. Numbers take turns, for Bytewax works through all
that was read before any of it is written: what is read alone is written sooner.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic, thread_time

SHORTEST_ROUND_S, LONGEST_ROUND_S = 0.004, 0.025
"""A message waits no longer than this for company."""
ROUND_PER_WORK = 1.5
"""A round by the processor time of the last one: a third is left for others."""


@dataclass(slots=True)
class _Round:
    """Until when partitions of a number wait, and what their thread had spent when that began."""

    due_s: float = 0.0
    spent_s: float = 0.0


class Pace:
    """The turns of the partitions that one thread reads."""

    def __init__(self) -> None:
        self._rounds: dict[int, _Round] = {}
        self._last = ""
        self._turn: int | None = None
        self._refused: dict[int, None] = {}

    def may_read(self, name: str, number: int) -> bool:
        """Whether it is a partition's turn, which must be asked for again at once if it is not.

        Args:
            name: the partition's, among all streams.
            number: the partition's number.
        """
        # Bytewax looks at all that are due in the order of their names.
        if name <= self._last or self._turn is None:
            self._turn = next(iter(self._refused), number)
            self._refused.pop(self._turn, None)
        self._last = name
        if number != self._turn:
            self._refused.setdefault(number)
            return False
        return True

    def next_round(self, number: int) -> datetime:
        """When partitions of a number are to be read again of which one has just been read."""
        now_s = monotonic()
        own = self._rounds.setdefault(number, _Round())
        if now_s >= own.due_s:
            spent_s = thread_time()
            round_s = ROUND_PER_WORK * (spent_s - own.spent_s)
            own.spent_s = spent_s
            own.due_s = now_s + min(max(round_s, SHORTEST_ROUND_S), LONGEST_ROUND_S)
        return datetime.now(UTC) + timedelta(seconds=own.due_s - now_s)
