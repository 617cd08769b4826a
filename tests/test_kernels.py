"""The sliding kernels are as exact as promised, and know nothing but the rows of the window."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import aggregates as agg
from operators.expr import Windowed
from tests.naive_numbers import ARITHMETIC, aggregate, allowed_error
from tests.sliding import (
    AGGREGATES,
    LAST_BASE,
    Floats,
    Ints,
    Run,
    Slider,
    bits,
    over,
    row_windows,
    span_windows,
)

COUNT = 600
SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND + 123_456_789


def random_walk(seed: int) -> Floats:
    """At 1e6 with steps of 1e-2."""
    return 1e6 + 1e-2 * np.cumsum(np.random.default_rng(seed).choice([-1.0, 1.0], COUNT))


def with_nulls(values: Floats, seed: int, share: float) -> Floats:
    found = values.copy()
    found[np.random.default_rng(seed).random(len(values)) < share] = np.nan
    return found


def with_print(values: Floats, at: int, value: float) -> Floats:
    found = values.copy()
    found[at] = value
    return found


EVEN = START_NS + SECOND * np.arange(COUNT)
UNEVEN = START_NS + np.cumsum(np.random.default_rng(1).integers(1, 2 * SECOND, COUNT))
EQUAL = START_NS + SECOND * (np.arange(COUNT) // 5)
HOURLY_GAPS = START_NS + 1_000_000 * np.arange(COUNT) + 3600 * SECOND * (np.arange(COUNT) // 150)
WALK, OTHER = random_walk(2), random_walk(3)
NORMAL = np.random.default_rng(4).normal(size=COUNT)

RUNS = {
    "a random walk at 1e6": Run(EVEN, WALK, OTHER),
    "irregular times": Run(UNEVEN, WALK, np.abs(NORMAL)),
    "equal times": Run(EQUAL, WALK, OTHER),
    "noise around zero": Run(UNEVEN, NORMAL, OTHER),
    "a bad print": Run(UNEVEN, with_print(WALK, 300, 1e12), with_print(OTHER, 310, 1e12)),
    "a bad print below": Run(EVEN, with_print(WALK, 256, -1e12), OTHER),
    "constants": Run(UNEVEN, np.full(COUNT, 0.1), np.full(COUNT, 0.3)),
    "a constant but for one row": Run(UNEVEN, with_print(np.full(COUNT, 0.1), 300, 0.2), OTHER),
    "many nulls": Run(UNEVEN, with_nulls(WALK, 5, 0.4), with_nulls(OTHER, 6, 0.4)),
    "few values": Run(EQUAL, with_nulls(WALK, 7, 0.98), OTHER),
    "nulls only": Run(EVEN, np.full(COUNT, np.nan), OTHER),
    "first and last are null": Run(
        UNEVEN, with_print(with_print(WALK, 0, np.nan), -1, np.nan), OTHER
    ),
    "a null before a gap": Run(HOURLY_GAPS, with_nulls(WALK, 8, 0.1), OTHER),
    "nulls up to a gap": Run(
        HOURLY_GAPS, np.where(np.arange(COUNT) % 150 < 140, WALK, np.nan), OTHER
    ),
    "one row": Run(EVEN[:1], WALK[:1], OTHER[:1]),
    "one null": Run(EVEN[:1], np.array([np.nan]), OTHER[:1]),
}
WINDOWS = {
    "3 rows": lambda run: row_windows(run, 3),
    "256 rows": lambda run: row_windows(run, 256),
    "20 s": lambda run: span_windows(run, 20 * SECOND),
    "2 h": lambda run: span_windows(run, 7200 * SECOND),
}
CASES = [
    (rows, windows)
    for rows in RUNS
    for windows in WINDOWS
    if ("gap" in rows) == (windows == "2 h") or windows == "3 rows"
]
PLACES = [0, 1, 4, 149, 256, 300, 301, 450, COUNT - 1]


def check(expr: Windowed, run: Run, lo: Ints, hi: Ints, found: Floats, place: int) -> None:
    """One window of a kernel against the exact result."""
    window = run.sample(lo[place], hi[place])
    exact = aggregate(ARITHMETIC["exact"], expr, window)
    if exact is None or math.isnan(found[place]):
        assert exact is None
        assert math.isnan(found[place])
        return
    error = float(abs(Fraction(float(found[place])) - Fraction(exact)))
    allowed = allowed_error(expr, window)
    assert error <= allowed, f"row {place}: error {error:.3g} of {float(exact):.17g}"


@pytest.mark.parametrize("name", AGGREGATES)
@pytest.mark.parametrize(("rows", "windows"), CASES)
def test_a_window_is_as_exact_as_promised(name, windows, rows):
    run, expr = RUNS[rows], AGGREGATES[name]
    lo, hi = WINDOWS[windows](run)
    found = Slider(run, expr).ask(lo, hi)
    for place in PLACES:
        if place < len(run):
            check(expr, run, lo, hi, found, place)


def test_a_bad_print_leaves_with_its_window():
    lo, hi = row_windows(RUNS["a bad print"], 50)
    for name, expr in AGGREGATES.items():
        if len(expr.args) == 1:
            dirty = Slider(RUNS["a bad print"], expr).ask(lo, hi)
            clean = Slider(RUNS["irregular times"], expr).ask(lo, hi)
            assert bits(dirty[350:]) == bits(clean[350:]), name
            assert name != "mean" or (dirty[300:350] > 1e10).all()


def test_weights_may_be_negative_and_weigh_nothing_when_their_sum_is_zero():
    values, weights = np.array([1.0, 2.0, 4.0]), np.array([-1.0, -3.0, 4.0])
    lo, hi = row_windows(run := Run(EVEN[:3], values, weights), 3)
    found = Slider(run, over(agg.WEIGHTED_MEAN)).ask(lo, hi)
    assert bits(found) == bits([1.0, 1.75, math.nan])


def test_a_sum_of_decimals_is_the_nearest_number_to_their_sum():
    values = np.random.default_rng(9).integers(1, 10**6, 1000) / 1000.0
    run = Run(START_NS + SECOND * np.arange(1000), values, values)
    lo, hi = row_windows(run, 1000)
    found = Slider(run, AGGREGATES["sum"]).ask(lo, hi)
    assert bits(found[[0, 1, 500, 999]]) == bits(
        [math.fsum(values[: n + 1]) for n in (0, 1, 500, 999)]
    )


def test_moments_up_to_the_fourth_begin_with_the_bits_of_those_up_to_the_second():
    run = RUNS["many nulls"]
    lo, hi = row_windows(run, 40)
    level, shape = (
        over(agg.VAR),
        Windowed(agg.KURTOSIS, over(agg.VAR).args, over(agg.VAR).window, 2),
    )
    found = []
    for expr in (level, shape):
        slider, family = Slider(run, expr), expr.aggregate.family
        sums = np.empty((family.results, len(lo)))
        cache = slider.cache
        family.slide(
            0.0, np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([0, len(lo)]),
            np.array([slider.base]), slider.ts, slider.x, slider.x, lo, hi, cache.marks,
            cache.state, cache.suffix, sums,
        )  # fmt: skip
        found.append(bits(sums[:3].ravel()))
    assert found[0] == found[1]


# -- a window knows nothing but its rows ----------------------------------------------------------

SIMPLE = [0.0, -0.0, 1.0, -1.0, 0.1, 1e6, 1e12, math.nan, math.nan]


@st.composite
def small_runs(draw: st.DrawFn) -> Run:
    """A few rows with ties, gaps and nulls."""
    count = draw(st.integers(1, 24))
    value = st.sampled_from(SIMPLE) | st.floats(-100.0, 100.0)
    steps = draw(
        st.lists(st.sampled_from([0, 1, 2, 7, SECOND, 3 * SECOND]), min_size=count, max_size=count)
    )
    x, y = (draw(st.lists(value, min_size=count, max_size=count)) for _ in range(2))
    ts = draw(st.integers(0, 2**40)) + np.cumsum(np.array(steps, np.int64))
    return Run(ts, np.array(x, np.float64), np.array(y, np.float64))


def small_windows(run: Run) -> st.SearchStrategy[tuple[Ints, Ints]]:
    return st.one_of(
        st.sampled_from([1, 2, 3, 5, 8, 30]).map(lambda rows: row_windows(run, rows)),
        st.sampled_from([1, 3, 8, SECOND, 5 * SECOND]).map(lambda span: span_windows(run, span)),
    )


def cold(run: Run, expr: Windowed, lo: Ints, hi: Ints) -> list[object]:
    """Each window asked of a cache that has never seen a row."""
    return [bits(Slider(run, expr).ask(lo[q : q + 1], hi[q : q + 1]))[0] for q in range(len(lo))]


@pytest.mark.parametrize("name", AGGREGATES)
@settings(max_examples=40)
@given(data=st.data())
def test_the_same_window_has_the_same_bits_whatever_was_asked_before(name, data):
    run, expr = data.draw(small_runs()), AGGREGATES[name]
    lo, hi = data.draw(small_windows(run))
    expected = cold(run, expr, lo, hi)
    assert bits(Slider(run, expr).ask(lo, hi)) == expected

    other_lo, other_hi = data.draw(small_windows(run))
    slider = Slider(run, expr)
    place = data.draw(st.integers(0, len(run) - 1))
    while place < len(run):
        stop = data.draw(st.integers(place + 1, len(run)))
        match data.draw(st.sampled_from(["ask", "other owner", "move", "skip"])):
            case "ask":
                found = slider.ask(lo[place:stop], hi[place:stop])
                assert bits(found) == expected[place:stop]
            case "other owner":
                slider.ask(other_lo[place:stop], other_hi[place:stop], owner=1)
                continue
            case "move":
                slider.move(data.draw(st.integers(0, LAST_BASE)))
                continue
        place = stop


@pytest.mark.parametrize("name", AGGREGATES)
def test_the_same_window_has_the_same_bits_from_any_start(name):
    expr = AGGREGATES[name]
    for run in (RUNS["many nulls"], RUNS["a bad print"], RUNS["equal times"]):
        for lo, hi in (row_windows(run, 100), span_windows(run, 60 * SECOND)):
            warm = bits(Slider(run, expr).ask(lo, hi))
            for start in (1, 99, 255, 400, 599):
                assert bits(Slider(run, expr).ask(lo[start:], hi[start:])) == warm[start:]


@pytest.mark.parametrize("name", AGGREGATES)
def test_rows_before_a_reset_are_not_seen(name):
    run, expr = RUNS["many nulls"], AGGREGATES[name]
    lo, hi = row_windows(run, 50)
    reset = np.maximum(lo, np.where(hi > 320, 320, 0))
    found = Slider(run, expr).ask(reset, hi)
    rest = Run(run.ts[320:], run.x[320:], run.y[320:])
    fresh_lo, fresh_hi = row_windows(rest, 50)
    assert bits(found[320:]) == bits(Slider(rest, expr).ask(fresh_lo, fresh_hi))
