"""The oracle agrees with independent libraries, and settles rows as written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import talib
from scipy import signal, stats

from operators.expr import Expr, Spectral, Windowed, max_of, when
from operators.feature_set import FeatureSet
from tests.naive import Vector, naive_vectors
from tests.naive_frames import power_density
from tests.naive_numbers import ARITHMETIC, aggregate, allowed_error, windowed_error_scale
from tests.naive_rows import Row, is_late, settled
from tests.strategies import BARS, MINUTE_NS, NEWS, READINGS, START_NS, TICKS, TRADES, WINDOWS

CLOSE, VOLUME = BARS.col("close"), BARS.col("volume")
RANDOM = np.random.default_rng(7)
PRICE = 100.0 + np.cumsum(RANDOM.normal(size=60))
SIZE = np.abs(RANDOM.normal(size=60)) + 0.1
TIMES = START_NS + np.cumsum(RANDOM.integers(1, 3 * MINUTE_NS, 60))


def bar(ts: int, close: float = 1.0, **other: Any) -> Row:
    row = {"entity": "AAPL", "series": "1m", "ts": int(ts), "volume": 1.0, "close": close}
    return {**row, "open": close, "high": close, "low": close, **other}


WALK = [bar(t, c, volume=v) for t, c, v in zip(TIMES, PRICE.tolist(), SIZE.tolist(), strict=True)]


def values(expr: Expr, rows: list[Row] = WALK, precision: str = "float") -> list[float]:
    """The feature at each bar, NaN for null."""
    vectors = naive_vectors(
        FeatureSet("s", "v1", BARS, {"x": expr}), {"bars": rows}, end=True, precision=precision
    )
    return [math.nan if v["x"] is None else float(v["x"]) for v in vectors]


PANDAS: dict[str, tuple[Expr, Callable[[pd.Series], pd.Series]]] = {
    "mean": (CLOSE.rolling_mean(7), lambda s: s.rolling(7).mean()),
    "sum": (CLOSE.rolling_sum(7), lambda s: s.rolling(7).sum()),
    "std": (CLOSE.rolling_std(7), lambda s: s.rolling(7).std()),
    "var": (CLOSE.rolling_var(7), lambda s: s.rolling(7).var()),
    "min": (CLOSE.rolling_min(7), lambda s: s.rolling(7).min()),
    "max": (CLOSE.rolling_max(7), lambda s: s.rolling(7).max()),
    "few": (CLOSE.rolling_mean(7, min_samples=2), lambda s: s.rolling(7, min_periods=2).mean()),
    "median": (CLOSE.rolling_median(6), lambda s: s.rolling(6).median()),
    "quantile": (CLOSE.rolling_quantile(0.3, 7), lambda s: s.rolling(7).quantile(0.3)),
    "cov": (CLOSE.rolling_cov(VOLUME, 7), lambda s: s.rolling(7).cov(pd.Series(SIZE))),
    "corr": (CLOSE.rolling_corr(VOLUME, 7), lambda s: s.rolling(7).corr(pd.Series(SIZE))),
    "skew": (CLOSE.rolling_skew(7), lambda s: s.rolling(7).apply(stats.skew)),
    "kurtosis": (CLOSE.rolling_kurtosis(7), lambda s: s.rolling(7).apply(stats.kurtosis)),
    "rms": (CLOSE.rolling_rms(7), lambda s: (s**2).rolling(7).mean() ** 0.5),
    "shift": (CLOSE.shift(3), lambda s: s.shift(3)),
    "pct_change": (CLOSE.pct_change(2), lambda s: s.pct_change(2)),
    "log": ((CLOSE / CLOSE.shift(1)).log(), lambda s: np.log(s / s.shift(1))),
    "upside": (
        when(CLOSE.shift(1) < CLOSE).then(CLOSE.pct_change(1)).otherwise(0.0).rolling_std(5),
        lambda s: s.pct_change().clip(lower=0.0).rolling(5).std(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("expr", "independent"), PANDAS.values(), ids=PANDAS.keys())
@pytest.mark.parametrize("precision", ["float", "exact"])
def test_windows_over_rows_agree_with_pandas(expr, independent, precision):
    expected = independent(pd.Series(PRICE)).to_numpy()
    np.testing.assert_allclose(values(expr, precision=precision), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["mean", "sum", "std", "min", "max", "median"])
def test_windows_over_spans_agree_with_polars(name):
    frame = pl.DataFrame({"t": TIMES, "x": PRICE}).with_columns(pl.from_epoch("t", "ns"))
    column = pl.col("x")
    expected = frame.select(
        getattr(column, f"rolling_{name}_by")("t", "5m", closed="right", min_samples=1)
    )["x"].to_numpy()
    found = np.array(values(getattr(CLOSE, f"rolling_{name}")("5m")))
    if name == "std":
        expected = np.where(expected == 0.0, np.nan, expected)  # polars: 0 or null of one row
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_slope_is_that_of_a_linear_regression():
    found = values(CLOSE.rolling_slope(9))
    seconds = (TIMES - TIMES[0]) * 1e-9
    for i in (8, 20, 59):
        fit = stats.linregress(seconds[i - 8 : i + 1], PRICE[i - 8 : i + 1])
        assert found[i] == pytest.approx(fit.slope, rel=1e-9)


def test_the_weighted_mean_is_an_average():
    found = values(CLOSE.rolling_weighted_mean(VOLUME, 9))
    assert found[30] == pytest.approx(np.average(PRICE[22:31], weights=SIZE[22:31]), rel=1e-12)


LONG = 100.0 + np.cumsum(RANDOM.normal(size=900))
HIGH, LOW = LONG + RANDOM.random(900), LONG - RANDOM.random(900)


def test_exponential_means_are_talibs_after_their_warm_up():
    rows = [
        bar(START_NS + i * MINUTE_NS, c, high=h, low=lo)
        for i, (c, h, lo) in enumerate(zip(LONG, HIGH, LOW, strict=True))
    ]
    high, low, change = BARS.col("high"), BARS.col("low"), CLOSE.diff()
    before = CLOSE.shift(1)
    true_range = max_of(high, before) - -max_of(-low, -before)
    up, down = (
        max_of(change, 0.0).ewm_mean(alpha=1 / 14),
        max_of(-change, 0.0).ewm_mean(alpha=1 / 14),
    )
    wanted = {
        "ema": (CLOSE.ewm_mean(span=12), talib.EMA(LONG, 12)),
        "rsi": (100.0 - 100.0 / (1.0 + up / down), talib.RSI(LONG, 14)),
        "atr": (true_range.ewm_mean(alpha=1 / 14), talib.ATR(HIGH, LOW, LONG, 14)),
    }
    for expr, expected in wanted.values():
        found = np.array(values(expr, rows))
        # One more window than that of the mean, for TA-Lib's own start to be forgotten.
        ready = ~np.isnan(found)
        ready[: 14 + 2 * 380] = False
        assert ready.sum() > 100
        np.testing.assert_allclose(found[ready], expected[ready], rtol=1e-9)


def test_the_exact_fourier_sum_is_scipys_periodogram():
    for length in (2, 7, 16, 33):
        x = RANDOM.normal(size=length) + 5.0
        _, expected = signal.periodogram(x, 48.0, window="hann", detrend="constant")
        found = [float(p) for p in power_density(ARITHMETIC["exact"], x.tolist(), 48.0)]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15 * max(expected))


def wave(features: dict[str, Expr], samples: list[float | None], precision: str) -> Vector:
    row = {"entity": "pump", "series": "x", "ts": START_NS, "sampling_rate_hz": 64.0}
    declared = FeatureSet("wave", "v1", WINDOWS, features)
    rows = {"windows": [{**row, "values": samples}]}
    return naive_vectors(declared, rows, end=True, precision=precision)[0]


@pytest.mark.parametrize("precision", ["float", "exact"])
def test_what_is_read_off_a_spectrum_follows_the_formulas(precision):
    v = WINDOWS.col("values")
    x = (np.sin(2 * np.pi * 8 * np.arange(64) / 64) + RANDOM.normal(size=64) / 10).tolist()
    found = wave(
        {
            "peak": v.dominant_frequency(), "centroid": v.spectral_centroid(),
            "spread": v.spectral_bandwidth(), "rolloff": v.spectral_rolloff(0.85),
            "entropy": v.spectral_entropy(), "low": v.band_power(0, 16),
            "high": v.band_power(0.5, 1.0, of_nyquist=True), "rate": v.zero_crossing_rate(),
        }, x, precision,
    )  # fmt: skip
    f, p = signal.periodogram(x, 64.0, window="hann", detrend="constant")
    centroid = np.average(f, weights=p)
    share = p / p.sum()
    assert found["peak"] == 8
    assert float(found["centroid"]) == pytest.approx(centroid)
    assert float(found["spread"]) == pytest.approx(
        np.average((f - centroid) ** 2, weights=p) ** 0.5
    )
    assert found["rolloff"] == f[np.searchsorted(np.cumsum(share), 0.85)]
    assert float(found["entropy"]) == pytest.approx(stats.entropy(share) / np.log(33))
    assert float(found["low"]) == pytest.approx(p[:16].sum())
    assert float(found["low"] + found["high"]) == pytest.approx(p.sum())
    assert float(found["rate"]) == np.mean(np.diff(np.signbit(x)))


def test_a_constant_frame_has_no_spectrum_and_a_gap_has_none_either():
    v = WINDOWS.col("values")
    features = {"c": v.spectral_centroid(), "p": v.band_power(0, 99), "m": v.mean()}
    assert wave(features, [0.1] * 10, "float")["c"] is None
    assert wave(features, [0.1] * 10, "float")["p"] == 0
    gap = wave(features, [1.0, None, 3.0], "float")
    assert gap["c"] is None
    assert gap["m"] == 2


def test_late_rows_duplicates_and_corrections_are_sorted_out():
    on_time = bar(START_NS, arrival=START_NS + BARS.max_delay_ns)
    late = bar(START_NS, 9.0, arrival=START_NS + BARS.max_delay_ns + 1)
    again = {**on_time, "arrival": START_NS}
    corrected = bar(START_NS, 2.0, arrival=START_NS + BARS.max_delay_ns)
    assert [is_late(BARS, row) for row in (on_time, late)] == [False, True]
    result = settled(BARS, [on_time, late, again, corrected])
    assert result.applied[("AAPL", "1m")] == [corrected]
    assert (result.late, result.superseded) == ([late], [again, on_time])
    strict = settled(replace(BARS, corrections=False), [corrected, again])
    assert strict.applied[("AAPL", "1m")] == [again]
    assert strict.conflicting == [corrected]


def test_rows_of_one_instant_are_ordered_and_give_one_vector():
    rows = [{"entity": "A", "ts": START_NS, "price": p, "size": 1.0} for p in (3.0, 1.0, 2.0)]
    ticks = FeatureSet(
        "t", "v1", TICKS, {"last": TICKS.col("price"), "before": TICKS.col("price").shift(2)}
    )
    assert [(v["last"], v["before"]) for v in naive_vectors(ticks, {"ticks": rows}, end=True)] == [
        (3.0, 1.0)
    ]
    by_id = [{**row, "trade_id": i} for i, row in enumerate(rows)]
    trades = FeatureSet("t", "v1", TRADES, {"last": TRADES.col("price")})
    assert [v["last"] for v in naive_vectors(trades, {"trades": by_id}, end=True)] == [2.0]


def test_vectors_are_final_when_the_clock_has_passed_the_delay():
    declared = FeatureSet("s", "v1", BARS, {"x": CLOSE})
    due = START_NS + BARS.max_delay_ns
    assert naive_vectors(declared, {"bars": [bar(START_NS)]}, clock_ns=due) == []
    assert len(naive_vectors(declared, {"bars": [bar(START_NS)]}, clock_ns=due + 1)) == 1


def test_a_second_stream_is_read_as_of_the_bar():
    def news(minute: int, sentiment: float) -> Row:
        ids = {"entity": "AAPL", "event_id": minute, "ts": START_NS + minute * MINUTE_NS}
        return {**ids, "sentiment": sentiment, "confidence": 1.0}

    s = NEWS.col("sentiment")
    declared = FeatureSet(
        "s", "v1", BARS,
        {
            "last": s, "before": s.shift(1), "hour": s.rolling_sum("1h"), "two": s.rolling_sum(2),
            "steps": s.diff().rolling_mean("1h"), "age": NEWS.elapsed(0),
        },
        quality={"NO_EVENTS": s.rolling_count("1h") == 0.0},
    )  # fmt: skip
    rows = {
        "bars": [bar(START_NS + m * MINUTE_NS) for m in (0, 60, 130)],
        "news": [news(5, 0.5), news(60, 0.25), news(61, -1.0)],
    }
    first, second, third = naive_vectors(declared, rows, end=True)
    assert (first["last"], first["hour"], first["quality"]) == (None, None, ["NO_EVENTS"])
    assert (second["last"], second["before"], second["hour"]) == (0.25, 0.5, 0.75)
    assert (second["steps"], second["age"], second["quality"]) == (-0.25, 0.0, [])
    assert (third["hour"], third["two"], third["age"]) == (None, -0.75, 69 * 60.0)


def test_a_long_gap_empties_the_windows():
    rows = [bar(START_NS + m * MINUTE_NS, float(m)) for m in (1, 2, 9, 10)]
    features = {"sum": CLOSE.rolling_sum(3, min_samples=1), "before": CLOSE.shift(1)}
    declared = FeatureSet("s", "v1", BARS, features, ttl="5m")
    found = naive_vectors(declared, {"bars": rows}, end=True)
    assert [(v["sum"], v["before"]) for v in found] == [(1, None), (3, 1), (9, None), (19, 9)]


def reading(series: str, ms: int, value: float | None) -> Row:
    return {"entity": "pump", "series": series, "ts": ms * 1_000_000, "value": value}


def test_hop_windows_lie_on_the_epoch_and_their_samples_on_a_grid():
    x = READINGS.col("value")
    declared = FeatureSet(
        "machine", "v1", READINGS.hop("200ms", every="100ms"),
        {"n": x.count(), "first": x.first(), "peak": x.dominant_frequency(), "now": x},
    )  # fmt: skip
    rows = [reading("x", ms, float(v)) for ms, v in [(0, 1), (51, 2), (100, 3), (160, 1), (400, 0)]]
    found = naive_vectors(declared, {"readings": rows}, end=True)
    assert [v["ts"] // 1_000_000 for v in found] == [100, 200, 300]
    assert [(v["n"], v["first"], v["now"]) for v in found] == [(2, 1, 3), (4, 1, 1), (2, 3, 1)]
    assert [v["peak"] for v in found] == [None, None, None]
    whole = [reading("x", ms, float(ms % 100)) for ms in (0, 51, 100, 150, 200)]
    assert naive_vectors(declared, {"readings": whole}, end=True)[1]["peak"] == 10


def test_series_meet_where_any_of_them_has_a_row():
    hop = READINGS.hop("100ms", every="100ms")
    rms = FeatureSet("machine", "v1", hop, {"rms": READINGS.col("value").rms()}).output()
    declared = FeatureSet(
        "asset", "v1", rms.across_series(),
        {
            "n": rms.col("rms").across_count(), "mean": rms.col("rms").across_mean(),
            "same": rms.col("rms").across_corr(3), "x": READINGS.one_series("x").col("value"),
        },
    )  # fmt: skip
    rows = [reading("x", 100 * k + 10, k) for k in range(4)]
    rows += [reading("y", 100 * k + 20, 2 * k) for k in (0, 1, 3, 4)]
    found = naive_vectors(declared, {"readings": rows}, end=True)
    assert [v["n"] for v in found] == [2, 2, 1, 2]
    assert [v["mean"] for v in found] == [0, 1.5, 2, 4.5]
    assert [v["same"] for v in found] == [None, pytest.approx(1), None, pytest.approx(1)]
    assert [v["x"] for v in found] == [0, 1, 2, 3]


def test_the_exact_arithmetic_tells_what_two_passes_lose():
    std = CLOSE.rolling_std(4)
    assert isinstance(std, Windowed)
    window = [(i, v, None) for i, v in enumerate([1e12, 1e6, 1e6 + 0.01, 1e6 + 0.02])]
    exact = aggregate(ARITHMETIC["exact"], std, window)
    rough = aggregate(ARITHMETIC["float"], std, window)
    assert exact is not None
    assert rough is not None
    assert abs(float(rough) - float(exact)) <= 1e-3
    assert windowed_error_scale(std, window) == 1e12 - 1e6
    assert allowed_error(std, window) >= 1e3 * 0.99


def test_spectral_settings_are_where_the_oracle_reads_them():
    expr = WINDOWS.col("values").band_power(0.25, 0.5, of_nyquist=True)
    assert isinstance(expr, Spectral)
    assert (expr.low, expr.high, expr.of_nyquist) == (0.25, 0.5, True)
