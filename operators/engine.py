"""The incremental engine: a plain object that takes batches and clocks and gives vectors.

Rows wait in a pending tail until the clock has passed their time by the allowed delay; then they
are settled: applied in their order, once and for good. What is emitted for a clock depends on the
rows alone, not on how they were cut into batches, spread over partitions, or interleaved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from operators.account import Account, Fate
from operators.batch import END_CLOCK_NS, NO_CLOCK_NS, Batch, Integers, Labels, Vectors
from operators.blocks import BlockMaker
from operators.history import RunTable
from operators.kernels import ordering, runs
from operators.pending import Bools, Ordered, Pending, Rows, ordered
from operators.plan import Plan
from operators.provisional import Provisional
from operators.scope import Block, Links, Scope

PartitionId = tuple[str, str]
"""A stream and one of its partitions."""
FEWEST_RUNS = 512
"""Runs below which idle ones are not looked for."""
MOST_PAIRS = 2**18
"""Of names of entities and series that a table of runs is kept for."""
BEYOND_CAP, UNKNOWN = -1, -2
"""In place of a run: a key that was refused, one that has not been seen."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Rows that were not applied, and why, for the late or the dead-letter stream."""

    fate: Fate
    batch: Batch
    reason: str


@dataclass(slots=True)
class Output:
    """What one batch brought about."""

    vectors: Vectors | None = None
    refused: list[Refused] = field(default_factory=list)


def complete_until_ns(clock_ns: int, arrives: bool, max_delay_ns: int) -> int:
    """Instant up to which a stream is complete when its input ends at a clock.

    Args:
        clock_ns: its clock.
        arrives: whether the clock is one of arrivals, which trail the rows' times.
        max_delay_ns: how far they may trail.
    """
    return clock_ns - max_delay_ns - 1 if arrives else clock_ns


class Engine:
    """One feature set over the runs that come its way.

    Args:
        plan: the compiled declaration.
        partitions: all partitions of all input streams; the clock is the least of theirs.
        end_ns: instant up to which hop windows are complete at the end of the whole bounded
            input, where this engine sees only a part of it.
    """

    def __init__(
        self,
        plan: Plan,
        partitions: Iterable[PartitionId],
        end_ns: int = NO_CLOCK_NS,
    ) -> None:
        self.plan = plan
        self.set = plan.feature_set
        self.clocks = dict.fromkeys(partitions, NO_CLOCK_NS)
        self.ended: set[PartitionId] = set()
        self.end_ns = end_ns
        self.settled_ns = NO_CLOCK_NS
        self.hops_until_ns = NO_CLOCK_NS
        self.account = Account(list(self.clocks))
        ttl_ns = self.set.ttl_ns
        self.tables = [
            RunTable(list(d.stored), d.keep_rows, d.keep_span_ns, ttl_ns, watched=d.watched)
            for d in plan.domains
        ]
        self.blocks = BlockMaker(plan, self.tables)
        self.links = Links(
            self.tables, self.blocks.same_runs, [domain.by_series for domain in plan.domains]
        )
        self.pending = {name: Pending() for name in plan.streams}
        self.streams = {s.name: s for s in self.set.streams}
        self.runs_kept = FEWEST_RUNS
        self.waiting: Provisional | None = None
        self.numbers: dict[PartitionId, tuple[tuple[str, ...], tuple[str, ...], Integers]] = {}

    # -- rows in ----------------------------------------------------------------------------

    def expect(self, partitions: Iterable[PartitionId]) -> None:
        """Takes further partitions in: they hold the clock back until they are heard of."""
        for partition in partitions:
            if partition not in self.clocks:
                self.clocks[partition] = NO_CLOCK_NS
                self.account.open(partition)

    def process(self, batch: Batch) -> Output:
        """Takes a batch and its partition's clock, and gives what has become final.

        Raises:
            KeyError: for a partition that was not declared.
        """
        source = (batch.stream, batch.partition)
        if source not in self.clocks:
            msg = (
                f"partition {source}: must be one of those declared at start, {sorted(self.clocks)}"
            )
            raise KeyError(msg)
        output = Output()
        if batch.arrival_ns is not None:  # an empty batch tells it too, to key groups without rows
            self.account.has_arrival[batch.stream] = True
        if len(batch):
            self._take(batch, output)
        self.clocks[source] = max(self.clocks[source], batch.clock_ns)
        if batch.end:
            self.ended.add(source)
        else:
            self.ended.discard(source)
        self._advance(output)
        if self.set.ttl is not None and self._crowded():
            self._forget_idle_runs()
        return output

    def _crowded(self) -> bool:
        """Whether there are twice as many runs as when idle ones were last forgotten."""
        return sum(map(len, self.tables)) > 2 * self.runs_kept

    def _forget_idle_runs(self) -> None:
        """Frees the runs that their time to live has emptied; no vector changes by it."""
        waiting = self.waiting
        self.__dict__.update(self.fork().__dict__)
        if waiting is not None:  # runs have other numbers now
            waiting.begin()
            self.waiting = waiting
        self.runs_kept = max(sum(map(len, self.tables)), FEWEST_RUNS)

    def _take(self, batch: Batch, output: Output) -> None:
        """Sorts a batch's rows into pending ones and refused ones."""
        stream = self.streams[batch.stream]
        part = self.account.number[batch.stream, batch.partition]
        self.account.add(part, Fate.IN, len(batch))
        arrival_ns = batch.ts_ns if batch.arrival_ns is None else batch.arrival_ns
        if ordering.any_above(arrival_ns, batch.ts_ns, stream.max_delay_ns):
            late = arrival_ns - batch.ts_ns > stream.max_delay_ns
            reason = f"arrived more than {stream.max_delay_ns} ns after its time"
            self._refuse(output, Fate.LATE, batch.take(late), reason, part)
            batch = batch.take(~late)
        if not len(batch):
            return
        table = self.tables[self.plan.streams[batch.stream]]
        run, least = self._runs(batch, table)
        if least < 0:
            reason = f"more than {self.set.max_entities} keys"
            self._refuse(output, Fate.DEAD, batch.take(run < 0), reason, part)
            batch, run = batch.take(run >= 0), run[run >= 0]
        if ordering.any_passed(batch.ts_ns, run, table.last_ns, self.settled_ns):
            passed = batch.ts_ns <= np.maximum(table.last_ns[run], self.settled_ns)
            reason = "its instant was settled by an end of input"
            self._refuse(output, Fate.REPAIR, batch.take(passed), reason, part)
            batch, run = batch.take(~passed), run[~passed]
        rows = Rows(
            run,
            np.full(len(batch), part, np.int32),
            batch.ts_ns,
            batch.ts_ns if batch.arrival_ns is None else batch.arrival_ns,
            dict(batch.columns),
        )
        self.pending[batch.stream].add(rows)
        if self.waiting is not None:
            self.waiting.add(batch.stream, rows)

    def _refuse(self, output: Output, fate: Fate, rows: Batch, reason: str, part: int) -> None:
        self.account.add(part, fate, len(rows))
        output.refused.append(Refused(fate, rows, reason))

    def _runs(self, batch: Batch, table: RunTable) -> tuple[Integers, int]:
        """The run of each row, -1 beyond the cap on keys; and the least of them."""
        entities, named = batch.keys, batch.series
        if named and len(entities.names) * len(named.names) > MOST_PAIRS:
            entities, named = entities.used(), named.used()
        keys, series = entities.names, named.names if named else ("",)
        width = len(series)
        pair: Integers = entities.codes
        if named:
            pair = entities.codes.astype(np.int64) * width + named.codes
        # Batches of one partition have the same names, most often; the runs found last are kept.
        source = (batch.stream, batch.partition)
        if self.numbers.get(source, ((), ()))[:2] != (keys, series):
            unknown = np.full(len(keys) * width, UNKNOWN, np.int32)
            self.numbers[source] = (keys, series, unknown)
        known = self.numbers[source][2]
        run, least = ordering.look_up(known, pair)
        if least == UNKNOWN:
            fresh = np.zeros(len(known), np.bool_)
            fresh[pair[run == UNKNOWN]] = True
            for code in np.flatnonzero(fresh).tolist():
                key = (keys[code // width], series[code % width])
                room = key in table.index or len(table) < self.set.max_entities
                known[code] = table.add(key) if room else BEYOND_CAP
            run, least = ordering.look_up(known, pair)
        return run, least

    # -- vectors out ------------------------------------------------------------------------

    @property
    def clock_ns(self) -> int:
        """The engine's clock: the least of its partitions', of those that have not ended."""
        open_clocks = [c for p, c in self.clocks.items() if p not in self.ended]
        return min(open_clocks, default=max(self.clocks.values()))

    def _advance(self, output: Output) -> None:
        """Settles what the clocks allow."""
        if len(self.ended) == len(self.clocks):
            complete_ns = self._complete_until_ns()
            self._settle(END_CLOCK_NS, complete_ns, output)
            self.settled_ns = max(self.settled_ns, complete_ns)
            return
        until_ns = self.clock_ns - self.set.max_delay_ns - 1
        if until_ns > self.settled_ns:
            self._settle(until_ns, until_ns, output)
            self.settled_ns = until_ns

    def _complete_until_ns(self) -> int:
        """Instant up to which hop windows are complete at the end of a bounded input."""
        return max(self.end_ns, self.heard_until_ns())

    def heard_until_ns(self) -> int:
        """Instant up to which hop windows are complete if all partitions end here."""
        until_ns = NO_CLOCK_NS
        for (stream, _), clock_ns in self.clocks.items():
            arrives = self.account.has_arrival.get(stream, False)
            until_ns = max(until_ns, complete_until_ns(clock_ns, arrives, self.set.max_delay_ns))
        return until_ns

    def _settle(self, rows_until_ns: int, hops_until_ns: int, output: Output) -> None:
        taken = {name: pending.take(rows_until_ns) for name, pending in self.pending.items()}
        hops_until_ns = max(hops_until_ns, self.hops_until_ns)
        if all(rows is None for rows in taken.values()) and not self.blocks.has_hops:
            self.hops_until_ns = hops_until_ns
            return
        ready = {n: self._ordered(n, *rows, output) for n, rows in taken.items() if rows}
        scopes: dict[int, Scope] = {}
        for index in self.plan.order:
            block = self.blocks.make(index, ready, scopes, self.hops_until_ns, hops_until_ns)
            if block is not None:
                scopes[index] = self.evaluate(index, block, scopes)
        self.hops_until_ns = hops_until_ns
        if self.plan.output in scopes:
            output.vectors = self.vectors_of(scopes[self.plan.output])

    def _ordered(self, name: str, rows: Rows, ready: Bools, output: Output) -> Block:
        """The stream's block of rows, each identity once, and the account of the others."""
        index = self.plan.streams[name]
        table, counts = self.tables[index], self.account.counts
        result = ordered(self.streams[name], rows, ready, len(table))
        counts[:, Fate.APPLIED] += ordering.tally(rows.partition, ready, len(counts))
        if result.tied:
            self._tied(name, result, output)
        return self.blocks.of_stream(index, result)

    def _tied(self, name: str, result: Ordered, output: Output) -> None:
        """The account of rows that are not applied because of another one of their identity."""
        counts = self.account.counts
        for fate, partitions in (
            (Fate.DUPLICATE, result.duplicate),
            (Fate.SUPERSEDED, result.superseded),
            (Fate.DEAD, result.conflicting.partition),
        ):
            self.account.add_each(partitions.astype(np.int64), fate)
            np.subtract.at(counts[:, Fate.APPLIED], partitions, 1)
        if len(result.conflicting):
            output.refused.extend(self._conflicts(name, result.conflicting))

    def _conflicts(self, name: str, rows: Rows) -> list[Refused]:
        table = self.tables[self.plan.streams[name]]
        reason = "contradicts an earlier row of the same identity; the stream allows no corrections"
        refused = []
        for part in np.unique(rows.partition):
            some = rows.take(np.flatnonzero(rows.partition == part))
            stream, partition = self.account.partitions[part]
            names = tuple(table.keys[run][0] for run in some.run)
            series = tuple(table.keys[run][1] for run in some.run)
            codes = np.arange(len(some), dtype=np.int32)
            batch = Batch(
                stream, partition, NO_CLOCK_NS, Labels(codes, names), some.ts_ns, some.columns,
                Labels(codes, series) if self.streams[name].series else None, some.arrival_ns,
            )  # fmt: skip
            refused.append(Refused(Fate.DEAD, batch, reason))
        return refused

    def evaluate(self, index: int, block: Block, scopes: dict[int, Scope]) -> Scope:
        """Runs a domain's steps over its block and commits the block to its recent rows."""
        domain, table = self.plan.domains[index], self.tables[index]
        # A copy: a scope in its own sight is freed by a search for garbage only, which came after
        # 1.2 GB at 10,000 rows a second. Guarded by test_nothing_is_left_for_the_collector.
        scope = Scope(index, block, self.tables, self.links, dict(scopes))
        self.blocks.begin(index, block, self.settled_ns)
        with np.errstate(all="ignore"):  # what is not finite becomes null
            for step in domain.steps:
                result = step.run(scope)
                scope.values[step.key] = result
                if step.key in table.columns:
                    self.blocks.append(table, table.columns[step.key], result, block)
        self.blocks.commit(table, block)
        return scope

    def vectors_of(self, scope: Scope) -> Vectors | None:
        """The vectors of a block: one per instant, after all its rows."""
        block, plan = scope.block, self.plan
        table = self.tables[plan.output]
        quality = np.zeros(len(block), np.int64)
        for bit, key in enumerate(plan.quality.values()):
            runs.add_flag(quality, scope.values[key], 1 << bit)
        known_ns, n_rows = self.blocks.seen(scope)
        run = np.repeat(block.segment_run.astype(np.int32), block.lengths)
        vectors = Vectors(
            *self._names(table, run),
            block.ts_ns,
            {name: scope.values[key] for name, key in plan.features.items()},
            quality,
            runs.shares(scope.values[plan.coverage]),
            known_ns,
            n_rows,
        )
        if not block.tied:
            return vectors if len(vectors) else None
        keep = ordering.last_of_instant(block.ts_ns, block.segment_start)
        return vectors.take(np.flatnonzero(keep))

    def _names(self, table: RunTable, run: Integers) -> tuple[Labels, Labels | None]:
        """The entity and the series of each row."""
        entities = Labels(run, table.entities)
        if self.set.series is None:
            return entities, None
        return entities, Labels(entities.codes, table.series)

    # -- how much it keeps ------------------------------------------------------------------

    @property
    def pending_rows(self) -> int:
        """Rows of all partitions that wait."""
        counts = self.account.counts
        return int(counts[:, Fate.IN].sum() - counts[:, Fate.APPLIED :].sum())

    @property
    def run_count(self) -> int:
        """Runs of all streams."""
        return sum(len(self.tables[index]) for index in self.plan.streams.values())

    @property
    def state_bytes(self) -> int:
        """Memory of the recent rows and of what windows remember; pending rows come on top."""
        return sum(table.memory_bytes for table in self.tables)

    # -- provisional ------------------------------------------------------------------------

    def keep_provisional(self) -> Provisional:
        """Gives what tells provisional vectors as rows come in."""
        self.waiting = Provisional(self)
        return self.waiting

    def provisional(self) -> Vectors | None:
        """What would be final if all partitions ended here, without changing anything."""
        return Provisional(self).vectors()

    def fork(self) -> Engine:
        """An engine with the same state that shares nothing with this one."""
        from operators.snapshot import restore, snapshot

        return restore(self.plan, list(self.clocks), snapshot(self), end_ns=self.end_ns)
