"""The processes of a run: started together, watched, asked to drain, gone when their parent is."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

POLL_S = 0.1
ONE_THREAD = {
    "POLARS_MAX_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
"""A shard is one core's work; libraries that think otherwise take the cores of the others."""


class FailedProcessError(RuntimeError):
    """A process that ended in error."""


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    output: IO[bytes] | None = None,
    inherited: Sequence[int] = (),
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process of a flow, in a session of its own so that Ctrl-C reaches the parent alone.

    Args:
        command: its arguments.
        environment: variables beyond those of this process.
        output: file of what it prints; by default where this process prints.
        inherited: descriptors that it keeps open.
        folder: where it starts; by default where this process is.
    """
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **ONE_THREAD, **importable(), **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        pass_fds=inherited,
    )


def importable() -> dict[str, str]:
    """Lets a process that starts in any folder find these packages."""
    root = str(Path(__file__).parents[1])
    return {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


@dataclass
class Process:
    """One process of a run.

    Attributes:
        name: what messages call it.
        command: its arguments.
        environment: variables beyond those of this process.
        log: file of what it prints.
    """

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path
    running: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self, inherited: Sequence[int]) -> None:
        """Starts it."""
        with self.log.open("ab") as log:
            self.running = start(self.command, self.environment, log, inherited)

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return self.running.poll() if self.running else None

    def signal(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if self.running and self.running.poll() is None:
            self.running.send_signal(number)

    def reason(self) -> str:
        """Tells in words why it failed, from what it has printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [i for i, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)]
        # The first error is the cause; what is printed around it is Bytewax's way through it.
        ours = [i for i in told if "bytewax" not in lines[i].lower()] or told
        if not ours:
            return "\n".join(lines[-5:]) or "it printed nothing"
        said = [lines[ours[0]]]
        for line in lines[ours[0] + 1 :]:
            if not line.strip() or line[0] in "T(":
                break
            said.append(line)
        return "\n".join(said)


class Group:
    """The processes of a run.

    Args:
        processes: what to run.
        inherited: descriptors that they keep open.
    """

    def __init__(self, processes: Sequence[Process], inherited: Sequence[int] = ()) -> None:
        self.processes = processes
        self.stopping = False
        self._inherited = inherited

    def run(self, watch: Callable[[], None]) -> None:
        """Runs all to their end; SIGTERM and Ctrl-C make them drain.

        Args:
            watch: is called several times a second.

        Raises:
            FailedProcessError: when one fails; the others are asked to drain first.
        """
        before = {s: signal.signal(s, self._stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            for process in self.processes:
                process.start(self._inherited)
            failed = self._wait(watch)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for process in self.processes:
                process.signal(signal.SIGKILL)
                if process.running:
                    process.running.wait()
        if failed:
            said = f"{failed.name} failed with code {failed.code}:\n{failed.reason()}"
            msg = f"{said}\nIts log: {failed.log}"
            raise FailedProcessError(msg)

    def _wait(self, watch: Callable[[], None]) -> Process | None:
        failed: Process | None = None
        while any(process.code is None for process in self.processes):
            for process in self.processes:
                if process.code is None:
                    try:
                        process.running.wait(POLL_S)  # type: ignore[union-attr]
                    except subprocess.TimeoutExpired:
                        break
            watch()
            failed = failed or self._first_failure()
            if failed and not self.stopping:
                self._stop(signal.SIGTERM, None)
        return failed or self._first_failure()

    def _first_failure(self) -> Process | None:
        # One that is asked to stop before it listens dies of it, with its state untouched.
        fine = {None, 0, -signal.SIGTERM} if self.stopping else {None, 0}
        return next((process for process in self.processes if process.code not in fine), None)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        for process in self.processes:
            process.signal(signal.SIGTERM)


PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when its parent ends.

    Args:
        parent: process that is to be the parent; if it is not any more, this one ends at once.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def free_addresses(count: int) -> list[str]:
    """Finds free ports of the loopback interface."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses
