"""What a step of the plan sees: the settled rows of one kind, and the recent rows of every kind."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from operators.batch import END_CLOCK_NS, Float64s, Int64s, Values
from operators.durations import parse_duration_ns
from operators.history import RunTable
from operators.kernels import runs


@dataclass(frozen=True, slots=True)
class Block:
    """Settled rows of one kind, in the order of run and time.

    Rows ``segment_start[g]`` to ``segment_start[g + 1]`` are of run ``segment_run[g]``.
    """

    segment_run: Int64s
    segment_start: Int64s
    ts_ns: Int64s
    known_ns: Int64s
    """Greatest arrival of the rows seen so far."""
    n_rows: Int64s
    """Number of rows seen so far."""
    columns: Mapping[str, Values] = field(default_factory=dict)
    tied: bool = False
    own: bool = False
    """Whether ``n_rows`` counts the rows of the run itself."""
    member_rows: Int64s | None = None
    """Going across series: rows of the source's block, by instant and then name of series."""
    member_start: Int64s | None = None
    """Going across series: start of each instant's members."""

    def __len__(self) -> int:
        return len(self.ts_ns)

    @property
    def lengths(self) -> Int64s:
        """Number of rows of each segment."""
        return self.segment_start[1:] - self.segment_start[:-1]

    def per_row(self, per_run: Float64s | Int64s) -> Any:
        """A value of each run, for each of its rows."""
        return np.repeat(per_run[self.segment_run], self.lengths)


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """The rows of a window: so many last ones, or a span of time."""

    rows: int = 0
    span_ns: int = 0
    closed_right: int = 1


@dataclass(frozen=True, slots=True)
class Positions:
    """Where queries stand among the rows of a kind."""

    run: Int64s
    """Run asked by each segment; -1 where there is none."""
    hi: Int64s
    """Row after the last one seen."""
    floor: Int64s
    """First row that may be seen."""


class _Scratch(threading.local):
    """Memory that the blocks of all engines in a thread take in turn.

    A page of fresh memory costs as much as the update of 30 windows. What is larger than
    ``MOST_KEPT`` is not kept.
    """

    def __init__(self) -> None:
        self._floats: dict[int, Float64s] = {}
        self._zeros = np.zeros(0, np.int64)

    def floats(self, slot: int, count: int) -> Float64s:
        """So many numbers, whatever they are."""
        if count > MOST_KEPT:
            return np.empty(count)
        kept = self._floats.get(slot)
        if kept is None or len(kept) < count:
            kept = self._floats[slot] = np.empty(min(2 * count, MOST_KEPT))
        return kept[:count]

    def zeros(self, count: int) -> Int64s:
        """So many zeros, to read only."""
        if count > MOST_KEPT:
            return np.zeros(count, np.int64)
        if len(self._zeros) < count:
            self._zeros = np.zeros(min(2 * count, MOST_KEPT), np.int64)
        return self._zeros[:count]


MOST_KEPT = 1 << 20
_scratch = _Scratch()


class Scope:
    """One settled block of one kind of rows, while the plan's steps run over it."""

    def __init__(
        self,
        domain: int,
        block: Block,
        tables: list[RunTable],
        links: Links,
        scopes: dict[int, Scope],
    ) -> None:
        self.domain = domain
        self.block = block
        self.tables = tables
        self.links = links
        self.scopes = scopes
        self.values: dict[str, Any] = {}
        self._positions: dict[tuple[int, int], Positions] = {}
        self._lows: dict[tuple[int, WindowSpec], Int64s] = {}
        self._series_ns: Int64s | None = None
        self._slots = 0

    @property
    def table(self) -> RunTable:
        """The recent rows of the block's own kind; the block's rows are the last ones."""
        return self.tables[self.domain]

    def positions(self, source: int, closed_right: int = 1) -> Positions:
        """Where the block's rows stand among the rows of a kind."""
        found = self._positions.get((source, closed_right))
        if found is None:
            found = self._own() if source == self.domain else self._other(source, closed_right)
            self._positions[source, closed_right] = found
        return found

    def _own(self) -> Positions:
        block, table = self.block, self.table
        hi = block.n_rows
        if not block.own:
            hi = runs.own_positions(block.segment_run, block.segment_start, table.end)
        return Positions(block.segment_run, hi, self._floor(table, block.segment_run, hi, 0))

    def _other(self, source: int, closed_right: int) -> Positions:
        block, table = self.block, self.tables[source]
        run = self.links.runs(self.domain, source)[block.segment_run]
        hi = runs.positions_at(
            block.ts_ns, run, block.segment_start, table.ts, table.base, table.first, table.end,
            closed_right,
        )  # fmt: skip
        # A hop window reaches no row older than itself; what is asked as of now may be too old.
        hop = self.links.same_runs[self.domain] == self.links.same_runs[source]
        longest_ns = END_CLOCK_NS if hop else table.ttl_ns
        return Positions(run, hi, self._floor(table, run, hi, longest_ns))

    def _floor(self, table: RunTable, run: Int64s, hi: Int64s, longest_ns: int) -> Int64s:
        if not table.has_ttl:
            return _scratch.zeros(len(hi))
        block = self.block
        return runs.floors_at(
            block.ts_ns, run, block.segment_start, hi, table.ts, table.floors, table.base,
            table.first, longest_ns,
        )  # fmt: skip

    def results(self, kinds: int) -> Float64s:
        """Room for what a sliding kernel leaves, float64[kinds, rows]; the next block takes it."""
        self._slots += 1
        return _scratch.floats(self._slots, kinds * len(self.block)).reshape(kinds, -1)

    def lows(self, source: int, window: WindowSpec) -> Int64s:
        """First rows of the windows that end at the block's rows."""
        found = self._lows.get((source, window))
        if found is None:
            at = self.positions(source, window.closed_right)
            if window.rows:
                found = runs.windows_of_rows(at.hi, at.floor, window.rows)
            else:
                table = self.tables[source]
                found = runs.windows_of_span(
                    self.block.ts_ns, at.run, self.block.segment_start, at.hi, at.floor, table.ts,
                    table.base, table.first, window.span_ns, window.closed_right,
                )  # fmt: skip
            self._lows[source, window] = found
        return found

    def series_ns(self) -> Int64s:
        """For each row the duration that the name of its series spells; 0 where it spells none."""
        if self._series_ns is None:
            self._series_ns = self.block.per_row(self.links.series_ns(self.domain))
        return self._series_ns


class Links:
    """Which run of one kind belongs to which run of another."""

    def __init__(self, tables: list[RunTable], same_runs: list[int], by_series: list[bool]) -> None:
        """Links between the tables.

        Args:
            tables: the recent rows of each kind.
            same_runs: for each kind the kind whose run numbers it shares; itself if none.
            by_series: for each kind whether its runs are series, not entities.
        """
        self.tables = tables
        self.same_runs = same_runs
        self.by_series = by_series
        self._found: dict[tuple[int, int], tuple[int, int, Int64s]] = {}
        self._series_ns: dict[int, Int64s] = {}

    def runs(self, domain: int, source: int) -> Int64s:
        """For each run of a kind the run of another; -1 where there is none."""
        here, there = self.tables[domain], self.tables[source]
        counts = (len(here), len(there))
        known = self._found.get((domain, source))
        if known is None or known[:2] != counts:
            if self.same_runs[domain] == self.same_runs[source]:
                found = np.arange(len(here), dtype=np.int64)
                found[len(there) :] = -1
            else:
                whole = not self.by_series[source]
                found = np.array(
                    [there.index.get((e, "" if whole else s), -1) for e, s in here.keys], np.int64
                )
            known = (*counts, found)
            self._found[domain, source] = known
        return known[2]

    def forget(self) -> None:
        """Forgets what is known of runs, for their numbers are given anew."""
        self._found.clear()
        self._series_ns.clear()

    def series_ns(self, domain: int) -> Int64s:
        """The duration that each run's series spells; 0 where it spells none."""
        known = self._series_ns.get(domain, np.zeros(0, np.int64))
        keys = self.tables[domain].keys
        if len(known) < len(keys):
            fresh = [_duration_ns(series) for _, series in keys[len(known) :]]
            known = np.concatenate([known, np.array(fresh, np.int64)])
            self._series_ns[domain] = known
        return known


def _duration_ns(label: str) -> int:
    try:
        return parse_duration_ns(label)
    except ValueError:
        return 0
