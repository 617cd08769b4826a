"""The tables of feature sets: what each must be, and making and changing them.

What is there is compared with the declarations first, and only what lacks is done, in a single
transaction (:mod:`dataflows.table_plan`). A table that can't be what its set wants is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql

from dataflows.live_settings import LiveSettings
from dataflows.named_sets import named_set
from dataflows.table_plan import Applied, Step, plan
from operators.feature_set import FeatureSet
from sinks.table_catalog import Catalog, read_catalog
from sinks.table_ddl import Policies
from sinks.table_layout import LayoutError, TableLayout
from sources.database import Database, DatabaseError, words

LOCK_WAIT = "10s"
"""How long a change of a table waits for its readers and writers. Whoever comes after it waits for
it, so that it must not wait behind a query of an hour."""


def wanted_tables(settings: LiveSettings) -> list[FeatureSet]:
    """The sets of a flow whose vectors go to tables."""
    return [named_set(name) for name, table in settings.sets.items() if "table" in table.sinks]


def policies_of(settings: LiveSettings) -> Policies:
    """What a flow's settings say of old vectors."""
    table = settings.database
    if table is None:
        return Policies()
    after, keep = (timedelta(seconds=ns // 10**9) for ns in (table.compress_after, table.keep))
    return Policies(after or None, keep or None)


def apply_tables(
    database: Database, sets: Iterable[FeatureSet], policies: Policies | None = None
) -> list[Applied]:
    """Makes the tables and views that lack, and changes those that a set has outgrown.

    Args:
        database: where; as its user, or as the owner of the schema if the user may be that.
        sets: whose tables; a set and version that is not among them keeps its table.
        policies: what becomes of old vectors.

    Raises:
        DatabaseError: when the database refuses; nothing is changed then.
        LayoutError: when a set can't have a table.
    """
    layouts = _layouts(database, sets)
    with _transaction(database) as connection:
        catalog = read_catalog(connection, database.schema)
        steps = plan(catalog, layouts, policies or Policies(), database.schema)
        _do(connection, catalog, database, steps)
    return [step.applied for step in steps]


def sql_of(
    database: Database, sets: Iterable[FeatureSet], policies: Policies | None = None
) -> tuple[list[Applied], str]:
    """What :func:`apply_tables` would do, and its statements, which are not executed."""
    layouts = _layouts(database, sets)
    with _transaction(database) as connection:
        catalog = read_catalog(connection, database.schema)
        steps = plan(catalog, layouts, policies or Policies(), database.schema)
        lines = [each.as_string(connection) for step in steps for each in step.everything]
    return [step.applied for step in steps], "".join(f"{line};\n" for line in lines)


def _layouts(database: Database, sets: Iterable[FeatureSet]) -> list[TableLayout]:
    """The tables of sets, each once.

    Raises:
        LayoutError: when two sets would have one table.
    """
    found: dict[str, TableLayout] = {}
    for each in sets:
        layout = TableLayout(each, database.schema)
        other = found.setdefault(layout.name, layout).feature_set
        if other.fingerprint != each.fingerprint:
            msg = (
                f"table `{layout.name}`: must be of one set, found {other.name} {other.version} "
                f"and {each.name} {each.version}, declared differently; rename one of them"
            )
            raise LayoutError(msg)
    return list(found.values())


def _do(
    connection: psycopg.Connection[Any], catalog: Catalog, database: Database, steps: list[Step]
) -> None:
    """Executes what is to be done, in the name of the schema's owner."""
    statements = [each for step in steps for each in step.statements]
    if catalog.owner is not None:
        if not catalog.can_be_owner:
            if not statements:
                return
            msg = (
                f"schema `{database.schema}`: must be changed by `{catalog.owner}`, who owns it, "
                f"found another user in {database!r}; use the URL of the owner for this command"
            )
            raise DatabaseError(msg)
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(catalog.owner)))
    for statement in [*statements, *(each for step in steps for each in step.upkeep)]:
        connection.execute(statement)


@contextmanager
def _transaction(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A transaction in which nobody else applies; its errors are in words."""
    try:
        with database.connect() as connection:
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(LOCK_WAIT))
            lock = "SELECT pg_advisory_xact_lock(hashtext('riffle apply'), hashtext(%s))"
            connection.execute(lock, (database.schema,))
            yield connection
    except psycopg.errors.LockNotAvailable as error:
        msg = (
            f"tables of {database!r}: must be free within {LOCK_WAIT} to be changed, found "
            f"{words(error)}; nothing was changed; try again when long queries are over"
        )
        raise DatabaseError(msg) from None
    except psycopg.Error as error:
        where = "riffle apply"
        raise database.refused(where, error) from None
