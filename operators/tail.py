"""The pending rows of an engine by run, and the entities that rows have come in for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from operators.batch import NO_CLOCK_NS, Float64s, Int64s, Samples, Values
from operators.history import RunTable
from operators.kernels import ordering, tails
from operators.pending import Rows, compact

FEWEST = 1024
"""Places that are made at least."""
PARTS = (".start", ".length")
"""Columns in place of one of samples."""


def _room(array: npt.NDArray[Any], length: int, fill: int) -> npt.NDArray[Any]:
    """The array, or a copy with room for more."""
    if len(array) >= length:
        return array
    grown = np.full(max(2 * len(array), length, 16), fill, array.dtype)
    grown[: len(array)] = array
    return grown


class Touched:
    """The entities that rows have come in for, and the time of the earliest row of each."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.names: list[str] = []
        self.earliest = np.zeros(0, np.int64)
        self.since = np.zeros(0, np.int64)
        self.entities = np.zeros(0, np.int64)
        self.count = 0

    def number(self, entity: str) -> int:
        """The number of an entity."""
        found = self.numbers.get(entity)
        if found is None:
            found = self.numbers[entity] = len(self.names)
            self.names.append(entity)
            self.earliest = _room(self.earliest, len(self.names), tails.NEVER_NS)
            self.since = _room(self.since, len(self.names), 0)
            self.entities = _room(self.entities, len(self.names), 0)
        return found

    def add_all(self) -> None:
        """Takes every entity for touched, at all times."""
        self.count = len(self.names)
        self.entities[: self.count] = np.arange(self.count)
        self.earliest[: self.count] = NO_CLOCK_NS

    def take(self) -> Int64s:
        """The entities touched since the last call; ``since`` has the earliest time of each."""
        entities = self.entities[: self.count].copy()
        self.since[entities] = self.earliest[entities]
        self.earliest[entities] = tails.NEVER_NS
        self.count = 0
        return entities


class Tail:
    """The pending rows of one stream by run.

    They are the same rows as in :class:`operators.pending.Pending`, which has them by time; what
    has been settled is left out when its run is looked at.

    Args:
        table: the stream's runs.
        touched: is told of the entities of the rows.
    """

    def __init__(self, table: RunTable, touched: Touched) -> None:
        self.table = table
        self.touched = touched
        self.used = 0
        self.columns: dict[str, npt.NDArray[Any]] = {}
        self.flat: dict[str, Float64s] = {}
        self.flat_used: dict[str, int] = {}
        self.before = self.ts_ns = self.arrival_ns = np.zeros(0, np.int64)
        self.head = self.entity_of_run = self.next_run = self.first_run = np.zeros(0, np.int64)
        self.met = 0

    def add(self, rows: Rows, settled_ns: int) -> None:
        """Takes rows in, of runs that the table knows."""
        if not len(rows):
            return
        self.meet()
        if self.used + len(rows) > len(self.ts_ns):
            self._renew(rows, settled_ns)
        start = self.used
        self._write(rows)
        touched = self.touched
        touched.count = tails.link(
            rows.run, self.ts_ns, start, self.head, self.before, self.entity_of_run,
            touched.earliest, touched.entities, touched.count,
        )  # fmt: skip

    def meet(self) -> None:
        """Puts runs that are new to the lists of their entities."""
        keys = self.table.keys
        if len(keys) == self.met:
            return
        entities = [self.touched.number(entity) for entity, _ in keys[self.met :]]
        self.head = _room(self.head, len(keys), -1)
        self.entity_of_run = _room(self.entity_of_run, len(keys), 0)
        self.next_run = _room(self.next_run, len(keys), -1)
        self.first_run = _room(self.first_run, len(self.touched.names), -1)
        for run, entity in enumerate(entities, self.met):
            self.entity_of_run[run] = entity
            self.next_run[run] = self.first_run[entity]
            self.first_run[entity] = run
        self.met = len(keys)

    def _renew(self, more: Rows, settled_ns: int) -> None:
        """Makes room for more rows and leaves settled ones out."""
        every = np.arange(self.met)
        kept = self.waiting(every, settled_ns)
        if len(kept):
            kept = compact(kept)
        size = max(2 * (len(kept) + len(more)), FEWEST)
        self.before, self.ts_ns, self.arrival_ns = (np.empty(size, np.int64) for _ in range(3))
        for name, values in more.columns.items():
            if isinstance(values, Samples):
                self.flat[name], self.flat_used[name] = np.zeros(0), 0
                for part in PARTS:
                    self.columns[name + part] = np.empty(size, np.int64)
            else:
                self.columns[name] = np.empty(size, values.dtype)
        self.used = 0
        self._write(kept)
        tails.relink(every, kept.run, self.head, self.before)

    def _write(self, rows: Rows) -> None:
        start, stop = self.used, self.used + len(rows)
        self.ts_ns[start:stop] = rows.ts_ns
        self.arrival_ns[start:stop] = rows.arrival_ns
        for name, values in rows.columns.items():
            if isinstance(values, Samples):
                self._write_samples(name, values, start)
            else:
                self.columns[name][start:stop] = values
        self.used = stop

    def _write_samples(self, name: str, values: Samples, place: int) -> None:
        used = self.flat_used[name]
        for part, column in zip(PARTS, (values.start + used, values.length), strict=True):
            self.columns[name + part][place : place + len(column)] = column
        stop = used + len(values.flat)
        self.flat[name] = _room(self.flat[name], stop, 0)
        self.flat[name][used:stop] = values.flat
        self.flat_used[name] = stop

    def runs_of(self, entities: Int64s) -> Int64s:
        """The runs of some entities, in their order."""
        self.meet()
        first_run = _room(self.first_run, len(self.touched.names), -1)
        return tails.members(entities, first_run, self.next_run)

    def waiting(self, runs: Int64s, settled_ns: int) -> Rows:
        """The pending rows of some runs, whose numbers are those within ``runs``."""
        places, number = tails.waiting(
            runs, self.head, self.before, self.ts_ns, self.table.last_ns, settled_ns
        )
        found = {name: ordering.gather(column, places) for name, column in self.columns.items()}
        samples: dict[str, Values] = {
            name: Samples(flat, *(found.pop(name + part) for part in PARTS))
            for name, flat in self.flat.items()
        }
        return Rows(
            number, np.zeros(len(places), np.int32), ordering.gather(self.ts_ns, places),
            ordering.gather(self.arrival_ns, places), {**found, **samples},
        )  # fmt: skip
