"""The kernels on real prices, volumes and vibrations, against exact sums and other libraries."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import io, signal, stats

from operators.kernels import spectra
from tests.shared_data import shared
from tests.sliding import AGGREGATES, Run, Slider, row_windows, span_windows
from tests.test_kernels import check

MINUTE_NS = 60_000_000_000
PLACES = [0, 1, 255, 256, 1000, 2999]


def bitcoin() -> Run:
    """A month of one-minute bars: closes and volumes."""
    path = shared("market_bars_nautilus/btc-perp-20211231-20220201_1m.csv")
    bars = pl.read_csv(path, try_parse_dates=True).head(3000)
    ts = bars["timestamp"].dt.epoch("ns").to_numpy()
    return Run(ts.astype(np.int64), bars["close"].to_numpy(), bars["volume"].to_numpy())


def bearing() -> Run:
    """Acceleration of a damaged bearing at 12 kHz."""
    found = io.loadmat(shared("vibration_cwru/12k_Drive_End_IR014_0_169.mat"))
    name = next(name for name in found if name.endswith("_DE_time"))
    x = found[name].ravel()[:3000].astype(np.float64)
    return Run(10**18 + np.arange(3000) * 83_333, x, np.abs(x))


@pytest.mark.parametrize("name", AGGREGATES)
@pytest.mark.parametrize("rows", [bitcoin, bearing])
def test_windows_of_real_rows_are_as_exact_as_promised(name, rows):
    run, expr = rows(), AGGREGATES[name]
    span_ns = int(run.ts[1] - run.ts[0]) * 100
    for lo, hi in (row_windows(run, 256), span_windows(run, span_ns)):
        found = Slider(run, expr).ask(lo, hi)
        for place in PLACES:
            check(expr, run, lo, hi, found, place)


def test_other_libraries_called_per_window_agree():
    for run in (bitcoin(), bearing()):
        lo, hi = row_windows(run, 256)
        frame = pd.DataFrame({"x": run.x, "y": run.y})
        values = {name: Slider(run, expr).ask(lo, hi) for name, expr in AGGREGATES.items()}
        for place in (255, 1000, 2999):
            window = frame.iloc[lo[place] : hi[place]]
            x = window["x"].to_numpy()
            expected = {
                "mean": x.mean(), "std": window["x"].std(), "skew": stats.skew(x),
                "kurtosis": stats.kurtosis(x), "median": np.median(x),
                "quantile": np.quantile(x, 0.15), "cov": window["x"].cov(window["y"]),
                "corr": stats.pearsonr(x, window["y"]).statistic, "rms": np.sqrt(np.mean(x * x)),
                "weighted_mean": np.average(x, weights=window["y"]),
            }  # fmt: skip
            for name, value in expected.items():
                assert values[name][place] == pytest.approx(value, rel=1e-8), name


def test_spectra_of_a_bearing_are_scipys():
    frames = bearing().x[:2048].reshape(4, 512)
    frequency, density = spectra.power_density(frames, 12_000.0)
    f, p = signal.periodogram(frames, 12_000.0, window="hann", detrend="constant")
    np.testing.assert_array_equal(frequency, f)
    np.testing.assert_allclose(density, p, rtol=1e-9, atol=1e-14 * p.max())
