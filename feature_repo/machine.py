"""`machine` and `asset`: features of sampled channels per hop, and of an asset over its channels.

`machine` has a window of 1 s every 0.5 s, [t - 1 s, t), per channel; formulas in
:mod:`feature_repo.vibration`. Samples snap to the grid of the declared rate within 10 % of a
period; with a cell empty, spectra are null and GAP is raised, while moments use the samples there
are.

`asset` has one vector per asset for each instant at which any of its channels has one: means,
maxima and spreads over the channels, and the mean correlation of all pairs of channels' rms over
the last 20 instants.
"""

from __future__ import annotations

from feature_repo.streams import readings
from feature_repo.vibration import vibration_features, vibration_quality
from operators.expr import GridCoverage
from operators.feature_set import FeatureSet


def machine_at(rate_hz: float) -> FeatureSet:
    """The set for channels sampled at a rate."""
    stream = readings(rate_hz)
    value = stream.col("value")
    return FeatureSet(
        name="machine",
        version="v1",
        description=f"Temporal and spectral features of channels sampled at {rate_hz:g} Hz.",
        emit=stream.hop("1s", every="500ms"),
        features=vibration_features(value),
        quality=vibration_quality(value),
        coverage=GridCoverage(value),
    )


def asset_over(machine: FeatureSet) -> FeatureSet:
    """The set over the channels of a `machine` set."""
    channels = machine.output()
    rms, kurtosis = channels.col("rms"), channels.col("kurtosis")
    return FeatureSet(
        name="asset",
        version="v1",
        description="Features of an asset over its channels.",
        emit=channels.across_series(),
        features={
            "channel_count": rms.across_count(),
            "rms_mean": rms.across_mean(),
            "rms_max": rms.across_max(),
            "rms_spread": rms.across_max() - rms.across_min(),
            "rms_corr_20": rms.across_corr(20),
            "peak_max": channels.col("peak").across_max(),
            "kurtosis_mean": kurtosis.across_mean(),
            "kurtosis_max": kurtosis.across_max(),
            "crest_factor_max": channels.col("crest_factor").across_max(),
            "spectral_centroid_mean": channels.col("spectral_centroid").across_mean(),
            "spectral_centroid_spread": channels.col("spectral_centroid").across_max()
            - channels.col("spectral_centroid").across_min(),
        },
        quality={"GAP": channels.col("spectral_centroid").across_count() < rms.across_count()},
    )


machine = machine_at(100.0)
asset = asset_over(machine)
