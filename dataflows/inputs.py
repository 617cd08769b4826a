"""The inputs of a run: which files of which stream, and what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from operators.batch import NO_CLOCK_NS
from operators.decode import RefusedInputError
from operators.engine import PartitionId, complete_until_ns
from operators.feature_set import FeatureSet
from sources.files import InputFile, list_files, open_file
from sources.summary import FileSummary, decoder_of, scan

ROWS_APART = 4_000_000
"""Partitions may be apart by about so many rows, which wait in memory for the slowest one."""
SHORTEST_ALIGNMENT_NS = 10**9
NAMED_FILES = 100
"""Files that the metadata of a dataset names."""


class File(msgspec.Struct, frozen=True):
    """A file of an input and what it holds.

    Attributes:
        stream: whose rows it has.
        path: where it is.
        name: of its partition.
        size, mtime_ns: by which a change is noticed.
        first_ns, last_ns: least and greatest clock.
        in_order: whether its rows stand in the order of their clock.
        rows: how many it has.
        arrives: whether its clock is one of arrivals.
        entities: whom its rows are about; not told to the shards.
        shard: the only one that reads it; None if all do.
    """

    stream: str
    path: str
    name: str
    size: int
    mtime_ns: int
    first_ns: int
    last_ns: int
    in_order: bool
    rows: int
    arrives: bool
    entities: tuple[str, ...] = ()
    shard: int | None = None

    @property
    def partition(self) -> PartitionId:
        """What the engine calls it."""
        return (self.stream, self.name)

    @property
    def input_file(self) -> InputFile:
        """What sources call it."""
        return InputFile(Path(self.path), self.name)

    @property
    def summary(self) -> FileSummary:
        """What saves a source from reading its times first."""
        return FileSummary(self.input_file, self.first_ns, self.last_ns, self.in_order, self.rows)


def parse_inputs(feature_set: FeatureSet, inputs: Iterable[str]) -> dict[str, list[Path]]:
    """Takes ``STREAM=PATH`` apart.

    Raises:
        RefusedInputError: when one is spelled otherwise, or a stream is unknown or lacks its input.
    """
    names = [stream.name for stream in feature_set.streams]
    found: dict[str, list[Path]] = {name: [] for name in names}
    for each in inputs:
        name, equals, path = each.partition("=")
        if not equals or not path:
            msg = f"input {each!r}: must be STREAM=PATH, such as {names[0]}=data/{names[0]}.parquet"
            raise RefusedInputError(msg)
        if name not in found:
            msg = f"input {each!r}: must be of a stream that `{feature_set.name}` reads, {names}"
            raise RefusedInputError(msg)
        found[name].append(Path(path))
    lacking = [name for name, paths in found.items() if not paths]
    if lacking:
        hint = " ".join(f"--input {name}=PATH" for name in lacking)
        msg = (
            f"feature set `{feature_set.name}`: must have an input for each of {names}, found none "
            f"for {lacking}; add {hint}"
        )
        raise RefusedInputError(msg)
    return found


def scan_inputs(feature_set: FeatureSet, inputs: Iterable[str]) -> list[File]:
    """Lists the files of all inputs and what they hold.

    Raises:
        RefusedInputError: for an input that cannot be read, or two files of one name.
    """
    streams = {stream.name: stream for stream in feature_set.streams}
    found: dict[PartitionId, File] = {}
    for name, roots in parse_inputs(feature_set, inputs).items():
        for root in roots:
            for each in list_files(root):
                raw = open_file(each, streams[name])
                try:
                    decoder = decoder_of(streams[name], each, raw)
                    told = scan(each, raw, decoder, with_entities=True)
                finally:
                    raw.close()
                status = each.path.stat()
                file = File(
                    name, str(each.path.resolve()), each.name, status.st_size, status.st_mtime_ns,
                    told.first_clock_ns, told.last_clock_ns, told.in_order, told.row_count,
                    decoder.roles.arrival is not None, told.entities,
                )  # fmt: skip
                other = found.setdefault(file.partition, file)
                if other is not file:
                    msg = (
                        f"input `{name}`: files must have distinct names, found {other.path} and "
                        f"{file.path}; give the folder that holds both"
                    )
                    raise RefusedInputError(msg)
    return list(found.values())


def end_of_input_ns(feature_set: FeatureSet, files: Iterable[File]) -> int:
    """Gives the instant up to which hop windows are complete when all of these files have ended."""
    delay_ns = feature_set.max_delay_ns
    ends = [complete_until_ns(file.last_ns, file.arrives, delay_ns) for file in files]
    return max(ends, default=NO_CLOCK_NS)


def alignment_ns(files: Sequence[File]) -> int:
    """Gives how far partitions may be apart, so that what waits in memory is bounded."""
    told = [file for file in files if file.last_ns != NO_CLOCK_NS]
    if not told:
        return SHORTEST_ALIGNMENT_NS
    span_ns = max(file.last_ns for file in told) - min(file.first_ns for file in told)
    rows = sum(file.rows for file in told)
    return max(SHORTEST_ALIGNMENT_NS, int(span_ns * min(1.0, ROWS_APART / rows)))


def source_facts(files: Sequence[File]) -> dict[str, object]:
    """Tells what goes into a dataset's metadata about where its vectors come from."""
    told = [file for file in files if file.last_ns != NO_CLOCK_NS]
    return {
        "first_ts_ns": min((file.first_ns for file in told), default=None),
        "last_ts_ns": max((file.last_ns for file in told), default=None),
        "file_count": len(files),
        "files": [f"{file.stream}/{file.name}" for file in files[:NAMED_FILES]],
    }


def write_files(path: Path, files: Sequence[File]) -> None:
    """Writes what the shards must know of the files."""
    path.write_bytes(msgspec.json.encode([msgspec.structs.replace(f, entities=()) for f in files]))


def read_files(path: Path) -> list[File]:
    """Reads what the launcher has written."""
    return msgspec.json.decode(path.read_bytes(), type=list[File])
