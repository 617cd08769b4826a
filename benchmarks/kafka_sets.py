"""The set of the latency questions: `market`, but a row waits for others no longer than a moment.

The shipped set gives news a minute to arrive, so its final vectors say little of how fast we are.
"""

from __future__ import annotations

from dataclasses import replace

from feature_repo import streams
from feature_repo.market import market_on

DELAY_MS = 500
_DELAY_NS = DELAY_MS * 10**6

bars = replace(streams.bars, max_delay_ns=_DELAY_NS)
news = replace(streams.news, max_delay_ns=_DELAY_NS)
prompt = market_on(bars, "prompt", news)
