"""The feature set of the chaos proofs: small delays, so that vectors become final within seconds.

Windows by rows and by time, two streams, flags and coverage: what a lost, doubled or reordered row
would show in.
"""

from __future__ import annotations

from dataclasses import replace

from feature_repo import streams
from operators.expr import min_of
from operators.feature_set import FeatureSet

MAX_DELAY_NS = 3 * 10**9
BARS_SEEN = 21
NEWS_SPAN = "10s"

bars = replace(streams.bars, max_delay_ns=MAX_DELAY_NS)
news = replace(streams.news, max_delay_ns=MAX_DELAY_NS)

close, volume = bars.col("close"), bars.col("volume")
sentiment, confidence = news.col("sentiment"), news.col("confidence")
ret_1 = close.pct_change(1)
seen = close.rolling_count(BARS_SEEN)
events = sentiment.rolling_count(NEWS_SPAN)
timeframe = bars.series_seconds()

market = FeatureSet(
    name="chaos",
    version="v1",
    emit=bars,
    features={
        "ret_1": ret_1,
        "ret_5": close.pct_change(5),
        "vol_20": ret_1.rolling_std(20),
        "volume_5s": volume.rolling_sum("5s"),
        "event_count_10s": events,
        "sentiment_mean_10s": sentiment.rolling_mean(NEWS_SPAN),
        "sentiment_weighted_10s": sentiment.rolling_weighted_mean(confidence, NEWS_SPAN),
    },
    quality={
        "MISSING": bars.elapsed(1) > 1.5 * timeframe,
        "INSUFFICIENT": seen < BARS_SEEN,
        "NO_EVENTS": events == 0,
    },
    coverage=min_of(
        1.0,
        ((BARS_SEEN - 1) * timeframe / bars.elapsed(BARS_SEEN - 1)).fill_null(seen / BARS_SEEN),
    ),
)
