"""Frames for people and sinks: vectors as Arrow tables and polars frames, rows as batches."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.batch import Float64s, Labels, Vectors
from operators.feature_set import FeatureSet

TIMESTAMP = pa.timestamp("ns", tz="UTC")
ARROW_TYPES = {"number": pa.float64(), "count": pa.int64(), "flag": pa.bool_()}
NAME = pa.string()


def schema(feature_set: FeatureSet) -> pa.Schema:
    """Columns of a set's vectors, in order."""
    fields = [pa.field(feature_set.entity, NAME, nullable=False)]
    if feature_set.series:
        fields.append(pa.field(feature_set.series, NAME, nullable=False))
    fields += [pa.field(label, NAME, nullable=False) for label in feature_set.labels]
    fields += [
        pa.field("ts", TIMESTAMP, nullable=False),
        pa.field("feature_set", NAME, nullable=False),
        pa.field("version", NAME, nullable=False),
    ]
    fields += [
        pa.field(
            name,
            ARROW_TYPES[expr.kind],
            metadata={"formula": expr.formula, "unit": str(expr.unit)},
        )
        for name, expr in feature_set.feature_exprs.items()
    ]
    fields += [
        pa.field("quality", pa.list_(NAME), nullable=False),
        pa.field("coverage", pa.float64(), nullable=False),
        pa.field("known_at", TIMESTAMP, nullable=False),
        pa.field("n_rows", pa.int64(), nullable=False),
        pa.field("final", pa.bool_(), nullable=False),
    ]
    return pa.schema(fields, metadata={"fingerprint": feature_set.fingerprint})


def vectors_table(feature_set: FeatureSet, vectors: Vectors) -> pa.Table:
    """Vectors as an Arrow table of :func:`schema`; names are dictionaries, cast when written."""
    count = len(vectors)
    columns: list[pa.Array] = [_names(vectors.keys)]
    if vectors.series is not None:
        columns.append(_names(vectors.series))
    columns += [_constant(value, count) for value in feature_set.labels.values()]
    columns.append(pa.array(vectors.ts_ns).cast(TIMESTAMP))
    columns += [_constant(feature_set.name, count), _constant(feature_set.version, count)]
    for name, expr in feature_set.feature_exprs.items():
        columns.append(_nullable(vectors.features[name]).cast(ARROW_TYPES[expr.kind]))
    columns += [
        _flags(list(feature_set.quality), vectors),
        pa.array(vectors.coverage),
        pa.array(vectors.known_at_ns).cast(TIMESTAMP),
        pa.array(vectors.n_rows),
        pa.repeat(pa.scalar(vectors.final), count),
    ]
    full = schema(feature_set)
    fields = [field.with_type(c.type) for field, c in zip(full, columns, strict=True)]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=full.metadata))


def _names(labels: Labels) -> pa.DictionaryArray:
    names = pa.array(labels.names, NAME)
    return pa.DictionaryArray.from_arrays(pa.array(labels.codes), names)


def _constant(value: str, count: int) -> pa.DictionaryArray:
    codes = pa.array(np.zeros(count, np.int8))
    return pa.DictionaryArray.from_arrays(codes, pa.array([value], NAME))


def _nullable(values: Float64s) -> pa.Array:
    """Numbers with NaN as null, without a copy of the numbers."""
    missing = np.isnan(values)
    if not missing.any():
        return pa.array(values)
    bits = np.packbits(~missing, bitorder="little")
    return pa.Array.from_buffers(
        pa.float64(), len(values), [pa.py_buffer(bits), pa.py_buffer(values)]
    )


def _flags(names: list[str], vectors: Vectors) -> pa.ListArray:
    """The names of the raised flags of each vector."""
    if not vectors.quality.any():  # finding the distinct patterns sorts, at 24 ns a vector
        offsets = pa.array(np.zeros(len(vectors) + 1, np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array([], NAME))
    patterns, codes = np.unique(vectors.quality, return_inverse=True)
    lists = pa.array(
        [[name for bit, name in enumerate(names) if pattern >> bit & 1] for pattern in patterns],
        pa.list_(NAME),
    )
    return pc.take(lists, pa.array(codes))
