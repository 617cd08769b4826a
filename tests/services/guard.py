"""Stands between a service and its users, so that no end of theirs leaves the service behind.

Run by path with one argument, a JSON object; it goes into the background and prints a line when
the service has been executed. A user holds a shared lock on the file `lease`; the kernel takes the
lock away when the user ends, even by kill -9. The guard asks for the lock alone: once it has it,
there is no user, and it ends the service and removes `folder`. If the file `keep` is there, it lets
the service run until it is told SIGTERM. While the service runs, the guard holds the lock of
`state`, so a state whose lock is free is of the past. Should the guard die, the kernel ends the
service (PDEATHSIG). Imports the standard library alone, for a start of milliseconds.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

PR_SET_PDEATHSIG = 1
END_S = 10


def main(spec: dict[str, Any]) -> None:
    """Run one service to its end."""
    if os.fork():
        os._exit(0)
    os.setsid()
    state = os.open(spec["state"], os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(state, fcntl.LOCK_EX)
    child = start(spec)
    told = {name: spec[name] for name in ("address", "folder")}
    text = json.dumps({**told, "guard": os.getpid(), "service": child.pid})
    os.ftruncate(state, 0)
    os.pwrite(state, text.encode(), 0)
    told_to_end = False

    def end(_signal: int, _frame: FrameType | None) -> None:
        nonlocal told_to_end
        told_to_end = True
        child.send_signal(spec["end_signal"])
        # One that is paused would never read its signal.
        child.send_signal(signal.SIGCONT)
        signal.signal(signal.SIGALRM, lambda *_: child.kill())
        signal.alarm(END_S)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    unwatched = threading.Event()
    threading.Thread(target=wait_for_users, args=(spec, unwatched), daemon=True).start()
    sys.stdout.write("running\n")
    sys.stdout.flush()
    # Whoever started the guard reads to the end of its output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    child.wait()
    if not told_to_end:
        # It crashed, or a test has killed it; its users may want its data and its log.
        os.close(state)
        unwatched.wait()
    shutil.rmtree(spec["folder"], ignore_errors=True)


def start(spec: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Execute the service as its user, in its folder, with its output in its log."""
    libc = ctypes.CDLL(None)
    user = spec["user"]
    with Path(spec["log"]).open("ab") as log:
        return subprocess.Popen(
            spec["argv"],
            cwd=spec["folder"],
            env=spec["env"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=user,
            group=None if user is None else spec["group"],
            extra_groups=None if user is None else [],
            # After the change of user, which would clear it; and there is one thread as yet.
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, spec["end_signal"]),  # noqa: PLW1509
        )


def wait_for_users(spec: dict[str, Any], unwatched: threading.Event) -> None:
    """Wait until nobody holds the lease; then end the service, unless it is kept."""
    # Never closed: a new user waits until the guard has gone, and then starts anew.
    lease = os.open(spec["lease"], os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(lease, fcntl.LOCK_EX)
    kept = Path(spec["keep"]).exists()
    if kept:
        os.close(lease)
    unwatched.set()
    if not kept:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
