"""What every format of file gives: blocks of raw rows, from a place that can be written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from operators.batch import Int64s
from operators.dead_letters import Reason
from operators.decode import Originals

Place = dict[str, int]
"""Where the next row stands, as plain numbers."""

BLOCK_BYTES = 64 * 2**20
"""A block ends here even when it has fewer rows than asked for, so that long rows fit in memory."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that could not be taken apart."""

    position: int
    reason: Reason
    message: str
    original: bytes


@dataclass(frozen=True, slots=True)
class RawRows:
    """A block of rows.

    Attributes:
        table: their columns, as they came.
        positions: of each row: the line number from 1 in a text file, the row number from 0
            elsewhere.
        originals: the bytes of some rows, where rows are lines.
        refused: the lines of the block that gave no row.
    """

    table: pa.Table
    positions: Int64s
    originals: Originals | None = None
    refused: tuple[Refused, ...] = ()


class RawFile(Protocol):
    """A file of one format. It has no state that its user must know of: a place says it all."""

    columns: tuple[str, ...]
    """The columns there are; those of the first rows, in a format without fixed ones."""
    text: bool
    """Whether numbers come as text."""

    def start(self) -> Place:
        """Where the first row stands."""

    def ends_at(self, place: Place) -> bool:
        """Whether no row is left."""

    def read(self, place: Place, count: int, columns: Sequence[str]) -> tuple[RawRows, Place]:
        """At most so many rows, with those of the columns that there are, and where they end."""

    def close(self) -> None:
        """Lets go of the file."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of a text file, without their ends; blank lines are left out.

    Attributes:
        data: the text that holds them.
        starts, ends: where each lies in it.
        numbers: their numbers in the file, from 1.
    """

    data: bytes
    starts: Int64s
    ends: Int64s
    numbers: Int64s

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> bytes:
        return self.data[self.starts[index] : self.ends[index]]

    def some(self, rows: Any) -> Lines:
        """Some of the lines, by mask or index."""
        return Lines(self.data, self.starts[rows], self.ends[rows], self.numbers[rows])

    def originals(self, rows: Int64s) -> list[bytes]:
        """The bytes of some lines."""
        return [self[row] for row in rows.tolist()]

    def joined(self) -> bytes:
        """All lines, each with a line feed, and nothing else."""
        # One byte between two lines is a line feed: then they can be taken as they stand.
        if not len(self) or (self.starts[1:] != self.ends[:-1] + 1).any():
            return b"".join(self[index] + b"\n" for index in range(len(self)))
        end = int(self.ends[-1])
        if self.data[end : end + 1] == b"\n":
            return self.data[self.starts[0] : end + 1]
        return self.data[self.starts[0] : end] + b"\n"

    @staticmethod
    def of(lines: Sequence[bytes], numbers: Int64s) -> Lines:
        """Lines that were read before."""
        data = b"\n".join(lines)
        lengths = np.fromiter(map(len, lines), np.int64, len(lines))
        ends = np.cumsum(lengths + 1) - 1
        return Lines(data, ends - lengths, ends, numbers)
