"""How far a flow is: the account of rows of its engines, in a file that the launcher reads."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from operators.engine import Engine

EVERY_S = 0.25


class Told(msgspec.Struct, frozen=True):
    """What a process tells of itself.

    Attributes:
        account: counts of rows by fate, for each stream and partition.
        finished: whether the process has ended in good order.
        drained: whether it did so because it was asked to stop.
    """

    account: dict[str, dict[str, int]]
    finished: bool = False
    drained: bool = False

    @property
    def rows(self) -> int:
        """Rows that have come in."""
        return sum(counts["in"] for counts in self.account.values())


class Progress:
    """Writes the account of all engines of a process from time to time.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engines: list[Engine] = []
        self._written = time.monotonic()

    def watch(self, engine: Engine) -> None:
        """Counts an engine's rows in."""
        self._engines.append(engine)

    def tick(self) -> None:
        """Writes if it was not written lately; no value depends on this clock."""
        if time.monotonic() - self._written > EVERY_S:
            self.write()

    def write(self, *, finished: bool = False, drained: bool = False) -> None:
        """Writes; a reader sees the file before or after, never half of it."""
        told = Told(by_stream(self._engines), finished, drained)
        aside = self._path.with_suffix(".aside")
        aside.write_bytes(msgspec.json.encode(told))
        aside.replace(self._path)
        self._written = time.monotonic()


def by_stream(engines: Iterable[Engine]) -> dict[str, dict[str, int]]:
    """Adds up the accounts of engines, by stream."""
    found: dict[str, dict[str, int]] = {}
    for engine in engines:
        for row in engine.account.table():
            counts = found.setdefault(str(row["stream"]), {})
            for name, count in row.items():
                if isinstance(count, int):
                    counts[name] = counts.get(name, 0) + count
    return found


def read(path: Path) -> Told | None:
    """Reads what a process told; None if it has not told anything yet."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Told)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def together(tolds: Iterable[Told | None]) -> dict[str, dict[str, int]]:
    """Adds up what several processes told."""
    found: dict[str, dict[str, int]] = {}
    for told in tolds:
        for stream, row in (told.account if told else {}).items():
            counts = found.setdefault(stream, {})
            for name, count in row.items():
                counts[name] = counts.get(name, 0) + count
    return found
