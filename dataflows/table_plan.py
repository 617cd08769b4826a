"""What to do so that a schema has the tables of some sets, compared with what there is.

A set that gains a feature gains a column, and keeps the column of a feature that it loses. What
can't be changed without changing the meaning of the rows there are, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from psycopg import sql

from sinks import table_ddl as ddl
from sinks import table_partitions as partitions
from sinks.table_catalog import Catalog, Declared, FoundTable, Kind
from sinks.table_ddl import Policies
from sinks.table_layout import Column, TableLayout
from sinks.table_views import OF_VECTORS, Made, Source, views

SQL_NAMES = {"timestamptz": "timestamp with time zone"}
"""Types that PostgreSQL's catalog calls otherwise."""
NEW_VERSION = "give the set a new version, which gets a table of its own"


@dataclass(frozen=True)
class Applied:
    """What became of a table or view: ``made``, ``there``, ``altered``, or what is wrong."""

    name: str
    use: str
    state: str
    ok: bool = True


@dataclass(frozen=True)
class Step:
    """Something to do.

    Attributes:
        applied: what will have become of it.
        statements: that do it.
        upkeep: what is done each time, where nothing else is to be done too.
    """

    applied: Applied
    statements: Sequence[sql.Composed] = ()
    upkeep: Sequence[sql.Composed] = ()

    @property
    def everything(self) -> list[sql.Composed]:
        """All its statements."""
        return [*self.statements, *self.upkeep]


def plan(
    catalog: Catalog, layouts: Sequence[TableLayout], policies: Policies, namespace: str
) -> list[Step]:
    """What to do so that a schema has these tables, and its views all that there are.

    Args:
        catalog: what there is.
        layouts: of the tables that are wanted.
        policies: what becomes of old vectors.
        namespace: the schema.
    """
    steps: list[Step] = []
    if catalog.owner is None:
        made = Applied(namespace, "schema of the tables", "made")
        steps.append(Step(made, [ddl.create_schema(namespace)]))
    steps += [_function(catalog, each, namespace) for each in _functions(namespace)]
    steps.append(_progress(catalog, namespace))
    sources = {
        found.name: Source(found.name, found.kind, found.declared, _names(found))
        for found in catalog.tables.values()
        if found.declared is not None and OF_VECTORS | {*found.declared.key} <= {*_names(found)}
    }
    for layout in layouts:
        found = catalog.tables.get(layout.name)
        if found is None:
            kind: Kind = "hypertable" if catalog.timescale else "partitioned"
            declared = Declared.of(layout.feature_set)
            sources[layout.name] = Source(layout.name, kind, declared, tuple(layout.names))
            steps.append(_new(catalog, layout, policies))
            continue
        step, declared = _changed(catalog, layout, found, policies)
        steps.append(step)
        if step.applied.ok:
            gained = tuple(column.name for column in _gained(layout, found))
            columns = (*_names(found), *gained)
            sources[layout.name] = Source(layout.name, found.kind, declared, columns)
    steps += [_view(catalog, each, namespace) for each in views(namespace, sources.values())]
    return steps


def _names(found: FoundTable) -> tuple[str, ...]:
    return tuple(column.name for column in found.columns)


def _functions(namespace: str) -> Iterator[Made]:
    yield Made(
        "FUNCTION",
        partitions.FUNCTION,
        "makes the partitions of a table that hold some instants",
        partitions.function(namespace),
        partitions.ARGUMENTS,
    )
    yield Made(
        "FUNCTION",
        partitions.DROP,
        "drops the partitions of a table that are older than an instant",
        partitions.drop_function(namespace),
        partitions.DROP_ARGUMENTS,
    )


def _function(catalog: Catalog, made: Made, namespace: str) -> Step:
    step = _view(catalog, made, namespace)
    if step.applied.state == "made":
        # PostgreSQL lets everybody call a new function.
        name = sql.Identifier(namespace, made.name)
        revoke = sql.SQL("REVOKE ALL ON FUNCTION {}{} FROM PUBLIC")
        closed = revoke.format(name, sql.SQL(made.arguments))
        return Step(step.applied, [*step.statements, closed])
    return step


def _view(catalog: Catalog, made: Made, namespace: str) -> Step:
    name, use = f"{namespace}.{made.name}", f"{made.kind.lower()}: {made.words}"
    if made.name not in catalog.comments:
        return Step(Applied(name, use, "made"), made.statements(namespace))
    if catalog.comments[made.name] == made.comment:
        return Step(Applied(name, use, "there"))
    return Step(Applied(name, use, "altered"), made.statements(namespace))


def _progress(catalog: Catalog, namespace: str) -> Step:
    name, use = f"{namespace}.progress", "progress of the sinks"
    found = catalog.tables.get("progress")
    if found is None:
        return Step(Applied(name, use, "made"), ddl.create_progress(namespace))
    lacking = sorted(set(ddl.PROGRESS) - set(_names(found)))
    if lacking or found.key != ("lane",):
        state = f"must have the columns {', '.join(ddl.PROGRESS)} and the key lane, found another"
        return Step(Applied(name, use, f"{state} table; move that out of the way", ok=False))
    return Step(Applied(name, use, "there"))


def _new(catalog: Catalog, layout: TableLayout, policies: Policies) -> Step:
    statements = ddl.create_table(layout, partitioned=catalog.timescale is None)
    if catalog.timescale is None:
        applied, upkeep = Applied(*_titles(layout), "made"), [partitions.ahead(layout)]
        return Step(applied, statements, upkeep)
    statements.append(ddl.make_hypertable(layout, catalog.timescale))
    empty = FoundTable(layout.name, "hypertable", (), (), None)
    words, more = _policies(catalog, layout, empty, policies)
    state = "; ".join(["made", *words])
    return Step(Applied(*_titles(layout), state), [*statements, *more])


def _titles(layout: TableLayout) -> tuple[str, str]:
    of_set = layout.feature_set
    return f"{layout.namespace}.{layout.name}", f"vectors of {of_set.name} {of_set.version}"


def _changed(
    catalog: Catalog, layout: TableLayout, found: FoundTable, policies: Policies
) -> tuple[Step, Declared]:
    """What to do with a table that is there, and what it declares afterwards."""
    declared = Declared.of(layout.feature_set)
    if problems := list(_problems(layout, found)):
        return Step(Applied(*_titles(layout), "; ".join(problems), ok=False)), declared
    if found.declared is not None:  # a feature that has vanished may come back, but as it was
        declared = replace(declared, parts={**found.declared.parts, **declared.parts})
    gained, known = _gained(layout, found), set(layout.names)
    words = [f"gains {_listed(column.name for column in gained)}"] if gained else []
    statements = ddl.add_columns(layout, gained)
    if declared != found.declared:
        words = words or ["declared anew"]
        statements.append(ddl.declare(layout, declared))
    more_words, more = _policies(catalog, layout, found, policies)
    state = f"altered: {', '.join([*words, *more_words])}" if statements or more else "there"
    if vanished := [name for name in _names(found) if name not in known]:
        state += f"; keeps {_listed(vanished)}, which the set no longer has, null in new rows"
    upkeep = []
    if found.kind == "partitioned":
        upkeep.append(partitions.ahead(layout))
        if policies.keep is not None:
            upkeep.append(partitions.drop_older(layout, policies.keep))
    return Step(Applied(*_titles(layout), state), [*statements, *more], upkeep), declared


def _gained(layout: TableLayout, found: FoundTable) -> list[Column]:
    there = set(_names(found))
    return [column for column in layout.columns if column.name not in there]


def _problems(layout: TableLayout, found: FoundTable) -> Iterator[str]:
    """Why a table can't be that of its set."""
    of_set, told = layout.feature_set, found.declared
    if told is not None and (told.feature_set, told.version) != (of_set.name, of_set.version):
        yield (
            f"must be the table of {of_set.name} {of_set.version}, found that of "
            f"{told.feature_set} {told.version}; rename one of the sets"
        )
        return
    if found.kind == "plain":
        yield "must be partitioned or a hypertable, found a plain table; move it out of the way"
        return
    if found.key != layout.key:
        must, is_ = (", ".join(each) or "none" for each in (layout.key, found.key))
        yield f"must have the primary key {must}, found {is_}; {NEW_VERSION}"
    there = {column.name: column for column in found.columns}
    for column in layout.columns:
        held = there.pop(column.name, None)
        if held is None:
            if not column.nullable:
                yield f"must have the column `{column.name}`, found none; {NEW_VERSION}"
            continue
        wanted = SQL_NAMES.get(column.sql_type, column.sql_type)
        if held.sql_type != wanted:
            yield f"`{column.name}` must be {wanted}, found {held.sql_type}; {NEW_VERSION}"
        if held.nullable != column.nullable:
            must = "may" if column.nullable else "must not"
            yield f"`{column.name}` {must} be null, found otherwise; alter that column"
    for held in there.values():
        if not held.nullable:
            yield f"`{held.name}` must be nullable, as the set does not have it; alter that column"
    if told is not None:
        for part, fingerprint in Declared.of(of_set).parts.items():
            if told.parts.get(part, fingerprint) != fingerprint:
                yield f"{part} must be as when the table was made, found it changed; {NEW_VERSION}"
        if told.labels != of_set.labels:
            yield f"labels must be {dict(told.labels)}, found {dict(of_set.labels)}; {NEW_VERSION}"


def _policies(
    catalog: Catalog, layout: TableLayout, found: FoundTable, policies: Policies
) -> tuple[list[str], list[sql.Composed]]:
    """What to say and do about a hypertable's compression and retention."""
    if found.kind != "hypertable" or catalog.timescale is None:
        return [], []
    if not catalog.compresses:
        asked = policies.compress_after or policies.keep
        return (["this edition of TimescaleDB has no policies"] if asked else []), []
    words, statements = [], []
    for policy, past, after, before in (
        ("compression", "compressed", policies.compress_after, found.compress_after),
        ("retention", "dropped", policies.keep, found.keep),
    ):
        if after == before:
            continue
        if policy == "compression" and not found.compressed:
            statements.append(ddl.allow_compression(layout))
        statements += ddl.set_policy(
            layout, catalog.timescale, policy, after, there=before is not None
        )
        words.append(f"{past} after {_age(after)}" if after else f"no longer {past}")
    return words, statements


def _age(span: timedelta) -> str:
    return f"{span.days} days" if not span.seconds else str(span)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
