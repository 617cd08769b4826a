"""The engine as a Bytewax operator: one engine per key, snapshots as plain bytes.

A key is a key group of entities, or a lane of a live flow.

It asks for no notifications, because nothing depends on the clock of the wall, and does nothing at
the end of its input: a bounded source says by its last batch that it is complete, whereas a drained
flow just stops and keeps its state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, TypeAlias

import bytewax.operators as op
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from operators.batch import NO_CLOCK_NS, Batch, Vectors
from operators.engine import Engine, PartitionId, Refused
from operators.plan import Plan
from operators.provisional import Provisional
from operators.snapshot import restore, snapshot

Extracted: TypeAlias = Vectors | Refused
"""What comes out: vectors, and rows that were not applied, whose fate says why."""


class Meter(Protocol):
    """Is told what an engine takes."""

    def computed(self, seconds: float) -> None:
        """Batches were processed."""

    def written_down(self, seconds: float, size: int) -> None:
        """A snapshot of so many bytes was taken."""


Watch: TypeAlias = Callable[[Engine], Meter | None]
"""Is shown an engine, for its account of rows, and may want to be told what it takes."""


def _nothing(_: object) -> None:
    """Has nothing to give."""


@dataclass(frozen=True, slots=True)
class Donors:
    """Where states come from beside Bytewax.

    Attributes:
        rebuilt: gives a snapshot to take sections from that the one to resume from lacks.
        carried: gives the snapshot of a key whose state comes from another flow, by its first
            batch.
    """

    rebuilt: Callable[[bytes], bytes | None] = _nothing
    carried: Callable[[Batch], bytes | None] = _nothing


NO_DONORS = Donors()


class Extract(StatefulBatchLogic[Batch, Extracted, bytes]):
    """The engine of one key.

    Args:
        begin: makes the engine of the first batch, or makes a restored one ready for it; Bytewax
            tells a builder no key, so that only a batch says whose engine this is.
        engine: a restored one.
        watch: is shown the engine.
        provisional: whether vectors are also given before they are final.
    """

    def __init__(
        self,
        begin: Callable[[Batch, Engine | None], Engine],
        engine: Engine | None = None,
        watch: Watch = _nothing,
        *,
        provisional: bool = False,
    ) -> None:
        self._begin = begin
        self._begun = False
        self._engine = engine
        self._watch = watch
        self._meter = watch(engine) if engine is not None else None
        self._wanted = provisional
        self._provisional: Provisional | None = None

    def on_batch(self, values: list[Batch]) -> tuple[Iterable[Extracted], bool]:
        """Gives what the batches have made final, and the rows they could not apply.

        And at last, if they are wanted, the provisional vectors that differ by these batches.
        """
        began_s = perf_counter()
        found: list[Extracted] = []
        for batch in values:
            output = self._engine_for(batch).process(batch)
            found.extend(output.refused)
            if output.vectors is not None:
                found.append(output.vectors)
        if self._provisional is not None:
            vectors = self._provisional.vectors()
            if vectors is not None:
                found.append(vectors)
        if self._meter is not None:
            self._meter.computed(perf_counter() - began_s)
        return found, StatefulBatchLogic.RETAIN

    def _engine_for(self, batch: Batch) -> Engine:
        if self._engine is None or not self._begun:
            engine = self._begin(batch, self._engine)
            if engine is not self._engine:
                self._meter = self._watch(engine)
            self._engine, self._begun = engine, True
            self._provisional = engine.keep_provisional() if self._wanted else None
        return self._engine

    def on_eof(self) -> tuple[Iterable[Extracted], bool]:
        """Emits nothing and keeps the state: the input may go on in the next run."""
        return (), StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """Gives the whole state, in sections."""
        assert self._engine is not None, "Bytewax makes the logic of a key for its first batch"
        began_s = perf_counter()
        state = snapshot(self._engine)
        if self._meter is not None:
            self._meter.written_down(perf_counter() - began_s, len(state))
        return state


def key_of(group: int) -> str:
    """Spells a key group, or a lane, as a Bytewax key.

    >>> key_of(7)
    '07'
    """
    return f"{group:02d}"


@operator
def extract(
    step_id: str,
    up: KeyedStream[Batch],
    plan: Plan,
    partitions: Callable[[Batch], Sequence[PartitionId]],
    end_ns: int = NO_CLOCK_NS,
    donors: Donors = NO_DONORS,
    watch: Watch = _nothing,
    provisional: bool = False,
) -> KeyedStream[Extracted]:
    """Turns routed batches into vectors.

    Args:
        step_id: name of the step; a resume finds its state by it.
        up: batches by key, each key with the clock of every partition it hears.
        plan: of the set.
        partitions: all partitions of all input streams that the key of a first batch hears.
        end_ns: see :class:`operators.engine.Engine`.
        donors: have states to begin with, or parts of them.
        watch: is shown each engine.
        provisional: whether vectors are also given before they are final, as soon as their rows
            are there and whenever they change.
    """

    def restored(state: bytes, known: Sequence[PartitionId]) -> Engine:
        return restore(plan, known, state, rebuilt=donors.rebuilt(state), end_ns=end_ns)

    def begin(batch: Batch, engine: Engine | None) -> Engine:
        known = partitions(batch)
        if engine is not None:
            engine.expect(known)
            return engine
        state = donors.carried(batch)
        return restored(state, known) if state is not None else Engine(plan, known, end_ns)

    def build(state: bytes | None) -> Extract:
        # A snapshot that does not fit must stop the flow at its start, not at its first batch.
        engine = restored(state, ()) if state is not None else None
        return Extract(begin, engine, watch, provisional=provisional)

    return op.stateful_batch("engine", up, build)
