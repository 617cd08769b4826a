"""The tables' part of `riffle apply`."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dataflows.live_context import database_of
from dataflows.live_settings import LiveSettings
from dataflows.table_plan import Applied
from dataflows.tables import apply_tables, policies_of, sql_of, wanted_tables


def apply(console: Console, settings: LiveSettings) -> bool:
    """Makes and changes the tables of a flow, shows them all, and tells whether they fit."""
    sets = wanted_tables(settings)
    if not sets:
        return True
    applied = apply_tables(database_of(settings), sets, policies_of(settings))
    table = Table(title=f"Tables of flow {settings.name}")
    for name in ("table", "use", "state"):
        table.add_column(name, overflow="fold")
    for each in applied:
        style = "green" if each.ok else "red"
        table.add_row(each.name, each.use, f"[{style}]{escape(each.state)}[/{style}]")
    console.print(table)
    return all(each.ok for each in applied)


def show_sql(console: Console, settings: LiveSettings) -> bool:
    """Prints the statements that `apply` would execute, and tells whether the tables will fit."""
    sets = wanted_tables(settings)
    if not sets:
        console.print("-- no set of the flow has a table")
        return True
    applied, statements = sql_of(database_of(settings), sets, policies_of(settings))
    print_problems(console, applied)
    console.out(statements, end="", highlight=False)
    return all(each.ok for each in applied)


def print_problems(console: Console, applied: Iterable[Applied]) -> None:
    """Says as comments of SQL which tables can't be what they must be."""
    for each in applied:
        if not each.ok:
            console.out(f"-- {each.name}: {each.state}", highlight=False)
