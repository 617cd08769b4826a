"""Folders that a job goes on from: one process at a time, and never half written."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import msgspec

LOCK = "lock"
PATIENCE_S = 2.0
"""A process that was killed lets go of its locks within moments."""


class RecoveryError(ValueError):
    """A recovery directory that does not fit what is asked for."""


def new_job() -> str:
    """Makes a name for a job."""
    return uuid4().hex


def lock(path: Path, busy: str) -> int:
    """Takes a lock for as long as this process, or a child that inherits it, lives.

    Args:
        path: of its file.
        busy: says in words that another process holds it.

    Returns:
        The descriptor that holds it.

    Raises:
        RecoveryError: when another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(PATIENCE_S / 20)
                continue
            os.close(held)
            raise RecoveryError(busy) from None
        return held


def write_whole(path: Path, document: msgspec.Struct) -> None:
    """Writes a document as JSON, all or nothing, on disk when it returns."""
    aside = path.with_name(f".{path.name}")
    with aside.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(document), indent=2))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def unlike(found: object, asked: object, same: Mapping[str, str]) -> list[str]:
    """Says in words which attributes differ.

    Args:
        found: what is there.
        asked: what is asked for.
        same: the attributes that must not differ, each with what it is in words.
    """
    return [
        f"{words} must be {getattr(found, name)!r}, found {getattr(asked, name)!r}"
        for name, words in same.items()
        if getattr(found, name) != getattr(asked, name)
    ]
