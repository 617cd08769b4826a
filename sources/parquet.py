"""Parquet files, in blocks of rows from any row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.decode import RefusedInputError
from sources.rows import BLOCK_BYTES, Place, RawRows


class ParquetFile:
    """A Parquet file.

    Args:
        path: the file.
        labels: columns of few distinct texts, which stay dictionaries as they are in the file.
        block_bytes: a block has fewer rows when they would take more memory than this.

    Raises:
        RefusedInputError: when it is none.
    """

    text = False

    def __init__(
        self, path: Path, labels: Sequence[str] = (), block_bytes: int = BLOCK_BYTES
    ) -> None:
        try:
            schema = pq.read_schema(path)
        except pa.ArrowInvalid as error:
            msg = f"{path}: must be a Parquet file, got one that cannot be opened: {error}"
            raise RefusedInputError(msg) from error
        self.columns = tuple(schema.names)
        texts = [name for name in labels if name in schema.names and _is_text(schema.field(name))]
        self._file = pq.ParquetFile(path, read_dictionary=texts)
        metadata = self._file.metadata
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        self._group_ends = np.cumsum([group.num_rows for group in groups], dtype=np.int64)
        self.row_count = int(metadata.num_rows)
        row_bytes = sum(group.total_byte_size for group in groups) / max(self.row_count, 1)
        self._most_rows = max(1, int(block_bytes / max(row_bytes, 1)))
        self._next: tuple[int, int, tuple[str, ...]] = (-1, 0, ())
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._held: list[pa.RecordBatch] = []

    def start(self) -> Place:
        """The first row."""
        return {"row": 0}

    def ends_at(self, place: Place) -> bool:
        """Whether no row is left."""
        return place["row"] >= self.row_count

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def read(self, place: Place, count: int, columns: Sequence[str]) -> tuple[RawRows, Place]:
        """At most so many rows, with those of the columns that there are."""
        row = place["row"]
        count = min(count, self._most_rows)
        there = tuple(name for name in columns if name in self.columns)
        if self._next != (row, count, there):
            self._seek(row, count, there)
        taken: list[pa.RecordBatch] = []
        missing = min(count, self.row_count - row)
        while missing > 0:
            batch = self._held.pop() if self._held else next(self._batches)
            if batch.num_rows > missing:
                self._held.append(batch.slice(missing))
                batch = batch.slice(0, missing)
            taken.append(batch)
            missing -= batch.num_rows
        after = row + sum(batch.num_rows for batch in taken)
        self._next = (after, count, there)
        schema = self._file.schema_arrow
        table = pa.Table.from_batches(taken, pa.schema([schema.field(name) for name in there]))
        return RawRows(table, np.arange(row, after, dtype=np.int64)), {"row": after}

    def _seek(self, row: int, count: int, columns: Sequence[str]) -> None:
        """Starts reading at the row group that holds a row, and skips to it."""
        group = int(np.searchsorted(self._group_ends, row, side="right"))
        skip = row - (int(self._group_ends[group - 1]) if group else 0)
        # One call over many row groups keeps about 13 bytes a row until its end.
        self._batches = chain.from_iterable(
            self._file.iter_batches(count, [each], list(columns))
            for each in range(group, len(self._group_ends))
        )
        self._held = []
        while skip > 0 and row < self.row_count:
            batch = next(self._batches)
            if batch.num_rows > skip:
                self._held.append(batch.slice(skip))
            skip -= min(skip, batch.num_rows)


def _is_text(field: pa.Field) -> bool:
    return pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
