"""What keeps a flow's processes running: restarts, refusals, drains."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from dataflows import supervise
from dataflows.processes import FailedProcessError
from dataflows.supervise import Supervisor, Worker


def worker(name: str, code: str) -> Worker:
    return Worker(name, [sys.executable, "-c", code], {})


def ask_when(ready: Path, number: int = signal.SIGTERM) -> None:
    """Sends this process a signal as soon as a file is there."""

    def wait() -> None:
        deadline = time.monotonic() + 30
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


def ready_and(path: Path, code: int) -> str:
    """A worker that says when it listens, and ends with a code when it is asked to."""
    return (
        "import pathlib, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))\n"
        f"pathlib.Path({str(path)!r}).touch()\n"
        "time.sleep(60)"
    )


def test_a_worker_that_dies_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "FIRST_BACKOFF_S", 0.01)
    dies = (
        "import os, pathlib\n"
        f"told = pathlib.Path({str(tmp_path)!r}, 'starts'); told.touch()\n"
        "if told.stat().st_size < 3:\n"
        "    told.open('a').write('x'); os.kill(os.getpid(), 9)\n"
    ) + ready_and(tmp_path / "ready", 0)
    told: list[str] = []
    flaky = worker("shard 0", dies)
    flaky.backoff_s = 0.01
    ask_when(tmp_path / "ready")
    Supervisor([flaky], told.append).run()
    assert (tmp_path / "starts").read_text() == "xxx"
    assert [line.split(";")[0] for line in told] == ["shard 0 ended with code -9"] * 3


def test_what_no_restart_would_help_ends_all_and_is_told(tmp_path: Path) -> None:
    drained = tmp_path / "drained"
    well = (
        "import pathlib, signal, sys, time\n"
        "def end(*_): pathlib.Path(r'{}').touch(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "pathlib.Path(r'{}').touch()\n"
        "time.sleep(60)"
    ).format(drained, tmp_path / "ready")
    refused = (
        "import pathlib, sys, time\n"
        f"while not pathlib.Path({str(tmp_path / 'ready')!r}).exists(): time.sleep(0.01)\n"
        "sys.exit(2)"
    )
    workers = [worker("shard 0", well), worker("shard 1", refused)]
    with pytest.raises(FailedProcessError, match="shard 1 can't go on"):
        Supervisor(workers, lambda _: None).run()
    assert drained.exists()


def test_a_worker_that_does_not_drain_is_told(tmp_path: Path) -> None:
    ask_when(tmp_path / "ready")
    with pytest.raises(FailedProcessError, match="shard 0 did not drain: it ended with code 3"):
        Supervisor([worker("shard 0", ready_and(tmp_path / "ready", 3))], lambda _: None).run()


def test_the_handlers_of_signals_are_as_before(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ask_when(tmp_path / "ready")
    Supervisor([worker("shard 0", ready_and(tmp_path / "ready", 0))], lambda _: None).run()
    assert signal.getsignal(signal.SIGTERM) is before
