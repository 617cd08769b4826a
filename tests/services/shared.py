"""One process of each service for everyone who works in this checkout.

Each user holds a lease, a shared lock on a file, from its first need to its end; the processes of
one run of pytest are all users. The guard of a service ends it when the last lease is gone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal

from tests.services.cache import CACHE, locked
from tests.services.process import (
    Files,
    Service,
    ServiceError,
    becomes,
    free_port,
    new_folder,
    spawn,
    wait_ready,
)

NAMED_S = 10

_leases: dict[str, int] = {}


def files_of(service: Service) -> Files:
    """The files of the shared process; its folder is that of the process that runs, if one does."""
    run = CACHE / "run"
    run.mkdir(parents=True, exist_ok=True)
    lease, state, keep = (run / f"{service.name}.{end}" for end in ("users", "state", "keep"))
    bare = Files(run, lease, state, keep)
    return Files(run / bare.last_state().get("folder", "."), lease, state, keep)


def hold(service: Service) -> None:
    """Become a user, until `release` or the end of this process; starts nothing."""
    if service.name not in _leases:
        lease = os.open(files_of(service).lease, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lease, fcntl.LOCK_SH)
        _leases[service.name] = lease


def release(service: Service) -> None:
    """Be a user no longer."""
    if (lease := _leases.pop(service.name, None)) is not None:
        os.close(lease)


def address(service: Service) -> str:
    """The address of the service: the one that is named, or the shared one, which then answers."""
    if not (named := os.environ.get(service.variable)):
        return find_or_start(service)
    if not becomes(lambda: service.answers(named), NAMED_S):
        msg = f"{service.variable} names {named}, where no {service.name} answers"
        raise ServiceError(msg)
    return named


def find_or_start(service: Service, keep: bool = False) -> str:
    """The address of the shared process; `keep` lets it run when its last user has gone."""
    service.install()
    hold(service)
    with locked(service.name):
        files = files_of(service)
        running = files.running()
        if running is None:
            clear(files)
            files = Files(new_folder(service), files.lease, files.state, files.keep)
        if keep:
            files.keep.touch()
        if running is None:
            spawn(service, files, free_port(), {})
        return wait_ready(service, files, started=running is None)


def clear(files: Files) -> None:
    """Remove what a process has left behind that ended without its guard."""
    files.keep.unlink(missing_ok=True)
    if folder := files.last_state().get("folder"):
        shutil.rmtree(folder, ignore_errors=True)
        files.state.unlink()


def end(service: Service) -> bool:
    """End the shared process, whoever uses it; tells whether there was one."""
    with locked(service.name):
        files = files_of(service)
        files.keep.unlink(missing_ok=True)
        if (running := files.running()) is None:
            return False
        os.kill(running["guard"], signal.SIGTERM)
        files.wait_gone()
        return True
