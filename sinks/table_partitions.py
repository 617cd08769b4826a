"""Weekly partitions of tables on plain PostgreSQL, made when rows of a new week come.

TimescaleDB makes its chunks by itself. On plain PostgreSQL a row needs a partition to go to, and
whoever writes rows may not make tables: so the owner leaves a function that does just this, and
the writer calls it for the weeks it has not met before, in a transaction of its own before that of
the rows (:func:`ensure_partitions`). On TimescaleDB the function is there too and does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from operators.batch import Int64s
from sinks.table_layout import TableLayout

WEEK_NS = 7 * 86_400 * 10**9
"""Partitions begin at its multiples since 1970, so that all are of one length."""
MOST_AT_ONCE = 50
"""Partitions that are made in one transaction: each holds locks until it ends, of which a server
has some thousand."""
FUNCTION = "ensure_partitions"
ARGUMENTS = "(text, timestamptz[])"
DROP = "drop_partitions"
DROP_ARGUMENTS = "(text, timestamptz)"
AHEAD = 4
"""Weeks after the present one whose partitions are made before anyone asks."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def weeks_of(ts_ns: Int64s) -> set[int]:
    """The numbers of the weeks in which times are, counted from 1970."""
    return {int(week) for week in np.unique(ts_ns // WEEK_NS)}


def start_of(week: int) -> datetime:
    """When a week begins."""
    return _EPOCH + timedelta(weeks=week)


def ensure_partitions(
    connection: psycopg.Connection[Any], layout: TableLayout, weeks: Iterable[int]
) -> int:
    """Makes the partitions of a table that lack, and commits.

    Readers and writers of the table are not held up, and several may call it at once.

    Args:
        connection: in no transaction, so that the locks are not held longer than it takes.
        layout: of the table.
        weeks: numbers from :func:`weeks_of`.

    Returns:
        How many were made.
    """
    asked, made = sorted(set(weeks)), 0
    name = sql.Identifier(layout.namespace, FUNCTION)
    for first in range(0, len(asked), MOST_AT_ONCE):
        starts = [start_of(week) for week in asked[first : first + MOST_AT_ONCE]]
        # No parameters, for which a percent sign in a name would be taken.
        query = sql.SQL("SELECT {}({}, {}::timestamptz[])").format(name, layout.name, starts)
        with connection.transaction():
            found = connection.execute(query).fetchone()
            made += found[0] if found else 0
    return made


def function(namespace: str) -> sql.Composed:
    """The statement that makes the function.

    It runs with the rights of its owner. So it looks up names in PostgreSQL's own schema only,
    touches only partitioned tables of its owner in its own schema, and makes at most a thousand
    partitions. A lock that conflicts with itself, but with no reader or writer of the table, lets
    one caller in at a time.
    """
    body = sql.SQL(_BODY).format(namespace=sql.Literal(namespace)).as_string(None)
    return sql.SQL(
        "CREATE OR REPLACE FUNCTION {}(table_name text, instants timestamptz[]) RETURNS integer\n"
        "LANGUAGE plpgsql SECURITY DEFINER\n"
        "SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'\n"
        "AS {}"
    ).format(sql.Identifier(namespace, FUNCTION), sql.Literal(body))


def drop_function(namespace: str) -> sql.Composed:
    """The statement that makes the function which drops partitions that are too old.

    It runs with the rights of its caller, so that only the owner of the table gets anywhere.
    """
    body = sql.SQL(_DROP_BODY).format(namespace=sql.Literal(namespace)).as_string(None)
    return sql.SQL(
        "CREATE OR REPLACE FUNCTION {}(table_name text, older_than timestamptz) RETURNS integer\n"
        "LANGUAGE plpgsql\n"
        "SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'\n"
        "AS {}"
    ).format(sql.Identifier(namespace, DROP), sql.Literal(body))


def ahead(layout: TableLayout) -> sql.Composed:
    """The statement that makes the partitions of this week and the next ones."""
    return sql.SQL(
        "SELECT {}({}, ARRAY(SELECT now() + i * INTERVAL '168 hours' "
        "FROM generate_series(0, {}) i))"
    ).format(
        sql.Identifier(layout.namespace, FUNCTION), sql.Literal(layout.name), sql.Literal(AHEAD)
    )


def drop_older(layout: TableLayout, age: timedelta) -> sql.Composed:
    """The statement that drops the partitions of a table whose vectors are all of such an age."""
    return sql.SQL("SELECT {}({}, now() - {})").format(
        sql.Identifier(layout.namespace, DROP), sql.Literal(layout.name), interval(age)
    )


def interval(span: timedelta) -> sql.Composed:
    """A span in whole seconds, as SQL has it."""
    whole = f"{span.days} days" if not span.seconds else f"{span.days * 86_400 + span.seconds} s"
    return sql.SQL("INTERVAL {}").format(sql.Literal(whole))


_DROP_BODY = r"""
DECLARE
    place text := {namespace};
    part text;
    dropped integer := 0;
BEGIN
    FOR part IN
        SELECT c.relname FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
        JOIN pg_namespace n ON n.oid = p.relnamespace
        WHERE n.nspname = place AND p.relname = table_name AND p.relkind = 'p'
            AND (regexp_match(pg_get_expr(c.relpartbound, c.oid), $$TO \('([^']+)'\)$$))[1]
                ::timestamptz <= older_than
    LOOP
        EXECUTE format('DROP TABLE %I.%I', place, part);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
"""

_BODY = """
DECLARE
    place text := {namespace};
    parent pg_class;
    part text;
    week timestamptz;
    made integer := 0;
BEGIN
    IF cardinality(instants) > 1000 THEN
        RAISE EXCEPTION 'ensure_partitions must be asked for at most 1000 instants, found %',
            cardinality(instants) USING ERRCODE = 'program_limit_exceeded';
    END IF;
    SELECT c.* INTO parent FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = place AND c.relname = table_name
        AND c.relowner = (SELECT oid FROM pg_roles WHERE rolname = current_user);
    IF parent.oid IS NULL THEN
        RAISE EXCEPTION 'table %.% must exist and be of the owner of ensure_partitions',
            quote_ident(place), quote_ident(table_name) USING ERRCODE = 'undefined_table';
    END IF;
    IF parent.relkind <> 'p' THEN
        RETURN 0;
    END IF;
    FOR week IN
        SELECT DISTINCT to_timestamp(floor(extract(epoch FROM each) / 604800) * 604800)
        FROM unnest(instants) each WHERE each IS NOT NULL ORDER BY 1
    LOOP
        part := table_name || to_char(week, '"_p"YYYYMMDD');
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = parent.oid AND c.relname = part
        );
        EXECUTE format('LOCK TABLE %I.%I IN SHARE UPDATE EXCLUSIVE MODE', place, table_name);
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = parent.oid AND c.relname = part
        );
        EXECUTE format('CREATE TABLE %1$I.%2$I (LIKE %1$I.%3$I INCLUDING ALL EXCLUDING COMMENTS)',
            place, part, table_name);
        EXECUTE format('ALTER TABLE %1$I.%2$I ATTACH PARTITION %1$I.%3$I '
            'FOR VALUES FROM (%4$L) TO (%5$L)',
            place, table_name, part, week, week + interval '168 hours');
        made := made + 1;
    END LOOP;
    RETURN made;
END
"""
