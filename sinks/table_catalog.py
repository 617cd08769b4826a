"""What there is in the schema of the tables, read from PostgreSQL's catalog."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeAlias

import psycopg

from operators.feature_set import FeatureSet

Kind: TypeAlias = Literal["hypertable", "partitioned", "plain"]


@dataclass(frozen=True, slots=True)
class Declared:
    """What a table's comment says of the set that it was made for.

    Attributes:
        feature_set, version: of the set.
        entity, series: its key.
        labels: constant columns.
        fingerprint: of the whole declaration.
        parts: a fingerprint of each feature and flag, and of what else decides values.
    """

    feature_set: str
    version: str
    entity: str
    series: str | None
    labels: Mapping[str, str]
    fingerprint: str
    parts: Mapping[str, str]

    @staticmethod
    def of(feature_set: FeatureSet) -> Declared:
        """That of a set."""
        parts = {
            "instants": f"{feature_set.instants.fingerprint} ttl {feature_set.ttl}",
            "coverage": feature_set.coverage_expr.fingerprint,
        }
        for name, expr in feature_set.feature_exprs.items():
            parts[f"feature `{name}`"] = expr.fingerprint
        for name, expr in feature_set.quality.items():
            parts[f"flag `{name}`"] = expr.fingerprint
        return Declared(
            feature_set.name,
            feature_set.version,
            feature_set.entity,
            feature_set.series,
            dict(feature_set.labels),
            feature_set.fingerprint,
            parts,
        )

    def comment(self) -> str:
        """The comment that says it."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"riffle": 1, **fields}, ensure_ascii=False)

    @staticmethod
    def read(comment: str | None) -> Declared | None:
        """What a comment says; None for one of somebody else."""
        try:
            told = json.loads(comment or "")
            return Declared(**{name: told[name] for name in Declared.__slots__})
        except (ValueError, TypeError, KeyError):
            return None

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that a vector is looked up by."""
        return (self.entity, *([self.series] if self.series else []))


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """A column that is there."""

    name: str
    sql_type: str
    nullable: bool


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A table that is there.

    Attributes:
        name: of it.
        kind: how it is cut by time.
        columns: in order.
        key: columns of its primary key.
        declared: what its comment says, if that is ours.
        compressed: whether TimescaleDB was told how to compress it.
        compress_after, keep: TimescaleDB's policies, in words.
    """

    name: str
    kind: Kind
    columns: tuple[FoundColumn, ...]
    key: tuple[str, ...]
    declared: Declared | None
    compressed: bool = False
    compress_after: timedelta | None = None
    keep: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """What there is.

    Attributes:
        owner: of the schema; None where there is no schema.
        can_be_owner: whether we may make things in its name.
        tables: by name, without partitions.
        comments: of views and functions, by name.
        timescale: the schema with TimescaleDB's functions; None where it is not installed.
        compresses: whether it is of the edition that compresses and keeps policies.
    """

    owner: str | None = None
    can_be_owner: bool = True
    tables: Mapping[str, FoundTable] = field(default_factory=dict)
    comments: Mapping[str, str | None] = field(default_factory=dict)
    timescale: str | None = None
    compresses: bool = False


def read_catalog(connection: psycopg.Connection[Any], namespace: str) -> Catalog:
    """Reads what is in a schema."""
    schema = connection.execute(_SCHEMA, (namespace,)).fetchone()
    extension = connection.execute(_TIMESCALE).fetchone()
    if schema is None:
        return Catalog(timescale=extension and extension[0], compresses=_compresses(extension))
    hypertables: dict[str, dict[str, Any]] = {}
    if extension is not None:
        for name, compressed in connection.execute(_HYPERTABLES, (namespace,)):
            hypertables[name] = {"kind": "hypertable", "compressed": compressed}
        for name, policy, after in connection.execute(_POLICIES, (namespace,)):
            hypertables[name]["keep" if policy == "policy_retention" else "compress_after"] = after
    columns: dict[str, list[FoundColumn]] = {}
    for table, *column in connection.execute(_COLUMNS, (namespace,)):
        columns.setdefault(table, []).append(FoundColumn(*column))
    tables = {}
    for name, kind, comment, key in connection.execute(_TABLES, (namespace,)):
        facts = hypertables.get(name, {"kind": "partitioned" if kind == "p" else "plain"})
        held = tuple(columns.get(name, ()))
        tables[name] = FoundTable(
            name, columns=held, key=tuple(key or ()), declared=Declared.read(comment), **facts
        )
    return Catalog(
        owner=schema[0],
        can_be_owner=schema[1],
        tables=tables,
        comments=dict(connection.execute(_COMMENTS, {"schema": namespace}).fetchall()),
        timescale=extension and extension[0],
        compresses=_compresses(extension),
    )


def _compresses(extension: tuple[Any, ...] | None) -> bool:
    return extension is not None and extension[1] == "timescale"


_SCHEMA = """
SELECT r.rolname, pg_has_role(r.oid, 'MEMBER')
FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner WHERE n.nspname = %s
"""
_TIMESCALE = """
SELECT n.nspname, current_setting('timescaledb.license', true)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'timescaledb'
"""
_TABLES = """
SELECT c.relname, c.relkind, obj_description(c.oid, 'pg_class'),
    (SELECT array_agg(a.attname::text ORDER BY place.n)
     FROM pg_index i, unnest(i.indkey) WITH ORDINALITY place (attnum, n)
     JOIN pg_attribute a ON a.attnum = place.attnum
     WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid)
FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
WHERE s.nspname = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition
ORDER BY c.relname
"""
_COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull
FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid
WHERE s.nspname = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum
"""
_COMMENTS = """
SELECT c.relname, obj_description(c.oid, 'pg_class')
FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
WHERE s.nspname = %(schema)s AND c.relkind IN ('v', 'm')
UNION ALL
SELECT p.proname, obj_description(p.oid, 'pg_proc')
FROM pg_proc p JOIN pg_namespace s ON s.oid = p.pronamespace WHERE s.nspname = %(schema)s
"""
_HYPERTABLES = """
SELECT hypertable_name, compression_enabled FROM timescaledb_information.hypertables
WHERE hypertable_schema = %s
"""
_POLICIES = """
SELECT hypertable_name, proc_name,
    coalesce(config ->> 'compress_after', config ->> 'drop_after')::interval
FROM timescaledb_information.jobs
WHERE hypertable_schema = %s AND proc_name IN ('policy_compression', 'policy_retention')
"""
