"""The engine as a Bytewax operator: one engine per key group, snapshots as plain bytes.

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
    """The engine of one key group.

    Args:
        engine: a fresh or a restored one.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def on_batch(self, values: list[Batch]) -> tuple[Iterable[Extracted], bool]:
        """Gives what the batches have made final, and the rows they could not apply."""
        found: list[Extracted] = []
        for batch in values:
            output = self.engine.process(batch)
            found.extend(output.refused)
            if output.vectors is not None:
                found.append(output.vectors)
        return found, StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[Extracted], bool]:
        """Emits nothing and keeps the state: the input may go on in the next run."""
        return (), StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """Gives the whole state, in sections."""
        return snapshot(self.engine)


def key_of(group: int) -> str:
    """Spells a key group as a Bytewax key.

    >>> key_of(7)
    '07'
    """
    return f"{group:02d}"


@operator
def extract(
    step_id: str,
    up: KeyedStream[Batch],
    plan: Plan,
    partitions: Sequence[PartitionId],
    end_ns: int = NO_CLOCK_NS,
    rebuilt: Callable[[bytes], bytes | None] = lambda state: None,
    watch: Callable[[Engine], None] = lambda engine: None,
) -> KeyedStream[Extracted]:
    """Turns routed batches into vectors.

    Args:
        step_id: name of the step; a resume finds its state by it.
        up: batches by key group, each group with the clock of every partition.
        plan: of the set.
        partitions: all of all input streams.
        end_ns: see :class:`operators.engine.Engine`.
        rebuilt: gives a snapshot to take sections from that the one to resume from lacks.
        watch: is shown each engine, for its account of rows.
    """

    def build(state: bytes | None) -> Extract:
        if state is None:
            engine = Engine(plan, partitions, end_ns)
        else:
            engine = restore(plan, partitions, state, rebuilt=rebuilt(state), end_ns=end_ns)
        watch(engine)
        return Extract(engine)

    return op.stateful_batch("engine", up, build)
