"""The gold dataset: vectors as Parquet files by set, version and date.

Vectors are gathered and brought to Arrow once per row group, never per batch. The encoding is what
measured best: a million vectors of seven features took 97 ns each and 57 bytes with numbers as they
are, since mantissas do not compress, and the rest by LZ4; ZSTD for all took 192 ns and 50 bytes, no
compression 117 ns and 80 bytes.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.batch import Vectors
from operators.feature_set import FeatureSet
from operators.frames import schema, vectors_table
from operators.kernels import BITS_VERSION
from sinks.join import joined
from sinks.shelf import Owned, Shelf
from sinks.shelved import ShelvedPart, ShelvedSink

ROW_GROUP = 131_072
"""Vectors that are gathered before they are brought to Arrow and written."""
WRITE_BATCH = 16_384
"""Values that are encoded at once; Arrow's default of 1,024 cost 8 ns a vector more."""
OPEN_FILES = 64
"""Dates that are written at once; for one more, the file of the one longest unused is closed."""
DAY_NS = 86_400 * 10**9


def versions() -> dict[str, str]:
    """Gives the versions of all that the bits of a vector depend on."""
    libraries = ("numba", "llvmlite", "numpy", "scipy", "tzdata")
    return {
        "bits": str(BITS_VERSION),
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
        "architecture": platform.machine(),
    }


def file_metadata(feature_set: FeatureSet, source: Mapping[str, Any]) -> dict[str, str]:
    """Gives the key-value metadata of the files of a set.

    Args:
        feature_set: whose vectors they hold.
        source: what they were made from.
    """
    exprs = feature_set.feature_exprs
    return {
        "riffle.feature_set": feature_set.name,
        "riffle.version": feature_set.version,
        "riffle.fingerprint": feature_set.fingerprint,
        "riffle.versions": json.dumps(versions()),
        "riffle.source": json.dumps(source),
        "riffle.formulas": json.dumps({name: expr.formula for name, expr in exprs.items()}),
        "riffle.units": json.dumps({name: str(expr.unit) for name, expr in exprs.items()}),
    }


def dataset_folder(output: Path, feature_set: FeatureSet) -> Path:
    """Gives the folder of a set's vectors in a dataset."""
    return output / f"feature_set={feature_set.name}" / f"version={feature_set.version}"


class VectorFile:
    """A Parquet file of vectors.

    Args:
        path: under which it is written.
        feature_set: whose vectors it holds.
        metadata: see :func:`file_metadata`.
    """

    def __init__(self, path: Path, feature_set: FeatureSet, metadata: Mapping[str, str]) -> None:
        self._path = path
        self._set = feature_set
        self._metadata = metadata
        self._numbers = {
            name for name, expr in feature_set.feature_exprs.items() if expr.kind == "number"
        }
        series = [feature_set.series] if feature_set.series else []
        self._selected = [feature_set.entity, *series, "ts"]
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Adds a row group."""
        if self._writer is None:
            self._writer = self._open(table.schema)
        self._writer.write_table(table)

    def _open(self, columns: pa.Schema) -> pq.ParquetWriter:
        leaves = {name: name for name in columns.names}
        leaves["quality"] = "quality.list.element"
        names = [n for n in columns.names if pa.types.is_dictionary(columns.field(n).type)]
        compression = {
            leaf: "none" if name in self._numbers else "lz4" for name, leaf in leaves.items()
        }
        # Without Arrow's own schema readers see plain strings, however they were encoded here.
        writer = pq.ParquetWriter(
            self._path,
            columns,
            compression=compression,
            use_dictionary=[*names, leaves["quality"], "coverage"],
            write_statistics=self._selected,
            store_schema=False,
            data_page_size=8 * ROW_GROUP,
            write_batch_size=WRITE_BATCH,
        )
        writer.add_key_value_metadata(self._metadata)
        return writer

    def close(self) -> None:
        """Finishes the file; one without vectors has their columns."""
        if self._writer is None:
            self._writer = self._open(schema(self._set))
        self._writer.close()


class ParquetSink(ShelvedSink[Vectors]):
    """The gold dataset as the end of a flow of (key group, vectors).

    Args:
        feature_set: whose vectors come.
        output: folder of the dataset.
        owned: whose files they are, and when they become visible.
        source: what the vectors are made from, for the metadata.
    """

    def __init__(
        self,
        feature_set: FeatureSet,
        output: Path,
        owned: Owned,
        *,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(dataset_folder(output, feature_set), owned)
        self._set = feature_set
        self._metadata = file_metadata(feature_set, source or {})

    def _part(self, shelf: Shelf, durable: bool) -> ShelvedPart[Vectors]:
        return _Part(shelf, self._set, self._metadata, durable)


class _Part(ShelvedPart[Vectors]):
    """Vectors that wait to be written, and the open file of each date."""

    def __init__(
        self, shelf: Shelf, feature_set: FeatureSet, metadata: Mapping[str, str], durable: bool
    ) -> None:
        super().__init__(shelf, durable)
        self._set = feature_set
        self._metadata = metadata
        self._waiting: list[Vectors] = []
        self._count = 0
        self._files: dict[int, VectorFile] = {}

    def write_batch(self, values: list[Vectors]) -> None:
        for vectors in values:
            self._waiting.append(vectors)
            self._count += len(vectors)
            if self._count >= ROW_GROUP:
                self._flush()

    def _finish(self) -> None:
        self._flush()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _flush(self) -> None:
        """Writes what waits, each vector to the file of its date."""
        for vectors in joined(self._waiting):
            days = vectors.ts_ns // DAY_NS
            table = vectors_table(self._set, vectors)
            first, last = int(days.min()), int(days.max())
            if first == last:
                self._write(first, table)
                continue
            order = np.argsort(days, kind="stable")
            bounds = np.searchsorted(days[order], np.arange(first, last + 2))
            by_day = table.take(pa.array(order))
            for day in np.flatnonzero(np.diff(bounds)).tolist():
                start, stop = int(bounds[day]), int(bounds[day + 1])
                self._write(first + day, by_day.slice(start, stop - start))
        self._waiting.clear()
        self._count = 0

    def _write(self, day: int, table: pa.Table) -> None:
        file = self._files.pop(day, None)
        if file is None:
            while len(self._files) >= OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            date = np.datetime64(day, "D")
            file = VectorFile(self._shelf.new(f"date={date}"), self._set, self._metadata)
        self._files[day] = file
        groups = max(1, len(table) // ROW_GROUP)
        bounds = [len(table) * group // groups for group in range(groups + 1)]
        for start, stop in pairwise(bounds):
            file.write(table.slice(start, stop - start))
