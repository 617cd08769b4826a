"""Provisional vectors: what would be final if all partitions ended here.

They are asked for again and again, so only entities are looked at that rows have come in for since
the last time. Their pending rows are settled on trial: on the engine's own tables, behind the rows
that are there, by the steps that settle rows for good; then everything is put back as it was. So
nothing is copied but a few numbers of the runs in question, and the cost does not depend on the
length of windows or on other runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from operators.batch import Float64s, Int64s, Vectors
from operators.history import Cache
from operators.instants import Hop
from operators.kernels import tails
from operators.pending import Rows, ordered
from operators.scope import Scope
from operators.steps import Slide
from operators.streams import Stream
from operators.tail import Tail, Touched

if TYPE_CHECKING:
    from operators.engine import Engine

TRIED = ("end", "floor", "carry", "last_ns")
"""Numbers of a run that change when rows are settled; where its rows lie may change at any time."""


class Provisional:
    """The provisional vectors of an engine.

    Args:
        engine: whose; it tells of all rows that become pending from now on.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.begin()

    def begin(self) -> None:
        """Takes in all rows that are pending, and all entities for touched, at all instants."""
        engine = self.engine
        self.touched = Touched()
        self.tails = {
            name: Tail(engine.tables[index], self.touched)
            for name, index in engine.plan.streams.items()
        }
        for name, pending in engine.pending.items():
            for rows in pending.chunks:
                self.add(name, rows)
        for tail in self.tails.values():
            tail.meet()
        self.touched.add_all()

    def add(self, stream: str, rows: Rows) -> None:
        """Takes in rows that have become pending."""
        self.tails[stream].add(rows, self.engine.settled_ns)

    def vectors(self) -> Vectors | None:
        """The provisional vectors of the entities that rows have come in for since the last call.

        Of each entity those from the instant of the earliest of these rows on: no earlier one has
        changed. The first call gives all. Final vectors are not among them.
        """
        if not self.touched.count:
            return None
        engine = self.engine
        entities = self.touched.take()
        runs = {name: tail.runs_of(entities) for name, tail in self.tails.items()}
        rows = {n: tail.waiting(runs[n], engine.settled_ns) for n, tail in self.tails.items()}
        if not engine.blocks.has_hops and not any(map(len, rows.values())):
            return None
        with _trial(engine) as trial:
            scope = self._settled(trial, entities, runs, rows).get(engine.plan.output)
            vectors = engine.vectors_of(scope) if scope is not None else None
        return self._since(vectors) if vectors is not None else None

    def _settled(
        self, trial: _Trial, entities: Int64s, runs: dict[str, Int64s], rows: dict[str, Rows]
    ) -> dict[int, Scope]:
        """Settles some rows on trial, and closes what windows the clocks allow."""
        engine, plan, ready = self.engine, self.engine.plan, {}
        for name, some in rows.items():
            if len(some):
                every = np.ones(len(some), np.bool_)
                found = ordered(engine.streams[name], some, every, len(runs[name]))
                found = replace(found, segment_run=runs[name][found.segment_run])
                trial.keep(plan.streams[name], found.segment_run)
                ready[name] = engine.blocks.of_stream(plan.streams[name], found)
        scopes: dict[int, Scope] = {}
        after_ns = engine.hops_until_ns
        until_ns = max(engine.heard_until_ns(), after_ns)
        for index in plan.order:
            among = None
            if isinstance(plan.domains[index].instants, Hop):
                among = self._runs_of(plan.domains[index].source, entities, runs)
            block = engine.blocks.make(index, ready, scopes, after_ns, until_ns, among)
            if block is not None:
                trial.keep(index, block.segment_run)
                trial.keep_caches(index, block.segment_run)
                scopes[index] = engine.evaluate(index, block, scopes)
        return scopes

    def _runs_of(self, index: int, entities: Int64s, runs: dict[str, Int64s]) -> Int64s:
        """The runs of some entities, of any kind of rows."""
        root = self.engine.plan.domains[self.engine.blocks.same_runs[index]].instants
        if isinstance(root, Stream):
            return runs[root.name]
        known = self.engine.tables[index].index
        names = [self.touched.names[entity] for entity in entities.tolist()]
        return np.array(sorted(known[name, ""] for name in names if (name, "") in known), np.int64)

    def _since(self, vectors: Vectors) -> Vectors:
        """The vectors from the earliest row of their entity on."""
        engine = self.engine
        root = engine.plan.domains[engine.blocks.same_runs[engine.plan.output]].instants
        codes = vectors.keys.codes
        if isinstance(root, Stream):
            entity = self.tails[root.name].entity_of_run[codes]
        else:
            numbers, names = self.touched.numbers, vectors.keys.names
            entity = np.array([numbers[names[code]] for code in codes.tolist()], np.int64)
        kept = vectors.ts_ns >= self.touched.since[entity]
        if kept.all():
            return replace(vectors, final=False)
        return replace(vectors.take(np.flatnonzero(kept)), final=False)


class _Trial:
    """Numbers of the runs that rows are settled on, from before."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.counts = [len(table) for table in engine.tables]
        self.kept: dict[int, tuple[Int64s, list[Int64s]]] = {}
        self.caches: list[tuple[Cache, Int64s, Int64s, Float64s]] = []

    def keep(self, index: int, runs: Int64s) -> None:
        """Keeps the numbers of some runs of a kind."""
        if index not in self.kept:
            table = self.engine.tables[index]
            self.kept[index] = runs, [getattr(table, name)[runs] for name in TRIED]

    def keep_caches(self, index: int, runs: Int64s) -> None:
        """Keeps what windows remember that are computed for some runs of a kind."""
        engine = self.engine
        asked = {index: runs}
        for step in engine.plan.domains[index].steps:
            if isinstance(step, Slide):
                of = asked.get(step.source)
                if of is None:
                    of = engine.links.runs(index, step.source)[runs]
                    of = asked[step.source] = of[of >= 0]
                cache = step.cache(engine.tables[step.source], index)
                self.caches.append((cache, of, cache.marks[of], cache.state[of]))

    def put_back(self) -> None:
        """Makes the engine's tables as they were."""
        for cache, runs, marks, state in self.caches:
            tails.put_back(cache.marks, cache.state, runs, marks, state)
        for index, (runs, values) in self.kept.items():
            table = self.engine.tables[index]
            for name, value in zip(TRIED, values, strict=True):
                getattr(table, name)[runs] = value
        fresh = False
        for table, count in zip(self.engine.tables, self.counts, strict=True):
            fresh |= table.forget_runs(count)
        if fresh:
            self.engine.links.forget()
            self.engine.blocks.forget()


@contextmanager
def _trial(engine: Engine) -> Iterator[_Trial]:
    """Lets rows be settled on an engine's tables; then puts everything back, whatever happened."""
    trial = _Trial(engine)
    try:
        yield trial
    finally:
        trial.put_back()
