"""Runs the processes of a live flow: starts them, restarts those that die, asks them to drain."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from dataflows import processes
from dataflows.failures import REFUSED
from dataflows.processes import FailedProcessError

POLL_S = 0.1
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
STEADY_S = 60.0
"""A process that ran so long was well; its next failure counts as the first."""


@dataclass
class Worker:
    """A process that is kept running.

    Attributes:
        name: what messages call it.
        command: its arguments.
        environment: variables beyond those of this process.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    running: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    next_start_s: float = 0.0
    backoff_s: float = field(default=FIRST_BACKOFF_S)

    def start(self) -> None:
        """Starts it."""
        self.started_s = time.monotonic()
        self.running = processes.start(self.command, self.environment)

    def signal(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if self.running and self.running.poll() is None:
            self.running.send_signal(number)

    def failed(self) -> float:
        """Plans the next start after a failure, and gives the seconds until then."""
        self.running = None
        now_s = time.monotonic()
        if now_s - self.started_s > STEADY_S:
            self.backoff_s = FIRST_BACKOFF_S
        wait_s = self.backoff_s
        self.backoff_s = min(2 * self.backoff_s, LONGEST_BACKOFF_S)
        self.next_start_s = now_s + wait_s
        return wait_s


class Supervisor:
    """Keeps processes running until it is asked to stop.

    Args:
        workers: what to run.
        tell: says in words what happens.
    """

    def __init__(self, workers: Sequence[Worker], tell: Callable[[str], None]) -> None:
        self._workers = workers
        self._tell = tell
        self._asked = 0
        self._failure: str | None = None

    def run(self) -> None:
        """Runs until SIGTERM or Ctrl-C, which make all drain; a second one ends them at once.

        Raises:
            FailedProcessError: when one was refused, which no restart would change, or did not
                end in good order when it was asked to.
        """
        before = {s: signal.signal(s, self._stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            for worker in self._workers:
                worker.start()
            while any(worker.running for worker in self._workers) or not self._asked:
                time.sleep(POLL_S)
                for worker in self._workers:
                    self._look(worker)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for worker in self._workers:
                worker.signal(signal.SIGKILL)
        if self._failure:
            raise FailedProcessError(self._failure)

    def _look(self, worker: Worker) -> None:
        code = worker.running.poll() if worker.running else None
        if worker.running is None:
            if not self._asked and time.monotonic() >= worker.next_start_s:
                worker.start()
        elif code == REFUSED:
            worker.running = None
            self._failure = f"{worker.name} can't go on, for the reason it gave above"
            self._ask(signal.SIGTERM)
        elif code is not None and self._asked:
            worker.running = None
            # One that is asked to stop before it listens dies of it, with its state untouched.
            if code not in {0, -signal.SIGTERM} and self._asked == 1:
                self._failure = f"{worker.name} did not drain: it ended with code {code}"
        elif code is not None:
            wait_s = worker.failed()
            self._tell(f"{worker.name} ended with code {code}; it starts again in {wait_s:g} s")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._ask(signal.SIGTERM if not self._asked else signal.SIGKILL)

    def _ask(self, number: int) -> None:
        self._asked += 1
        for worker in self._workers:
            worker.signal(number)
