"""The online store's part of `riffle apply`."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dataflows.live_context import database_of
from dataflows.live_settings import LiveSettings
from dataflows.topics import sets_of
from feature_repo.names import view_name

GOLD = "RIFFLE_GOLD"
"""The variable that names the gold dataset, which has the past where there is no database."""


def apply(console: Console, settings: LiveSettings) -> None:
    """Registers the sets of a flow that are served, and shows their views."""
    sets = sets_of(settings)
    served = [sets[name] for name, table in settings.sets.items() if "online" in table.sinks]
    if not served or settings.online is None:
        return
    from feature_repo.store import apply as register  # so that others do not load Feast

    database = database_of(settings) if settings.database else None
    store = register(
        Path(os.environ.get(GOLD, "out/gold")), settings.online.store, served, database
    )
    table = Table(title=f"Views of project {store.project}")
    for name in ("view", "use", "state"):
        table.add_column(name, overflow="fold")
    past = f"tables of schema {database.schema}" if database else "gold dataset"
    for feature_set in served:
        use = f"newest vectors of {feature_set.name}; their past: {past}"
        table.add_row(view_name(feature_set), use, "[green]registered[/green]")
    console.print(table)
