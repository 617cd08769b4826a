"""The folder of a live flow's state: whose it is, how it is shared out, and its locks.

```
state/flow.json          what must stay the same for as long as the state exists
state/shard-0-of-2/      one shard's snapshots (Bytewax's recovery partitions), and its lock
state/cluster/           the same for a cluster, whose processes each hold a lock
```
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
from bytewax.recovery import init_db_dir

from dataflows.recovery_folder import LOCK, RecoveryError, lock, new_job, unlike, write_whole
from operators.kernels import BITS_VERSION
from operators.snapshot import SCHEMA_VERSION

FLOW = "riffle.live/1"
"""Changes whenever a step of the flow gets another name or its state another form."""
TABLE = "table"
"""In place of the broker's own name for a topic, where a stream is read from a table."""
FIRST_US = -(2**63)
"""Where a table is begun that is read from its first row on."""
FLOW_FILE = "flow.json"
CLUSTER = "cluster"


class SetFacts(msgspec.Struct, frozen=True):
    """A set of the flow, as the state was made with."""

    name: str
    version: str
    fingerprint: str
    topic: str


class TopicFacts(msgspec.Struct, frozen=True):
    """An input topic, or a table in place of one, as the state was made with.

    Attributes:
        topic: its name.
        topic_id: the broker's own, which another topic of the same name does not have;
            :data:`TABLE` for a table.
        partitions: how many there are.
        starts: the offset at which the flow began to read each partition; of a table, the arrival
            of its first row, in microseconds since 1970.
    """

    topic: str
    topic_id: str
    partitions: int
    starts: list[int]


class FlowState(msgspec.Struct, frozen=True, kw_only=True):
    """What must stay the same for a flow to go on where it stopped.

    Attributes:
        job: whose state it is; the progress that the flow keeps in Kafka names it too.
        name: of the flow.
        sets: by the name in the settings.
        inputs: by stream.
        partitioner: of the input topics.
        shards: how many there are; 0 for a cluster.
        emit_from_ns: time before which vectors are not given.
    """

    job: str
    name: str
    sets: dict[str, SetFacts]
    inputs: dict[str, TopicFacts]
    partitioner: str
    shards: int
    emit_from_ns: int
    flow: str = FLOW
    snapshot_schema: int = SCHEMA_VERSION
    bits_version: int = BITS_VERSION


SAME = {
    "flow": "the flow's steps",
    "name": "the flow's name",
    "partitioner": "kafka.partitioner",
    "snapshot_schema": "the schema of snapshots",
    "bits_version": "the version of the kernels' bits",
}
"""What a restart must not change, in words."""


def part_name(shard: int, shards: int) -> str:
    """Names the folder of a shard's snapshots; 0 shards are a cluster.

    >>> part_name(0, 2), part_name(0, 0)
    ('shard-0-of-2', 'cluster')
    """
    return f"shard-{shard}-of-{shards}" if shards else CLUSTER


def read(root: Path) -> FlowState | None:
    """Reads whose state a folder holds; None if it holds none.

    Raises:
        RecoveryError: when the folder holds other things.
    """
    path = root / FLOW_FILE
    if path.exists():
        try:
            return msgspec.json.decode(path.read_bytes(), type=FlowState)
        except msgspec.MsgspecError as error:
            msg = f"{path}: must describe a flow's state, found: {error}"
            raise RecoveryError(msg) from error
    other = [p.name for p in root.iterdir() if p.name != LOCK] if root.is_dir() else []
    if other:
        msg = (
            f"{root}: must be empty or hold a live flow's state, found {sorted(other)[:5]} and no "
            f"{FLOW_FILE}; choose another folder"
        )
        raise RecoveryError(msg)
    return None


def write(root: Path, state: FlowState) -> None:
    """Writes whose state it is, all or nothing, on disk when it returns."""
    write_whole(root / FLOW_FILE, state)


def settle(root: Path, asked: FlowState) -> FlowState:
    """Gives the state to go on with: the one that is there if it fits, else a new one, written.

    Args:
        root: the folder.
        asked: what the settings and the broker say; its job and starts are those of a new flow.

    Raises:
        RecoveryError: naming every difference between what is there and what is asked for.
    """
    root.mkdir(parents=True, exist_ok=True)
    with _held(root / LOCK, f"{root}: another process is setting it up"):
        found = read(root)
        if found is None:
            write(root, asked)
            return asked
    differences = _differences(found, asked)
    if differences:
        listed = "\n".join(f"  - {each}" for each in differences)
        msg = (
            f"{root}: can't go on, because this is the state of another flow:\n{listed}\nStart it "
            "with the settings it was made with, or another flow with another `name` and "
            "`recovery`"
        )
        raise RecoveryError(msg)
    if found.shards != asked.shards:
        words = [f"{n} shards" if n else "a cluster" for n in (found.shards, asked.shards)]
        msg = (
            f"{root}: is the state of {words[0]}, asked for {words[1]}; stop the flow and say "
            f"`riffle rescale --shards {asked.shards}` first"
        )
        raise RecoveryError(msg)
    return found


def _differences(found: FlowState, asked: FlowState) -> list[str]:
    differences = unlike(found, asked, SAME)
    for name in sorted({*found.sets, *asked.sets}):
        before, now = found.sets.get(name), asked.sets.get(name)
        if before != now:
            differences.append(
                f"set `{name}` must be {_set_in_words(before)}, found {_set_in_words(now)}"
            )
    for stream in sorted({*found.inputs, *asked.inputs}):
        differences += _topic_differences(
            stream, found.inputs.get(stream), asked.inputs.get(stream)
        )
    return differences


def _topic_differences(stream: str, was: TopicFacts | None, now: TopicFacts | None) -> list[str]:
    if was is None or now is None:
        return [f"stream `{stream}` must {'not ' if was is None else ''}be an input"]
    if (was.topic, was.topic_id) != (now.topic, now.topic_id):
        again = "another topic of the same name"
        if was.topic != now.topic or TABLE in {was.topic_id, now.topic_id}:
            again = _place(now)
        return [f"stream `{stream}` must come from {_place(was)}, found {again}"]
    if was.partitions != now.partitions:
        return [
            f"topic {was.topic!r} must have {was.partitions} partitions, found {now.partitions}; "
            "another number puts entities elsewhere. Start a new flow from the topic's past, with "
            "`emit_from` where this one ended"
        ]
    return []


def _place(facts: TopicFacts) -> str:
    return f"{TABLE if facts.topic_id == TABLE else 'topic'} {facts.topic!r}"


def _set_in_words(facts: SetFacts | None) -> str:
    if facts is None:
        return "none"
    return f"{facts.name} {facts.version} ({facts.fingerprint[:12]}) to topic {facts.topic!r}"


class _held:
    """Holds a lock while a block runs."""

    def __init__(self, path: Path, busy: str) -> None:
        self._path, self._busy = path, busy

    def __enter__(self) -> None:
        self._held = lock(self._path, self._busy)

    def __exit__(self, *_: object) -> None:
        os.close(self._held)


def occupy(folder: Path, process: int) -> int:
    """Takes a shard's folder, or a process' place in a cluster's, and readies it for Bytewax.

    Args:
        folder: of the snapshots.
        process: number in the cluster; 0 for a shard.

    Returns:
        The descriptor that holds the lock.

    Raises:
        RecoveryError: when another process uses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    held = lock(
        folder / f"{LOCK}-{process}",
        f"{folder}: must be free, found another process that uses it; stop that one, or wait "
        "until it has ended",
    )
    with _held(folder / LOCK, f"{folder}: another process is setting it up"):
        if not any(folder.glob("part-*.sqlite3")):
            aside = folder / ".parts"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            # One partition, so that it is there or not: a lane's state is one row of it.
            init_db_dir(aside, 1)  # type: ignore[no-untyped-call]
            for part in aside.iterdir():
                part.replace(folder / part.name)
            aside.rmdir()
    return held


def new_state(
    name: str,
    sets: dict[str, SetFacts],
    inputs: dict[str, TopicFacts],
    partitioner: str,
    shards: int,
    emit_from_ns: int,
) -> FlowState:
    """Describes the state of a flow that has none yet."""
    return FlowState(
        job=new_job(),
        name=name,
        sets=sets,
        inputs=inputs,
        partitioner=partitioner,
        shards=shards,
        emit_from_ns=emit_from_ns,
    )
