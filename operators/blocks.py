"""Makes the blocks of settled rows of each kind, and commits them to the recent rows."""

from __future__ import annotations

import numpy as np

from operators.batch import Float64s, Int64s, Samples
from operators.history import RunTable
from operators.instants import AcrossSeries, Hop
from operators.kernels import ordering, runs
from operators.pending import Ordered
from operators.plan import Plan
from operators.scope import Block, Scope
from operators.streams import OneSeries, Stream


class BlockMaker:
    """Blocks of a plan's domains over their run tables."""

    def __init__(self, plan: Plan, tables: list[RunTable]) -> None:
        self.plan = plan
        self.tables = tables
        self.same_runs = [
            self._numbering(i) for i in range(len(plan.domains))
        ]  # hop windows number their runs as their source does
        self._members_of: dict[int, tuple[Int64s, Int64s]] = {}
        self.has_hops = any(isinstance(d.instants, Hop) for d in plan.domains)

    def _numbering(self, index: int) -> int:
        while isinstance(self.plan.domains[index].instants, Hop):
            index = self.plan.domains[index].source
        return index

    def make(
        self,
        index: int,
        ready: dict[str, Block],
        scopes: dict[int, Scope],
        after_ns: int,
        until_ns: int,
        among: Int64s | None = None,
    ) -> Block | None:
        """The block of a domain that the blocks made so far bring about; None if empty.

        Args:
            index: number of the domain.
            ready: blocks of the streams' rows, by name.
            scopes: of the domains that come before.
            after_ns: hop windows that end later than this are made,
            until_ns: and no later than this,
            among: and if given, only those of these runs.
        """
        instants = self.plan.domains[index].instants
        source = self.plan.domains[index].source
        if isinstance(instants, Stream):
            return ready.get(instants.name)
        if isinstance(instants, Hop):
            return self._hop(index, instants, after_ns, until_ns, among)
        if isinstance(instants, OneSeries):
            block = ready.get(instants.source.name)
            return self._one_series(index, instants.label, block) if block is not None else None
        if source not in scopes:
            return None
        assert isinstance(instants, AcrossSeries)
        return self._across(index, scopes[source].block)

    def of_stream(self, index: int, settled: Ordered) -> Block:
        """The block of a stream's settled rows."""
        table = self.tables[index]
        known_ns = runs.greatest_so_far(
            settled.arrival_ns, settled.segment_run, settled.segment_start, table.carry
        )
        hi = runs.own_positions(settled.segment_run, settled.segment_start, table.end)
        return Block(
            settled.segment_run, settled.segment_start, settled.ts_ns, known_ns, hi,
            settled.columns, settled.tied, own=True,
        )  # fmt: skip

    def _hop(
        self, index: int, hop: Hop, after_ns: int, until_ns: int, among: Int64s | None
    ) -> Block | None:
        source = self.tables[self.plan.domains[index].source]
        table, count = self.tables[index], len(source)
        for key in source.keys[len(table) :]:
            table.add(key)
        closed_right = int(hop.closed == "right")
        of = slice(count) if among is None else among
        segment_run, segment_start, ts_ns = runs.hop_instants(
            source.ts, source.base[of], source.first[of], source.end[of], after_ns, until_ns,
            hop.length_ns, hop.every_ns, 0, closed_right,
        )  # fmt: skip
        if not len(ts_ns):
            return None
        if among is not None:
            segment_run = among[segment_run]
        hi = runs.positions_at(
            ts_ns, segment_run, segment_start, source.ts, source.base, source.first, source.end,
            closed_right,
        )  # fmt: skip
        known_ns = runs.integers_before(
            source.known, segment_run, segment_start, hi, source.base, source.first, 0
        )
        return Block(segment_run, segment_start, ts_ns, known_ns, hi)

    def _one_series(self, index: int, label: str, block: Block) -> Block | None:
        source, table = self.tables[self.plan.domains[index].source], self.tables[index]
        chosen = np.array([source.keys[run][1] == label for run in block.segment_run], np.bool_)
        if not chosen.any():
            return None
        rows = np.flatnonzero(np.repeat(chosen, block.lengths))
        segment_run = np.array(
            [table.add((source.keys[run][0], "")) for run in block.segment_run[chosen]], np.int64
        )
        lengths = block.lengths[chosen]
        # A table's runs must come in ascending order for blocks to be in the order of run.
        by_run = np.argsort(segment_run, kind="stable")
        starts = block.segment_start[:-1][chosen]
        rows = np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in by_run])
        return Block(
            segment_run[by_run],
            np.concatenate([[0], np.cumsum(lengths[by_run])]).astype(np.int64),
            block.ts_ns[rows],
            block.known_ns[rows],
            block.n_rows[rows],
            {
                name: values.take(rows) if isinstance(values, Samples) else values[rows]
                for name, values in block.columns.items()
            },
            block.tied,
        )

    def _across(self, index: int, block: Block) -> Block:
        """Instants of the entities, with the rows of their series in the order of the names."""
        entity_of_run, rank_of_run = self._members(index)
        last = np.flatnonzero(ordering.last_of_instant(block.ts_ns, block.segment_start))
        entity, rank = block.per_row(entity_of_run)[last], block.per_row(rank_of_run)[last]
        ts_ns = block.ts_ns[last]
        order = np.lexsort((rank, ts_ns, entity))
        entity, ts_ns = entity[order], ts_ns[order]
        fresh = np.concatenate([[True], (entity[1:] != entity[:-1]) | (ts_ns[1:] != ts_ns[:-1])])
        start = np.flatnonzero(fresh)
        segment_run, first = np.unique(entity[start], return_index=True)
        members = last[order]
        return Block(
            segment_run,
            np.concatenate([first, [len(start)]]).astype(np.int64),
            ts_ns[start],
            np.maximum.reduceat(block.known_ns[members], start),
            np.add.reduceat(block.n_rows[members], start),
            member_rows=members,
            member_start=np.concatenate([start, [len(members)]]).astype(np.int64),
        )

    def _members(self, index: int) -> tuple[Int64s, Int64s]:
        """For each series the run of its entity, and its rank by name."""
        source, table = self.tables[self.plan.domains[index].source], self.tables[index]
        known = self._members_of.get(index)
        if known is None or len(known[0]) != len(source):
            entity = np.array([table.add((entity, "")) for entity, _ in source.keys], np.int64)
            names = sorted({series for _, series in source.keys})
            place = {name: i for i, name in enumerate(names)}
            known = entity, np.array([place[series] for _, series in source.keys], np.int64)
            self._members_of[index] = known
        return known

    def forget(self) -> None:
        """Forgets what is known of runs, for their numbers are given anew."""
        self._members_of.clear()

    def begin(self, index: int, block: Block, settled_ns: int) -> None:
        """Makes room for a block and writes its times."""
        table, domain = self.tables[index], self.plan.domains[index]
        if not self._kept(index):
            return
        table.reserve(block.segment_run, block.segment_start, settled_ns)
        if table.has_ttl:
            runs.append_floor(
                table.floors, block.ts_ns, block.segment_run, block.segment_start, table.ts,
                table.base, table.first, table.end, table.floor, table.ttl_ns,
            )  # fmt: skip
        self.append(table, table.ts, block.ts_ns, block)
        if domain.watched:
            self.append(table, table.known, block.known_ns, block)

    def _kept(self, index: int) -> bool:
        """Whether anything looks at a domain's recent rows."""
        domain = self.plan.domains[index]
        return bool(domain.stored) or domain.watched or domain.keep_rows > 1

    @staticmethod
    def append(
        table: RunTable, column: Float64s | Int64s, values: Float64s | Int64s, block: Block
    ) -> None:
        """Writes a block's values behind the recent rows."""
        runs.append(column, values, block.segment_run, block.segment_start, table.base, table.end)

    @staticmethod
    def commit(table: RunTable, block: Block) -> None:
        """Counts a block's rows as recent ones."""
        table.end[block.segment_run] += block.lengths
        table.last_ns[block.segment_run] = block.ts_ns[block.segment_start[1:] - 1]

    def seen(self, scope: Scope) -> tuple[Int64s, Int64s]:
        """Greatest arrival and number of the rows that each vector has seen, of all streams."""
        block = scope.block
        known_ns, n_rows = block.known_ns, block.n_rows
        for source in sorted(self.plan.domains[scope.domain].asks):
            if self._numbering(source) == self._numbering(scope.domain):
                continue
            at, table = scope.positions(source), self.tables[source]
            theirs = runs.integers_before(
                table.known, at.run, block.segment_start, at.hi, table.base, table.first, -(2**62)
            )
            known_ns, n_rows = np.maximum(known_ns, theirs), n_rows + at.hi
        return known_ns, n_rows
