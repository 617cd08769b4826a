"""What a recovery directory is of: written at the first run, and checked by every one after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from dataflows.recovery_folder import LOCK, RecoveryError, lock, unlike, write_whole
from operators.feature_set import FeatureSet
from operators.kernels import BITS_VERSION
from operators.kernels.hashing import KEY_GROUPS
from operators.snapshot import SCHEMA_VERSION

FLOW = "riffle.backfill/1"
"""Changes whenever a step of the flow gets another name or its state another form."""
NAME = "manifest.json"


class InputFile(msgspec.Struct, frozen=True):
    """A file or slice of a table as a run has found it; see :class:`dataflows.inputs.File`.

    Attributes:
        until: the greatest clock that is read of a table; None for a file.
    """

    stream: str
    partition: str
    path: str
    size: int
    mtime_ns: int
    shard: int | None
    until: str | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What must stay the same for a resume to go on where a run was stopped.

    Attributes:
        job: name of the job in the marks of the output.
        shards: number of shards, or of processes of the cluster.
        files: the input; a later run may have more.
    """

    job: str
    feature_set: str
    version: str
    fingerprint: str
    output: str
    cluster: bool
    shards: int
    files: list[InputFile]
    flow: str = FLOW
    key_groups: int = KEY_GROUPS
    snapshot_schema: int = SCHEMA_VERSION
    bits_version: int = BITS_VERSION


SAME = {
    "flow": "the flow's steps",
    "feature_set": "the feature set",
    "output": "the output folder",
    "cluster": "whether it is one cluster (--cluster)",
    "shards": "the number of processes (--workers)",
    "key_groups": "the number of key groups",
    "snapshot_schema": "the schema of snapshots",
    "bits_version": "the version of the kernels' bits",
}
"""What a resume must not change, in words."""


def read(recovery: Path) -> Manifest | None:
    """Reads the manifest of a recovery directory; None if it has none.

    Raises:
        RecoveryError: when the directory has no manifest but other things.
    """
    path = recovery / NAME
    if path.exists():
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except msgspec.MsgspecError as error:
            msg = f"{path}: must be the manifest of a run, got: {error}"
            raise RecoveryError(msg) from error
    if recovery.is_dir() and any(p.name[0] != "." and p.name != LOCK for p in recovery.iterdir()):
        msg = (
            f"{recovery}: must be empty or the recovery directory of a backfill, found other "
            "things and no manifest; choose another one"
        )
        raise RecoveryError(msg)
    return None


def write(recovery: Path, manifest: Manifest) -> None:
    """Writes the manifest, all or nothing."""
    write_whole(recovery / NAME, manifest)


def check(recovery: Path, found: Manifest, asked: Manifest, feature_set: FeatureSet) -> None:
    """Refuses to resume what does not fit.

    Raises:
        RecoveryError: naming every difference.
    """
    differences = unlike(found, asked, SAME)
    same_name = found.version == asked.version
    if same_name and found.fingerprint != asked.fingerprint:
        differences.append(
            f"`{feature_set.name}` {asked.version} must be declared as before, got another "
            "declaration; give a changed set another version"
        )
    differences += _changed_files(found.files, asked.files)
    if differences:
        listed = "\n".join(f"  - {each}" for each in differences)
        msg = (
            f"{recovery}: can't resume, because this is another job:\n{listed}\nRun the same "
            "command as before, or choose another recovery directory and output"
        )
        raise RecoveryError(msg)


def _changed_files(found: Sequence[InputFile], asked: Sequence[InputFile]) -> list[str]:
    now = {(file.stream, file.partition): file for file in asked}
    unlike = []
    for file in found:
        other = now.get((file.stream, file.partition))
        if other is None:
            unlike.append(f"input `{file.stream}` must still have {file.path}, found it gone")
        elif (other.size, other.mtime_ns) == (file.size, file.mtime_ns):
            continue
        elif file.until is not None:
            unlike.append(
                f"{file.path} must have, up to {file.until}, the {file.size} rows that it had, "
                f"found {other.size} or other values in them; rows that were added or changed "
                "behind the run's back need a new run"
            )
        else:
            unlike.append(
                f"{file.path} must be as it was, {file.size} bytes, got {other.size} bytes or "
                "another time of change; put new rows into new files"
            )
    return unlike


def hold(recovery: Path) -> int:
    """Locks a recovery directory for this run; children that inherit it keep it locked.

    Returns:
        The descriptor that holds the lock.

    Raises:
        RecoveryError: when another run holds it.
    """
    busy = (
        f"{recovery}: must be free, found another run that uses it; wait until it ends or stop it "
        "with SIGTERM"
    )
    return lock(recovery / LOCK, busy)
