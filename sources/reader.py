"""One input as a partition of a stream: batches in the order of its clock, from any position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from operators.batch import NO_CLOCK_NS, Batch
from operators.dead_letters import DeadLetters
from operators.decode import RefusedInputError
from operators.streams import Stream
from sources.files import Input, InputFile
from sources.ordering import SortedFile
from sources.rows import BLOCK_BYTES, RawFile, Refused
from sources.summary import FileSummary, decoder_of, scan, with_constants

Position = dict[str, Any]
"""Where a reader stands, as plain values: numbers, truth values, and a dict of numbers."""


class PartitionReader:
    """Reads a file or table as batches.

    The first batch is empty and carries the clock of the first row, so that a file that begins late
    can wait for the others before it is read. A file that is not in the order of its clock
    (arrival, or time in a stream without) is sorted first. What is read does not depend on where
    earlier readers stopped.

    Args:
        stream: what its rows are.
        path: the file, or another input.
        batch_rows: the most rows of a batch.
        resume_position: the position of an earlier reader, to go on from there.
        summary: of the file, if there is one; saves a pass over its times.
        folder: for temporary files; the system's by default.
        block_bytes: a batch has fewer rows when they would take more memory than this.

    Raises:
        RefusedInputError: when the file cannot be read as the stream, or has changed since the
            position was taken.

    Attributes:
        partition: the name of the partition: the file's path below its input.
        clock_ns: the partition's clock.
        ended: whether the file is read to its end.
    """

    def __init__(
        self,
        stream: Stream,
        path: Path | Input,
        batch_rows: int,
        resume_position: Position | None = None,
        *,
        summary: FileSummary | None = None,
        folder: Path | None = None,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        if batch_rows < 1:
            msg = f"batches must have at least one row, got batch_rows={batch_rows}"
            raise ValueError(msg)
        self.file: Input = InputFile(path, path.name) if isinstance(path, Path) else path
        self.partition = self.file.name
        self._batch_rows = batch_rows
        self._folder = folder
        self._size = self.file.size()
        self._raw: RawFile = self.file.open(stream, block_bytes)
        self._summary = summary
        self._opened = False
        self._started = resume_position is not None and resume_position["started"]
        self.clock_ns: int = NO_CLOCK_NS
        self.ended = False
        self._in_order = True
        self._place = self._raw.start()
        try:
            self._decoder = decoder_of(stream, self.file, self._raw)
            if resume_position is not None:
                self._resume(resume_position)
        except RefusedInputError:
            self.close()
            raise

    def _resume(self, position: Position) -> None:
        if position["size"] != self._size:
            msg = (
                f"{self.file.where}: must be what was read before, found {self._size} "
                f"{self.file.counted} instead of {position['size']}; restore it, or start over "
                "without the snapshot"
            )
            raise RefusedInputError(msg)
        if self._started:
            self._place = dict(position["place"])
            self._in_order = position["in_order"]
            self.clock_ns, self.ended = position["clock_ns"], position["ended"]

    def position(self) -> Position:
        """Where the next batch begins."""
        return {
            "started": self._started,
            "ended": self.ended,
            "place": dict(self._place),
            "clock_ns": self.clock_ns,
            "in_order": self._in_order,
            "size": self._size,
        }

    def read(self) -> tuple[Batch, DeadLetters]:
        """The next batch; behind the end, an empty one that ends again."""
        if not self._started:
            self._begin()
            return self.heartbeat(), DeadLetters(self._decoder.stream.name, self.partition)
        if not self.ended and not self._opened:
            self._open()
        if self.ended or self._raw.ends_at(self._place):
            self._end()
            return self.heartbeat(), DeadLetters(self._decoder.stream.name, self.partition)
        rows, self._place = self._raw.read(self._place, self._batch_rows, self._decoder.columns)
        rows = with_constants(rows, self.file, self._raw.columns)
        batch, dead = self._decoder.decode(
            rows.table,
            self.partition,
            clock_ns=self.clock_ns,
            positions=rows.positions,
            originals=rows.originals,
        )
        self.clock_ns = batch.clock_ns
        if self._raw.ends_at(self._place):
            self._end()
        return replace(batch, end=self.ended), _joined(dead, rows.refused)

    def heartbeat(self) -> Batch:
        """An empty batch that says where the clock stands."""
        table = pa.table({name: pa.nulls(0) for name in self._decoder.columns})
        batch, _ = self._decoder.decode(table, self.partition, clock_ns=self.clock_ns)
        return replace(batch, end=self.ended)

    def close(self) -> None:
        """Lets go of the file."""
        self._raw.close()

    def _end(self) -> None:
        # A run may have more files than a process may hold open: those that are read are closed.
        self.ended = True
        self.close()

    def _begin(self) -> None:
        summary = self._summary or scan(self.file, self._raw, self._decoder)
        self.clock_ns, self._in_order = summary.first_clock_ns, summary.in_order
        self._open()
        self._place = self._raw.start()
        self._started = True

    def _open(self) -> None:
        if not self._in_order:
            self._raw = SortedFile(self._raw, self.file, self._decoder, self._folder)
        self._opened = True


def _joined(dead: DeadLetters, refused: Sequence[Refused]) -> DeadLetters:
    """Dead letters of rows and of lines that gave none, in the order of their positions."""
    if not refused:
        return dead
    rows = zip(dead.positions, dead.reasons, dead.messages, dead.originals, strict=True)
    lines = ((line.position, line.reason, line.message, line.original) for line in refused)
    letters = sorted([*rows, *lines], key=lambda letter: letter[0])
    positions, reasons, messages, originals = zip(*letters, strict=True)
    return DeadLetters(dead.stream, dead.partition, positions, reasons, messages, originals)
