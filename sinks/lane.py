"""A lane's way out of a flow: parcels wait in order, and a thread of its own commits them.

What is written carries the lane's progress, so that both are there or neither. Who opens a lane
fences its earlier run and reads how far that came; what is given again is left out by the sink.
Whatever goes wrong, the next attempt reads from the progress whether the last one was committed:
there is one way to recover, and it is the way of every start.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar
from uuid import uuid4

State: TypeAlias = Mapping[str, Any]
"""What a lane says of itself."""
W = TypeVar("W")
"""What is handed over."""

MOST_WAITING_BYTES = 16 * 2**20
"""Of what is handed over and not committed; who has more to give waits."""
SLICE_S = 0.05
"""How long a call waits before it says that it is still there."""
IDLE_S = 1.0
"""How often a lane without work looks at what its client has to say."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Between two attempts to reach the other side."""

_log = logging.getLogger("riffle.sinks")


@dataclass(frozen=True, slots=True)
class Parcel(Generic[W]):
    """What must not be torn apart: it is in one transaction.

    Attributes:
        content: what is written.
        state: what the lane says of itself when it is committed.
        rows: how many records, about.
        size: bytes that they take while they wait, about.
    """

    content: W
    state: State
    rows: int
    size: int


@dataclass(slots=True)
class Counts:
    """What a lane has done, for metrics.

    Attributes:
        transactions, records: committed ones; records without those of the progress.
        retries: how often a transaction was tried again.
        commit_s: time spent in commits.
        waited_s: time for which there was no room to hand over more.
    """

    transactions: int = 0
    records: int = 0
    retries: int = 0
    commit_s: float = 0.0
    waited_s: float = 0.0


def nothing() -> None:
    """Is called where nobody wants to know."""


class Lane(ABC, Generic[W]):
    """A queue of parcels, and the thread that commits them.

    Args:
        name: of the lane, in messages and in its progress.
        beat: is called while a call waits, so that a long outage is not taken for a hang.

    Attributes:
        counts: what has been done.
        instance: tells this run of the lane from others.
    """

    transient: ClassVar[tuple[type[Exception], ...]]
    """Errors after which :meth:`_hopeless` is asked whether another attempt makes sense."""

    def __init__(self, name: str, beat: Callable[[], None] = nothing) -> None:
        self.name = name
        self.counts = Counts()
        self.instance = uuid4().hex
        self._beat = beat
        self._changed = threading.Condition()
        self._waiting: deque[Parcel[W]] = deque()
        self._size = 0
        self._given = self._done = 0
        self._hurry = False
        self._closing = False
        self._error: BaseException | None = None
        self._state: State | None = None
        self._pause_s = FIRST_PAUSE_S
        self._thread = threading.Thread(target=self._run, name=f"lane {name}", daemon=True)

    def _start(self) -> None:
        """Starts the thread, when a subclass has what it needs."""
        self._thread.start()

    # -- the flow's thread ------------------------------------------------------------------

    def state(self) -> State:
        """The progress that was found when the lane was opened; waits for that.

        Raises:
            SinkError: when the lane can't be opened.
        """
        with self._changed:
            self._wait(lambda: self._state is not None)
            assert self._state is not None  # noqa: S101
            return self._state

    def put(self, parcel: Parcel[W]) -> None:
        """Hands a parcel over; waits while too much is on its way.

        Raises:
            SinkError: when an earlier one cannot be written, or another run has taken the lane.
        """
        with self._changed:
            began_s = time.monotonic()
            self._wait_in_a_hurry(
                lambda: not self._size or self._size + parcel.size <= MOST_WAITING_BYTES
            )
            self.counts.waited_s += time.monotonic() - began_s
            self._waiting.append(parcel)
            self._size += parcel.size
            self._given += 1
            self._changed.notify_all()

    def flush(self) -> None:
        """Waits until all that was handed over is committed; raises what :meth:`put` does."""
        with self._changed:
            self._wait_in_a_hurry(lambda: self._done == self._given and self._state is not None)

    def close(self) -> None:
        """Commits what was handed over and lets go of the lane."""
        try:
            self.flush()
        finally:
            self._stop()

    def abandon(self) -> None:
        """Lets go of the lane as it is, and waits for nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _stop(self) -> None:
        self.abandon()
        self._thread.join(timeout=LONGEST_PAUSE_S)

    def _wait_in_a_hurry(self, ready: Callable[[], bool]) -> None:
        """Waits while the lane commits at once what it has."""
        if not ready():
            self._hurry = True
            self._changed.notify_all()
        self._wait(ready)
        self._hurry = False

    def _wait(self, ready: Callable[[], bool]) -> None:
        while self._error is None and not ready():
            self._changed.wait(SLICE_S)
            self._beat()
        if self._error is not None:
            raise self._error

    # -- the lane's thread ------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._open()
            while not self._closing:
                if (parcel := self._take(time.monotonic() + IDLE_S)) is not None:
                    self._commit([parcel])
                else:
                    self._idle()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the flow's thread
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            self._let_go()

    def _open(self) -> None:
        """Takes the lane over, in as many attempts as it takes."""
        while True:
            try:
                state = self._enter()
            except self.transient as error:
                self._pause(error)
                continue
            self._pause_s = FIRST_PAUSE_S
            with self._changed:
                self._state = state
                self._changed.notify_all()
            return

    def _take(self, deadline_s: float) -> Parcel[W] | None:
        """The next parcel; None when there was none until the deadline or is none in a hurry."""
        with self._changed:
            while not self._closing:
                left_s = deadline_s - time.monotonic()
                if self._waiting and left_s > 0:
                    return self._waiting.popleft()
                if left_s <= 0 or (self._hurry and self._given > self._done):
                    return None
                self._changed.wait(left_s)
            return None

    def _commit(self, parcels: list[Parcel[W]]) -> None:
        """Commits parcels and those that come in the meantime, in as many attempts as it takes."""
        while True:
            try:
                self._write(parcels)
                break
            except self.transient as error:
                found = self._recover(error)
            if found == parcels[-1].state:  # it was committed, though we were not told
                break
            if found != self._state:
                raise self._lost(found)
        self._pause_s = FIRST_PAUSE_S
        with self._changed:
            self._state = parcels[-1].state
            self._done += len(parcels)
            self._size -= sum(parcel.size for parcel in parcels)
            self.counts.transactions += 1
            self.counts.records += sum(parcel.rows for parcel in parcels)
            self._changed.notify_all()

    def _recover(self, error: Exception) -> State:
        """Gives the progress that is committed, when the other side answers again."""
        while True:
            self._pause(error)
            self.counts.retries += 1
            try:
                return self._enter_again()
            except self.transient as another:
                error = another

    def _pause(self, error: Exception) -> None:
        """Waits before the next attempt, longer each time; raises what no attempt mends."""
        if (hopeless := self._hopeless(error)) is not None:
            raise hopeless from None
        _log.warning("lane %s: trying again after %s", self.name, self._words(error))
        with self._changed:
            if self._closing:
                raise error
            self._changed.wait_for(lambda: self._closing, self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    # -- what differs -----------------------------------------------------------------------

    @abstractmethod
    def _enter(self) -> State:
        """Fences earlier runs, says that the lane is ours, and gives how far it came."""

    @abstractmethod
    def _enter_again(self) -> State:
        """After a failure: makes ready to write again, and gives the progress that is there."""

    @abstractmethod
    def _write(self, parcels: list[Parcel[W]]) -> None:
        """Commits one transaction: these parcels, to which it adds those that it takes, in order.

        It is called with the same parcels again after a failure, and takes more then too.
        """

    @abstractmethod
    def _hopeless(self, error: Exception) -> Exception | None:
        """What to raise after an error that no other attempt mends; None if one may."""

    @abstractmethod
    def _words(self, error: Exception) -> str:
        """Tells an error in words without secrets."""

    @abstractmethod
    def _lost(self, found: State) -> Exception:
        """What to raise when the progress is neither that before a transaction nor after it."""

    def _idle(self) -> None:
        """Is called each second without work."""

    def _let_go(self) -> None:
        """Is called when the thread ends."""
