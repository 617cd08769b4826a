"""The table of a set: its columns, and vectors as its rows and back, bit for bit.

PostgreSQL keeps microseconds, so the times of a row are there twice: ``ts`` and ``known_at`` for
people and for chunks, rounded down, and ``ts_ns`` and ``known_at_ns``, which are the truth. What
follows from the set alone is constant in its table: its name and version are no columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from feature_repo.names import join_keys, view_name
from operators.batch import Int64s
from operators.feature_set import FeatureSet
from operators.frames import ARROW_TYPES, NAME, TIMESTAMP, schema
from sources.database import DatabaseError

SCHEMA = "riffle"
"""Where tables are, unless another schema is named."""
MICROSECONDS = pa.timestamp("us", tz="UTC")
SQL_TYPES = {"number": "double precision", "count": "bigint", "flag": "boolean"}
"""PostgreSQL's type per kind of expression."""
LONGEST_NAME = 63
"""Bytes; PostgreSQL cuts longer names off, so that two of them could become one."""
LATEST = "_latest"
"""What the view of the newest vectors has behind the table's name."""
PARTITION = "_p20260101"
"""What a partition has behind it: the day with which its week begins."""
OTHERS = frozenset({"progress", "feature_vectors", "extracted_features", "quality_log"})
"""What else is called by a name in the schema."""
SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
NEWEST = ("known_at_ns", "n_rows", "final")
"""Of two rows of one identity, the one in which these are greater is the newer one."""


class LayoutError(DatabaseError):
    """A set whose table PostgreSQL could not have."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: as in the vectors.
        sql_type: of PostgreSQL.
        arrow_type: of the rows; names may also be dictionaries of it.
        nullable: whether a row may have none.
    """

    name: str
    sql_type: str
    arrow_type: pa.DataType
    nullable: bool = False


class TableLayout:
    """How the vectors of a set lie in its table.

    Args:
        feature_set: the set, of one version.
        namespace: the schema of the table.

    Attributes:
        name: of the table, such as ``market_fs_v1``.
        columns: in the order of rows. A table that was altered may have them in another one and
            have more, so that statements name them.
        key: the columns that tell rows apart.

    Raises:
        LayoutError: when PostgreSQL could not have the names.
    """

    def __init__(self, feature_set: FeatureSet, namespace: str = SCHEMA) -> None:
        self.feature_set = feature_set
        self.namespace = namespace
        self.name = view_name(feature_set)
        self.columns = tuple(_columns(feature_set))
        self.key = (*join_keys(feature_set), "ts", "ts_ns")
        _check(f"schema `{namespace}`", namespace)
        _check(f"table `{self.name}`", self.name, LONGEST_NAME - len(PARTITION))
        if self.name in OTHERS:
            msg = (
                f"table `{self.name}`: must not be called like another table or view of Riffle; "
                "rename the set or its version"
            )
            raise LayoutError(msg)
        for column in self.columns:
            _check(f"table `{self.name}`, column `{column.name}`", column.name)
        names = self.names
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            msg = (
                f"table `{self.name}`: columns must have different names, found several called "
                f"{', '.join(doubled)}; rename the feature or the key"
            )
            raise LayoutError(msg)

    @property
    def latest(self) -> str:
        """The name of the view with the newest vector of each entity and series."""
        return self.name + LATEST

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [column.name for column in self.columns]

    @property
    def identifier(self) -> sql.Identifier:
        """The table, quoted for SQL."""
        return sql.Identifier(self.namespace, self.name)

    @cached_property
    def arrow_schema(self) -> pa.Schema:
        """The columns as Arrow has them, names as strings."""
        return pa.schema([(c.name, c.arrow_type, c.nullable) for c in self.columns])

    def rows(self, vectors: pa.Table) -> pa.Table:
        """Vectors as rows of the table.

        Args:
            vectors: with the columns of :func:`operators.frames.schema`; names that are
                dictionaries, as :func:`operators.frames.vectors_table` gives them, remain so.
        """
        ts_ns, known_at_ns = (_ns(vectors[name]) for name in ("ts", "known_at"))
        of_time = {
            "ts": _microseconds(ts_ns),
            "ts_ns": pa.array(ts_ns),
            "known_at": _microseconds(known_at_ns),
            "known_at_ns": pa.array(known_at_ns),
        }
        arrays = [of_time[n] if n in of_time else vectors[n] for n in self.names]
        return pa.Table.from_arrays(arrays, names=self.names)

    def vectors(self, rows: pa.Table) -> pa.Table:
        """Rows of the table as vectors with the columns of :func:`operators.frames.schema`."""
        of_set = {
            "feature_set": pa.repeat(pa.scalar(self.feature_set.name, NAME), len(rows)),
            "version": pa.repeat(pa.scalar(self.feature_set.version, NAME), len(rows)),
            "ts": rows["ts_ns"].cast(TIMESTAMP),
            "known_at": rows["known_at_ns"].cast(TIMESTAMP),
        }
        columns = schema(self.feature_set)
        arrays = [
            of_set[field.name] if field.name in of_set else rows[field.name].cast(field.type)
            for field in columns
        ]
        return pa.Table.from_arrays(arrays, schema=columns)


def _columns(feature_set: FeatureSet) -> Iterator[Column]:
    for name in (*join_keys(feature_set), *feature_set.labels):
        yield Column(name, "text", NAME)
    yield Column("ts", "timestamptz", MICROSECONDS)
    yield Column("ts_ns", "bigint", pa.int64())
    for name, expr in feature_set.feature_exprs.items():
        yield Column(name, SQL_TYPES[expr.kind], ARROW_TYPES[expr.kind], nullable=True)
    yield Column("quality", "text[]", pa.list_(NAME))
    yield Column("coverage", "double precision", pa.float64())
    yield Column("known_at", "timestamptz", MICROSECONDS)
    yield Column("known_at_ns", "bigint", pa.int64())
    yield Column("n_rows", "bigint", pa.int64())
    yield Column("final", "boolean", pa.bool_())


def _check(where: str, name: str, longest: int = LONGEST_NAME) -> None:
    size = len(name.encode())
    if not 0 < size <= longest:
        msg = (
            f"{where}: a name must have 1 to {longest} bytes in PostgreSQL, found {size}; "
            "give it a shorter one"
        )
        raise LayoutError(msg)
    if "\0" in name:
        msg = f"{where}: a name must have no zero character, found one; give it another"
        raise LayoutError(msg)
    if name in SYSTEM_COLUMNS:
        msg = f"{where}: must not be called like a column of PostgreSQL's own; give it another name"
        raise LayoutError(msg)


def _ns(times: pa.ChunkedArray) -> Int64s:
    return np.asarray(pc.cast(times, pa.int64()))


def _microseconds(times_ns: Int64s) -> pa.Array:
    """Times rounded down, before 1970 as well, so that their order is never another one."""
    return pa.array(np.floor_divide(times_ns, 1_000)).cast(MICROSECONDS)
