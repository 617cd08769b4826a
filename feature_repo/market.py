"""`market`: returns, volatility and news sentiment per bar.

With ``c`` the close of a bar that ends at ``t``, bars counted per instrument and timeframe, and
news of the instrument in (t - 1 h, t], sentiment ``s`` and confidence ``w``:

=======================  ==========================================================
feature                  formula
=======================  ==========================================================
ret_1                    c / c[1 bar before] - 1
ret_5                    c / c[5 bars before] - 1
vol_20                   sample standard deviation of the last 20 ret_1
event_count_1h           number of news; 0, never null
sentiment_mean_1h        mean s
sentiment_conf_mean_1h   mean w
sentiment_weighted_1h    sum(s w) / sum(w)
sentiment_std_1h         sample standard deviation of s
=======================  ==========================================================

=========================  ========================================================
flag                       raised when
=========================  ========================================================
MISSING_OHLCV              more than 1.5 timeframes have passed since the bar before
INSUFFICIENT_OHLCV         fewer than 21 bars have been seen, so vol_20 is null
NO_EVENTS                  event_count_1h is 0
LOW_EVENT_COUNT            event_count_1h is 1 or 2
LOW_SENTIMENT_CONFIDENCE   sentiment_conf_mean_1h is below 0.5
TIMESTAMP_MISMATCH         the bar does not end at a multiple of its timeframe
COMPUTATION_ERROR          a return or vol_20 is null though 21 bars have been seen
=========================  ========================================================

Coverage is the share of the bars expected since the bar 20 before that are there; while there are
fewer, the share of 21.
"""

from __future__ import annotations

from feature_repo.streams import bars, news
from operators.expr import min_of
from operators.feature_set import FeatureSet, SetOutput
from operators.streams import Stream

BARS = 21
"""Bars that vol_20 needs: 20 returns."""
FEWEST_EVENTS = 3
LEAST_CONFIDENCE = 0.5
LONGEST_STEP = 1.5
"""Timeframes after which the next bar counts as missing."""


def market_on(
    source: Stream | SetOutput, name: str = "market", events: Stream = news
) -> FeatureSet:
    """The set over bars from a stream, or over bars that another set computes."""
    close = source.col("close")
    sentiment, confidence = events.col("sentiment"), events.col("confidence")
    ret_1, ret_5 = close.pct_change(1), close.pct_change(5)
    vol_20 = ret_1.rolling_std(20)
    event_count = sentiment.rolling_count("1h")
    confidence_mean = confidence.rolling_mean("1h")
    seen = close.rolling_count(BARS)
    timeframe = source.series_seconds()
    return FeatureSet(
        name=name,
        version="fs_v1",
        description="Returns, volatility and news sentiment per bar.",
        emit=source,
        features={
            "ret_1": ret_1,
            "ret_5": ret_5,
            "vol_20": vol_20,
            "event_count_1h": event_count,
            "sentiment_mean_1h": sentiment.rolling_mean("1h"),
            "sentiment_conf_mean_1h": confidence_mean,
            "sentiment_weighted_1h": sentiment.rolling_weighted_mean(confidence, "1h"),
            "sentiment_std_1h": sentiment.rolling_std("1h"),
        },
        quality={
            "MISSING_OHLCV": source.elapsed(1) > LONGEST_STEP * timeframe,
            "INSUFFICIENT_OHLCV": seen < BARS,
            "NO_EVENTS": event_count == 0,
            "LOW_EVENT_COUNT": (event_count > 0) & (event_count < FEWEST_EVENTS),
            "LOW_SENTIMENT_CONFIDENCE": confidence_mean < LEAST_CONFIDENCE,
            "TIMESTAMP_MISMATCH": source.off_grid() != 0,
            "COMPUTATION_ERROR": (seen == BARS)
            & (ret_1.is_null() | ret_5.is_null() | vol_20.is_null()),
        },
        coverage=min_of(
            1.0,
            ((BARS - 1) * timeframe / source.elapsed(BARS - 1)).fill_null(seen / BARS),
        ),
    )


market = market_on(bars)
