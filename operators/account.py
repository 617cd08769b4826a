"""The account of rows: whatever came in is somewhere, per partition."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from operators.batch import Int64s


class Fate(IntEnum):
    """What became of a row. Those that came in equal the sum of all others and the pending ones."""

    IN = 0
    APPLIED = 1
    DUPLICATE = 2
    SUPERSEDED = 3
    LATE = 4
    REPAIR = 5
    DEAD = 6


class Account:
    """Counts of rows by partition and fate, int64[partitions, fates]."""

    def __init__(self, partitions: list[tuple[str, str]]) -> None:
        self.partitions = partitions
        self.number = {partition: i for i, partition in enumerate(partitions)}
        self.counts = np.zeros((len(partitions), len(Fate)), np.int64)
        self.has_arrival: dict[str, bool] = {}

    def open(self, partition: tuple[str, str]) -> None:
        """Begins the counts of a further partition."""
        self.number[partition] = len(self.partitions)
        self.partitions.append(partition)
        self.counts = np.vstack([self.counts, np.zeros((1, len(Fate)), np.int64)])

    def add(self, partition: int, fate: Fate, rows: int) -> None:
        """Counts rows of one partition."""
        self.counts[partition, fate] += rows

    def add_each(self, partitions: Int64s, fate: Fate) -> None:
        """Counts one row for each entry."""
        if len(partitions):
            self.counts[:, fate] += np.bincount(partitions, minlength=len(self.partitions))

    def pending(self, partition: int) -> int:
        """Rows of a partition that are waiting."""
        row = self.counts[partition]
        return int(row[Fate.IN] - row[Fate.APPLIED :].sum())

    def table(self) -> list[dict[str, int | str]]:
        """A row of counts by fate for each partition, for people."""
        return [
            {
                "stream": stream,
                "partition": name,
                **{fate.name.lower(): int(self.counts[i, fate]) for fate in Fate},
                "pending": self.pending(i),
            }
            for (stream, name), i in self.number.items()
        ]
