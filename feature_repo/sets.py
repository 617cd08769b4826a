"""The table of feature sets: what the command line knows by name, and what Feast serves."""

from __future__ import annotations

from feature_repo.bars_from_trades import bars_from_trades, market_from_trades
from feature_repo.machine import asset, machine
from feature_repo.market import market
from feature_repo.market_lab import market_lab
from feature_repo.waveform import waveform
from operators.feature_set import FeatureSet

SERVED: tuple[FeatureSet, ...] = (market, waveform, machine, asset)
"""The sets that Feast serves."""

ALL: dict[str, FeatureSet] = {
    feature_set.name: feature_set
    for feature_set in (*SERVED, market_lab, bars_from_trades, market_from_trades)
}
"""Every shipped set, by name."""
