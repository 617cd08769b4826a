"""The engine as a Bytewax operator: one engine per key, snapshots as plain bytes.

A key is a key group of entities, or a lane of a live flow.

It asks for no notifications, because nothing depends on the clock of the wall, and does nothing at
the end of its input: a bounded source says by its last batch that it is complete, whereas a drained
flow just stops and keeps its state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from operators.batch import NO_CLOCK_NS, Batch, Vectors
from operators.engine import Engine, PartitionId, Refused
from operators.plan import Plan
from operators.snapshot import restore, snapshot

Extracted: TypeAlias = Vectors | Refused
"""What comes out: vectors, and rows that were not applied, whose fate says why."""


class Extract(StatefulBatchLogic[Batch, Extracted, bytes]):
    """The engine of one key.

    Args:
        begin: makes the engine of the first batch, or makes a restored one ready for it; Bytewax
            tells a builder no key, so that only a batch says whose engine this is.
        engine: a restored one.
    """

    def __init__(
        self, begin: Callable[[Batch, Engine | None], Engine], engine: Engine | None = None
    ) -> None:
        self._begin = begin
        self._begun = False
        self._engine = engine

    def on_batch(self, values: list[Batch]) -> tuple[Iterable[Extracted], bool]:
        """Gives what the batches have made final, and the rows they could not apply."""
        found: list[Extracted] = []
        for batch in values:
            output = self._engine_for(batch).process(batch)
            found.extend(output.refused)
            if output.vectors is not None:
                found.append(output.vectors)
        return found, StatefulBatchLogic.RETAIN

    def _engine_for(self, batch: Batch) -> Engine:
        if self._engine is None or not self._begun:
            self._engine = self._begin(batch, self._engine)
            self._begun = True
        return self._engine

    def on_eof(self) -> tuple[Iterable[Extracted], bool]:
        """Emits nothing and keeps the state: the input may go on in the next run."""
        return (), StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """Gives the whole state, in sections."""
        assert self._engine is not None, "Bytewax makes the logic of a key for its first batch"
        return snapshot(self._engine)


def key_of(group: int) -> str:
    """Spells a key group, or a lane, as a Bytewax key.

    >>> key_of(7)
    '07'
    """
    return f"{group:02d}"


def _nothing(_: object) -> None:
    """Has nothing to give."""


@operator
def extract(
    step_id: str,
    up: KeyedStream[Batch],
    plan: Plan,
    partitions: Callable[[Batch], Sequence[PartitionId]],
    end_ns: int = NO_CLOCK_NS,
    rebuilt: Callable[[bytes], bytes | None] = _nothing,
    watch: Callable[[Engine], None] = _nothing,
    carried: Callable[[Batch], bytes | None] = _nothing,
) -> KeyedStream[Extracted]:
    """Turns routed batches into vectors.

    Args:
        step_id: name of the step; a resume finds its state by it.
        up: batches by key, each key with the clock of every partition it hears.
        plan: of the set.
        partitions: all partitions of all input streams that the key of a first batch hears.
        end_ns: see :class:`operators.engine.Engine`.
        rebuilt: gives a snapshot to take sections from that the one to resume from lacks.
        watch: is shown each engine, for its account of rows.
        carried: gives the snapshot of a key whose state comes from another flow, by its first
            batch.
    """

    def restored(state: bytes, known: Sequence[PartitionId]) -> Engine:
        engine = restore(plan, known, state, rebuilt=rebuilt(state), end_ns=end_ns)
        watch(engine)
        return engine

    def begin(batch: Batch, engine: Engine | None) -> Engine:
        known = partitions(batch)
        if engine is not None:
            engine.expect(known)
            return engine
        state = carried(batch)
        if state is not None:
            return restored(state, known)
        engine = Engine(plan, known, end_ns)
        watch(engine)
        return engine

    def build(state: bytes | None) -> Extract:
        # A snapshot that does not fit must stop the flow at its start, not at its first batch.
        return Extract(begin, restored(state, ()) if state is not None else None)

    return op.stateful_batch("engine", up, build)
