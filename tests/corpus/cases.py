"""What a case of the corpus is, and the sound rows that cases are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from feature_repo.streams import bars, news, readings, trades, windows
from operators.dead_letters import Reason
from operators.streams import Stream

MS_NS = 10**6
SECOND_MS = 1000
ARRIVAL_MS = 1_766_000_000_000
"""The broker's stamp of every message of the corpus."""
TS_MS = ARRIVAL_MS - 2 * SECOND_MS
"""The time of its sound rows: within the delay of every stream but `readings`."""
LIMIT_BYTES = 256 * 1024
DEEPEST = 32

Fates = frozenset[Reason | None]
"""Reasons; None for a row that is used."""


def rfc3339(ts_ms: int) -> str:
    """A time as text."""
    whole = datetime.fromtimestamp(ts_ms // 1000, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{ts_ms % 1000:03d}Z"


ROWS: Mapping[str, dict[str, Any]] = {
    "bars": {
        "instrument_id": "AAPL", "timeframe": "1m", "ts": rfc3339(TS_MS), "open": 100.5,
        "high": 101.75, "low": 99.25, "close": 100.125, "volume": 1200,
    },
    "news": {
        "instrument_id": "AAPL", "event_id": "e-1", "ts": rfc3339(TS_MS), "sentiment": -0.25,
        "confidence": 0.75,
    },
    "trades": {
        "instrument_id": "AAPL", "trade_id": 7, "ts": rfc3339(TS_MS), "price": 100.5, "size": 3,
        "side": "buy",
    },
    "readings": {
        "asset_id": "pump-1", "asset_type": "pump", "channel": "x", "ts": rfc3339(ARRIVAL_MS),
        "value": 0.5,
    },
    "windows": {
        "asset_id": "pump-1", "asset_type": "pump", "channel": "x", "start_ts": rfc3339(TS_MS),
        "sampling_rate_hz": 100.0, "values": [0.5, -0.25, 1.0, 0.0],
    },
}  # fmt: skip
"""A sound row of each stream."""
STREAMS: Mapping[str, Stream] = {
    stream.name: stream for stream in (bars, news, trades, readings(rate_hz=100), windows)
}


@dataclass(frozen=True)
class Case:
    """A message.

    Attributes:
        name: of its kind and number: ``y_`` must be used, ``n_`` must be refused, ``i_`` may be
            either, but never both and never neither.
        value: its bytes; None is a tombstone.
        fates: which are right.
        stream: to which it is sent.
        holds: for a row that is used, columns that it must hold.
    """

    name: str
    value: bytes | None
    fates: Fates
    stream: str = "bars"
    holds: Mapping[str, Any] = field(default_factory=dict)


def encoded(stream: str = "bars", /, **changes: Any) -> bytes:
    """The sound row of a stream with some columns changed."""
    return json.dumps({**ROWS[stream], **changes}, ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def without(stream: str, column: str) -> bytes:
    """The sound row of a stream without one column."""
    row = dict(ROWS[stream])
    del row[column]
    return json.dumps(row).encode()


def spelled(column: str, raw: bytes, stream: str = "bars") -> bytes:
    """The sound row of a stream with a column's value written as these bytes."""
    mark = "@@here@@"
    return encoded(stream, **{column: mark}).replace(f'"{mark}"'.encode(), raw)


def extra(raw: bytes, key: bytes = b'"extra"') -> bytes:
    """The sound bar with one more member, written as these bytes."""
    return encoded()[:-1] + b", " + key + b": " + raw + b"}"


def used(name: str, value: bytes, stream: str = "bars", **holds: Any) -> Case:
    """A message that must be used."""
    return Case(f"y_{name}", value, frozenset({None}), stream, holds)


def refused(name: str, value: bytes | None, reason: Reason, stream: str = "bars") -> Case:
    """A message that must be refused for one reason."""
    return Case(f"n_{name}", value, frozenset({reason}), stream)


def either(name: str, value: bytes, *fates: Reason | None, stream: str = "bars") -> Case:
    """A message with which several fates are right."""
    return Case(f"i_{name}", value, frozenset(fates), stream)
