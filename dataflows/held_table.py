"""The vectors that a table holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa
from psycopg import sql

from operators.feature_set import FeatureSet
from sinks.table_layout import TableLayout
from sources.database import Database
from sources.selected import selected

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TableHeld:
    """The vectors of the table of a set.

    Args:
        database: where it is.
        feature_set: whose table.

    Attributes:
        name: what messages call it.

    Raises:
        LayoutError: when the set can't have a table.
    """

    def __init__(self, database: Database, feature_set: FeatureSet) -> None:
        self._database = database
        self.name = f"table {database.schema}.{TableLayout(feature_set, database.schema).name}"

    def tables(
        self, feature_set: FeatureSet, from_ns: int, to_ns: int, watch: Callable[[int, int], None]
    ) -> Iterator[pa.Table]:
        """The final vectors of a set and its version with times of a range, as of one instant.

        Args:
            feature_set: whose vectors.
            from_ns: their least time.
            to_ns: the time before which they are.
            watch: is told the vectors read and the vectors there are.

        Raises:
            DatabaseError: when the table can't be read.
        """
        layout = TableLayout(feature_set, self._database.schema)
        chosen = sql.SQL(
            "FROM {} WHERE final AND ts >= {} AND ts <= {} AND ts_ns >= {} AND ts_ns < {}"
        ).format(layout.identifier, _microseconds(from_ns), _microseconds(to_ns), from_ns, to_ns)
        types = {
            column.name: column.arrow_type
            for column in layout.columns
            if not pa.types.is_timestamp(column.arrow_type)  # of which ts_ns is the truth
        }
        try:
            with self._database.connect() as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                connection.read_only = True
                counted = sql.SQL("SELECT count(*) {}").format(chosen)
                (total,) = connection.execute(counted).fetchone() or (0,)
                done = 0
                for rows in selected(connection, types, chosen):
                    done += len(rows)
                    yield layout.vectors(rows)
                    watch(done, total)
        except psycopg.Error as error:
            raise self._database.refused(self.name, error) from None


def _microseconds(at_ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_ns // 1_000)
