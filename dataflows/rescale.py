"""Shares a stopped flow's state out anew: by lane, from what Bytewax has made durable.

The snapshots that count are read from Bytewax's recovery partitions (the tables of 0.21) and
written into the new shards' folders as plain values, from which their steps start.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec

from dataflows import live_state
from dataflows.live_state import part_name
from dataflows.recovery_folder import LOCK, RecoveryError, lock

CARRIED = "carried.msgpack"
States = dict[str, dict[str, Any]]
"""Plain states, by step and by key."""


class _Plain(pickle.Unpickler):
    """Reads values of built-in types only: a state names no class."""

    def find_class(self, module: str, name: str) -> Any:
        msg = f"a snapshot must hold plain values, found {module}.{name}"
        raise pickle.UnpicklingError(msg)


def durable_states(folder: Path) -> States:
    """Gives the states from which a flow would resume.

    Args:
        folder: of its snapshots.

    Raises:
        RecoveryError: when they can't be read.
    """
    states = carried_states(folder)
    executions: dict[int, tuple[int, int]] = {}
    fronts: dict[tuple[int, int], int] = {}
    changes: list[tuple[str, str, int, bytes | None]] = []
    for path in sorted(folder.glob("part-*.sqlite3")):
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as part:
            try:
                for number, workers, epoch in part.execute(
                    "SELECT ex_num, worker_count, resume_epoch FROM exs"
                ):
                    executions[number] = (workers, epoch)
                for number, worker, epoch in part.execute(
                    "SELECT ex_num, worker_index, worker_frontier FROM fronts"
                ):
                    fronts[number, worker] = epoch
                changes += part.execute(
                    "SELECT step_id, state_key, snap_epoch, ser_change FROM snaps"
                    " ORDER BY snap_epoch"
                )
            except sqlite3.DatabaseError as error:
                msg = f"{path}: must be a recovery partition of Bytewax, found: {error}"
                raise RecoveryError(msg) from error
    if not executions:
        return states
    last = max(executions)
    workers, resumed_at = executions[last]
    durable = min(fronts.get((last, worker), resumed_at) for worker in range(workers))
    for step, key, epoch, change in changes:
        if epoch >= durable:
            continue
        of_step = states.setdefault(step, {})
        of_step.pop(key, None)
        if change is not None:
            of_step[key] = _value(folder, change)
    return states


def _value(folder: Path, change: bytes) -> Any:
    try:
        return _Plain(io.BytesIO(change)).load()
    except pickle.UnpicklingError as error:
        msg = f"{folder}: {error}; it was not written by this flow"
        raise RecoveryError(msg) from error


def carried_states(folder: Path) -> States:
    """Gives the states that a change of the number of shards has put into a folder."""
    path = folder / CARRIED
    if not path.exists():
        return {}
    found: States = msgspec.msgpack.decode(path.read_bytes(), type=States)
    return found


def lane_of(key: str) -> int:
    """The lane that the key of a state ends in.

    >>> lane_of("bars/3"), lane_of("03")
    (3, 3)
    """
    return int(key.rpartition("/")[2])


def rescale(root: Path, shards: int) -> int:
    """Shares the state of a stopped flow among another number of shards.

    Args:
        root: folder of the flow's state.
        shards: how many there are to be; 0 for a cluster.

    Returns:
        How many there were.

    Raises:
        RecoveryError: when there is no state, or a process of the flow still runs.
    """
    found = live_state.read(root)
    if found is None:
        msg = f"{root}: must hold a live flow's state, found none; start the flow first"
        raise RecoveryError(msg)
    if found.partitioner == "none":
        msg = (
            "a flow with kafka.partitioner = 'none' can't be shared out, because its rows are not "
            "read where they are kept; run it as a cluster, of any number of processes"
        )
        raise RecoveryError(msg)
    if found.shards == shards:
        return shards
    before = [root / part_name(i, found.shards) for i in range(max(found.shards, 1))]
    after = [root / part_name(i, shards) for i in range(max(shards, 1))]
    with ExitStack() as locks:
        states: States = {}
        for folder in before:
            if folder.exists():
                for held in _all_locks(folder):
                    locks.callback(os.close, held)
                for step, by_key in durable_states(folder).items():
                    states.setdefault(step, {}).update(by_key)
        aside = root / ".rescaled"
        shutil.rmtree(aside, ignore_errors=True)
        for number, folder in enumerate(after):
            _write(aside / folder.name / CARRIED, _share(states, number, len(after)))
        for folder in after:
            shutil.rmtree(folder, ignore_errors=True)
            (aside / folder.name).replace(folder)
        aside.rmdir()
        # From here on the new folders count; a process that still thinks otherwise is refused.
        live_state.write(root, msgspec.structs.replace(found, shards=shards))
        for folder in before:
            shutil.rmtree(folder, ignore_errors=True)
    return found.shards


def _all_locks(folder: Path) -> list[int]:
    """Takes the lock of every process that has ever used a folder."""
    busy = f"{folder}: must be free, found a process that uses it; stop the flow first"
    paths = sorted({*folder.glob(f"{LOCK}-*"), folder / f"{LOCK}-0"})
    return [lock(path, busy) for path in paths]


def _share(states: States, shard: int, shards: int) -> States:
    return {
        step: {key: state for key, state in by_key.items() if lane_of(key) % shards == shard}
        for step, by_key in states.items()
    }


def _write(path: Path, states: States) -> None:
    path.parent.mkdir(parents=True)
    path.parent.chmod(0o700)
    with path.open("wb") as file:
        file.write(msgspec.msgpack.encode(states))
        file.flush()
        os.fsync(file.fileno())
