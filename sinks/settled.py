"""Final vectors of a lane, handed over once each: those that the other side has are left out.

A lane's final vectors come in the order of time and for good, so that one instant says which are
written. The other side keeps it with them, and the flow's snapshot does as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypedDict, TypeVar

import numpy as np

from operators.batch import Vectors
from sinks.errors import OutOfOrderError, ProgressLostError
from sinks.lane import Lane, Parcel, State
from sinks.vector_messages import sorted_by_time

W = TypeVar("W")
"""What a lane takes."""

NEVER_NS = -(2**63)
"""Before every instant."""


class Written(TypedDict):
    """What a snapshot keeps of a lane.

    Attributes:
        settled_ns: time of the last vectors that the other side holds; None where there are none
            yet, or where it is not remembered.
    """

    settled_ns: int | None


class Settled:
    """How far the final vectors of one lane are written.

    Args:
        lane: its name.
        place: where its progress is, for messages.
        resumed: what the snapshot says of it, if there is one.

    Attributes:
        until_ns: time of the last vectors that were handed over or found; None for none.
        given, suppressed: vectors handed over, and those that the other side had already.
    """

    def __init__(self, lane: str, place: str, resumed: Written | None) -> None:
        self.until_ns: int | None = None
        self.given = self.suppressed = 0
        self._name = lane
        self._place = place
        self._resumed = resumed
        self._found_ns = self._last_ns = NEVER_NS
        self._opened = False

    def accept(self, state: State) -> None:
        """Refuses to go on from a progress that is behind the snapshot.

        Raises:
            ProgressLostError: when it is.
        """
        wanted_ns = self._resumed["settled_ns"] if self._resumed else None
        found_ns = state.get("settled_ns")
        if wanted_ns is not None and (found_ns is None or found_ns < wanted_ns):
            msg = (
                f"lane `{self._name}`: {self._place} must say that vectors are written up to "
                f"{wanted_ns}, as the snapshot does, found {found_ns}; restore it, or start with a "
                "new recovery directory and output"
            )
            raise ProgressLostError(msg)

    def open(self, state: State) -> None:
        """Goes on from what the lane says of itself; does so once."""
        if not self._opened:
            self.until_ns = state.get("settled_ns")
            if self.until_ns is not None:
                self._found_ns = self._last_ns = self.until_ns
            self._opened = True

    def write(
        self, lane: Lane[W], vectors: Vectors, content: Callable[[Vectors], W], most_rows: int
    ) -> None:
        """Hands those vectors over that the other side has not, in parcels of whole instants.

        Args:
            lane: takes them.
            vectors: final ones; all later than those before.
            content: what a parcel has of its vectors.
            most_rows: about how many a parcel has.

        Raises:
            OutOfOrderError: when they are not later.
            SinkError: what the lane raises.
        """
        self.open(lane.state())
        fresh = vectors.ts_ns > self._found_ns
        if not fresh.all():
            self.suppressed += len(vectors) - int(fresh.sum())
            vectors = vectors.take(np.flatnonzero(fresh))
            if not len(vectors):
                return
        first_ns = int(vectors.ts_ns.min())
        if first_ns <= self._last_ns:
            msg = (
                f"lane `{self._name}`: final vectors must come after those up to {self._last_ns}, "
                f"found some of {first_ns}; the lane's items must come from one engine, in order"
            )
            raise OutOfOrderError(msg)
        for piece in cut_between_instants(vectors, most_rows):
            until_ns = int(piece.ts_ns.max())
            size = len(piece) * 8 * (len(piece.features) + 5)
            lane.put(Parcel(content(piece), {"settled_ns": until_ns}, len(piece), size))
            self.until_ns = self._last_ns = until_ns
        self.given += len(vectors)


def cut_between_instants(vectors: Vectors, most: int) -> Iterator[Vectors]:
    """Cuts vectors into pieces of about so many, never inside one instant.

    Args:
        vectors: in any order; a single piece keeps it.
        most: a piece has more only where an instant does.
    """
    if len(vectors) <= most:
        yield vectors
        return
    vectors = sorted_by_time(vectors)
    starts = np.flatnonzero(np.diff(vectors.ts_ns, prepend=NEVER_NS))
    start = 0
    while start < len(vectors):
        stop = len(vectors)
        if start + most < stop:
            # The last instant that begins within reach, or else the one after the first.
            later = starts[starts > start]
            within = later[later <= start + most]
            stop = int(within[-1]) if len(within) else int(later[0]) if len(later) else stop
        yield vectors.take(np.arange(start, stop))
        start = stop
