"""Files as an input of a Bytewax dataflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from operators.batch import Batch
from operators.dead_letters import DeadLetters
from operators.decode import RefusedInputError
from operators.streams import Stream
from sources.alignment import Alignment
from sources.files import Input
from sources.messages import Read
from sources.reader import PartitionReader, Position
from sources.stop import STOP
from sources.summary import FileSummary

SHORTEST_WAIT = timedelta(milliseconds=1)
LONGEST_WAIT = timedelta(milliseconds=50)


class FilesPartition(StatefulSourcePartition[Read, Position]):
    """One file; it waits while it is too far ahead of the others.

    Args:
        name: the partition's name among all streams.
        reader: reads the file.
        alignment: shared by the partitions of the process.
        resumed: whether the reader goes on from a position.
    """

    def __init__(
        self, name: str, reader: PartitionReader, alignment: Alignment, *, resumed: bool
    ) -> None:
        self._name = name
        self._reader = reader
        self._alignment = alignment
        # Who keeps clocks in memory must hear where a resumed partition stands before it is its
        # turn to read; the end is said again for the same reason.
        self._greets = resumed
        self._done = False
        self._wait: timedelta | None = None
        alignment.join(name, reader.clock_ns)

    def next_batch(self) -> list[Read]:
        """One read, or nothing while the others catch up."""
        if STOP.is_set() or self._done:
            raise StopIteration
        if self._greets:
            self._greets = False
            return [self._said(self._reader.heartbeat(), None)]
        if not self._alignment.may_read(self._name):
            self._wait = min(2 * self._wait, LONGEST_WAIT) if self._wait else SHORTEST_WAIT
            return []
        self._wait = None
        return [self._said(*self._reader.read())]

    def _said(self, batch: Batch, dead: DeadLetters | None) -> Read:
        if batch.end:
            self._done = True
            self._alignment.leave(self._name)
        else:
            self._alignment.report(self._name, batch.clock_ns)
        return Read(batch, dead or DeadLetters(batch.stream, batch.partition))

    def next_awake(self) -> datetime | None:
        """When to look again whether the others have caught up."""
        return None if self._wait is None else datetime.now(UTC) + self._wait

    def snapshot(self) -> Position:
        """Where the next read begins."""
        return self._reader.position()

    def close(self) -> None:
        """Lets go of the file."""
        self._alignment.leave(self._name)
        self._reader.close()


class FilesSource(FixedPartitionedSource[Read, Position]):
    """The files of one or several streams, a partition each, read in step.

    Args:
        inputs: streams with their files.
        batch_rows: the most rows of a batch.
        alignment: how far partitions may be ahead of each other; shared with other sources of the
            process, if there are any.
        summaries: of files, by where they are, if there are any; each saves a pass over the file's
            times.
        folder: for temporary files; the system's by default.

    Raises:
        ValueError: when two files of a stream have one name.
    """

    def __init__(
        self,
        inputs: Iterable[tuple[Stream, Input]],
        batch_rows: int,
        alignment: Alignment,
        summaries: Mapping[str, FileSummary] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._files: dict[str, tuple[Stream, Input]] = {}
        self._batch_rows = batch_rows
        self._alignment = alignment
        self._summaries = summaries or {}
        self._folder = folder
        for stream, file in inputs:
            name = f"{stream.name}/{file.name}"
            if name in self._files:
                msg = f"files of a stream must have distinct names, found {name!r} twice"
                raise RefusedInputError(msg)
            self._files[name] = (stream, file)

    def list_parts(self) -> list[str]:
        """The files, each under the name of its stream and its own."""
        return list(self._files)

    def build_part(
        self, step_id: str, for_part: str, resume_state: Position | None
    ) -> FilesPartition:
        """Opens a file, at its start or where an earlier run stopped."""
        if for_part not in self._files:
            msg = (
                f"step {step_id!r}: the files must be those of the run that is resumed, found none "
                f"for {for_part!r}; restore it, or start over without the snapshot"
            )
            raise RefusedInputError(msg)
        stream, file = self._files[for_part]
        reader = PartitionReader(
            stream,
            file,
            self._batch_rows,
            resume_state,
            summary=self._summaries.get(file.where),
            folder=self._folder,
        )
        resumed = resume_state is not None and bool(resume_state["started"])
        return FilesPartition(for_part, reader, self._alignment, resumed=resumed)
