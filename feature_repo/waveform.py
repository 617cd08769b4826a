"""`waveform`: features of messages that carry a window of samples each.

Formulas: :mod:`feature_repo.vibration`. A vector's ``ts`` is the end of its window.
"""

from __future__ import annotations

from feature_repo.streams import windows
from feature_repo.vibration import vibration_features, vibration_quality
from operators.expr import GridCoverage
from operators.feature_set import FeatureSet

waveform = FeatureSet(
    name="waveform",
    version="v1",
    description="Temporal and spectral features per message of samples.",
    emit=windows,
    features=vibration_features(windows.col("values")),
    quality=vibration_quality(windows.col("values")),
    coverage=GridCoverage(windows.col("values")),
)
