"""The input streams: market data, news, sensor readings and waveforms.

Times are those of the design: ``ts`` is when a row is true, and for a bar that is its end. Files
whose bars are stamped at their start need a stream that says so (``start_stamped=True``); there is
no default for this, since a guess would leak a bar.
"""

from __future__ import annotations

from operators.streams import Field, NotBelow, Stream

SECOND_NS = 10**9

PRICE_FIELDS = tuple(
    Field(name, unit="price", above=0) for name in ("open", "high", "low", "close")
)

bars = Stream(
    name="bars",
    entity="instrument_id",
    series="timeframe",
    series_is_duration=True,
    fields=(*PRICE_FIELDS, Field("volume", unit="volume", least=0)),
    rules=(
        NotBelow("high", "low"),
        NotBelow("high", "open"),
        NotBelow("high", "close"),
        NotBelow("open", "low"),
        NotBelow("close", "low"),
    ),
    max_delay_ns=5 * SECOND_NS,
)
"""Bars of an instrument and timeframe, stamped at their end."""

trades = Stream(
    name="trades",
    entity="instrument_id",
    fields=(
        Field("trade_id", kind="id"),
        Field("price", unit="price", above=0),
        Field("size", unit="volume", least=0),
        Field("side", kind="id", nullable=True),
    ),
    identity=("trade_id",),
    sequence="trade_id",
    max_delay_ns=5 * SECOND_NS,
)
"""Trades, ordered within an instant by their exchange's number."""

news = Stream(
    name="news",
    entity="instrument_id",
    fields=(
        Field("event_id", kind="id"),
        Field("sentiment", least=-1, most=1),
        Field("confidence", least=0, most=1),
    ),
    identity=("event_id",),
    max_delay_ns=60 * SECOND_NS,
)
"""News about an instrument, with their sentiment and the confidence in it."""


def readings(rate_hz: float, jitter: float = 0.1) -> Stream:
    """Single samples of an asset's channels, on a grid.

    Args:
        rate_hz: the nominal sampling rate.
        jitter: share of the sampling period by which a sample may be off its grid.

    >>> readings(rate_hz=100).name
    'readings'
    """
    return Stream(
        name="readings",
        entity="asset_id",
        series="channel",
        fields=(Field("asset_type", kind="id", nullable=True), Field("value")),
        rate_hz=rate_hz,
        jitter=jitter,
        max_delay_ns=SECOND_NS,
    )


windows = Stream(
    name="windows",
    entity="asset_id",
    series="channel",
    fields=(
        Field("asset_type", kind="id", nullable=True),
        Field("sampling_rate_hz", unit="Hz", above=0),
        Field("values", kind="samples"),
    ),
    rate_field="sampling_rate_hz",
    start_stamped=True,
    max_delay_ns=5 * SECOND_NS,
)
"""Messages that each carry a whole window of an asset's samples; true at the end of the window."""
