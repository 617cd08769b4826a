"""Rows that did not become part of any vector: late ones and dead letters, kept as Parquet.

Both tell the stream and partition, why, and the row's bytes: for a dead letter of a source those as
they stood there, with the position; for a row that was refused later, as JSON of what was decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from operators.batch import Batch, Labels, Samples
from operators.dead_letters import DeadLetters
from operators.engine import Refused
from operators.feature_set import FeatureSet
from sinks.parquet import ROW_GROUP, dataset_folder
from sinks.shelf import Owned, Shelf
from sinks.shelved import ShelvedPart, ShelvedSink

Letters: TypeAlias = DeadLetters | Refused

LATE, DEAD = "_late", "_dead"
"""Folders of a dataset; its readers pass over names like these."""

SCHEMA = pa.schema(
    [
        pa.field("stream", pa.string(), nullable=False),
        pa.field("partition", pa.string(), nullable=False),
        pa.field("position", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("original", pa.binary(), nullable=False),
    ]
)


def letters_table(letters: Letters) -> pa.Table:
    """Gives letters as a table of :data:`SCHEMA`."""
    if isinstance(letters, DeadLetters):
        count = len(letters)
        columns = [
            [letters.stream] * count,
            [letters.partition] * count,
            list(letters.positions),
            [str(reason) for reason in letters.reasons],
            list(letters.messages),
            list(letters.originals),
        ]
    else:
        batch, count = letters.batch, len(letters.batch)
        columns = [
            [batch.stream] * count,
            [batch.partition] * count,
            [None] * count,
            [letters.fate.name.lower()] * count,
            [letters.reason] * count,
            rows_as_json(batch),
        ]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def rows_as_json(batch: Batch) -> pa.Array:
    """Renders decoded rows, times in nanoseconds."""
    frame: dict[str, pl.Series] = {"key": _texts(batch.keys)}
    if batch.series is not None:
        frame["series"] = _texts(batch.series)
    frame["ts_ns"] = pl.Series(batch.ts_ns)
    if batch.arrival_ns is not None:
        frame["arrival_ts_ns"] = pl.Series(batch.arrival_ns)
    for name, values in batch.columns.items():
        if isinstance(values, Samples):
            bounds = zip(values.start, values.length, strict=True)
            lists = [values.flat[start : start + length].tolist() for start, length in bounds]
            frame[name] = pl.Series(lists, dtype=pl.List(pl.Float64))
        else:
            frame[name] = pl.Series(values).fill_nan(None) if _floats(values) else pl.Series(values)
    rows = pl.DataFrame(frame).select(pl.struct(pl.all()).struct.json_encode())
    return rows.to_series().to_arrow().cast(pa.string()).cast(pa.binary())


def _floats(values: npt.NDArray[np.generic]) -> bool:
    return bool(values.dtype == np.float64)


def _texts(labels: Labels) -> pl.Series:
    return pl.Series(labels.names, dtype=pl.String).gather(labels.codes)


class LettersSink(ShelvedSink[Letters]):
    """Late rows or dead letters as the end of a flow of (key group, letters).

    Args:
        kind: :data:`LATE` or :data:`DEAD`.
        feature_set: of which flow they are.
        output: folder of the dataset.
        owned: whose files they are, and when they become visible.
    """

    def __init__(self, kind: str, feature_set: FeatureSet, output: Path, owned: Owned) -> None:
        super().__init__(dataset_folder(output / kind, feature_set), owned)

    def _part(self, shelf: Shelf, durable: bool) -> ShelvedPart[Letters]:
        return _Part(shelf, durable)


class _Part(ShelvedPart[Letters]):
    def __init__(self, shelf: Shelf, durable: bool) -> None:
        super().__init__(shelf, durable)
        self._waiting: list[pa.Table] = []
        self._count = 0
        self._writer: pq.ParquetWriter | None = None

    def write_batch(self, values: list[Letters]) -> None:
        self._waiting += [letters_table(letters) for letters in values]
        self._count = sum(map(len, self._waiting))
        if self._count >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._count:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._shelf.new(), SCHEMA, compression="zstd")
            self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting.clear()
        self._count = 0

    def _finish(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
