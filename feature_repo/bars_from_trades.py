"""`bars_from_trades`: OHLCV bars of any timeframe.

The bar that ends at ``t`` holds the trades in [t - timeframe, t), as exchanges cut them; its
``ts`` is ``t``. Open and close are the prices of the first and the last trade in the order of
(time, trade id), volume is the sum of the sizes. A span without a trade has no bar.
"""

from __future__ import annotations

from feature_repo.market import market_on
from feature_repo.streams import trades
from operators.feature_set import FeatureSet


def bars_of(timeframe: str) -> FeatureSet:
    """Bars of a timeframe such as ``"1m"``."""
    price, size = trades.col("price"), trades.col("size")
    return FeatureSet(
        name="bars_from_trades",
        version="v1",
        description=f"OHLCV bars of {timeframe} from trades.",
        emit=trades.hop(timeframe, every=timeframe),
        labels={"timeframe": timeframe},
        features={
            "open": price.first(),
            "high": price.max(),
            "low": price.min(),
            "close": price.last(),
            "volume": size.sum(),
            "trade_count": price.count(),
        },
    )


bars_from_trades = bars_of("1m")
market_from_trades = market_on(bars_from_trades.output(), name="market_from_trades")
"""The `market` features over bars that are computed from trades in the same pass."""
