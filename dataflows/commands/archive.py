"""`riffle archive`: topics into Parquet, with a bar while it runs and what was added at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dataflows.commands.backfill import row_bar
from dataflows.live_settings import live_settings
from dataflows.topics import connection_of
from sources.archiving import Copied, archive_topics

ANY_SET: dict[str, Any] = {"sets": {"any": {}}}
"""What is archived has nothing to do with sets, and so a file without any is fine."""


def run(console: Console, topics: Sequence[str], output: Path, config: Path | None) -> list[Copied]:
    """Brings the archives of topics up to now, and prints what was added."""
    connection = connection_of(live_settings(config, **ANY_SET))
    with row_bar(console, "archive", "messages") as bar:
        found = archive_topics(connection, list(dict.fromkeys(topics)), output, bar.show)
    table = Table("topic", "partition", "from offset", "to offset", "messages", title="Archived")
    for each in found:
        last = f"{each.end - 1:,}" if each.end > each.first else "-"
        first = f"{each.first:,}" if each.end > each.first else "-"
        table.add_row(each.topic, str(each.partition), first, last, f"{each.messages:,}")
    console.print(table)
    messages = sum(each.messages for each in found)
    console.print(f"[green]done[/green]: {messages:,} messages more in {output}")
    return found
