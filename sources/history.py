"""An archive read as the log it was copied from, so that a flow can begin before the log does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from operators.batch import Int64s
from operators.dead_letters import Record
from sources.archive import Archive, ArchiveError, Segment, statistics
from sources.messages import MessageReader, Messages

COLUMNS = ["offset", "timestamp_ms", "timestamp_type", "key", "value", "headers"]
APPENDED = "LogAppendTime"


class ArchiveReader:
    """A partition of an archive, read from an offset on.

    It holds one row group in memory. At its end it gives None for good, and ``position`` is where
    the log goes on.

    Args:
        archive: of the topic.
        partition: its number.
        offset: where to begin.
        appended: whether its messages must bear the broker's stamp.

    Raises:
        ArchiveError: when the archive does not hold the offset.

    Attributes:
        position: see :class:`sources.messages.MessageReader`.
        end: the offset behind all that is held.
    """

    def __init__(
        self, archive: Archive, partition: int, offset: int, *, appended: bool = False
    ) -> None:
        self._appended = appended
        self._segments = archive.segments(partition)
        first = self._segments[0].first if self._segments else 0
        self.end = self._segments[-1].end if self._segments else 0
        if not first <= offset <= self.end:
            msg = (
                f"{archive.folder}: must hold offset {offset} of partition {partition}, found "
                f"{first} to {self.end - 1}"
            )
            raise ArchiveError(msg)
        self.position = offset
        self._segment = next((i for i, s in enumerate(self._segments) if s.end > offset), None)
        self._file: pq.ParquetFile | None = None
        self._group = 0
        self._rows: pa.Table | None = None
        self._offsets: Int64s = np.zeros(0, np.int64)

    def take(self, most: int) -> Messages | None:
        """At most so many messages; None at the end."""
        while self._rows is None:
            if self._segment is None:
                return None
            self._load(self._segments[self._segment])
        rows, offsets = self._rows.slice(0, most), self._offsets[:most]
        self.position = int(offsets[-1]) + 1
        if most < len(self._rows):
            self._rows, self._offsets = self._rows.slice(most), self._offsets[most:]
        else:
            self._rows = None
            self._pass()
        return _messages(rows, offsets)

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._rows, self._segment = None, None, None

    def _load(self, segment: Segment) -> None:
        """Reads the next row group with messages from the position on, if the file has one."""
        if self._file is None:
            try:
                self._file = pq.ParquetFile(segment.path)
            except (OSError, pa.ArrowException) as error:
                msg = f"{segment.path}: must be a whole file of the archive, found: {error}"
                raise ArchiveError(msg) from None
            self._group = 0
        if self._group == self._file.num_row_groups:
            self._pass()
            return
        group, self._group = self._group, self._group + 1
        if statistics(self._file, group, "offset")[1] < self.position:
            return
        rows = self._file.read_row_group(group, COLUMNS).combine_chunks()
        if rows["offset"][0].as_py() < self.position:
            rows = rows.filter(pc.greater_equal(rows["offset"], self.position)).combine_chunks()
        if self._appended and rows["timestamp_type"].unique().to_pylist() != [APPENDED]:
            other = rows.filter(pc.not_equal(rows["timestamp_type"], APPENDED))["offset"][0]
            msg = (
                f"{segment.path}: must hold messages that the broker stamped, found one at offset "
                f"{other} that its producer did; start behind it, or read the topic with arrival "
                '= "producer"'
            )
            raise ArchiveError(msg)
        self._rows, self._offsets = rows, rows["offset"].to_numpy()

    def _pass(self) -> None:
        """Goes on behind a file that is read."""
        if self._file is None or self._group < self._file.num_row_groups or self._segment is None:
            return
        self._file.close()
        self._file = None
        self.position = max(self.position, self._segments[self._segment].end)
        self._segment = self._segment + 1 if self._segment + 1 < len(self._segments) else None


def _messages(rows: pa.Table, offsets: Int64s) -> Messages:
    timestamps_ms = rows["timestamp_ms"].to_numpy()

    def record(index: int) -> Record:
        headers = rows["headers"][index].as_py() or ()
        return Record(
            rows["key"][index].as_py(),
            tuple((header["key"], header["value"]) for header in headers),
            int(timestamps_ms[index]),
        )

    return Messages(rows["value"].to_pylist(), offsets, timestamps_ms, record)


History = Callable[[str, int, int], MessageReader | None]
"""Gives the past of a topic's partition from an offset on, if there is one."""


def archived(archives: Mapping[str, Archive | None], appended: Collection[str] = ()) -> History:
    """Gives the past of topics from their archives.

    Args:
        archives: by topic; of each that has one.
        appended: the topics whose messages must bear the broker's stamp.
    """

    def history(topic: str, partition: int, offset: int) -> MessageReader | None:
        archive = archives.get(topic)
        bounds = archive.bounds(partition) if archive is not None else None
        if archive is None or bounds is None or not bounds[0] <= offset < bounds[1]:
            return None
        return ArchiveReader(archive, partition, offset, appended=topic in appended)

    return history
