"""The inputs of a run: which files and tables of which stream, and what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from dataflows.table_inputs import TABLE, TableInputs, input_table
from operators.batch import NO_CLOCK_NS
from operators.decode import RefusedInputError
from operators.engine import PartitionId, complete_until_ns
from operators.feature_set import FeatureSet
from operators.streams import Stream
from sources.files import Input, InputFile, list_files
from sources.summary import FileSummary, decoder_of, scan
from sources.table_slice import TableSlice

ROWS_APART = 4_000_000
"""Partitions may be apart by about so many rows, which wait in memory for the slowest one."""
SHORTEST_ALIGNMENT_NS = 10**9
NAMED_FILES = 100
"""Files that the metadata of a dataset names."""


class File(msgspec.Struct, frozen=True):
    """A file of an input, or a slice of a table, and what it holds.

    Attributes:
        stream: whose rows it has.
        path: where it is; ``table:NAME`` for a table.
        name: of its partition.
        size, mtime_ns: by which a change is noticed; of a table, its rows and their digest.
        first_ns, last_ns: least and greatest clock.
        in_order: whether its rows stand in the order of their clock.
        rows: how many it has.
        arrives: whether its clock is one of arrivals.
        entities: whom its rows are about; not told to the shards.
        shard: the only one that reads it; None if all do.
        table: what is read of a table; None for a file.
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
    table: TableSlice | None = None

    @property
    def partition(self) -> PartitionId:
        """What the engine calls it."""
        return (self.stream, self.name)

    @property
    def input(self) -> Input:
        """What sources call it."""
        if self.table is not None:
            return input_table(self.table)
        return InputFile(Path(self.path), self.name)

    @property
    def summary(self) -> FileSummary:
        """What saves a source from reading its times first."""
        return FileSummary(self.input, self.first_ns, self.last_ns, self.in_order, self.rows)


def parse_inputs(feature_set: FeatureSet, inputs: Iterable[str]) -> dict[str, list[str]]:
    """Takes ``STREAM=PATH`` and ``STREAM=table:NAME`` apart.

    Raises:
        RefusedInputError: when one is spelled otherwise, or a stream is unknown or lacks its input.
    """
    names = [stream.name for stream in feature_set.streams]
    found: dict[str, list[str]] = {name: [] for name in names}
    for each in inputs:
        name, equals, path = each.partition("=")
        if "://" in path:  # it may hold a password, which is not to be shown
            msg = (
                f"input of `{name}`: must be {names[0]}=PATH or {names[0]}={TABLE}NAME, found a "
                f"URL; name the table as {TABLE}NAME, and give its database as "
                "RIFFLE_DATABASE__URL or RIFFLE_DATABASE__URL_FILE in the environment"
            )
            raise RefusedInputError(msg)
        if not equals or not path:
            msg = f"input {each!r}: must be STREAM=PATH, such as {names[0]}=data/{names[0]}.parquet"
            raise RefusedInputError(msg)
        if name not in found:
            msg = f"input {each!r}: must be of a stream that `{feature_set.name}` reads, {names}"
            raise RefusedInputError(msg)
        found[name].append(path)
    lacking = [name for name, paths in found.items() if not paths]
    if lacking:
        hint = " ".join(f"--input {name}=PATH" for name in lacking)
        msg = (
            f"feature set `{feature_set.name}`: must have an input for each of {names}, found none "
            f"for {lacking}; add {hint}"
        )
        raise RefusedInputError(msg)
    return found


def scan_inputs(
    feature_set: FeatureSet, inputs: Iterable[str], tables: TableInputs | None = None
) -> list[File]:
    """Lists the files and tables of all inputs and what they hold.

    Args:
        feature_set: what reads them.
        inputs: ``STREAM=PATH`` or ``STREAM=table:NAME`` each.
        tables: how tables are read, and for how long; by default each in one piece, and until this
            process ends.

    Raises:
        RefusedInputError: for an input that cannot be read, or two files of one name.
        SettingsError: when there are tables, and nothing tells their database.
        DatabaseError: when that can't be had.
    """
    streams = {stream.name: stream for stream in feature_set.streams}
    tables = tables or TableInputs()
    found: dict[PartitionId, File] = {}
    for name, roots in parse_inputs(feature_set, inputs).items():
        for root in roots:
            if root.startswith(TABLE):
                files = _tables(streams[name], root, tables)
            else:
                files = (_file(streams[name], each) for each in list_files(Path(root)))
            for file in files:
                other = found.setdefault(file.partition, file)
                if other is not file:
                    msg = (
                        f"input `{name}`: files must have distinct names, found {other.path} and "
                        f"{file.path}; give the folder that holds both"
                    )
                    raise RefusedInputError(msg)
    return list(found.values())


def _file(stream: Stream, each: InputFile) -> File:
    told, arrives = _scanned(stream, each)
    status = each.path.stat()
    return File(
        stream.name, str(each.path.resolve()), each.name, status.st_size, status.st_mtime_ns,
        told.first_clock_ns, told.last_clock_ns, told.in_order, told.row_count,
        arrives, told.entities,
    )  # fmt: skip


def _scanned(stream: Stream, each: Input) -> tuple[FileSummary, bool]:
    """What an input holds, and whether its clock is one of arrivals."""
    raw = each.open(stream)
    try:
        decoder = decoder_of(stream, each, raw)
        return scan(each, raw, decoder, with_entities=True), decoder.roles.arrival is not None
    finally:
        raw.close()


def _tables(stream: Stream, root: str, tables: TableInputs) -> Iterable[File]:
    for facts in tables.facts(stream, root):
        held = facts.slice
        given = input_table(held)
        told = FileSummary(given, facts.first_ns, facts.last_ns, True, held.rows)
        if stream.start_stamped and not facts.arrives:
            # When a row ends is for the decoder to say: its clock is no column.
            told, _ = _scanned(stream, given)
        yield File(
            stream.name, root, held.name, held.rows, facts.digest, told.first_clock_ns,
            told.last_clock_ns, told.in_order, held.rows, facts.arrives, facts.entities,
            table=held,
        )  # fmt: skip


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
