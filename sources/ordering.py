"""Files that are not in the order of their clock: sorted once, into a temporary Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Protocol
from weakref import finalize

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from operators.batch import NO_CLOCK_NS, Int64s
from operators.decode import Decoder
from sources.files import Input
from sources.parquet import ParquetFile
from sources.rows import Lines, Place, RawFile, RawRows
from sources.summary import with_constants

CLOCK, POSITION, LINE = "riffle:clock", "riffle:position", "riffle:line"
"""Columns of the sorted file beside the input's own."""
SORT_ROWS = 2**16


class _LineFormat(RawFile, Protocol):
    """A format whose rows are lines."""

    def lines(self, place: Place, count: int) -> tuple[Lines, Place]: ...

    def parse(self, lines: Lines, columns: Sequence[str]) -> RawRows: ...


class SortedFile:
    """The rows of another file in the order of their clock; equal ones keep theirs.

    A row without a sound clock goes where the row before it goes. Lines are sorted as lines, so
    that dead letters keep their bytes.

    Args:
        raw: the file.
        file: its name.
        decoder: tells the clocks.
        folder: for temporary files; the system's by default.
    """

    def __init__(
        self, raw: RawFile, file: Input, decoder: Decoder, folder: Path | None = None
    ) -> None:
        self.columns = raw.columns
        self.text = raw.text
        self._raw = raw
        self._format: _LineFormat | None = raw if hasattr(raw, "parse") else None  # type: ignore[assignment]
        made = mkdtemp(prefix="riffle-sort-", dir=folder)
        self._remove = finalize(self, rmtree, made, ignore_errors=True)
        unsorted, path = Path(made, "unsorted"), Path(made, "sorted")
        self._write(unsorted, file, decoder)
        pl.scan_parquet(unsorted, glob=False).sort(CLOCK, POSITION).sink_parquet(path)
        unsorted.unlink()
        stream = decoder.stream
        labels = [name for name in (stream.entity, stream.series) if name is not None]
        self._sorted = ParquetFile(path, labels)

    def start(self) -> Place:
        """The first row."""
        return self._sorted.start()

    def ends_at(self, place: Place) -> bool:
        """Whether no row is left."""
        return self._sorted.ends_at(place)

    def close(self) -> None:
        """Lets go of the file, and removes the sorted one."""
        self._raw.close()
        self._sorted.close()
        self._remove()

    def read(self, place: Place, count: int, columns: Sequence[str]) -> tuple[RawRows, Place]:
        """At most so many rows, with those of the columns that there are."""
        if self._format is None:
            rows, after = self._sorted.read(place, count, (*columns, POSITION))
            positions = rows.table.column(POSITION).to_numpy()
            return replace(
                rows, table=rows.table.drop_columns(POSITION), positions=positions
            ), after
        rows, after = self._sorted.read(place, count, (LINE, POSITION))
        numbers = rows.table.column(POSITION).to_numpy()
        lines = Lines.of(rows.table.column(LINE).to_pylist(), numbers)
        return self._format.parse(lines, columns), after

    def _write(self, path: Path, file: Input, decoder: Decoder) -> None:
        place, clock_ns = self._raw.start(), NO_CLOCK_NS
        writer = None
        while not self._raw.ends_at(place):
            if self._format is None:
                rows, place = self._raw.read(place, SORT_ROWS, decoder.columns)
                table, positions, told = rows.table, rows.positions, rows
            else:
                lines, place = self._format.lines(place, SORT_ROWS)
                held = [lines[row] for row in range(len(lines))]
                table, positions = (
                    pa.table({LINE: pa.array(held, pa.large_binary())}),
                    lines.numbers,
                )
                told = self._format.parse(lines, decoder.clock_columns)
            clocks = _clocks(decoder, with_constants(told, file, self.columns), positions, clock_ns)
            clock_ns = int(clocks[-1]) if len(clocks) else clock_ns
            table = table.append_column(CLOCK, pa.array(clocks))
            table = table.append_column(POSITION, pa.array(positions))
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema, compression="lz4")
            writer.write_table(table)
        if writer is not None:
            writer.close()


def _clocks(decoder: Decoder, rows: RawRows, positions: Int64s, before_ns: int) -> Int64s:
    """The clock by which each position is sorted: its own, or that of the position before."""
    clock_ns, told = decoder.clock(rows.table)
    at = np.searchsorted(positions, rows.positions[told])
    latest = np.zeros(len(positions), np.int64)
    latest[at] = np.arange(1, len(at) + 1)
    np.maximum.accumulate(latest, out=latest)
    return np.concatenate([[before_ns], clock_ns[told]])[latest]
