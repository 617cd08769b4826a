"""The folder of what is installed and of what runs, and the locks on it.

It lies in the checkout, so that a checkout holds all that its tests leave behind and `make clean`
takes it away. A second checkout downloads little: Maven, npm and apt keep caches of their own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("RIFFLE_SERVICES_CACHE") or CHECKOUT / ".services").absolute()
INSTALL_S = 900


class MissingError(RuntimeError):
    """A service cannot be had on this machine; the message says what would help."""


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock `name` among all processes of this checkout."""
    folder = CACHE / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def installed(name: str, what: str, build: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, which `build` fills when it is not there.

    A folder that is there is whole: it is built under another name.
    """
    final = CACHE / name
    if final.is_dir():
        return final
    with locked(f"install-{name}"):
        if final.is_dir():
            return final
        sys.stderr.write(f"Installing {what} into {CACHE}; this is done once and takes a while.\n")
        sys.stderr.flush()
        draft = Path(tempfile.mkdtemp(prefix=f"{name}-draft-", dir=CACHE))
        try:
            draft.chmod(0o755)
            build(draft)
            draft.rename(final)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return final


def run(argv: Sequence[str], cwd: Path) -> str:
    """The output of an installer, or what it said when it failed."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"`{' '.join(argv)}` did not end in {INSTALL_S} s"
        raise MissingError(msg) from error
    if done.returncode:
        msg = f"`{' '.join(argv)}` failed: {done.stdout.strip()[-2000:]}"
        raise MissingError(msg)
    return done.stdout


def program(name: str, advice: str) -> str:
    """The path of a program, or an error with the advice how to install it."""
    path = shutil.which(name)
    if path is None:
        msg = f"`{name}` is not on PATH; {advice}"
        raise MissingError(msg)
    return path
