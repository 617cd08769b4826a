"""The processes of a live flow as the proofs run them: started, killed at will, looked after."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dataflows import processes
from dataflows.commands.live import workers_of
from dataflows.live_settings import LiveSettings
from dataflows.supervise import Worker
from tests.chaos.watch import POLL_S, now_ms, until

ROOT = Path(__file__).parents[2]
LAST_LINES = 100
END_S = 30.0
FELLOW_S = 20.0
"""Within this the processes of a cluster notice that one of them is gone."""
NOTICE_S = 3.0
"""Usually it takes them a tenth of a second."""
FAULTS = "PYTHONFAULTHANDLER"
"""Makes a process that is aborted print the stacks of its threads."""


class FailedFlowError(AssertionError):
    """A process of the flow that ended though nobody ended it, or the other way round."""


@dataclass
class Unit:
    """Processes that live and die together: a shard, or all of a cluster.

    Attributes:
        settings: of the flow.
        config: file of the settings.
        number: of the shard.
        processes: of the cluster; 0 for a shard.
        module: of the flow.
        environment: variables beyond the flow's own.
        log: file of what it prints.
        began_ms: when it was last started.
    """

    settings: LiveSettings
    config: Path
    log: Path
    number: int = 0
    processes: int = 0
    module: str = "dataflows.live"
    environment: Mapping[str, str] = field(default_factory=dict)
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    began_ms: int = 0
    _workers: Sequence[Worker] = ()
    _killed_s: float = float("-inf")

    @property
    def name(self) -> str:
        """What messages call it."""
        return "the cluster" if self.processes else f"shard {self.number}"

    @property
    def workers(self) -> Sequence[Worker]:
        """How its processes are started; those of a cluster keep their addresses."""
        if not self._workers:
            workers = workers_of(self.settings, self.config, self.processes)
            own = slice(None) if self.processes else slice(self.number, self.number + 1)
            self._workers = workers[own]
        return self._workers

    def start(self) -> None:
        """Starts it."""
        self.began_ms = now_ms()
        self._start_missing()

    def _start_missing(self) -> None:
        """Starts those of its processes that do not run."""
        if len(self.running) == len(self.workers):
            return
        with self.log.open("ab") as log:
            log.write(f"-- started at {now_ms()} ms\n".encode())
            log.flush()
            for number, worker in enumerate(self.workers):
                if number in self.running:
                    continue
                command = [self.module if a == "dataflows.live" else a for a in worker.command]
                own = {FAULTS: "1", **worker.environment, **self.environment}
                self.running[number] = processes.start(command, own, log, folder=ROOT)

    @property
    def codes(self) -> list[int | None]:
        """How its processes ended; None for those that run."""
        return [process.poll() for process in self.running.values()]

    @property
    def memory_mb(self) -> float:
        """The memory of those of its processes that run."""
        resident = 0
        for process in self.running.values():
            with suppress(psutil.NoSuchProcess):
                resident += psutil.Process(process.pid).memory_info().rss
        return resident / 2**20

    def check_alive(self) -> None:
        """Looks after its processes.

        What a cluster's processes notice late of a kill is mended as the supervisor does it.

        Raises:
            FailedFlowError: when one has ended though nobody ended it.
        """
        if self.processes and time.monotonic() - self._killed_s < FELLOW_S:
            self._drop_ended()
            self._start_missing()
        elif any(code is not None for code in self.codes) or not self.running:
            msg = f"{self.name} ended with {self.codes} though nobody ended it"
            raise FailedFlowError(msg)

    def _drop_ended(self) -> None:
        self.running = {n: each for n, each in self.running.items() if each.poll() is None}

    def live(self, seconds: float) -> None:
        """Lets it run for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check_alive()
            time.sleep(POLL_S)

    def signal(self, number: int, process: int = 0) -> None:
        """Sends a signal to one of its processes, if that still runs."""
        if self.running[process].poll() is None:
            self.running[process].send_signal(number)

    def kill(self, process: int = 0) -> None:
        """Kills one process; those of a cluster that had found each other end by themselves.

        One that waits for the killed one to begin with goes on waiting, and finds the next.
        """
        self.signal(signal.SIGKILL, process)
        self._killed_s = time.monotonic()
        while None in self.codes and time.monotonic() < self._killed_s + NOTICE_S:
            time.sleep(POLL_S)
        self._drop_ended()

    def wait(self) -> list[int | None]:
        """Waits until all its processes have ended, and gives how they did."""
        ended = f"all processes of {self.name} must end"
        until(lambda: None not in self.codes, END_S, ended)
        codes = self.codes
        self.running.clear()
        return codes

    def drain(self) -> None:
        """Asks it to stop, which it must do in good order."""
        for process in self.running:
            self.signal(signal.SIGTERM, process)
        codes = self.wait()
        if any(codes):
            msg = f"{self.name} must end with 0 when asked to, got {codes}"
            raise FailedFlowError(msg)

    def end(self) -> None:
        """Ends whatever still runs."""
        for process in self.running.values():
            process.kill()
            process.wait()
        self.running.clear()

    def show_stacks(self) -> None:
        """Ends all processes that run, which print what they were at."""
        for process in self.running:
            self.signal(signal.SIGABRT, process)
            self.signal(signal.SIGCONT, process)
        deadline = time.monotonic() + FELLOW_S
        while None in self.codes and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self.end()

    def last_lines(self) -> str:
        """The end of what it printed."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LAST_LINES:])
