"""Plans a backfill, runs its processes, and tells how it ended."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
from bytewax.recovery import init_db_dir

from dataflows import manifest, progress
from dataflows.inputs import (
    File,
    alignment_ns,
    end_of_input_ns,
    scan_inputs,
    write_files,
)
from dataflows.manifest import Manifest
from dataflows.named_sets import named_set
from dataflows.processes import Group, Process, free_addresses
from dataflows.recovery_folder import RecoveryError, new_job
from dataflows.settings import BATCH_ROWS, BackfillSettings
from dataflows.shards import Weighed, divide
from dataflows.table_inputs import TableInputs
from operators.feature_set import FeatureSet
from sinks.letters import DEAD, LATE
from sinks.parquet import dataset_folder
from sinks.shelf import OWNER, OccupiedError

SNAPSHOT_EVERY_S = 10


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        set_name: of a shipped set, or ``module:attribute``.
        inputs: ``STREAM=PATH`` each.
        output: folder of the dataset.
        workers: number of processes.
        cluster: whether they form one Bytewax cluster; if not, each is a shard of its own.
        batch_rows: the most rows of a batch.
        recovery: directory to resume from, if the run is to be resumable.
        snapshot_every_s: seconds between two snapshots.
        feast: folder of the Feast repository to feed, if any.
        overwrite: whether to replace the vectors of another run.
        warm_up: whether to rebuild from the input what snapshots lack for a changed set.
    """

    set_name: str
    inputs: Sequence[str]
    output: Path
    workers: int = 1
    cluster: bool = False
    batch_rows: int = BATCH_ROWS
    recovery: Path | None = None
    snapshot_every_s: int = SNAPSHOT_EVERY_S
    feast: Path | None = None
    overwrite: bool = False
    warm_up: bool = False


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        account: counts of rows by fate, for each stream.
        unread: rows that the sources could not use, by reason.
        rows: of all inputs together.
        drained: whether it was stopped before its end.
        split: how the shards share the input, in words.
    """

    account: dict[str, dict[str, int]]
    unread: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    drained: bool = False
    split: str = ""


def backfill(request: Request, watch: Callable[[int, int], None]) -> Result:
    """Runs a backfill to its end, or until it is asked to stop.

    Args:
        request: what to do.
        watch: is told the rows done and the rows there are, several times a second.

    Raises:
        RefusedInputError: for an input that cannot be read.
        RecoveryError: for a recovery directory that does not fit or is in use.
        OccupiedError: for an output that holds the files of another job.
        FailedProcessError: when a process fails.
    """
    feature_set = named_set(request.set_name)
    with _tables(request) as tables:
        files = scan_inputs(feature_set, request.inputs, tables)
        return _run(request, feature_set, files, watch)


def _run(
    request: Request, feature_set: FeatureSet, files: list[File], watch: Callable[[int, int], None]
) -> Result:
    with _workspace(request) as (folder, held):
        found = manifest.read(folder) if request.recovery else None
        files = _assigned(request, files, found)
        asked = _manifest(request, feature_set, files, found)
        if found is not None:
            manifest.check(folder, found, asked, feature_set)
        _make_room(request, feature_set, asked.job, resumes=found is not None)
        if request.recovery:
            manifest.write(folder, asked)
        write_files(folder / "files.json", files)
        processes = _processes(request, feature_set, files, asked.job, folder)
        told = [folder / f"progress-{number}.json" for number in range(request.workers)]
        total = sum(file.rows for file in files)

        def look() -> None:
            account = progress.together(progress.read(path) for path in told)
            watch(sum(counts["in"] for counts in account.values()), total)

        Group(processes, held).run(look)
        look()
        ends = [progress.read(path) for path in told]
        return Result(
            progress.together(ends),
            unread_rows(request.output, feature_set),
            total,
            drained=any(end is None or end.drained for end in ends),
            split=_split_in_words(request, files),
        )


def _tables(request: Request) -> TableInputs:
    """How tables are read: divided among the processes, and as far as by a run that is resumed."""
    found = manifest.read(request.recovery) if request.recovery else None
    known = [] if found is None else found.files
    return TableInputs(
        request.workers,
        {(file.stream, file.path): file.until for file in known if file.until is not None},
    )


@contextmanager
def _workspace(request: Request) -> Iterator[tuple[Path, list[int]]]:
    """The folder that the processes share, and the locks that they hold."""
    if request.recovery is None:
        with tempfile.TemporaryDirectory(prefix="riffle-backfill-") as folder:
            yield Path(folder), []
        return
    held = manifest.hold(request.recovery)
    try:
        yield request.recovery, [held]
    finally:
        os.close(held)


def _assigned(request: Request, files: list[File], found: Manifest | None) -> list[File]:
    """Gives files to shards where that splits them evenly."""
    if request.workers == 1 or request.cluster:
        return files
    before = None
    if found is not None and not found.cluster and found.shards == request.workers:
        known = {f"{f.stream}/{f.partition}": f.shard for f in found.files}
        before = {name: shard for name, shard in known.items() if shard is not None}
        if not before:
            return files
    weighed = [Weighed(f"{f.stream}/{f.name}", f.size, frozenset(f.entities)) for f in files]
    shards = divide(weighed, request.workers, before)
    if shards is None:
        return files
    return [msgspec.structs.replace(f, shard=shards[f"{f.stream}/{f.name}"]) for f in files]


def _manifest(
    request: Request, feature_set: FeatureSet, files: Sequence[File], found: Manifest | None
) -> Manifest:
    return Manifest(
        job=found.job if found else new_job(),
        feature_set=feature_set.name,
        version=feature_set.version,
        fingerprint=feature_set.fingerprint,
        output=str(request.output.resolve()),
        cluster=request.cluster and request.workers > 1,
        shards=request.workers,
        files=[
            manifest.InputFile(
                f.stream,
                f.name,
                f.path,
                f.size,
                f.mtime_ns,
                f.shard,
                f.table.until if f.table else None,
            )
            for f in files
        ],
    )


def _make_room(request: Request, feature_set: FeatureSet, job: str, *, resumes: bool) -> None:
    """Refuses an output with the files of another job, or removes them if that is asked for."""
    if resumes and request.overwrite:
        msg = (
            f"{request.recovery}: must be a new recovery directory with --overwrite, found one to "
            "resume from; leave out --overwrite to go on, or name another directory to start over"
        )
        raise RecoveryError(msg)
    for root in (request.output, request.output / LATE, request.output / DEAD):
        folder = dataset_folder(root, feature_set)
        if next(folder.rglob("*.parquet"), None) is None:
            continue
        mark = folder / OWNER
        owner = json.loads(mark.read_text(encoding="utf-8"))["job"] if mark.exists() else None
        if owner == job:
            continue
        if not request.overwrite:
            msg = (
                f"{folder}: must be empty, found vectors of another run; choose another --output, "
                "resume that run with its --recovery, or replace them with --overwrite"
            )
            raise OccupiedError(msg)
        shutil.rmtree(folder)


def _processes(
    request: Request, feature_set: FeatureSet, files: Sequence[File], job: str, folder: Path
) -> list[Process]:
    """The processes to run, each with what it must know."""
    by_files = any(file.shard is not None for file in files)
    one_flow = request.cluster and request.workers > 1
    addresses = free_addresses(request.workers) if one_flow else []
    common = BackfillSettings(
        feature_set=request.set_name,
        inputs=tuple(request.inputs),
        output=request.output,
        job=job,
        part="c" if one_flow else "s00p",
        processes=request.workers if one_flow else 1,
        batch_rows=request.batch_rows,
        end_ns=end_of_input_ns(feature_set, files),
        recovery=request.recovery is not None,
        files=folder / "files.json",
        alignment_ns=alignment_ns(files),
        parent=os.getpid(),
        feast=request.feast,
        warm_up=request.warm_up,
    )
    processes = []
    for number in range(request.workers):
        told = folder / f"progress-{number}.json"
        told.unlink(missing_ok=True)
        settings = common.model_copy(update={"progress": told})
        command = [sys.executable, "-m", "bytewax.run", "dataflows.backfill"]
        flow = folder / "flow" if one_flow else folder / f"shard-{number:02d}"
        if one_flow:
            command += ["-i", str(number), "-a", ";".join(addresses)]
        else:
            update = {
                "part": f"s{number:02d}p",
                "shard": number,
                "shards": request.workers,
                "by_files": by_files,
            }
            settings = settings.model_copy(update=update)
        if request.recovery is not None:
            _init_recovery(flow, request.workers if one_flow else 1)
            command += ["-r", str(flow), "-s", str(request.snapshot_every_s), "-b", "0"]
        name = f"{'process' if one_flow else 'shard'} {number}"
        log = folder / f"{name.replace(' ', '-')}.log"
        log.write_bytes(b"")
        processes.append(Process(name, command, settings.environment(), log))
    return processes


def _init_recovery(folder: Path, partitions: int) -> None:
    """Makes Bytewax's recovery partitions, all or none."""
    if folder.exists():
        return
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    init_db_dir(aside, partitions)  # type: ignore[no-untyped-call]
    aside.rename(folder)


def _split_in_words(request: Request, files: Sequence[File]) -> str:
    if request.workers == 1:
        return "one process"
    if request.cluster:
        return f"one cluster of {request.workers} processes"
    if any(file.shard is not None for file in files):
        return f"{request.workers} shards, each with its own files"
    return f"{request.workers} shards, each with its own key groups of all files"


def unread_rows(output: Path, feature_set: FeatureSet) -> dict[str, int]:
    """Counts the dead letters of a dataset by reason."""
    counts: dict[str, int] = {}
    for path in sorted(dataset_folder(output / DEAD, feature_set).rglob("part-*.parquet")):
        for reason in pq.read_table(path, columns=["reason"])["reason"].to_pylist():
            counts[reason] = counts.get(reason, 0) + 1
    return counts
