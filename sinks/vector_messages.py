"""Vectors as messages: a JSON object each, or an Arrow stream of many; and back, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from operators.batch import OfNames, Vectors
from operators.feature_set import FeatureSet
from operators.frames import schema, vectors_table
from sinks.vector_json import VectorJson

Form: TypeAlias = Literal["json", "arrow"]

ARROW_MESSAGE_BYTES = 512 * 1024
"""About the most of an Arrow message: half of what a broker takes unless told otherwise."""

_CELLS: dict[str, Any] = {"number": float | None, "count": int | None, "flag": bool | None}


class UnreadableMessageError(ValueError):
    """A message that is no vector of the set."""


class VectorMessages:
    """The messages of one set's vectors.

    A message's key is the entity. Its value has the columns of :func:`operators.frames.schema` in
    their order; times are RFC 3339 in UTC without trailing zeros.

    Args:
        feature_set: whose vectors they are.
    """

    def __init__(self, feature_set: FeatureSet) -> None:
        self.feature_set = feature_set
        self._schema = schema(feature_set)
        self._kinds = {name: expr.kind for name, expr in feature_set.feature_exprs.items()}
        # The fields are numbered, for a label may be no Python name.
        columns = {f"c{i}": field for i, field in enumerate(self._schema)}
        types: dict[str, Any] = {name: self._type(field) for name, field in columns.items()}
        self._row: Any = msgspec.defstruct(
            "Row",
            list(types.items()),
            rename={name: field.name for name, field in columns.items()},
            forbid_unknown_fields=True,
            gc=False,
        )
        self._json = VectorJson(feature_set)
        self._encoded = OfNames(lambda names: [name.encode() for name in names])
        self._decoder = msgspec.json.Decoder(self._row)

    def _type(self, field: pa.Field) -> Any:
        if field.name in self._kinds:
            return _CELLS[self._kinds[field.name]]
        return {
            pa.list_(pa.string()): list[str],
            pa.float64(): float,
            pa.int64(): int,
            pa.bool_(): bool,
        }.get(field.type, str)

    def keys(self, vectors: Vectors) -> list[bytes]:
        """The key of each vector's message: its entity."""
        encoded, codes = self._encoded.of(vectors.keys)
        return list(map(encoded.__getitem__, codes.tolist()))

    def values(self, vectors: Vectors) -> list[bytes]:
        """Each vector as a JSON object.

        Raises:
            NotFiniteError: when a feature is infinite.
        """
        return self._json.values(vectors)

    def arrow(self, vectors: Vectors) -> list[bytes]:
        """Vectors as Arrow IPC streams of :func:`operators.frames.schema`, of a bounded size."""
        table = vectors_table(self.feature_set, vectors).cast(self._schema)
        rows = max(1, len(vectors) * ARROW_MESSAGE_BYTES // max(1, table.nbytes))
        return [_stream(table.slice(start, rows)) for start in range(0, len(vectors), rows)]

    def read(self, values: Iterable[bytes | None]) -> pa.Table:
        """Reads the values of messages back, in their order and of whichever form they are.

        Raises:
            UnreadableMessageError: for one that is no vector of this set.
        """
        tables: list[pa.Table] = []
        rows: list[Any] = []
        for number, value in enumerate(values):
            try:
                if value is None or value[:1] == b"{":
                    rows.append(self._decoder.decode(value or b""))
                    continue
                tables += [self._table(rows), self._read_stream(value)]
                rows = []
            except (ValueError, OSError, msgspec.DecodeError, pa.ArrowException) as error:
                where = f"message {number}"
                raise self._unreadable(where, error) from None
        return pa.concat_tables([*tables, self._table(rows)])

    def _unreadable(self, where: str, error: Exception) -> UnreadableMessageError:
        expected = f"{self.feature_set.name}.{self.feature_set.version}"
        return UnreadableMessageError(f"{where}: must be a vector of {expected}, {error}")

    def _read_stream(self, value: bytes) -> pa.Table:
        table = pa.ipc.open_stream(value).read_all()
        if not table.schema.equals(self._schema):
            msg = f"found columns {table.schema.names} of other names or types"
            raise ValueError(msg)
        return table

    def _table(self, rows: list[Any]) -> pa.Table:
        columns = []
        for number, field in enumerate(self._schema):
            cells = [getattr(row, f"c{number}") for row in rows]
            if pa.types.is_timestamp(field.type):
                try:
                    columns.append(pa.array(parsed_ns(cells)).cast(field.type))
                except ValueError as error:
                    where = f"field `{field.name}`"
                    raise self._unreadable(where, error) from None
            else:
                columns.append(pa.array(cells, field.type))
        return pa.Table.from_arrays(columns, schema=self._schema)


def read_vectors_messages(feature_set: FeatureSet, values: Iterable[bytes | None]) -> pa.Table:
    """Reads the values of messages as a table of :func:`operators.frames.schema`.

    Args:
        feature_set: whose vectors they are.
        values: of messages, JSON or Arrow.

    Raises:
        UnreadableMessageError: for one that is no vector of the set.
    """
    return VectorMessages(feature_set).read(values)


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def parsed_ns(texts: list[str]) -> npt.NDArray[np.int64]:
    """Reads times back.

    >>> parsed_ns(["1970-01-01T00:00:01.5Z"]).tolist()
    [1500000000]

    Raises:
        ValueError: for a text that is no such time.
    """
    for text in texts:
        if text[-1:] != "Z":
            msg = f"must be a time like 2026-01-31T09:30:00.5Z, found {text!r}"
            raise ValueError(msg)
    return np.array([text[:-1] for text in texts], "datetime64[ns]").view(np.int64)


def sorted_by_time(vectors: Vectors) -> Vectors:
    """Vectors by their time, those of one instant in the order given."""
    if (np.diff(vectors.ts_ns) >= 0).all():
        return vectors
    return vectors.take(np.argsort(vectors.ts_ns, kind="stable"))
