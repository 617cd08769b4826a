"""Rebuilds what a snapshot lacks for a changed set, by replaying the input up to its clocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from dataflows.inputs import File
from operators.batch import Batch
from operators.engine import Engine, PartitionId
from operators.kernels.hashing import KEY_GROUPS, key_groups
from operators.plan import Plan
from operators.route import route
from operators.snapshot import Snapshot, missing_sections, read, snapshot
from sources.reader import PartitionReader

Clocks = dict[PartitionId, tuple[int, bool]]
"""The clock of each partition, and whether it has ended."""


class WarmUp:
    """Gives for each snapshot to resume from one with all sections that the plan needs.

    The input is replayed once, when the first snapshot lacks something; all key groups of a process
    stand at the same clocks, so that one replay serves them all.

    Args:
        plan: of the changed set.
        files: the input of this process.
        batch_rows: the most rows of a batch.
    """

    def __init__(self, plan: Plan, files: Sequence[File], batch_rows: int) -> None:
        self._plan = plan
        self._files = files
        self._batch_rows = batch_rows
        self._rebuilt: dict[int, bytes] = {}
        self._clocks: Clocks = {}

    def __call__(self, state: bytes) -> bytes | None:
        """Gives the rebuilt snapshot; None where nothing is lacking."""
        found = read(state)
        if not missing_sections(self._plan, found):
            return None
        clocks = {(stream, name): (clock, ended) for stream, name, clock, ended in found.clocks}
        if clocks != self._clocks:
            engines = replayed(self._plan, self._files, clocks, self._batch_rows)
            self._rebuilt = {group: snapshot(engine) for group, engine in enumerate(engines)}
            self._clocks = clocks
        return self._rebuilt[self._group(found)]

    def _group(self, found: Snapshot) -> int:
        """The key group of a snapshot; of one without keys, any that has none either."""
        for section in found.sections.values():
            for entity, _ in section.keys:
                return int(key_groups([entity])[0])
        return next(
            group
            for group, state in self._rebuilt.items()
            if not any(section.keys for section in read(state).sections.values())
        )


def replayed(plan: Plan, files: Iterable[File], clocks: Clocks, batch_rows: int) -> list[Engine]:
    """Gives an engine for each key group that has seen the input up to some clocks."""
    streams = {stream.name: stream for stream in plan.feature_set.streams}
    engines = [Engine(plan, clocks) for _ in range(KEY_GROUPS)]
    readers = [
        PartitionReader(streams[f.stream], f.input, batch_rows, summary=f.summary)
        for f in files
        if f.partition in clocks
    ]
    try:
        while open_readers := [reader for reader in readers if not reader.ended]:
            reader = min(open_readers, key=lambda each: each.clock_ns)
            batch, _ = reader.read()
            until_ns, ended = clocks[batch.stream, batch.partition]
            if not ended and batch.clock_ns >= until_ns:
                batch = _up_to(batch, until_ns)
                readers.remove(reader)
                reader.close()
            for group, rows in route(batch):
                engines[group].process(rows)
    finally:
        for reader in readers:
            reader.close()
    return engines


def _up_to(batch: Batch, clock_ns: int) -> Batch:
    """The rows of a batch that had arrived at a clock, and that clock."""
    arrival_ns = batch.ts_ns if batch.arrival_ns is None else batch.arrival_ns
    some = batch.take(np.flatnonzero(arrival_ns <= clock_ns))
    return replace(some, clock_ns=clock_ns, end=False)
