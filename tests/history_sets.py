"""Sets that look back for longer than a log remembers."""

from __future__ import annotations

from operators.feature_set import FeatureSet
from operators.streams import Field, Stream

pulses = Stream("pulses", "sensor_id", (Field("x"),), max_delay_ns=10**9)
_x = pulses.col("x")
month = FeatureSet(
    "month",
    "v1",
    pulses,
    {
        "count_30d": _x.rolling_count("30d"),
        "mean_30d": _x.rolling_mean("30d"),
        "std_30d": _x.rolling_std("30d"),
    },
)
