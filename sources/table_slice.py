"""What is read of a table as one partition, told without loading what reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableSlice:
    """What is read of a table as one partition.

    Attributes:
        table: its name.
        part, parts: which rows: those whose entity's hash is ``part`` of ``parts``.
        until: the greatest clock that is read, as PostgreSQL writes it; None for all.
        snapshot: the snapshot of the database that is read; None for one of its own.
        rows: how many rows there are.
    """

    table: str
    part: int = 0
    parts: int = 1
    until: str | None = None
    snapshot: str | None = None
    rows: int = 0

    @property
    def name(self) -> str:
        """The name of its partition."""
        return self.table if self.parts == 1 else f"{self.table}/{self.part}-of-{self.parts}"
