"""Frames of samples: their moments and spectra are as exact as promised, whoever else is there."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import aggregates as agg
from operators.expr import Expr, Spectral, Windowed
from operators.kernels import frames, spectra
from tests import naive_frames
from tests.naive_numbers import ARITHMETIC, aggregate, allowed_error
from tests.sliding import Floats, Run, bits, over
from tests.strategies import WINDOWS

EXACT = ARITHMETIC["exact"]
RANDOM = np.random.default_rng(11)
WALK = 1e6 + 1e-2 * np.cumsum(RANDOM.choice([-1.0, 1.0], 256))
GAP = np.where(RANDOM.random(256) < 0.3, np.nan, WALK)
PRINT = np.where(np.arange(256) == 100, 1e12, WALK)

FRAMES = {
    "a random walk at 1e6": WALK,
    "a bad print": PRINT,
    "nulls": GAP,
    "first and last null": np.concatenate([[np.nan], WALK[:50], [np.nan]]),
    "a constant": np.full(250, 0.1),
    "a constant below zero": np.full(7, -1.1),
    "one sample": np.array([3.0]),
    "two samples": np.array([3.0, 4.0]),
    "no sample": np.zeros(0),
    "nulls only": np.full(4, np.nan),
    "a sine": np.sin(np.arange(200) / 3.0),
}
AGGREGATES = [
    over(each)
    for each in (
        agg.COUNT, agg.MEAN, agg.VAR, agg.STD, agg.RMS, agg.SKEW, agg.KURTOSIS, agg.MIN, agg.MAX,
        agg.SUM, agg.FIRST, agg.LAST,
    )
]  # fmt: skip


def laid_out(several: list[Floats]) -> tuple[Floats, np.ndarray, np.ndarray]:
    """Frames one behind the other, with something in between."""
    lengths = np.array([len(frame) for frame in several])
    flat = np.concatenate([part for frame in several for part in (frame, [7e77])])
    hi = np.cumsum(lengths + 1) - 1
    return flat, hi - lengths, hi


def over_frames(expr: Windowed, several: list[Floats]) -> Floats:
    """An aggregate over each frame, by its kernels."""
    flat, lo, hi = laid_out(several)
    family = agg.SHAPE if expr.aggregate.family is agg.LEVEL else expr.aggregate.family
    sums, result = np.empty((family.results, len(several))), np.empty(len(several))
    assert family.over_frame is not None
    family.over_frame(flat, lo, hi, sums)
    expr.aggregate.finish(sums, expr.parameter, expr.min_samples, result)
    return result


@pytest.mark.parametrize("expr", AGGREGATES, ids=lambda expr: expr.aggregate.name)
def test_aggregates_of_a_frame_are_as_exact_as_promised(expr):
    found = over_frames(expr, list(FRAMES.values()))
    for (name, frame), value in zip(FRAMES.items(), found, strict=True):
        window = Run(np.arange(len(frame)), frame, frame).sample(0, len(frame))
        exact = aggregate(EXACT, expr, window)
        if exact is None or math.isnan(value):
            assert exact is None, name
            assert math.isnan(value), name
        else:
            error = abs(Fraction(float(value)) - Fraction(exact))
            assert error <= allowed_error(expr, window), name


def test_sign_changes_are_counted_between_valid_samples():
    some = [
        *FRAMES.values(),
        np.array([0.0, -1.0, np.nan, -0.0, 2.0, -3.0]),
        RANDOM.normal(size=90),
    ]
    flat, lo, hi = laid_out(some)
    found = np.empty(len(some))
    frames.zero_crossing_rate(flat, lo, hi, found)
    expected = [
        naive_frames.zero_crossing_rate(
            ARITHMETIC["float"], [None if math.isnan(v) else float(v) for v in frame]
        )
        for frame in some
    ]
    assert bits(found) == bits([math.nan if v is None else float(v) for v in expected])
    assert found[-2] == 0.75


# -- spectra --------------------------------------------------------------------------------------

V = WINDOWS.col("values")
MEASURES: dict[str, Expr] = {
    "dominant frequency": V.dominant_frequency(),
    "centroid": V.spectral_centroid(),
    "bandwidth": V.spectral_bandwidth(),
    "rolloff": V.spectral_rolloff(0.85),
    "whole rolloff": V.spectral_rolloff(1.0),
    "entropy": V.spectral_entropy(),
    "band": V.band_power(2.0, 9.0),
    "top band": V.band_power(0.75, 1.0, of_nyquist=True),
    "all bands": V.band_power(0.0, 1.0, of_nyquist=True),
    "nothing": V.band_power(1000.0, 2000.0),
}
RATE_HZ = 48.0
WAVES = {
    "a sine": 5.0 + np.sin(2 * np.pi * 6.0 * np.arange(64) / RATE_HZ) + RANDOM.normal(size=64) / 9,
    "noise": RANDOM.normal(size=61),
    "an odd length": RANDOM.normal(size=33),
    "two samples": np.array([1.0, 2.0]),
    "three samples": np.array([1.0, 2.0, 4.0]),
    "a random walk at 1e6": WALK[:64],
    "a bad print": PRINT[64:128],
    "a constant": np.full(50, 0.1),
    "zeros": np.zeros(8),
}


def read(expr: Expr, several: Floats, rate_hz: float = RATE_HZ) -> Floats:
    """A measure of frames of one length, by its kernel."""
    assert isinstance(expr, Spectral)
    frequency, density = spectra.power_density(np.ascontiguousarray(several), rate_hz)
    unit = rate_hz / 2 if expr.of_nyquist else 1.0
    result = np.empty(len(several))
    high = np.inf if expr.high * unit >= rate_hz / 2.0 else expr.high * unit
    expr.measure.kernel(frequency, density, expr.low * unit, high, result)
    return result


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("wave", WAVES)
def test_what_is_read_off_a_spectrum_is_exact_to_a_billionth(name, wave):
    expr, frame = MEASURES[name], WAVES[wave]
    assert isinstance(expr, Spectral)
    found = read(expr, frame[None, :])[0]
    exact = naive_frames.spectral(EXACT, expr, frame.tolist(), RATE_HZ)
    if exact is None or math.isnan(found):
        assert exact is None
        assert math.isnan(found)
        return
    mean_square = float(np.var(frame)) + 1e-300
    bin_hz = RATE_HZ / len(frame)
    scale = {"a bin": bin_hz, "Nyquist": RATE_HZ / 2, "1": 1.0, "mean square": mean_square}
    rough = naive_frames.spectral(ARITHMETIC["float"], expr, frame.tolist(), RATE_HZ)
    assert rough is not None
    allowed = max(1e-9 * scale[expr.scale], 4 * float(abs(Fraction(rough) - Fraction(exact))))
    assert abs(float(found) - float(exact)) <= allowed


@settings(max_examples=30)
@given(length=st.integers(2, 130), count=st.integers(1, 9), place=st.integers(0, 8))
def test_a_frame_has_the_same_bits_alone_and_among_others(length, count, place):
    several = np.random.default_rng(length).normal(size=(9, length))
    _, alone = spectra.power_density(several[place][None, :].copy(), RATE_HZ)
    among = np.concatenate([several[:count], several[place][None, :]])
    _, together = spectra.power_density(among, RATE_HZ)
    assert bits(together[-1]) == bits(alone[0])


def test_a_band_that_ends_at_nyquist_holds_it():
    frame = np.array([1.0, -1.0] * 8)
    whole = read(V.band_power(0.0, RATE_HZ / 2), frame[None, :])
    assert whole[0] == pytest.approx(
        float(np.sum(spectra.power_density(frame[None, :], 3.0)[1])) * 3 / 16
    )
    assert read(V.band_power(0.0, RATE_HZ / 2 - 0.01), frame[None, :])[0] < whole[0]


# -- grids ----------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    offsets=st.lists(
        st.tuples(st.integers(-1, 9), st.sampled_from([0, 0, 1, -1, 90, -90, 110, -110, 500])),
        max_size=12,
    ),
    closed=st.sampled_from(["left", "right"]),
    data=st.data(),
)
def test_samples_snap_to_the_cell_that_they_are_near(offsets, closed, data):
    length, period_ns, jitter = 8, 1000.0, 0.1
    ts = np.array(sorted(10**12 + 1000 * cell + off for cell, off in offsets), np.int64)
    x = np.array([data.draw(st.sampled_from([1.0, 2.0, math.nan])) for _ in ts], np.float64)
    end_ns = 10**12 + 8000
    start_ns = end_ns - 8000
    inside = (
        (start_ns <= ts) & (ts < end_ns) if closed == "left" else (start_ns < ts) & (ts <= end_ns)
    )
    lo = int(np.argmax(inside)) if inside.any() else 0
    hi = lo + int(inside.sum())
    found = np.empty((1, length))
    frames.snap_to_grid(
        x, ts, np.array([0]), np.array([0, 1]), np.array([0]), np.array([lo]), np.array([hi]),
        np.array([end_ns]), length, period_ns, jitter * period_ns, int(closed == "right"), found,
    )  # fmt: skip
    expected = [math.nan] * length
    for t, value in zip(ts[lo:hi].tolist(), x[lo:hi].tolist(), strict=True):
        cell = naive_frames.grid_cell(end_ns - t, length, Fraction(1000), jitter, closed=closed)
        if cell is not None:
            expected[cell] = value
    assert bits(found[0]) == bits(expected)


def test_a_band_that_ends_below_nyquist_leaves_its_end_out_for_odd_lengths_too():
    frames = np.array([[1.0, -2.0, 3.0, 0.5, -1.0]])
    frequency, power = spectra.power_density(frames, 5.0)
    found, rest = np.empty(1), np.empty(1)
    spectra.band_power(frequency, power, 1.0, 2.0, found)
    spectra.band_power(frequency, power, 2.0, np.inf, rest)
    assert found[0] == power[0, 1]
    assert rest[0] == power[0, 2]
