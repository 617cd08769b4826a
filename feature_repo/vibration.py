"""Features of a window of samples ``x`` at ``rate`` Hz; shared by `waveform` and `machine`.

==================  ===================================================================
feature             formula
==================  ===================================================================
mean, std           mean; sample standard deviation
rms                 sqrt(mean x^2)
peak                max |x|
peak_to_peak        max x - min x
crest_factor        peak / rms
skew, kurtosis      g1 and g2, population moments (scipy.stats.skew, kurtosis)
zero_crossing_rate  share of neighbouring samples whose signs differ
dominant_frequency  frequency of the greatest power density but that at 0
spectral_centroid   sum(f P) / sum(P)
spectral_bandwidth  sqrt(sum((f - centroid)^2 P) / sum(P))
spectral_rolloff    lowest f with 85 % of the power at or below it
spectral_entropy    -sum(p log p) / log(number of bins), p = P / sum(P)
band_power_1 .. 8   power in the k-th eighth of 0 .. rate / 2
==================  ===================================================================

``P`` is the one-sided density of ``scipy.signal.periodogram(x, rate, window="hann")``.
"""

from __future__ import annotations

from operators.expr import Expr, GridCoverage, max_of

BANDS = 8


def vibration_features(x: Expr) -> dict[str, Expr]:
    """The features of a column of samples."""
    peak = max_of(x.max().abs(), x.min().abs())
    return {
        "mean": x.mean(),
        "std": x.std(),
        "rms": x.rms(),
        "peak": peak,
        "peak_to_peak": x.max() - x.min(),
        "crest_factor": peak / x.rms(),
        "skew": x.skew(),
        "kurtosis": x.kurtosis(),
        "zero_crossing_rate": x.zero_crossing_rate(),
        "dominant_frequency": x.dominant_frequency(),
        "spectral_centroid": x.spectral_centroid(),
        "spectral_bandwidth": x.spectral_bandwidth(),
        "spectral_rolloff": x.spectral_rolloff(0.85),
        "spectral_entropy": x.spectral_entropy(),
        **{
            f"band_power_{k + 1}": x.band_power(k / BANDS, (k + 1) / BANDS, of_nyquist=True)
            for k in range(BANDS)
        },
    }


def vibration_quality(x: Expr) -> dict[str, Expr]:
    """GAP: not every sample is there. STALE: the samples do not move at all."""
    return {"GAP": GridCoverage(x) < 1.0, "STALE": (x.max() - x.min()) == 0}
