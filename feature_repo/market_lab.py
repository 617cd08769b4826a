"""`market_lab`: where new features are tried next to the served ones. To Parquet only.

With ``o, h, l, c, v`` of a bar, ``r = c / c[1] - 1``, and ``[n]`` for n bars before:

==================  =====================================================================
feature             formula
==================  =====================================================================
volume_relative     v / mean of the last 20 v
volume_momentum     v / v[1] - 1
realized_volatility sample standard deviation of (h - l) / c over 14 bars
upside_volatility   sample standard deviation over 14 bars of r where c > c[1], else 0
estimated_spread    (h - l) / c
price_impact        |c - o| / v
ema_12, ema_26      exponential means of c, alpha = 2 / 13 and 2 / 27 (TA-Lib EMA)
macd                ema_12 - ema_26
rsi_14              100 G / (G + L), G and L Wilder's means of rises and falls (TA-Lib RSI)
atr_14              Wilder's mean of max(h - l, |h - c[1]|, |l - c[1]|) (TA-Lib ATR)
bollinger_position  (c - lower) / (upper - lower), bands 2 deviations from the 20-bar mean
bollinger_width     (upper - lower) / mean
==================  =====================================================================

Exponential means run over so many bars that the rest weighs less than 1e-12, so that they are the
same from any start; `riffle describe market_lab` says how many. Wilder's mean over n bars has
alpha 1 / n.
"""

from __future__ import annotations

from math import sqrt

from feature_repo.streams import bars
from operators.expr import max_of, when
from operators.feature_set import FeatureSet

_open, high, low = bars.col("open"), bars.col("high"), bars.col("low")
close, volume = bars.col("close"), bars.col("volume")

ret_1 = close.pct_change(1)
rise = max_of(close.diff(1), 0.0).ewm_mean(alpha=1 / 14)
fall = max_of(-close.diff(1), 0.0).ewm_mean(alpha=1 / 14)
true_range = max_of(high - low, max_of((high - close.shift(1)).abs(), (low - close.shift(1)).abs()))
ema_12, ema_26 = close.ewm_mean(span=12), close.ewm_mean(span=26)
middle = close.rolling_mean(20)
reach = 2.0 * sqrt(19 / 20) * close.rolling_std(20)

market_lab = FeatureSet(
    name="market_lab",
    version="v1",
    description="New features of bars, tried next to the served ones.",
    emit=bars,
    features={
        "volume_relative": volume / volume.rolling_mean(20),
        "volume_momentum": volume.pct_change(1),
        "realized_volatility": ((high - low) / close).rolling_std(14),
        "upside_volatility": when(close > close.shift(1)).then(ret_1).otherwise(0).rolling_std(14),
        "estimated_spread": (high - low) / close,
        "price_impact": (close - _open).abs() / volume,
        "ema_12": ema_12,
        "ema_26": ema_26,
        "macd": ema_12 - ema_26,
        "rsi_14": 100.0 * rise / (rise + fall),
        "atr_14": true_range.ewm_mean(alpha=1 / 14),
        "bollinger_position": (close - (middle - reach)) / (2.0 * reach),
        "bollinger_width": 2.0 * reach / middle,
    },
    quality={"WARMING_UP": ema_26.is_null() | rise.is_null()},
)
