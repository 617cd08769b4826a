"""Up to where a table is complete, though transactions commit in another order than they began.

A row's arrival is stamped by ``clock_timestamp()`` while its transaction holds the lock that every
writer of a table takes and keeps until its end. So a look at the clock, then at the locks, then at
the rows finds out what can't change any more: who holds no lock at the look stamps later than the
look, and who holds one has taken it after the last look without it. No row that is still to become
visible has arrived before the least of these moments, the horizon.
"""

from __future__ import annotations

from collections.abc import Collection

NEVER_US = -(2**63)
"""A horizon below which nothing is known."""
PREPARED = "-1/"
"""What the name of a transaction begins with that is prepared for a commit in two phases, where the
server does not keep the name that it had before: PostgreSQL 15 does, until it restarts."""


class Horizon:
    """The horizon of one table, look by look.

    Args:
        at_us: below which all rows are known to have come.

    Attributes:
        at_us: the horizon: each row that arrived before it is visible, or never will be.

    >>> horizon = Horizon()
    >>> horizon.look(10, ["3/7"]) == NEVER_US  # who knows since when it writes
    True
    >>> horizon.look(20, ["3/7", "4/1"]) == NEVER_US
    True
    >>> horizon.look(30, ["4/1"]), horizon.look(40, ["5/9"]), horizon.look(50, [])
    (10, 30, 50)
    """

    def __init__(self, at_us: int = NEVER_US) -> None:
        self.at_us = at_us
        self._looked_us = at_us
        self._began_us: dict[str, int] = {}

    def look(self, now_us: int, writers: Collection[str]) -> int:
        """Takes in a look, and gives the horizon for the rows that are read after it.

        Args:
            now_us: the server's clock, asked before its locks.
            writers: the transactions that hold the lock of a writer.
        """
        began = {}
        for writer in writers:
            known = self._began_us.get(writer)
            if known is None:
                # A prepared transaction may have written under another name before.
                known = self.at_us if writer.startswith(PREPARED) else self._looked_us
            began[writer] = known
        self._began_us = began
        self._looked_us = max(self._looked_us, now_us)
        self.at_us = max(self.at_us, min([now_us, *began.values()]))
        return self.at_us

    def forget(self) -> None:
        """Forgets who writes: another server may be asked from now on, or the same one anew."""
        self._began_us = {}
        self._looked_us = self.at_us
