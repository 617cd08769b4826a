"""Views over the tables of vectors: all of a kind together, the newest ones, and raised flags.

A view says in its comment which statement made it, so that one that is as it should be is left
alone: to replace it, all its readers would have to finish.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from sinks.table_catalog import Declared, Kind
from sinks.table_layout import LATEST

UNIONS = {
    "feature_vectors": ("instrument_id", "timeframe"),
    "extracted_features": ("asset_id", "channel"),
}
"""The views of all vectors of a kind of entity: its key, and its series."""
OF_VECTORS = frozenset(
    ("ts", "ts_ns", "quality", "coverage", "known_at", "known_at_ns", "n_rows", "final")
)
"""Columns of every table."""


@dataclass(frozen=True, slots=True)
class Made:
    """Something in the schema that a statement makes or replaces.

    Attributes:
        kind: ``VIEW``, or ``FUNCTION``.
        name: of it.
        words: what it is.
        statement: that makes it.
        arguments: of a function, which are part of its name.
    """

    kind: str
    name: str
    words: str
    statement: sql.Composed
    arguments: str = ""

    @property
    def comment(self) -> str:
        """What it says of itself."""
        digest = hashlib.sha256(self.statement.as_string(None).encode()).hexdigest()
        return f"{self.words} [riffle {digest[:16]}]"

    def statements(self, namespace: str) -> list[sql.Composed]:
        """Makes or replaces it."""
        said = sql.SQL("COMMENT ON {} {}{} IS {}").format(
            sql.SQL(self.kind),
            sql.Identifier(namespace, self.name),
            sql.SQL(self.arguments),
            sql.Literal(self.comment),
        )
        return [self.statement, said]


@dataclass(frozen=True, slots=True)
class Source:
    """A table as views see it.

    Attributes:
        name: of the table.
        kind: how it is cut.
        declared: what it was made for.
        columns: all that it has, in order.
    """

    name: str
    kind: Kind
    declared: Declared
    columns: tuple[str, ...]

    @property
    def features(self) -> list[str]:
        """The columns of features, vanished ones too."""
        others = OF_VECTORS | {*self.declared.key, *self.declared.labels}
        return [name for name in self.columns if name not in others]


def views(namespace: str, sources: Iterable[Source]) -> list[Made]:
    """All views over some tables."""
    tables = sorted(sources, key=lambda source: source.name)
    return [
        *(_union(namespace, name, *key, tables) for name, key in UNIONS.items()),
        _quality_log(namespace, tables),
        *(_latest(namespace, source) for source in tables),
    ]


def _union(namespace: str, view: str, key: str, series: str, tables: Sequence[Source]) -> Made:
    selects = [
        sql.SQL(
            "SELECT t.{key}, {series} AS {series_name}, t.ts, t.ts_ns, {set}::text AS feature_set, "
            "{version}::text AS version,\n"
            "    (SELECT to_jsonb(f) FROM (SELECT {features}) f) AS features,\n"
            "    t.quality, t.coverage, t.known_at, t.n_rows, t.final\n"
            "FROM {table} t"
        ).format(
            key=sql.Identifier(key),
            series=sql.SQL("t.{}").format(sql.Identifier(series))
            if series in source.columns
            else sql.SQL('NULL::text COLLATE "C"'),
            series_name=sql.Identifier(series),
            set=sql.Literal(source.declared.feature_set),
            version=sql.Literal(source.declared.version),
            features=sql.SQL(", ").join(
                sql.SQL("t.{}").format(sql.Identifier(name)) for name in source.features
            ),
            table=sql.Identifier(namespace, source.name),
        )
        for source in tables
        if source.declared.entity == key
    ]
    nothing = sql.SQL(
        'SELECT NULL::text COLLATE "C" AS {}, NULL::text COLLATE "C" AS {}, NULL::timestamptz AS '
        "ts, NULL::bigint AS ts_ns, NULL::text AS feature_set, NULL::text AS version,\n    "
        "NULL::jsonb AS features, NULL::text[] AS quality, NULL::double precision AS coverage, "
        "NULL::timestamptz AS known_at, NULL::bigint AS n_rows, NULL::boolean AS final\nWHERE false"
    ).format(sql.Identifier(key), sql.Identifier(series))
    body = sql.SQL("\nUNION ALL\n").join(selects or [nothing])
    return _view(namespace, view, f"vectors of all sets whose entity is `{key}`", body)


def _quality_log(namespace: str, tables: Sequence[Source]) -> Made:
    selects = [
        sql.SQL(
            "SELECT {set}::text AS feature_set, {version}::text AS version, t.{entity} AS entity, "
            "{series} AS series, t.ts, t.ts_ns,\n"
            "    flag, t.coverage, t.known_at, t.n_rows, t.final\n"
            "FROM {table} t CROSS JOIN LATERAL unnest(t.quality) AS flag"
        ).format(
            set=sql.Literal(source.declared.feature_set),
            version=sql.Literal(source.declared.version),
            entity=sql.Identifier(source.declared.entity),
            series=sql.SQL("t.{}").format(sql.Identifier(source.declared.series))
            if source.declared.series
            else sql.SQL('NULL::text COLLATE "C"'),
            table=sql.Identifier(namespace, source.name),
        )
        for source in tables
    ]
    nothing = sql.SQL(
        "SELECT NULL::text AS feature_set, NULL::text AS version, "
        'NULL::text COLLATE "C" AS entity, NULL::text COLLATE "C" AS series, '
        "NULL::timestamptz AS ts, NULL::bigint AS ts_ns,\n    NULL::text AS flag, "
        "NULL::double precision AS coverage, NULL::timestamptz AS known_at, NULL::bigint AS "
        "n_rows, NULL::boolean AS final\nWHERE false"
    ).format()
    body = sql.SQL("\nUNION ALL\n").join(selects or [nothing])
    return _view(namespace, "quality_log", "each raised quality flag of each vector", body)


def _latest(namespace: str, source: Source) -> Made:
    """The newest vector of each key, final or not.

    TimescaleDB skips from key to key in its index for DISTINCT ON. PostgreSQL reads all rows for
    it, so there the keys are walked: 1,000 of 2 million rows in 0.15 s instead of 1.9 s.
    """
    form = sql.SQL(_DISTINCT if source.kind == "hypertable" else _WALK)
    key = source.declared.key

    def each(form: str) -> sql.Composed:
        return sql.SQL(", ").join(sql.SQL(form).format(sql.Identifier(name)) for name in key)

    body = form.format(
        table=sql.Identifier(namespace, source.name),
        key=each("{}"),
        of_t=each("t.{}"),
        of_k=each("k.{}"),
        down=each("{} DESC"),
        columns=sql.SQL(", ").join(
            sql.SQL("t.{}").format(sql.Identifier(name)) for name in source.columns
        ),
    )
    words = f"the newest vector of each {' and '.join(f'`{name}`' for name in key)}"
    return _view(namespace, source.name + LATEST, words, body)


_DISTINCT = (
    "SELECT DISTINCT ON ({key}) {columns}\nFROM {table} t\nORDER BY {down}, ts DESC, ts_ns DESC"
)
_WALK = """WITH RECURSIVE k AS (
    (SELECT {key} FROM {table} ORDER BY {key} LIMIT 1)
    UNION ALL
    SELECT n.* FROM k CROSS JOIN LATERAL (
        SELECT {of_t} FROM {table} t WHERE ({of_t}) > ({of_k}) ORDER BY {of_t} LIMIT 1
    ) n
)
SELECT t.* FROM k CROSS JOIN LATERAL (
    SELECT {columns} FROM {table} t WHERE ({of_t}) = ({of_k}) ORDER BY ts DESC, ts_ns DESC LIMIT 1
) t"""


def _view(namespace: str, name: str, words: str, body: sql.Composed) -> Made:
    statement = sql.SQL("CREATE OR REPLACE VIEW {} AS\n{}").format(
        sql.Identifier(namespace, name), body
    )
    return Made("VIEW", name, words, statement)
