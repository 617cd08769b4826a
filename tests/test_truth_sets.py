"""The shipped sets on real data: the exchange's own bars, TA-Lib, pandas, scipy, exact numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pytest
import talib
from pyarrow import feather
from scipy import io, signal, stats

from feature_repo.bars_from_trades import bars_of, market_from_trades
from feature_repo.market import market
from feature_repo.market_lab import market_lab
from feature_repo.vibration import BANDS
from feature_repo.waveform import waveform
from operators.expr import Expr, Windowed
from operators.feature_set import FeatureSet
from operators.notebook import RefusedRowsWarning
from operators.streams import Field, Stream
from operators.windows import Rows, Span
from tests.driver import batches, emitted
from tests.golden import Dice, in_turns, interleaved
from tests.naive import Naive, Place
from tests.naive_numbers import Sample, allowed_error
from tests.naive_rows import Row
from tests.shared_data import shared
from tests.strategies import MINUTE_NS, START_NS

Floats = npt.NDArray[np.float64]
PAIRS = ["ETH_BTC", "XMR_BTC", "ADA_BTC"]
FIELDS = ["open", "high", "low", "close", "volume"]
NANOSECONDS = pl.Datetime("ns", "UTC")


@cache
def exchange_bars(name: str) -> pl.DataFrame:
    """Bars as an exchange gives them, whose `date` is their start."""
    table = feather.read_table(shared(f"market_freqtrade/{name}.feather"))
    frame = pl.DataFrame(pl.from_arrow(table))
    return frame.with_columns(pl.col("date").cast(NANOSECONDS))


def as_bars(name: str) -> pl.DataFrame:
    """The same, as rows of `bars`."""
    pair, timeframe = name.split("-")
    return exchange_bars(name).select(
        pl.lit(pair).alias("instrument_id"),
        pl.lit(timeframe).alias("timeframe"),
        pl.col("date").dt.offset_by(timeframe).alias("ts"),
        *FIELDS,
    )


def trades() -> pl.DataFrame:
    """The exchange's trades."""
    table = feather.read_table(shared("market_freqtrade/XRP_ETH-trades.feather"))
    return pl.DataFrame(pl.from_arrow(table)).select(
        pl.lit("XRP_ETH").alias("instrument_id"),
        pl.col("timestamp").alias("ts_ms"),
        pl.col("id").alias("trade_id"),
        "price",
        pl.col("amount").alias("size"),
        "side",
    )


NO_NEWS = pl.DataFrame(
    schema={
        "instrument_id": pl.String, "ts": NANOSECONDS, "event_id": pl.String,
        "sentiment": pl.Float64, "confidence": pl.Float64,
    }
)  # fmt: skip


# -- bars from trades ------------------------------------------------------------------------------


@pytest.mark.parametrize("timeframe", ["1m", "5m"])
def test_trades_give_exactly_the_exchanges_own_bars(timeframe):
    found = bars_of(timeframe).compute(trades())
    theirs = exchange_bars(f"XRP_ETH-{timeframe}").with_columns(
        pl.col("date").dt.offset_by(timeframe).alias("ts")
    )
    last_ts = pl.from_epoch(pl.lit(trades()["ts_ms"].max()), "ms").cast(pl.Datetime("ns"))
    complete = theirs.filter(pl.col("ts") <= last_ts.dt.replace_time_zone("UTC"))
    assert len(theirs) - len(complete) <= 1, "only the last one is still open"
    ours = found.filter(pl.col("ts").is_in(complete["ts"].implode()))
    assert len(ours) == len(complete) > 700 / (5 if timeframe == "1m" else 1)
    assert ours.select("ts", *FIELDS).equals(complete.select("ts", *FIELDS))
    beyond = found.filter(~pl.col("ts").is_in(complete["ts"].implode()))
    assert beyond.is_empty(), "bars that the exchange does not have"


def test_features_over_bars_from_trades_are_those_over_the_exchanges_bars():
    ours = market_from_trades.compute(trades=trades(), news=NO_NEWS)
    theirs = market.compute(bars=as_bars("XRP_ETH-1m"), news=NO_NEWS).filter(
        pl.col("ts") <= ours["ts"].max()
    )
    columns = ["ts", "ret_1", "ret_5", "vol_20", "event_count_1h"]
    assert ours.select(columns).equals(theirs.select(columns))


# -- bars ------------------------------------------------------------------------------------------


def test_bars_stamped_at_their_start_are_declared_and_give_the_same_vectors():
    by_start = replace(next(s for s in market_lab.streams if s.name == "bars"), start_stamped=True)
    assert by_start.fingerprint
    frame = exchange_bars("ETH_BTC-5m").head(50)
    renamed = frame.select(
        pl.lit("ETH_BTC").alias("instrument_id"),
        pl.lit("5m").alias("timeframe"),
        pl.col("date").alias("start_ts"),
        *FIELDS,
    )
    over_close = {"mean": by_start.col("close").rolling_mean(3)}
    found = FeatureSet("starts", "v1", by_start, over_close).compute(renamed)
    assert found["ts"].to_list() == frame["date"].dt.offset_by("5m").to_list()


@pytest.mark.parametrize("pair", PAIRS)
def test_smoothed_indicators_are_talibs_once_the_stated_warm_up_has_passed(pair):
    name = f"{pair}-5m"
    found = market_lab.compute(as_bars(name))
    bars = exchange_bars(name)
    high, low, close = (bars[field].to_numpy() for field in ("high", "low", "close"))
    macd = talib.EMA(close, 12) - talib.EMA(close, 26)
    expected: dict[str, tuple[Floats, Floats]] = {
        "ema_12": (talib.EMA(close, 12), close),
        "ema_26": (talib.EMA(close, 26), close),
        "macd": (macd, close),
        "rsi_14": (talib.RSI(close, 14), np.full(len(close), 100.0)),
        "atr_14": (talib.ATR(high, low, close, 14), talib.TRANGE(high, low, close)),
    }
    for feature, (theirs, scale) in expected.items():
        warm = market_lab.feature_exprs[feature].warm_up
        ours = found[feature].to_numpy()
        assert np.isnan(ours[: warm.rows - 1]).all(), "null before it is warm"
        greatest = pd.Series(np.abs(scale)).rolling(warm.rows, min_periods=1).max().to_numpy()
        error = (np.abs(ours - theirs) / greatest)[warm.rows - 1 :].max()
        assert error <= 1e-9, f"{feature}: {error:.3g}"


@pytest.mark.parametrize("pair", PAIRS)
def test_returns_and_volatilities_are_those_of_pandas(pair):
    bars = exchange_bars(f"{pair}-5m").to_pandas()
    served = market.compute(bars=as_bars(f"{pair}-5m"), news=NO_NEWS)
    lab = market_lab.compute(as_bars(f"{pair}-5m"))
    close, returns = bars["close"], bars["close"].pct_change()
    spread = (bars["high"] - bars["low"]) / close
    # A window at a time: the running sums of pandas are 1e-7 off where prices hardly move.
    middle, deviation = (close.rolling(20).apply(of, raw=True) for of in (np.mean, np.std))
    expected = {
        "ret_1": returns,
        "ret_5": close.pct_change(5),
        "vol_20": returns.rolling(20).std(),
        "volume_relative": bars["volume"] / bars["volume"].rolling(20).mean(),
        "volume_momentum": bars["volume"].pct_change(),
        "realized_volatility": spread.rolling(14).std(),
        "upside_volatility": returns.clip(lower=0.0).rolling(14).std(),
        "estimated_spread": spread,
        "price_impact": (close - bars["open"]).abs() / bars["volume"],
        "bollinger_position": (close - (middle - 2 * deviation)) / (4 * deviation),
        "bollinger_width": 4 * deviation / middle,
    }
    for feature, theirs in expected.items():
        ours = (served if feature in served.columns else lab)[feature].to_numpy()
        finite = theirs.replace([np.inf, -np.inf], np.nan).to_numpy()
        np.testing.assert_allclose(ours, finite, rtol=1e-9, atol=1e-12, err_msg=feature)


def test_gaps_between_real_bars_are_flagged_and_covered_in_part():
    bars = as_bars("UNITTEST_BTC-1m")
    found = market.compute(bars=bars, news=NO_NEWS)
    steps = bars["ts"].diff().dt.total_seconds().to_numpy()
    flagged = found["quality"].list.contains("MISSING_OHLCV").to_numpy()
    assert (flagged == (steps > 90)).all()
    assert flagged.any()
    elapsed = (bars["ts"] - bars["ts"].shift(20)).dt.total_seconds().to_numpy()
    share = np.where(np.isnan(elapsed), (np.arange(len(bars)) + 1) / 21, 1200 / elapsed)
    np.testing.assert_allclose(found["coverage"].to_numpy(), np.minimum(share, 1), rtol=1e-12)


def test_news_are_those_of_the_hour_up_to_the_bar():
    bars = as_bars("ETH_BTC-5m").head(600)
    dice, start_ns = Dice(3), int(bars["ts"].dt.epoch("ns")[0])
    ts_ns = np.sort([start_ns + dice.below(600) * 300 * 10**9 for _ in range(900)])
    sentiment = np.array([dice.below(2001) / 1000 - 1 for _ in ts_ns])
    confidence = np.array([dice.below(1001) / 1000 for _ in ts_ns])
    news = pl.DataFrame(
        {
            "instrument_id": ["ETH_BTC"] * 900, "ts_ns": ts_ns, "event_id": np.arange(900),
            "sentiment": sentiment, "confidence": confidence,
        }
    )  # fmt: skip
    found = market.compute(bars=bars, news=news.sample(fraction=1.0, shuffle=True, seed=1))
    for row in found.iter_rows(named=True):
        end_ns = int(pd.Timestamp(row["ts"]).value)
        inside = (ts_ns > end_ns - 3600 * 10**9) & (ts_ns <= end_ns)
        s, w = sentiment[inside], confidence[inside]
        assert row["event_count_1h"] == len(s)
        if len(s) < 2:
            continue
        assert row["sentiment_mean_1h"] == pytest.approx(s.mean(), abs=1e-9)
        assert row["sentiment_conf_mean_1h"] == pytest.approx(w.mean(), abs=1e-9)
        assert row["sentiment_weighted_1h"] == pytest.approx(np.average(s, weights=w), abs=1e-9)
        assert row["sentiment_std_1h"] == pytest.approx(s.std(ddof=1), abs=1e-9)
    assert found["event_count_1h"].n_unique() > 5


# -- waveforms -------------------------------------------------------------------------------------

LENGTH = 2048


def vibration(name: str) -> Floats:
    """Acceleration at the drive end of a motor, in g."""
    found = io.loadmat(shared(f"vibration_cwru/{name}.mat"))
    column = next(column for column in found if column.endswith("_DE_time"))
    return np.ascontiguousarray(found[column].ravel(), np.float64)


def messages(x: Floats, rate_hz: float, length: int = LENGTH, count: int = 12) -> pl.DataFrame:
    """Samples cut into messages."""
    step_ns = round(length / rate_hz * 1e9)
    return pl.DataFrame(
        {
            "asset_id": ["motor"] * count,
            "channel": ["drive_end"] * count,
            "start_ts_ns": [START_NS + i * step_ns for i in range(count)],
            "sampling_rate_hz": [rate_hz] * count,
            "values": [x[i * length : (i + 1) * length].tolist() for i in range(count)],
        }
    )


def by_scipy(x: Floats, rate_hz: float) -> dict[str, float]:
    """The features of a window, by other libraries."""
    f, p = signal.periodogram(x, rate_hz, window="hann")
    share = p / p.sum()
    centroid = float((f * share).sum())
    rms, peak = math.sqrt(np.mean(x * x)), np.abs(x).max()
    edges = [k / BANDS * rate_hz / 2 for k in range(BANDS + 1)]
    bands = {
        f"band_power_{k + 1}": p[(f >= low) & ((f < high) | (k == BANDS - 1))].sum() * f[1]
        for k, (low, high) in enumerate(pairwise(edges))
    }
    return {
        "mean": x.mean(),
        "std": x.std(ddof=1),
        "rms": rms,
        "peak": peak,
        "peak_to_peak": np.ptp(x),
        "crest_factor": peak / rms,
        "skew": stats.skew(x),
        "kurtosis": stats.kurtosis(x),
        "zero_crossing_rate": np.mean(np.diff(np.signbit(x)) != 0),
        "dominant_frequency": f[1 + p[1:].argmax()],
        "spectral_centroid": centroid,
        "spectral_bandwidth": math.sqrt((share * (f - centroid) ** 2).sum()),
        "spectral_rolloff": f[np.searchsorted(share.cumsum(), 0.85)],
        "spectral_entropy": float(stats.entropy(share) / math.log(len(f))),
        **bands,
    }


BEARINGS = {
    "normal_0_97": 48_000.0,
    "12k_Drive_End_IR007_0_105": 12_000.0,
    "12k_Drive_End_B014_0_185": 12_000.0,
    "12k_Drive_End_OR021@6_0_234": 12_000.0,
}


@pytest.mark.parametrize("name", BEARINGS)
def test_features_of_vibrations_are_those_of_scipy(name):
    x, rate_hz = vibration(name), BEARINGS[name]
    found = waveform.compute(messages(x, rate_hz))
    assert found["coverage"].unique().to_list() == [1.0]
    for i, row in enumerate(found.iter_rows(named=True)):
        window = x[i * LENGTH : (i + 1) * LENGTH]
        for feature, theirs in by_scipy(window, rate_hz).items():
            assert row[feature] == pytest.approx(theirs, rel=1e-9, abs=1e-9), (feature, i)


@pytest.mark.parametrize(
    ("name", "kurtosis"),
    [
        ("normal_0_97", 2.76),
        ("12k_Drive_End_IR007_0_105", 5.40),
        ("12k_Drive_End_OR007@6_0_130", 7.65),
    ],
)
def test_the_impulses_of_a_damaged_bearing_show_in_the_kurtosis(name, kurtosis):
    x = vibration(name)
    found = waveform.compute(messages(x, 12_000.0, len(x), 1))
    assert found["kurtosis"][0] + 3 == pytest.approx(kurtosis, abs=0.01)


@pytest.mark.parametrize(
    ("name", "line_hz"),
    [("12k_Drive_End_IR007_0_105", 161.7), ("12k_Drive_End_OR007@6_0_130", 107.6)],
)
def test_the_envelope_of_a_damaged_bearing_beats_at_its_defect(name, line_hz):
    band = signal.butter(4, [2000, 5500], "bandpass", fs=12_000, output="sos")
    envelope = np.abs(signal.hilbert(signal.sosfiltfilt(band, vibration(name)[:60_000])))
    found = waveform.compute(messages(envelope, 12_000.0, 12_000, 5))
    assert np.median(found["dominant_frequency"]) == pytest.approx(line_hz, abs=1.5)


# -- a sensor with doubles, out of order -----------------------------------------------------------


def test_a_sensor_with_doubled_and_unordered_times_agrees_with_pandas():
    path = shared("sensors_nab/machine_temperature_system_failure.csv")
    raw = pl.read_csv(path).with_columns(
        pl.col("timestamp").str.to_datetime(time_unit="ns", time_zone="UTC").alias("ts"),
        pl.lit("machine").alias("asset_id"),
    )
    assert raw["ts"].is_duplicated().any()
    assert not raw["ts"].is_sorted()
    stream = Stream("temperature", "asset_id", (Field("value", unit="degF"),))
    value = stream.col("value")
    small = FeatureSet(
        "heat",
        "v1",
        stream,
        {
            "mean_1h": value.rolling_mean("1h"),
            "std_12": value.rolling_std(12),
            "change": value.diff(1),
            "count_1h": value.rolling_count("1h"),
            "median_2h": value.rolling_median("2h"),
        },
    )
    found = small.compute(raw.select("asset_id", "ts", "value"))
    # Of two values of one instant the greater bytes win, which of positive numbers are the greater.
    series = raw.to_pandas().groupby("ts")["value"].max().sort_index()
    assert found["ts"].to_list() == series.index.to_list()
    expected = {
        "mean_1h": series.rolling("1h").mean(),
        "std_12": series.rolling(12).std(),
        "change": series.diff(),
        "count_1h": series.rolling("1h").count(),
        "median_2h": series.rolling("2h").median(),
    }
    for feature, theirs in expected.items():
        ours = found[feature].cast(pl.Float64).to_numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9, err_msg=feature)


def test_rows_that_cannot_be_used_are_told_of():
    frame = as_bars("ETH_BTC-5m").head(5).with_columns(low=pl.col("high") + 1)
    with pytest.warns(RefusedRowsWarning, match="5 rows were not used"):
        assert market_lab.compute(frame).is_empty()


# -- exact numbers, end to end ---------------------------------------------------------------------

ROUGH = Stream(
    "rough",
    "key",
    (Field("x", nullable=True), Field("y", nullable=True)),
    max_delay_ns=5 * MINUTE_NS,
)


def every_aggregate(x: Expr, y: Expr, window: int | str) -> dict[str, Expr]:
    """All rolling aggregates over one window, each null only where it is not defined."""
    plain = ["mean", "sum", "std", "var", "rms", "skew", "kurtosis", "min", "max", "first", "last"]
    found = {n: getattr(x, f"rolling_{n}")(window, min_samples=2) for n in plain}
    return {
        **found,
        "median": x.rolling_median(window, min_samples=2),
        "quantile": x.rolling_quantile(0.15, window, min_samples=2),
        "slope": x.rolling_slope(window, min_samples=2),
        "cov": x.rolling_cov(y, window, min_samples=2),
        "corr": x.rolling_corr(y, window, min_samples=2),
        "weighted_mean": x.rolling_weighted_mean(y, window, min_samples=2),
    }


X, Y = ROUGH.col("x"), ROUGH.col("y")
rough_set = FeatureSet(
    "rough",
    "v1",
    ROUGH,
    {
        **{f"{name}_30": expr for name, expr in every_aggregate(X, Y, 30).items()},
        **{f"{name}_8m": expr for name, expr in every_aggregate(X, Y, "8m").items()},
        "ema": X.ewm_mean(alpha=0.6),
    },
)


def rough_rows(count: int = 90) -> list[Row]:
    """A walk at 1e6 with steps of 1e-2, a bad print, a constant, gaps, nulls, and a single row."""
    dice = Dice(11)
    rows: list[Row] = []
    for key in ("walk", "bad print", "constant", "gaps", "nulls", "one row"):
        x, y, ts = 1e6, 100.0, START_NS
        for place in range(1 if key == "one row" else count):
            x += (dice.below(3) - 1) / 100 if key != "constant" else 0.0
            y += (dice.below(201) - 100) / 100
            ts += MINUTE_NS // 2 * (60 if key == "gaps" and place % 20 == 7 else 1)
            value: float | None = 1e12 if key == "bad print" and place == 40 else x
            if key == "nulls" and dice.below(3):
                value = None
            rows.append({"entity": key, "ts": ts, "x": value, "y": abs(y), "arrival": ts})
    for row in rows:
        row["arrival"] += dice.below(ROUGH.max_delay_ns)
    return sorted(rows, key=lambda row: int(row["arrival"]))


def window_of(naive: Naive, expr: Windowed, place: Place) -> list[Sample]:
    """The rows that an aggregate is over."""
    seen = naive.seen(ROUGH, place)
    if isinstance(expr.window, Rows):
        return naive.samples(expr.args, ROUGH, place.key, seen[-expr.window.rows :])
    assert isinstance(expr.window, Span)
    samples = naive.samples(expr.args, ROUGH, place.key, seen)
    return [row for row in samples if row[0] > place.ts - expr.window.span_ns]


@cache
def rough_vectors() -> dict[tuple[str, str, int], dict[str, Any]]:
    """What the engine gives, rows coming out of order in two partitions."""
    read = interleaved(in_turns({"rough": rough_rows()}, 2), 20, 1)
    return emitted(rough_set, batches(rough_set, read), restarts=[3, 7])


@pytest.mark.parametrize("key", ["walk", "bad print", "constant", "gaps", "nulls", "one row"])
def test_a_set_is_as_exact_as_it_says_from_the_row_to_the_vector(key):
    naive = Naive({"rough": rough_rows()}, [ROUGH], 2**62, "exact")
    run = naive.rows(ROUGH, (key, ""))
    for index in sorted({0, 1, 6, 7, 8, 29, 39, 40, 41, 69, 70, 71, 89} & set(range(len(run)))):
        place = Place(ROUGH, (key, ""), index, run[index]["ts"])
        vector = rough_vectors()[key, "", place.ts]
        for name, expr in rough_set.feature_exprs.items():
            assert isinstance(expr, Windowed)
            exact, found = naive.value(expr, place), vector[name]
            assert (exact is None) == math.isnan(found), (name, index)
            if exact is not None:
                error = float(abs(Fraction(found) - Fraction(exact)))
                allowed = allowed_error(expr, window_of(naive, expr, place))
                assert error <= allowed, (name, index, error, allowed)
