"""What a service is, and one process of it that a test owns."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.services import guard

START_S = 90
END_S = 30
POLL_S = 0.02
HOST = "127.0.0.1"


class ServiceError(RuntimeError):
    """A service was named or started, and does not answer."""


@dataclass(frozen=True)
class Launch:
    """How a service is executed; `user` is who it runs as, if not as we do."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    user: pwd.struct_passwd | None = None


class Service(ABC):
    """One kind of service: how it is installed, executed, addressed and asked."""

    name: str
    title: str
    variable: str
    """The environment variable that names one to use as it is."""
    end_signal = signal.SIGKILL
    """Ends one whose data nobody wants."""
    stop_signal = signal.SIGTERM
    kill_signal = signal.SIGKILL

    @abstractmethod
    def install(self) -> Path:
        """Find or install the programs; raises `MissingError` where they cannot be had."""

    @abstractmethod
    def launch(self, folder: Path, port: int, settings: Mapping[str, str]) -> Launch:
        """Make the data in `folder` if there is none, and say how to execute the service on it."""

    @abstractmethod
    def address(self, port: int) -> str:
        """The address for clients."""

    @abstractmethod
    def answers(self, address: str) -> bool:
        """Whether a client gets an answer; tried until it does."""

    def settled(self, address: str) -> bool:
        """Whether one that has just started, and answers, is ready for all that clients do."""
        return True

    @abstractmethod
    def shell(self, address: str) -> str:
        """The command with which a person would look into it."""

    def private_settings(self) -> dict[str, str]:
        """Settings for one that is to survive being killed."""
        return {}


@dataclass(frozen=True)
class Files:
    """The files of one running service, as `guard` describes them."""

    folder: Path
    lease: Path
    state: Path
    keep: Path

    @classmethod
    def private(cls, folder: Path) -> Files:
        """Those of a process that one test owns, all in its folder."""
        return cls(folder, folder / "lease", folder / "state", folder / "keep")

    @property
    def log(self) -> Path:
        """What the service prints."""
        return self.folder / "log"

    def running(self) -> dict[str, Any] | None:
        """The state, if the service runs."""
        with suppress(FileNotFoundError), self.state.open() as state:
            try:
                fcntl.flock(state, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = state.read()
                return json.loads(text) if text else None
        return None

    def last_state(self) -> dict[str, Any]:
        """What the state says, whether or not the service still runs."""
        with suppress(FileNotFoundError, json.JSONDecodeError):
            return json.loads(self.state.read_text())
        return {}

    def wait_gone(self, wait_s: float = END_S) -> None:
        """Wait until the service does not run."""
        if not becomes(lambda: self.running() is None, wait_s):
            msg = f"the service of {self.state} has not ended in {wait_s} s"
            raise ServiceError(msg)


def becomes(condition: Callable[[], bool], wait_s: float = END_S) -> bool:
    """Wait until a condition holds; tells whether it did in time."""
    deadline_s = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True


def new_folder(service: Service) -> Path:
    """A folder for the data, which a service that runs as another user can enter."""
    folder = Path(tempfile.mkdtemp(prefix=f"riffle-{service.name}-"))
    folder.chmod(0o755)
    return folder


def free_port() -> int:
    """A port that is free, and that no outgoing connection takes while its service is down."""
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]
    while True:
        port = random.randrange(15_000, min(int(ephemeral), 32_768))
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


def connects(host: str, port: int) -> bool:
    """Whether something listens; cheaper than a client that tries."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def spawn(service: Service, files: Files, port: int, settings: Mapping[str, str]) -> None:
    """Execute a service under a guard; the caller holds the lease."""
    launch = service.launch(files.folder, port, settings)
    user = launch.user
    spec = {
        "argv": launch.argv,
        "env": {**os.environ, **launch.env},
        "user": None if user is None else user.pw_uid,
        "group": None if user is None else user.pw_gid,
        "end_signal": service.end_signal,
        "address": service.address(port),
        "folder": str(files.folder),
        "log": str(files.log),
        "lease": str(files.lease),
        "state": str(files.state),
        "keep": str(files.keep),
    }
    with files.log.open("ab") as log:
        # Isolated, since its neighbours would hide modules of their names from it.
        started = subprocess.run(
            [sys.executable, "-I", str(Path(guard.__file__)), json.dumps(spec)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            check=False,
        )
    if started.stdout != b"running\n":
        raise ServiceError(with_log(f"{service.title} could not be executed", files))


def with_log(words: str, files: Files) -> str:
    """An error message with the end of the log."""
    log = files.log.read_text(errors="replace") if files.log.exists() else ""
    return f"{words}; its log ends with:\n{log[-3000:]}"


def wait_ready(service: Service, files: Files, started: bool) -> str:
    """The address of a service, once it answers, and has settled if it was just started."""
    deadline_s = time.monotonic() + START_S
    while (state := files.running()) is not None:
        address = str(state["address"])
        if service.answers(address) and (not started or service.settled(address)):
            return address
        if time.monotonic() > deadline_s:
            os.kill(state["guard"], signal.SIGTERM)
            raise ServiceError(with_log(f"{service.title} did not answer in {START_S} s", files))
        time.sleep(POLL_S)
    raise ServiceError(with_log(f"{service.title} ended while it started", files))


def each_process(pid: int, do: Callable[[Any], None]) -> None:
    """Do something with a process and all that it has started."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        service = psutil.Process(pid)
        for process in [service, *service.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                do(process)


class Server:
    """A process of a service that one test owns, to kill and to start again.

    A context manager: it is started on entry; on exit it ends and its data goes. It keeps port and
    data over all its lives in between. It ends with this process, too, even by kill -9.
    """

    def __init__(self, service: Service, settings: Mapping[str, str] | None = None) -> None:
        self.service = service
        self.settings = {**service.private_settings(), **(settings or {})}
        self.port = free_port()

    def __enter__(self) -> Self:
        self.service.install()
        self.files = Files.private(new_folder(self.service))
        self._lease = os.open(self.files.lease, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._lease, fcntl.LOCK_SH)
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if state := self.files.running():
            os.kill(state["guard"], signal.SIGTERM)
            self.files.wait_gone()
        os.close(self._lease)
        shutil.rmtree(self.files.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """The address for clients, the same in each life."""
        return self.service.address(self.port)

    @property
    def alive(self) -> bool:
        """Whether it runs, paused or not."""
        return self.files.running() is not None

    @property
    def log(self) -> str:
        """What it has printed, in all its lives."""
        return self.files.log.read_text(errors="replace")

    def start(self) -> None:
        """Start it again, on the same port and data; returns when it answers."""
        if self.alive:
            msg = f"{self.service.title} runs already"
            raise ServiceError(msg)
        spawn(self.service, self.files, self.port, self.settings)
        wait_ready(self.service, self.files, started=True)

    def kill(self) -> None:
        """Kill it without a warning; returns when it is gone."""
        self._signal(self.service.kill_signal)

    def stop(self) -> None:
        """Ask it to end in order; returns when it is gone."""
        self._signal(self.service.stop_signal)

    def pause(self) -> None:
        """Stop the time of all its processes: connections stay, and nothing answers."""
        each_process(self._pid(), lambda process: process.suspend())

    def resume(self) -> None:
        """Let the time go on."""
        each_process(self._pid(), lambda process: process.resume())

    def _pid(self) -> int:
        state = self.files.running()
        if state is None:
            msg = f"{self.service.title} does not run"
            raise ServiceError(msg)
        return int(state["service"])

    def _signal(self, number: signal.Signals) -> None:
        pid = self._pid()
        os.kill(pid, number)
        # A paused process has to run to see any signal but SIGKILL.
        each_process(pid, lambda process: process.resume())
        self.files.wait_gone()
