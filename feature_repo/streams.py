"""The input streams: their columns, identity and rules. Design: one row of a table each.

`bars` and `windows` are stamped with their end; a source that stamps the start declares it.
"""

from __future__ import annotations

from operators.streams import Field, NotBelow, Stream

SECOND_NS = 1_000_000_000

_PRICES = ("open", "high", "low", "close")

bars = Stream(
    name="bars",
    entity="instrument_id",
    series="timeframe",
    series_is_duration=True,
    fields=(
        *(Field(name, "price", above=0.0) for name in _PRICES),
        Field("volume", "volume", least=0.0),
    ),
    rules=(
        NotBelow("high", "low"),
        NotBelow("high", "open"),
        NotBelow("high", "close"),
        NotBelow("open", "low"),
        NotBelow("close", "low"),
    ),
    max_delay_ns=5 * SECOND_NS,
)

trades = Stream(
    name="trades",
    entity="instrument_id",
    fields=(
        Field("trade_id", kind="id"),
        Field("price", "price", above=0.0),
        Field("size", "volume", least=0.0),
        Field("side", kind="id", nullable=True),
    ),
    identity=("trade_id",),
    sequence="trade_id",
    max_delay_ns=5 * SECOND_NS,
)

news = Stream(
    name="news",
    entity="instrument_id",
    fields=(
        Field("event_id", kind="id"),
        Field("sentiment", least=-1.0, most=1.0),
        Field("confidence", least=0.0, most=1.0),
    ),
    identity=("event_id",),
    max_delay_ns=60 * SECOND_NS,
)

windows = Stream(
    name="windows",
    entity="asset_id",
    series="channel",
    fields=(
        Field("asset_type", kind="id", nullable=True),
        Field("sampling_rate_hz", "Hz", above=0.0),
        Field("values", kind="samples"),
    ),
    rate_field="sampling_rate_hz",
    max_delay_ns=5 * SECOND_NS,
)


def readings(rate_hz: float, jitter: float = 0.1) -> Stream:
    """Samples of channels, one row each, at a nominal rate.

    Args:
        rate_hz: the declared sampling rate.
        jitter: share of a sampling period by which a sample may be off its grid.
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
