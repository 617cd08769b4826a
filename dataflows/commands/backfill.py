"""`riffle backfill`: the launcher, with a bar while it runs and the account of rows at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from dataflows.launch import Request, Result, backfill
from operators.account import Fate


class Bar:
    """A bar of rows or messages, with how many there are per second.

    Args:
        progress: draws it.
        task: its number there.
        unit: what is counted.
    """

    def __init__(self, progress: Progress, task: TaskID, unit: str = "rows") -> None:
        self._progress = progress
        self._task = task
        self._unit = unit
        self._before: int | None = None

    def show(self, rows: int, total: int) -> None:
        """Shows rows done of all; what an earlier run has done does not count into the rate."""
        if self._before is None or rows < self._before:
            self._before = rows
        elapsed = self._progress.tasks[self._task].elapsed or 0.0
        rate = (rows - self._before) / elapsed if elapsed > 0 else 0.0
        number = f"{rate / 1e6:.2f} M" if rate >= 1e5 else f"{rate:,.0f}"
        shown = f"{number} {self._unit}/s"
        self._progress.update(self._task, completed=rows, total=total, rate=shown)


@contextmanager
def row_bar(console: Console, label: str, unit: str = "rows") -> Iterator[Bar]:
    """Draws a bar of rows, or of what else is counted, while its block runs; on a terminal only."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bar(progress, progress.add_task(label, total=None, rate=""), unit)


def show_account(
    console: Console, account: dict[str, dict[str, int]], unread: dict[str, int]
) -> None:
    """Prints what became of the rows, and of those that could not be used why."""
    fates = [*(fate.name.lower() for fate in Fate), "pending"]
    table = Table(title="Account of rows")
    table.add_column("stream", overflow="fold")
    for name in fates:
        table.add_column(name, justify="right", overflow="fold")
    for stream, counts in sorted(account.items()):
        table.add_row(stream, *(f"{counts.get(name, 0):,}" for name in fates))
    console.print(table)
    if unread:
        listed = ", ".join(f"{count:,} {reason}" for reason, count in sorted(unread.items()))
        console.print(f"dead letters: {listed}")


def run(console: Console, request: Request) -> Result:
    """Runs a backfill and prints how it ended."""
    with row_bar(console, "backfill") as bar:
        result = backfill(request, bar.show)
    show_account(console, result.account, result.unread)
    if result.drained and request.recovery is None:
        console.print(
            "[yellow]stopped[/yellow] before its end; without --recovery it can't be resumed, so "
            f"{request.output} is incomplete"
        )
    elif result.drained:
        console.print("[yellow]stopped[/yellow]; the same command goes on from here")
    else:
        console.print(f"[green]done[/green] by {result.split}; the vectors are in {request.output}")
    return result
