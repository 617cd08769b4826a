"""Order of rows, places of windows and hop instants against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operators.expr import Across
from operators.history import RunTable
from operators.instants import Hop
from operators.kernels import across, hashing, ordering, runs
from tests.naive import Naive, Place, hop_ends
from tests.naive_rows import stable_hash
from tests.sliding import bits
from tests.strategies import READINGS

Ints = np.ndarray


@st.composite
def grouped_times(draw: st.DrawFn) -> tuple[list[list[int]], Ints, Ints, Ints]:
    """Times of a few runs in order: as lists, and as columns with their runs and starts."""
    times = draw(
        st.lists(st.lists(st.integers(0, 40), max_size=9).map(sorted), min_size=1, max_size=4)
    )
    starts = np.cumsum([0, *map(len, times)])
    flat = np.array([t for run in times for t in run], np.int64)
    return times, np.arange(len(times)), starts, flat


# -- ordering -------------------------------------------------------------------------------------


@given(run=st.lists(st.integers(0, 4), max_size=30), data=st.data())
def test_rows_are_grouped_by_run_and_sorted_by_time_stably(run, data):
    ts = data.draw(st.lists(st.integers(0, 6), min_size=len(run), max_size=len(run)))
    order, segment_run, start = ordering.group_by_run(np.array(run, np.int64), 5)
    assert segment_run.tolist() == sorted(set(run))
    times = ordering.gather(np.array(ts, np.int64), order)
    assert ordering.sort_times(order, times, start)
    expected = sorted(range(len(run)), key=lambda row: (run[row], ts[row], row))
    assert order.tolist() == expected
    assert times.tolist() == [ts[row] for row in expected]
    by_run = [run[row] for row in expected]
    assert [by_run[place] for place in start[:-1]] == segment_run.tolist()
    assert start[-1] == len(run)


def test_sorting_gives_up_on_rows_far_out_of_order_and_loses_none():
    count = 4000
    order, ts = np.arange(count), np.arange(count)[::-1].copy()
    assert not ordering.sort_times(order, ts, np.array([0, count]))
    assert sorted(order.tolist()) == list(range(count))
    assert (ts == np.arange(count)[::-1][order]).all()


@given(grouped=grouped_times(), data=st.data())
def test_ties_and_last_rows_of_instants_are_found(grouped, data):
    times, _, start, flat = grouped
    tied, last = ordering.mark_ties(flat, start), ordering.last_of_instant(flat, start)
    assert tied.tolist() == [run.count(t) > 1 for run in times for t in run]
    assert last.tolist() == [t not in run[i + 1 :] for run in times for i, t in enumerate(run)]
    assert ordering.count_ties(flat, start) == sum(len(run) - len(set(run)) for run in times)
    keep = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(flat), max_size=len(flat))), np.bool_
    )
    kept = ordering.rows_per_segment(keep, start)
    assert kept.tolist() == [int(keep[:place].sum()) for place in start]


@given(st.lists(st.text(max_size=12), min_size=1, max_size=5))
@example(["", "AAPL", "é", "𝄞"])
def test_names_hash_as_their_bytes_say(names):
    hashes = hashing.hash_names(names)
    assert hashes.tolist() == [stable_hash(name) for name in names]
    assert hashing.key_groups(names).tolist() == [stable_hash(name) % 64 for name in names]


# -- the arena ------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
def test_the_arena_keeps_what_windows_may_reach_wherever_it_moves_rows(data):
    keep_rows, keep_span, ttl = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 9)), 6
    table = RunTable(["x"], keep_rows, keep_span, ttl)
    history: list[list[tuple[int, float]]] = [[] for _ in range(3)]
    for name in "abc":
        table.add((name, ""))
    settled = 0
    for _ in range(data.draw(st.integers(1, 25))):
        present = sorted(data.draw(st.sets(st.integers(0, 2), min_size=1)))
        most = data.draw(st.sampled_from([1, 4, 60]))
        steps = st.lists(st.integers(1, 12), min_size=1, max_size=most)
        block = {run: data.draw(steps) for run in present}
        new = {run: [settled + t for t in sorted(times)] for run, times in block.items()}
        segment_run = np.array(list(new), np.int64)
        start = np.cumsum([0, *map(len, new.values())])
        ts = np.array([t for times in new.values() for t in times], np.int64)
        x = np.random.default_rng(len(ts)).normal(size=len(ts))
        table.reserve(segment_run, start, settled)
        hi = runs.own_positions(segment_run, start, table.end)
        assert hi.tolist() == [
            len(history[run]) + i + 1 for run, times in new.items() for i in range(len(times))
        ]
        runs.append_floor(
            table.floors, ts, segment_run, start, table.ts, table.base, table.first, table.end,
            table.floor, ttl,
        )  # fmt: skip
        for column, values in ((table.ts, ts), (table.columns["x"], x)):
            runs.append(column, values, segment_run, start, table.base, table.end)
        table.end[segment_run] += np.diff(start)
        for g, run in enumerate(new):
            inside = slice(start[g], start[g + 1])
            history[run] += list(zip(ts[inside].tolist(), x[inside].tolist(), strict=True))
        for run, rows in enumerate(history):
            first, end, base = table.first[run], table.end[run], table.base[run]
            assert end == len(rows)
            assert first <= max(end - keep_rows, 0)
            assert all(t <= settled - keep_span for t, _ in rows[:first])
            live = slice(base + first, base + end)
            assert (
                list(zip(table.ts[live].tolist(), table.columns["x"][live].tolist(), strict=True))
                == rows[first:]
            )
            assert table.floors[live].tolist() == [floor(rows, r, ttl) for r in range(first, end)]
        settled = max(settled, int(ts.max()))


def floor(rows: list[tuple[int, float]], last: int, ttl: int) -> int:
    """The first row after the last gap longer than the TTL."""
    gaps = [r for r in range(1, last + 1) if rows[r][0] - rows[r - 1][0] > ttl]
    return max(gaps, default=0)


# -- windows --------------------------------------------------------------------------------------


@given(grouped=grouped_times(), data=st.data(), closed_right=st.integers(0, 1))
def test_windows_lie_where_counting_rows_puts_them(grouped, data, closed_right):
    times, run, start, flat = grouped
    span, rows = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 5))
    asked = [sorted(data.draw(st.lists(st.integers(-2, 44), max_size=6))) for _ in times]
    query_start = np.cumsum([0, *map(len, asked)])
    query = np.array([t for each in asked for t in each], np.int64)
    base, first = start[:-1].copy(), np.zeros(len(times), np.int64)
    end = np.diff(start)
    hi = runs.positions_at(query, run, query_start, flat, base, first, end, closed_right)
    floors = np.array(
        [data.draw(st.integers(0, i)) for each in times for i in range(len(each))], np.int64
    )
    longest = data.draw(st.sampled_from([3, 2**62]))
    low = runs.floors_at(query, run, query_start, hi, flat, floors, base, first, longest)
    by_span = runs.windows_of_span(
        query, run, query_start, hi, low, flat, base, first, span, closed_right
    )
    by_rows = runs.windows_of_rows(hi, low, rows)
    column = flat * 10.0
    back = runs.values_back(column, run, query_start, hi, low, base, 1)
    age = runs.seconds_back(query, run, query_start, hi, low, flat, base, 0)
    for q, (each, t) in enumerate([(s, t) for s, ts in enumerate(asked) for t in ts]):
        seen = [i for i, at in enumerate(times[each]) if at < t + closed_right]
        assert hi[q] == len(seen)
        fresh = seen and t - times[each][seen[-1]] <= longest
        reached = [i for i in seen if fresh and i >= floors[base[each] + seen[-1]]]
        inside = [i for i in reached if times[each][i] >= t - span + closed_right]
        assert list(range(by_span[q], hi[q])) == inside
        assert list(range(by_rows[q], hi[q])) == reached[-rows:]
        before = float(column[base[each] + reached[-2]]) if len(reached) > 1 else math.nan
        assert bits(back[q : q + 1]) == bits([before])
        assert math.isnan(age[q]) == (not reached)
        if reached:
            assert age[q] == pytest.approx((t - times[each][reached[-1]]) * 1e-9)


def test_a_run_that_is_not_there_has_no_rows():
    none, start, empty = np.array([-1]), np.array([0, 2]), np.zeros(0, np.int64)
    query = np.array([5, 6])
    hi = runs.positions_at(query, none, start, empty, empty, empty, empty, 1)
    low = runs.floors_at(query, none, start, hi, empty, empty, empty, empty, 2**62)
    assert (hi.tolist(), low.tolist()) == ([0, 0], [0, 0])
    lo = runs.windows_of_span(query, none, start, hi, low, empty, empty, empty, 3, 1)
    assert lo.tolist() == [0, 0]
    assert np.isnan(runs.values_back(np.zeros(0), none, start, hi, low, empty, 0)).all()
    assert np.isnan(runs.seconds_back(query, none, start, hi, low, empty, empty, 0)).all()


@given(grouped=grouped_times(), data=st.data(), closed=st.sampled_from(["left", "right"]))
def test_hop_windows_are_those_that_hold_a_row(grouped, data, closed):
    times, _, start, flat = grouped
    every = data.draw(st.integers(1, 9))
    hop = Hop(
        READINGS, every * data.draw(st.integers(1, 3)) + data.draw(st.integers(0, 2)), every, closed
    )
    after, until = data.draw(st.integers(-5, 30)), data.draw(st.integers(0, 70))
    base, first = start[:-1].copy(), np.zeros(len(times), np.int64)
    segment_run, segment_start, instants = runs.hop_instants(
        flat, base, first, np.diff(start), after, until, hop.length_ns, hop.every_ns, 0,
        int(closed == "right"),
    )  # fmt: skip
    found = {
        int(run): instants[segment_start[g] : segment_start[g + 1]].tolist()
        for g, run in enumerate(segment_run)
    }
    ends = [[row["ts"] for row in hop_ends(hop, [{"ts": t} for t in run])] for run in times]
    expected = {s: [t for t in of if after < t <= until] for s, of in enumerate(ends)}
    assert found == {s: of for s, of in expected.items() if of}


# -- across series --------------------------------------------------------------------------------


@given(
    st.lists(
        st.lists(st.sampled_from([1.0, 2.5, -3.0, math.nan]), max_size=5), min_size=1, max_size=5
    )
)
def test_aggregates_across_series_skip_nulls(instants):
    start = np.cumsum([0, *map(len, instants)])
    flat = np.array([v for each in instants for v in each], np.float64)
    valid = [[v for v in each if v == v] for each in instants]  # noqa: PLR0124
    expected = {
        across.across_count: [float(len(each)) for each in valid],
        across.across_mean: [sum(each) / len(each) if each else math.nan for each in valid],
        across.across_min: [min(each, default=math.nan) for each in valid],
        across.across_max: [max(each, default=math.nan) for each in valid],
    }
    for kernel, values in expected.items():
        result = np.empty(len(instants))
        kernel(flat, start, result)
        assert bits(result) == bits(values)


@settings(max_examples=60)
@given(data=st.data(), rows=st.integers(3, 6), ttl=st.sampled_from([3, 2**62]))
def test_correlation_across_series_is_that_of_their_common_instants(data, rows, ttl):
    value = st.sampled_from([0.1, 0.1, 0.2, 5.0, 1e6, None]) | st.floats(-9, 9).map(
        lambda v: round(v, 6)
    )
    times = [
        sorted(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=9, unique=True)))
        for _ in "xyz"
    ]
    values = [[data.draw(value) for _ in run] for run in times]
    named = [
        {"entity": "pump", "series": series, "ts": t, "value": v}
        for series, of, xs in zip("xyz", times, values, strict=True)
        for t, v in zip(of, xs, strict=True)
    ]
    naive = Naive({"readings": named}, [READINGS], ttl, "float")
    at = READINGS.across_series()
    start = np.cumsum([0, *map(len, times)])
    flat = np.array([t for run in times for t in run], np.int64)
    column = np.array([math.nan if v is None else v for run in values for v in run], np.float64)
    floors = np.array(
        [
            naive.floor(READINGS, ("pump", series), i)
            for series, run in zip("xyz", times, strict=True)
            for i in range(len(run))
        ],
        np.int64,
    )
    instants = sorted({t for run in times for t in run})
    present = [[s for s, run in enumerate(times) if t in run] for t in instants]
    result = np.empty(len(instants))
    across.across_corr(
        column, flat, floors, np.array([s for each in present for s in each]),
        np.cumsum([0, *map(len, present)]), np.array(instants), rows, start[:-1].copy(),
        np.zeros(3, np.int64), np.diff(start), result,
    )  # fmt: skip
    expr = Across(READINGS.col("value"), "corr", rows)
    for q, t in enumerate(instants):
        expected = naive.value(expr, Place(at, ("pump", ""), q, t))
        assert math.isnan(result[q]) == (expected is None)
        assert expected is None or result[q] == pytest.approx(float(expected), abs=1e-9)
