"""A topic kept as Parquet files, raw and complete, one contiguous range of offsets a file.

```
DIR/<topic>/_archive.json                                 which topic of which cluster
DIR/<topic>/<topic>-<partition>-<first>-<last>.parquet    all messages with offsets first .. last
```
The name says which offsets are covered, not which hold a message: control records, aborted and
compacted messages are not kept, so what was read to its end goes on right behind ``last``. Files
are written under a hidden name and renamed when they are on the disk. Numbers that order, not the
clock of whoever made the copy, decide what is where.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp_ms", pa.int64(), nullable=False),
        pa.field("timestamp_type", pa.string(), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field(
            "headers",
            pa.list_(
                pa.struct(
                    [pa.field("key", pa.string(), nullable=False), pa.field("value", pa.binary())]
                )
            ),
        ),
    ]
)
FORMAT = 1
IDENTITY = "_archive.json"
LOCK = ".lock"
GROUP_BYTES = 8 << 20
"""Bytes of messages in a row group, which is what a reader holds of a partition."""
FILE_BYTES = 256 << 20
"""Bytes of messages after which a file is finished; what a stopped run has to read again."""
_NAME = re.compile(r"(?P<topic>.+)-(?P<partition>\d+)-(?P<first>\d{20})-(?P<last>\d{20})\.parquet")


class ArchiveError(RuntimeError):
    """An archive that cannot be read or gone on with; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of the archive: the messages of a partition with offsets ``first .. last``."""

    path: Path
    partition: int
    first: int
    last: int

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.last + 1


@dataclass(frozen=True, slots=True)
class Identity:
    """Which topic an archive holds: a topic that was made anew has another id."""

    cluster: str
    topic: str
    topic_id: str


class Archive:
    """The archive of one topic.

    Args:
        root: the folder of archives.
        topic: the topic's name.
    """

    def __init__(self, root: Path, topic: str) -> None:
        self.topic = topic
        self.folder = root / topic

    def identity(self) -> Identity | None:
        """Which topic it holds; None if there is no archive.

        Raises:
            ArchiveError: when this version cannot read it.
        """
        path = self.folder / IDENTITY
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if told["format"] != FORMAT:
            msg = f"{path}: must be an archive of format {FORMAT}, found {told['format']}"
            raise ArchiveError(msg)
        return Identity(told["cluster"], told["topic"], told["topic_id"])

    def claim(self, identity: Identity) -> None:
        """Notes which topic it holds, if none is noted.

        Raises:
            ArchiveError: when it holds another one.
        """
        held = self.identity()
        if held is not None:
            if held != identity:
                msg = (
                    f"{self.folder}: must be the archive of topic `{identity.topic}` with id "
                    f"{identity.topic_id} of cluster {identity.cluster}, found that of "
                    f"`{held.topic}` with id {held.topic_id} of cluster {held.cluster}; choose "
                    "another folder, since offsets of one mean nothing in the other"
                )
                raise ArchiveError(msg)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        told = {
            "format": FORMAT,
            "cluster": identity.cluster,
            "topic": identity.topic,
            "topic_id": identity.topic_id,
        }
        aside = self.folder / f".{IDENTITY}"
        aside.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        _into_place(aside, self.folder / IDENTITY)

    def check(self, topic_id: str) -> None:
        """Makes sure that a topic is the one it holds.

        Raises:
            ArchiveError: when the topic was made anew since, or there is no archive.
        """
        held = self.identity()
        if held is None or held.topic_id != topic_id:
            found = f"that of id {held.topic_id}" if held else "none"
            msg = (
                f"{self.folder}: must be the archive of topic `{self.topic}` with id {topic_id}, "
                f"found {found}; name the folder that `riffle archive` wrote, or none"
            )
            raise ArchiveError(msg)

    def segments(self, partition: int) -> list[Segment]:
        """The files of a partition, by offset.

        Raises:
            ArchiveError: when one is missing between two others, or two overlap.
        """
        found = sorted(
            (each for each in self._all() if each.partition == partition),
            key=lambda segment: segment.first,
        )
        for before, after in pairwise(found):
            if after.first != before.end:
                what = "nothing holds" if after.first > before.end else "two files hold"
                low, high = sorted((before.end, after.first))
                msg = (
                    f"{self.folder}: files of partition {partition} must follow each other, but "
                    f"{what} offsets {low} to {high - 1}, between {before.path.name} and "
                    f"{after.path.name}; restore what is missing, or archive into another folder"
                )
                raise ArchiveError(msg)
        return found

    def partitions(self) -> list[int]:
        """The partitions that it holds files of."""
        return sorted({segment.partition for segment in self._all()})

    def _all(self) -> Iterator[Segment]:
        for path in self.folder.glob("*.parquet"):
            name = _NAME.fullmatch(path.name)
            if name and name["topic"] == self.topic:
                numbers = (int(name[group]) for group in ("partition", "first", "last"))
                yield Segment(path, *numbers)

    def bounds(self, partition: int) -> tuple[int, int] | None:
        """The first offset held and the one behind the last; None if the partition is not there."""
        segments = self.segments(partition)
        return (segments[0].first, segments[-1].end) if segments else None

    def offset_at(self, partition: int, timestamp_ms: int) -> int | None:
        """The first message stamped so or later; None if it holds none such."""
        for segment in self.segments(partition):
            with pq.ParquetFile(segment.path) as file:
                for group in range(file.num_row_groups):
                    if statistics(file, group, "timestamp_ms")[1] < timestamp_ms:
                        continue
                    rows = file.read_row_group(group, ["offset", "timestamp_ms"])
                    late = rows.filter(pc.greater_equal(rows["timestamp_ms"], timestamp_ms))
                    return int(late["offset"][0].as_py())
        return None


def statistics(file: pq.ParquetFile, group: int, column: str) -> tuple[int, int]:
    """Least and greatest value of a column in a row group."""
    told = file.metadata.row_group(group).column(SCHEMA.get_field_index(column)).statistics
    return told.min, told.max


@contextmanager
def only_run(root: Path) -> Iterator[None]:
    """Keeps a folder of archives to one run, and clears away what a killed one has left.

    Raises:
        ArchiveError: when another run is writing there.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"{root}: must be written by one run at a time, found another one at work there"
            raise ArchiveError(msg) from None
        for left in root.glob("*/.*.aside"):
            left.unlink()
        yield


def _into_place(aside: Path, final: Path) -> None:
    """Renames a file once it is on the disk, and brings its new name there too."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.rename(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass(slots=True)
class Rows:
    """Messages that wait to be written, as columns."""

    columns: tuple[list[Any], ...]
    bytes: int = 0

    @classmethod
    def none(cls) -> Rows:
        """No rows yet."""
        return cls(tuple([] for _ in SCHEMA))

    def add(self, row: Sequence[Any], size: int) -> None:
        """Adds a message, its values in the order of the schema."""
        for column, value in zip(self.columns, row, strict=True):
            column.append(value)
        self.bytes += size

    def table(self) -> pa.Table:
        """The rows as a table."""
        arrays = [pa.array(c, f.type) for c, f in zip(self.columns, SCHEMA, strict=True)]
        return pa.Table.from_arrays(arrays, schema=SCHEMA)


class PartitionWriter:
    """Writes the messages of a partition behind those that the archive holds.

    Args:
        archive: of the topic.
        partition: its number.
        first: the offset with which to begin.
        group_bytes, file_bytes: when a row group and a file are finished.

    Attributes:
        messages: how many were added.
    """

    def __init__(
        self,
        archive: Archive,
        partition: int,
        first: int,
        group_bytes: int = GROUP_BYTES,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self.messages = 0
        self._archive = archive
        self._partition = partition
        self._first = first
        self._next = first
        self._group_bytes = group_bytes
        self._file_bytes = file_bytes
        self._rows = Rows.none()
        self._written = 0
        self._writer: pq.ParquetWriter | None = None
        self._aside = archive.folder / f".{archive.topic}-{partition}.aside"

    def add(self, row: Sequence[Any], size: int) -> None:
        """Adds a message.

        Args:
            row: its values in the order of :data:`SCHEMA`.
            size: its bytes.
        """
        self._rows.add(row, size)
        self.messages += 1
        self._next = row[1] + 1
        if self._rows.bytes >= self._group_bytes:
            self._flush()
            if self._written >= self._file_bytes:
                self._finish()

    def close(self, end: int) -> None:
        """Finishes; the partition is then held up to an offset, which may be behind the last row.

        Args:
            end: the offset.
        """
        self._next = max(self._next, end)
        if self._next > self._first:
            self._finish()

    def abandon(self) -> None:
        """Lets go of a file that is not finished; what is complete stays."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._aside.unlink(missing_ok=True)

    def _open(self) -> pq.ParquetWriter:
        return pq.ParquetWriter(
            self._aside,
            SCHEMA,
            compression="zstd",
            use_dictionary=["partition", "timestamp_type", "key", "headers.list.element.key"],
            write_statistics=["offset", "timestamp_ms"],
        )

    def _flush(self) -> None:
        if self._writer is None:
            self._writer = self._open()
        rows, self._rows = self._rows, Rows.none()
        if rows.columns[0]:
            self._writer.write_table(rows.table(), row_group_size=len(rows.columns[0]))
        self._written += rows.bytes

    def _finish(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
        name = f"{self._archive.topic}-{self._partition}-{self._first:020}-{self._next - 1:020}"
        _into_place(self._aside, self._archive.folder / f"{name}.parquet")
        self._writer, self._written, self._first = None, 0, self._next
