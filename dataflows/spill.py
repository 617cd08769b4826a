"""Vectors on disk, to be read back by their time, so that two sides of any length can be compared.

The file holds small sorted pieces; in memory there is a line for each. What is read at once is a
span of time, found by those lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from operators.batch import Int64s

GATHERED = 65_536
"""Vectors that are sorted together."""
PIECE = 8_192
"""Vectors of a piece."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Where some vectors are: those of a time from ``first_ns`` to ``last_ns``."""

    first_ns: int
    last_ns: int
    rows: int


class Spill:
    """Vectors that are written once, and then read by spans of time.

    Args:
        path: of the file; it is removed at the end.
        columns: of the vectors.

    Attributes:
        pieces: what there is, in the order of the file.
        rows: how many vectors.
    """

    def __init__(self, path: Path, columns: pa.Schema) -> None:
        self._path = path
        self._columns = columns.remove_metadata()
        self._waiting: list[pa.Table] = []
        self._count = 0
        self.pieces: list[Piece] = []
        self.rows = 0
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_file(str(path), self._columns, options=options)
        self._reader: pa.ipc.RecordBatchFileReader | None = None

    def add(self, table: pa.Table) -> None:
        """Adds vectors, in any order."""
        if len(table):
            self._waiting.append(table.cast(self._columns))
            self._count += len(table)
            self.rows += len(table)
        if self._count >= GATHERED:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting).sort_by("ts").combine_chunks()
        self._waiting, self._count = [], 0
        for batch in table.to_batches(max_chunksize=PIECE):
            times_ns = _times_ns(batch["ts"])
            self._writer.write_batch(batch)
            self.pieces.append(Piece(int(times_ns[0]), int(times_ns[-1]), len(batch)))

    def read(self, from_ns: int, to_ns: int) -> pa.Table:
        """The vectors of a time from ``from_ns`` up to, but not of, ``to_ns``."""
        if self._reader is None:
            self._flush()
            self._writer.close()
            self._reader = pa.ipc.open_file(pa.memory_map(str(self._path)))
        found = []
        for number, piece in enumerate(self.pieces):
            if piece.first_ns < to_ns and piece.last_ns >= from_ns:
                batch = self._reader.get_batch(number)
                start, stop = np.searchsorted(_times_ns(batch["ts"]), [from_ns, to_ns]).tolist()
                found.append(batch.slice(start, stop - start))
        return pa.Table.from_batches(found, self._columns)

    def flushed(self) -> Self:
        """The same, with all pieces known."""
        self._flush()
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        self._reader = None
        self._path.unlink(missing_ok=True)


def _times_ns(times: pa.Array) -> Int64s:
    return np.asarray(pc.cast(times, pa.int64()))


def spans(sides: Sequence[Spill], rows: int) -> list[tuple[int, int]]:
    """Cuts time so that all sides together have about so many vectors in each span.

    The spans follow each other, and all vectors are in one of them.
    """
    pieces = sorted(
        (piece for side in sides for piece in side.flushed().pieces),
        key=lambda piece: piece.first_ns,
    )
    if not pieces:
        return []
    cuts, held = [pieces[0].first_ns], 0
    for piece in pieces:
        if held >= rows and piece.first_ns > cuts[-1]:
            cuts.append(piece.first_ns)
            held = 0
        held += piece.rows
    cuts.append(max(piece.last_ns for piece in pieces) + 1)
    return list(pairwise(cuts))
