"""A lane's way to the online store: the newest vector of each entity, every so often.

Vectors are gathered by entity while they wait, so that memory is bounded by the entities, however
long the store is away. What the store has of an entity is asked for at first touch; after that the
lane knows, for it is the only writer. Each transaction carries the lane's fence, and finds out by
it whether another run has taken the lane over, and whether the store was emptied, or has come back
older than it was: then all entities are compared with the store and written again.

Replayed vectors are older than what was served, and are kept from the store by the marks that it
holds. A store that was emptied holds none; so a lane that was resumed fills such a store only when
it has caught up with what was served before, or after :data:`HOLD_S`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from operators.batch import Vectors
from sinks.errors import FencedError, OwnedError, ProgressLostError
from sinks.lane import IDLE_S, MOST_WAITING_BYTES, Lane, Parcel, State, nothing
from sinks.online_rows import Newest
from sinks.online_store import AwayError, Fence, Fencing, ServedView

HOLD_S = 15.0
"""How long, at most, a resumed lane leaves an emptied store empty while it catches up."""
STOPPED_S = 60.0
"""Who has not run for so long may have been replaced without a trace, if the fence is gone. No call
to a store takes as long."""
MOST_GATHERED_BYTES = MOST_WAITING_BYTES // 2
"""So that the flow is not held back by what only waits for company."""

_log = logging.getLogger("riffle.sinks")


@dataclass(frozen=True, slots=True)
class OnlineTenancy:
    """Who writes.

    Attributes:
        flow: name of the flow.
        job: of the recovery directory; another one's lanes are not touched.
        take_over: whether to go on with lanes of another job.
    """

    flow: str
    job: str
    take_over: bool = False


class OnlineLane(Lane[Vectors]):
    """The newest vectors of one lane, and the thread that writes them.

    Args:
        name: of the lane, and of its fence.
        tenancy: who writes.
        newest: the vectors that a snapshot has kept.
        open_view: opens the set's view in the store.
        wait_s: how long vectors are gathered.
        beat: is called while a call waits, so that a long outage is not taken for a hang.

    Attributes:
        newest: the newest vector of each entity.
        written: vectors written.
        refills: how often the store was found without what it had.
    """

    transient = (AwayError,)

    def __init__(
        self,
        name: str,
        tenancy: OnlineTenancy,
        newest: Newest,
        open_view: Callable[[], ServedView],
        wait_s: float,
        beat: Callable[[], None] = nothing,
    ) -> None:
        super().__init__(name, beat)
        self.newest = newest
        self.written = 0
        self.refills = 0
        self._tenancy = tenancy
        self._open_view = open_view
        self._wait_s = wait_s
        self._view: ServedView | None = None
        self._fence = Fence(tenancy.job, self.instance, 0)
        self._absorbed = 0
        self._opened_ns = time.time_ns()
        self._resumed = len(newest) > 0
        self._hold_until_s = 0.0
        self._emptied = False
        self._reached_s = self._ran_s = _now_s()
        self._stood_still = False
        self._told = False
        self._start()

    # -- opening ------------------------------------------------------------------------------

    def _enter(self) -> State:
        self._ran()
        self._let_go()
        view = self._reach()
        found = view.fence(self.name)
        tenancy = self._tenancy
        if found is not None and found.job != tenancy.job and not tenancy.take_over:
            msg = (
                f"lane `{self.name}`: must be of job {tenancy.job!r}, found that it is owned by "
                f"another recovery directory, of job {found.job!r}; stop that flow, or go on in "
                "its place with take_over=True"
            )
            raise OwnedError(msg)
        if self._resumed:
            self._hold_until_s = _now_s() + HOLD_S
        if found is None or found.empty:
            self._emptied = True
        self._claim(view, found)
        return {}

    def _enter_again(self) -> State:
        self._ran()
        self._let_go()
        self._reach()
        return self._state or {}  # nothing is half done: what was not written is written again

    def _reach(self) -> ServedView:
        """Opens the view anew, if it was closed after a failure."""
        if self._view is None:
            self._view = self._open_view()
            if not self._view.fences:
                self._view.fence(self.name)  # says in words that it can't
        return self._view

    def _claim(self, view: ServedView, found: Fence | None) -> None:
        """Puts up our fence; whoever has written the lane before is refused from now on."""
        fence = self._fence.next(empty=self._emptied)
        nothing_yet = self.newest.rows(self.newest.due(0))
        if not view.write(nothing_yet, Fencing(self.name, found, fence)):
            msg = "another run opens the lane at this moment"
            raise AwayError(msg)
        self._fence = fence
        self._reached()

    # -- writing ------------------------------------------------------------------------------

    def _write(self, parcels: list[Parcel[Vectors]]) -> None:
        self._ran()
        deadline_s = time.monotonic() + (0 if self._absorbed else self._wait_s)
        size = self._absorb(parcels)
        while size < MOST_GATHERED_BYTES and (parcel := self._take(deadline_s)) is not None:
            parcels.append(parcel)
            size += self._absorb(parcels)
        began_s = time.monotonic()
        self._serve()
        self.counts.commit_s += time.monotonic() - began_s
        self._absorbed = 0

    def _absorb(self, parcels: list[Parcel[Vectors]]) -> int:
        """Takes parcels in that were not yet; gives their size."""
        fresh = parcels[self._absorbed :]
        for parcel in fresh:
            self.newest.add(parcel.content)
            if int(parcel.content.known_at_ns.max()) >= self._opened_ns:
                self._hold_until_s = 0.0  # what was served before the lane was opened is behind us
        self._absorbed = len(parcels)
        return sum(parcel.size for parcel in fresh)

    def _idle(self) -> None:
        self._ran()
        try:
            self._check(self._reach().fence(self.name))
            self._serve()
            self._told = False
        except AwayError as error:
            if not self._told:
                _log.warning("lane %s: is looking for the store after %s", self.name, error)
                self._told = True
            self._let_go()

    def _serve(self) -> None:
        """Writes what the store may not have, in as many transactions as it takes."""
        view = self._reach()
        while not self._holds_back() and len(at := self.newest.due(view.batch)):
            asked = self.newest.unrecalled(at)
            if len(asked):
                self.newest.recall(asked, view.marks(self.newest.keys(asked)))
            at = self.newest.worth_writing(at)
            if not len(at):
                continue
            fence = self._fence.next()
            if view.write(self.newest.rows(at), Fencing(self.name, self._fence, fence)):
                self._fence = fence
                self.newest.wrote(at)
                self.written += len(at)
                self._reached()
            else:
                self._check(view.fence(self.name))
            self._ran()
        if _now_s() - self._reached_s > IDLE_S:
            self._check(view.fence(self.name))

    def _holds_back(self) -> bool:
        """Whether the store lacks the marks that would keep replayed vectors from it."""
        return self._emptied and _now_s() < self._hold_until_s

    # -- what the fence says ------------------------------------------------------------------

    def _check(self, found: Fence | None) -> None:
        """Learns from the fence whether the lane is ours, and the store as we have left it."""
        if found is None:
            if self._stood_still:
                self._stop_for("the store was emptied while this run stood still")
            _log.warning("lane %s: the store was emptied; it is filled again", self.name)
            self._emptied = True
            self._doubt()
            self._claim(self._reach(), None)
        elif found.instance != self.instance:
            self._stop_for("another run has taken it over")
        elif found.count < self._fence.count:
            _log.warning("lane %s: the store has lost its latest, which is looked for", self.name)
            self._fence = found
            self._doubt()
        else:
            self._fence = found  # it is ahead where a commit was not told to us
        self._reached()

    def _doubt(self) -> None:
        self.refills += 1
        self.newest.doubt()

    def _stop_for(self, found: str) -> NoReturn:
        msg = (
            f"lane `{self.name}`: must have one writer, found that {found}; what this run had not "
            "written is not served; let only one run write"
        )
        raise FencedError(msg)

    def _ran(self) -> None:
        """Notes that the thread runs, and whether it has not for long, as one that was stopped."""
        now_s = _now_s()
        self._stood_still |= now_s - self._ran_s > STOPPED_S
        self._ran_s = now_s

    def _reached(self) -> None:
        """Notes that the fence was found to be ours."""
        self._reached_s = _now_s()
        self._stood_still = False

    # -- what the lane needs ------------------------------------------------------------------

    def _let_go(self) -> None:
        if self._view is not None:
            self._view.close()
            self._view = None

    def _hopeless(self, error: Exception) -> Exception | None:
        return None

    def _words(self, error: Exception) -> str:
        return str(error)

    def _lost(self, found: State) -> Exception:
        msg = f"lane `{self.name}`: must go on from {self._state}, found {found}"
        return ProgressLostError(msg)


def _now_s() -> float:
    """Counts also while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
