"""Tables as inputs of a run: where their database is, and which state of it is read."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from dataflows.live_settings import NESTED, DatabaseTable, secret
from dataflows.settings import PREFIX, SettingsError
from operators.streams import Stream
from sources.table_slice import TableSlice

if TYPE_CHECKING:
    from sources.database import Database
    from sources.tables import InputTable, TableFacts, TableSnapshot

TABLE = "table:"
"""What the name of a table begins with where a path could stand."""


class _Environment(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=NESTED)

    database: DatabaseTable | None = None


@cache
def database() -> Database:
    """The database that the environment tells.

    Its URL is given neither on the command line, which everyone may see, nor from process to
    process other than by the environment.

    Raises:
        SettingsError: when it tells none, or both a URL and a file that holds it.
        DatabaseError: when it is no URL.
    """
    from sources.database import Database

    names = f"{PREFIX}DATABASE{NESTED}URL or {PREFIX}DATABASE{NESTED}URL_FILE"
    try:
        told = _Environment().database
    except ValidationError as error:
        said = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
        msg = f"the database of input tables, {names} in the environment: {said}"
        raise SettingsError(msg) from None
    if told is None:
        msg = f"the database of input tables must be told as {names} in the environment, found none"
        raise SettingsError(msg)
    if told.url_file is not None:
        return Database(secret(told.url_file, f"{PREFIX}DATABASE{NESTED}URL_FILE"))
    assert told.url is not None  # noqa: S101 - one of them is there
    return Database(told.url.get_secret_value())


def input_table(held: TableSlice) -> InputTable:
    """A slice of a table as sources want it."""
    from sources.tables import InputTable

    return InputTable(database(), held)


class TableInputs:
    """The state of the database that a run reads: that of its first look, until it is closed.

    Args:
        parts: into how many slices each table is divided, by entity.
        untils: how far an earlier run, which this one resumes, read each table, by stream and
            input.
    """

    def __init__(self, parts: int = 1, untils: Mapping[tuple[str, str], str] | None = None) -> None:
        self._parts = parts
        self._untils = untils or {}
        self._snapshot: TableSnapshot | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the state; who has not begun to read cannot any more."""
        atexit.unregister(self.close)
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None

    def facts(self, stream: Stream, root: str) -> list[TableFacts]:
        """Looks through a table.

        Args:
            stream: what its rows are.
            root: ``table:NAME``.
        """
        from sources.table_columns import TableName
        from sources.tables import TableSnapshot

        if self._snapshot is None:
            self._snapshot = TableSnapshot(database())
            atexit.register(self.close)  # and kept until then, if nobody closes it
        name = TableName.of(root.removeprefix(TABLE))
        until = self._untils.get((stream.name, root))
        return self._snapshot.facts(stream, name, self._parts, until)
