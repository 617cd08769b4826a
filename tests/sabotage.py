"""Engines that are broken on purpose, each in one small place.

Every one of them is a mistake that streaming engines make. A breaker patches the real engine until
the test ends; its docstring says what is wrong with it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from operators import pending
from operators import snapshot as state
from operators.batch import END_CLOCK_NS, NO_CLOCK_NS, Batch
from operators.engine import Engine, Output
from operators.history import RunTable
from operators.kernels import ordering, runs
from operators.scope import Positions, Scope
from operators.steps import Slide

Patch = pytest.MonkeyPatch
Rows = Any
Breaker = Callable[[Patch], None]
BROKEN: dict[str, tuple[Breaker, str]] = {}
"""Every broken engine by name, and what the parity check must say of it."""


def broken(symptom: str) -> Callable[[Breaker], Breaker]:
    """Enters a breaker into the table."""

    def enter(breaker: Breaker) -> Breaker:
        BROKEN[breaker.__name__] = (breaker, symptom)
        return breaker

    return enter


# -- sums ---------------------------------------------------------------------------------------


def roundest(times: list[int]) -> int:
    """Place of the first row at or after the roundest instant of a window."""
    oldest, newest = times[0], times[-1]
    split = newest
    if oldest != newest:
        level = (oldest ^ newest).bit_length() - 1
        split = newest >> level << level
    return next(i for i, t in enumerate(times) if t >= split)


def level_of(values: list[float], cut: int) -> tuple[float, float, float]:
    """Count, mean and sum of squared deviations: up to the cut from behind, then from the cut."""
    valid = [i for i, x in enumerate(values) if not np.isnan(x)]
    if not valid:
        return 0.0, np.nan, np.nan
    reference = values[next((i for i in valid if i >= cut), valid[-1])]
    sums = []
    for half in ([i for i in reversed(valid) if i < cut], [i for i in valid if i >= cut]):
        n, s1, s2 = 0.0, 0.0, 0.0
        for i in half:
            d = float(values[i]) - float(reference)
            n, s1, s2 = n + 1.0, s1 + d, s2 + d * d
        sums.append((n, s1, s2))
    n, s1, s2 = (a + b for a, b in zip(*sums, strict=True))
    mean = s1 / n
    return n, float(reference) + mean, max(s2 - s1 * mean, 0.0)


Window = Callable[[dict[str, Any], int, int, int], tuple[float, float, float]]
"""Count, mean and squared deviations of rows ``low .. high`` of run ``s``, from the kernel's
arguments."""


def in_python(patch: Patch, window: Window) -> None:
    """Computes counts, means and variances in plain Python, one window at a time."""
    names = ("p", "run", "owner", "start", "base", "ts", "x", "y", "lo", "hi", "marks", "state")

    def slide(*args: Any) -> None:
        given, out = dict(zip(names, args, strict=False)), args[-1]
        for g, s in enumerate(given["run"]):
            for q in range(given["start"][g], given["start"][g + 1]):
                low, high = int(given["lo"][q]), int(given["hi"][q])
                empty = s < 0 or low >= high
                given["fresh"] = int(given["hi"][given["start"][g]]) - 1
                out[:, q] = (0.0, np.nan, np.nan) if empty else window(given, s, low, high)

    compiled = Slide.run

    def run(self: Slide, scope: Scope) -> Any:
        if self.family.name == "level":
            self = replace(self, family=replace(self.family, slide=slide))
        return compiled(self, scope)

    patch.setattr(Slide, "run", run)


def rows_of(given: dict[str, Any], s: int, low: int, high: int) -> tuple[list[int], list[float]]:
    """Times and values of a window."""
    inside = slice(given["base"][s] + low, given["base"][s] + high)
    return given["ts"][inside].tolist(), given["x"][inside].tolist()


def whole_engine_in_python(patch: Patch) -> None:
    """Nothing is wrong with this one: it cuts windows where they must be cut."""

    def window(given: dict[str, Any], s: int, low: int, high: int) -> tuple[float, float, float]:
        times, values = rows_of(given, s, low, high)
        return level_of(values, roundest(times))

    in_python(patch, window)


@broken("another start")
def windows_cut_by_row_number(patch: Patch) -> None:
    """Cuts windows at round row numbers, which depend on where the process began to count."""

    def window(given: dict[str, Any], s: int, low: int, high: int) -> tuple[float, float, float]:
        _, values = rows_of(given, s, low, high)
        return level_of(values, roundest(list(range(low, high))))

    in_python(patch, window)


@broken("other cuts")
def windows_cut_by_batch(patch: Patch) -> None:
    """Sums the rows of the batch and adds what was there before, so that cuts show in the bits."""

    def window(given: dict[str, Any], s: int, low: int, high: int) -> tuple[float, float, float]:
        _, values = rows_of(given, s, low, high)
        return level_of(values, max(given["fresh"] - low, 0))

    in_python(patch, window)


@broken("another order of sums")
def sums_in_another_order(patch: Patch) -> None:
    """Sums each window from its newest row to its oldest: a pure function, but another one."""

    def window(given: dict[str, Any], s: int, low: int, high: int) -> tuple[float, float, float]:
        _, values = rows_of(given, s, low, high)
        return level_of(values, len(values))

    in_python(patch, window)


@broken("other cuts")
def sums_that_subtract(patch: Patch) -> None:
    """Subtracts what leaves a window from a running sum, which drifts and never forgets a print."""
    kept: dict[tuple[int, int], dict[str, Any]] = {}

    def window(given: dict[str, Any], s: int, low: int, high: int) -> tuple[float, float, float]:
        _, values = rows_of(given, s, low, high)
        run = kept.get((id(given["marks"]), s))
        if run is None or run["marks"] is not given["marks"] or not low <= run["high"] <= high:
            run = {"marks": given["marks"], "high": low, "rows": deque(), "s1": 0.0, "s2": 0.0}
            kept[id(given["marks"]), s] = run
        for value in values[run["high"] - low :]:
            run["rows"].append(value)
            run["s1"], run["s2"] = run["s1"] + value, run["s2"] + value * value
        while len(run["rows"]) > high - low:
            value = run["rows"].popleft()
            run["s1"], run["s2"] = run["s1"] - value, run["s2"] - value * value
        run["high"], n = high, float(high - low)
        return n, run["s1"] / n, max(run["s2"] - run["s1"] * run["s1"] / n, 0.0)

    in_python(patch, window)


# -- order, lateness, identity --------------------------------------------------------------------


@broken("other than the oracle")
def ties_by_arrival_position(patch: Patch) -> None:
    """Applies rows of one instant in the order in which they were read."""
    settle_ties = pending._settle_ties

    def by_position(stream: Any, rows: Rows, tied: Any) -> Any:
        ranked, fate, seen_ns = settle_ties(stream, rows, tied)
        order = np.lexsort((ranked, rows.ts_ns[ranked], rows.run[ranked]))
        return ranked[order], fate[order], seen_ns[order]

    patch.setattr(pending, "_settle_ties", by_position)


@broken("not as final")
def lateness_by_partition_clock(patch: Patch) -> None:
    """Calls a row late by how far its partition has been read, not by its own arrival."""
    take = Engine._take

    def by_clock(self: Engine, batch: Batch, output: Output) -> None:
        assert batch.arrival_ns is not None
        judged_ns = np.maximum(batch.arrival_ns, batch.clock_ns)
        take(self, replace(batch, arrival_ns=judged_ns), output)

    patch.setattr(Engine, "_take", by_clock)


@broken("other than the oracle")
def duplicates_applied_twice(patch: Patch) -> None:
    """Takes a row that came twice for two rows."""
    fates = pending._fates

    def twice(*args: Any) -> Any:
        found = fates(*args)
        return np.where(found == pending.DUPLICATE, pending.APPLIED, found)

    patch.setattr(pending, "_fates", twice)


@broken("other cuts")
def corrections_by_read_order(patch: Patch) -> None:
    """Lets the row that is read last win, instead of the one that arrived last."""
    fates = pending._fates

    def last_read(stream: Any, group: Any, content: Any) -> Any:
        found = fates(stream, group, content)
        if pending.SUPERSEDED in found:
            found[:] = pending.SUPERSEDED
            found[np.argmax(group)] = pending.APPLIED
        return found

    patch.setattr(pending, "_fates", last_read)


# -- clocks ---------------------------------------------------------------------------------------


@broken("not as final")
def clock_by_wall_time(patch: Patch) -> None:
    """Takes what time it is for how far the input has been read."""
    patch.setattr(Engine, "clock_ns", property(lambda self: time.time_ns()))


@broken("not as final")
def clock_by_greatest_partition(patch: Patch) -> None:
    """Runs ahead with the fastest partition and leaves the rows of the others behind."""
    patch.setattr(Engine, "clock_ns", property(lambda self: max(self.clocks.values())))


@broken("not as final")
def clock_of_own_rows(patch: Patch) -> None:
    """Hears only the clocks that come with rows, so that a silent partition stalls everything."""
    process = Engine.process

    def deaf(self: Engine, batch: Batch) -> Output:
        return process(self, batch) if len(batch) or batch.end else Output()

    patch.setattr(Engine, "process", deaf)


@broken("not as final")
def delay_forgotten(patch: Patch) -> None:
    """Settles an instant as soon as the clock reaches it, though rows of it may still come."""
    advance = Engine._advance

    def eager(self: Engine, output: Output) -> None:
        if len(self.ended) < len(self.clocks) and self.clock_ns > self.settled_ns:
            self._settle(self.clock_ns, self.clock_ns, output)
            self.settled_ns = self.clock_ns
        else:
            advance(self, output)

    patch.setattr(Engine, "_advance", eager)


@broken("not as final")
def flush_when_idle(patch: Patch) -> None:
    """Settles everything when a batch is empty, as if no more were to come."""
    process = Engine.process

    def impatient(self: Engine, batch: Batch) -> Output:
        output = process(self, batch)
        if not len(batch) and output.vectors is None:
            self._settle(END_CLOCK_NS, self.settled_ns, output)
        return output

    patch.setattr(Engine, "process", impatient)


@broken("not as final")
def flush_on_drain(patch: Patch) -> None:
    """Takes a stop for the end of the input, and settles what is still pending."""
    snapshot = state.snapshot

    def drained(engine: Engine) -> bytes:
        engine._settle(END_CLOCK_NS, engine.settled_ns, Output())
        return snapshot(engine)

    patch.setattr(state, "snapshot", drained)


@broken("not as final")
def open_windows_at_the_end(patch: Patch) -> None:
    """Emits hop windows at the end of the input whose end it has not reached."""
    patch.setattr(Engine, "_complete_until_ns", lambda self: END_CLOCK_NS)


@broken("other than the oracle")
def ttl_by_the_clock(patch: Patch) -> None:
    """Forgets a run when the clock has moved on by its TTL, not when its own rows have a gap."""
    settle = Engine._settle

    def swept(self: Engine, *args: Any) -> None:
        for table in self.tables:
            count = len(table)
            stale = (self.clock_ns - table.last_ns[:count] > table.ttl_ns) & table.has_ttl
            table.floor[:count][stale] = table.end[:count][stale]
        settle(self, *args)

    patch.setattr(Engine, "_settle", swept)


# -- state ----------------------------------------------------------------------------------------


def left_out(patch: Patch, **changes: Any) -> None:
    """Puts other fields into every snapshot."""
    snapshot = state.snapshot

    def without(engine: Engine) -> bytes:
        found = state.read(snapshot(engine))
        return msgspec.msgpack.encode(msgspec.structs.replace(found, **changes))

    patch.setattr(state, "snapshot", without)


@broken("not as final")
def pending_rows_left_out(patch: Patch) -> None:
    """Saves what is settled and loses the rows that are waiting."""
    left_out(patch, pending={})


@broken("emitted twice")
def hops_left_out(patch: Patch) -> None:
    """Forgets in a restart which hop windows were emitted, and emits them again."""
    left_out(patch, hops_until_ns=NO_CLOCK_NS)


@broken("other cuts")
def recent_rows_left_out(patch: Patch) -> None:
    """Saves the runs without the values that windows still reach."""
    pack = runs.pack

    def without_values(column: Any, *rows: Any) -> Any:
        packed = pack(column, *rows)
        return np.full_like(packed, np.nan) if packed.dtype == np.float64 else packed

    patch.setattr(runs, "pack", without_values)


@broken("other cuts")
def resets_left_out(patch: Patch) -> None:
    """Forgets in a restart where a run was last reset, so that windows reach behind a gap."""
    section = state._section

    def unmarked(*args: Any) -> state.Section:
        found = section(*args)
        floor = state._pack(np.zeros(len(found.keys), np.int64))
        return msgspec.structs.replace(found, per_run={**found.per_run, "floor": floor})

    patch.setattr(state, "_section", unmarked)


@broken("not as final")
def slot_shared_by_entities(patch: Patch) -> None:
    """Finds an entity by a part of its name, so that two of them write into one run."""
    add = RunTable.add

    def colliding(self: RunTable, key: tuple[str, str]) -> int:
        for (entity, series), run in self.index.items():
            if entity[0] == key[0][0] and series == key[1]:
                self.index[key] = run
                return run
        return add(self, key)

    patch.setattr(RunTable, "add", colliding)


# -- joins, instants ------------------------------------------------------------------------------


@broken("other than the oracle")
def news_as_of_the_end_of_the_batch(patch: Patch) -> None:
    """Joins the newest row of the other stream that is there, not the one of the bar's time."""
    other = Scope._other

    def newest(self: Scope, *args: Any) -> Positions:
        block = self.block
        self.block = replace(block, ts_ns=np.full_like(block.ts_ns, END_CLOCK_NS))
        try:
            return other(self, *args)
        finally:
            self.block = block

    patch.setattr(Scope, "_other", newest)


@broken("emitted twice")
def a_vector_for_each_row(patch: Patch) -> None:
    """Emits after each row of an instant, not once after all of them."""
    all_rows = ordering.last_of_instant

    def each(ts: Any, start: Any) -> Any:
        return np.ones_like(all_rows(ts, start))

    patch.setattr(ordering, "last_of_instant", each)


@broken("other than the oracle")
def ends_of_windows_included(patch: Patch) -> None:
    """Takes the row at the end of a hop window into it, where windows are open on the right."""
    compiled = Slide.run

    def closed(self: Slide, scope: Scope) -> Any:
        return compiled(replace(self, window=replace(self.window, closed_right=1)), scope)

    patch.setattr(Slide, "run", closed)
