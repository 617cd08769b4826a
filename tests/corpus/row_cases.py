"""Rows that are JSON and still no rows of their stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from operators.dead_letters import Reason
from tests.corpus.cases import ROWS, STREAMS, Case, either, encoded, refused, spelled, used, without

ANY_JSON: dict[str, Any] = {
    "true": True,
    "false": False,
    "number": 1.5,
    "text": "x",
    "list": [],
    "list_of_one": [1],
    "object": {},
    "object_of_one": {"value": 1},
}
TIME_COLUMNS = frozenset({"ts", "start_ts"})


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _kinds()
    yield from _absent()
    yield from _bounds()
    yield from _rules()
    yield from _series()
    yield from _samples()
    yield from _ids()


def _kind(stream: str, column: str) -> str:
    """What a column holds: a number, samples, an id, a label or a time."""
    kinds = {field.name: field.kind for field in STREAMS[stream].fields}
    return kinds.get(column, "time" if column in TIME_COLUMNS else "label")


def _kinds() -> Iterator[Case]:
    """Each column with a value of each other kind."""
    fitting = {
        "number": {"number"},
        "samples": {"list", "list_of_one"},
        "id": {"text"},
        "label": {"text"},
        "time": set(),
    }
    for stream, row in ROWS.items():
        for column in row:
            kind = _kind(stream, column)
            for name, value in ANY_JSON.items():
                if name not in fitting[kind]:
                    changed = encoded(stream, **{column: value})
                    yield refused(
                        f"{stream}_{column}_is_{name}", changed, Reason.WRONG_TYPE, stream
                    )
            if kind == "number":
                for text in ("1", "100.5", "", "NaN", "1e400", "true"):
                    changed = encoded(stream, **{column: text})
                    title = f"{stream}_{column}_is_the_text_{text}"
                    yield refused(title, changed, Reason.WRONG_TYPE, stream)


def _absent() -> Iterator[Case]:
    for stream, row in ROWS.items():
        nullable = {field.name for field in STREAMS[stream].fields if field.nullable}
        for column in row:
            for name, value in {
                "absent": without(stream, column),
                "null": encoded(stream, **{column: None}),
                "in_capitals": encoded(stream).replace(
                    f'"{column}"'.encode(), f'"{column.upper()}"'.encode()
                ),
            }.items():
                title = f"{stream}_{column}_{name}"
                if column in nullable:
                    yield used(title, value, stream)
                else:
                    yield refused(title, value, Reason.MISSING, stream)
            if _kind(stream, column) == "label":
                empty = encoded(stream, **{column: ""})
                yield refused(f"{stream}_{column}_empty", empty, Reason.MISSING, stream)


def _bounds() -> Iterator[Case]:
    out = Reason.OUT_OF_BOUNDS
    for column in ("open", "high", "low", "close"):
        for value in (0, 0.0, -0.0, -1, -1e-300, -1.7976931348623157e308):
            changed = encoded("bars", **{column: value})
            yield refused(f"{column}_is_{value!r}", changed, out)
    yield refused("volume_below_0", encoded(volume=-5e-324), out)
    yield used("volume_0", encoded(volume=0), volume=0.0)
    flat = dict.fromkeys(("open", "high", "low", "close"), 5e-324)
    yield used("least_prices_there_are", encoded("bars", **flat), open=5e-324)
    flat = dict.fromkeys(("open", "high", "low", "close"), 1.7976931348623157e308)
    yield used("greatest_prices_there_are", encoded("bars", **flat), open=1.7976931348623157e308)
    for column, least, most in (("sentiment", -1, 1), ("confidence", 0, 1)):
        for value in (least, most):
            changed = encoded("news", **{column: value})
            yield used(f"{column}_is_{value}", changed, "news", **{column: float(value)})
        for value in (least - 1e-9, most + 1e-9, 1e308, -1e308, 50, 100):
            changed = encoded("news", **{column: value})
            yield refused(f"{column}_is_{value}", changed, out, "news")
    for value in (0, -1, -100.0):
        changed = encoded("windows", sampling_rate_hz=value)
        yield refused(f"sampling_rate_is_{value}", changed, out, "windows")
    for value in (1e-9, 5e-324):
        changed = encoded("windows", sampling_rate_hz=value)
        yield refused(f"sampling_rate_is_{value}", changed, Reason.TIME_RANGE, "windows")


def _rules() -> Iterator[Case]:
    for name, changes in {
        "high_below_low": {"high": 99.0, "low": 99.5, "open": 99.25, "close": 99.25},
        "high_below_open": {"open": 102.0},
        "high_below_close": {"close": 102.0},
        "open_below_low": {"open": 99.0},
        "close_below_low": {"close": 99.0},
        "high_and_low_changed_about": {"high": 99.25, "low": 101.75},
        "by_the_last_bit": {"high": 100.5, "open": 100.50000000000001},
    }.items():
        yield refused(name, encoded("bars", **changes), Reason.BROKEN_RULE)
    flat = dict.fromkeys(("open", "high", "low", "close"), 100.0)
    yield used("all_prices_alike", encoded("bars", **flat), high=100.0)


def _series() -> Iterator[Case]:
    for label in ("1s", "5s", "1m", "15m", "1h", "4h", "1d", "7d", "366d"):
        yield used(f"timeframe_{label}", encoded(timeframe=label), timeframe=label)
    for label in (
        "0m",
        "-1m",
        "m",
        "1",
        "1 m",
        "1.5.5m",
        "one",
        "1mm",
        "m1",
        "367d",
        "9" * 30 + "s",
        "1fortnight",
    ):
        told = (Reason.BAD_DURATION, Reason.BAD_SERIES)
        yield either(f"timeframe_{label}", encoded(timeframe=label), *told)


def _samples() -> Iterator[Case]:
    wrong, stream = Reason.WRONG_TYPE, "windows"
    yield refused("no_samples", encoded(stream, values=[]), Reason.NO_SAMPLES, stream)
    for name, values in {
        "null": [1.0, None],
        "text": [1.0, "2"],
        "list": [[1.0]],
        "object": [{}],
        "true": [True],
    }.items():
        yield refused(f"samples_with_{name}", encoded(stream, values=values), wrong, stream)
    for raw in (b"[1, NaN]", b"[Infinity]", b"[1e400]", b"[1, -1e999]"):
        title = f"samples_{raw.decode()}"
        yield refused(title, spelled("values", raw, stream), Reason.NOT_FINITE, stream)
    for raw in (b"[1,]", b"[,1]", b"[1 2]", b"[01]", b"[1", b"[1}", b"[--1]"):
        title = f"samples_{raw.decode()}"
        yield refused(title, spelled("values", raw, stream), Reason.MALFORMED, stream)
    yield used("one_sample", encoded(stream, values=[0.5]), stream)
    yield used("whole_samples", encoded(stream, values=[1, 2, 3]), stream)
    yield used("a_sample_with_a_sign_of_0", encoded(stream, values=[-0.0, 0.0]), stream)
    yield used(
        "10000_samples", encoded(stream, values=[0.25] * 10_000, sampling_rate_hz=5e3), stream
    )


def _ids() -> Iterator[Case]:
    for number in (0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63) + 1):
        yield used(f"trade_{number}", encoded("trades", trade_id=number), "trades", trade_id=number)
        named = encoded("trades", trade_id=str(number))
        yield used(f"trade_named_{number}", named, "trades", trade_id=number)
    for number in (2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**30):
        told = (None, Reason.WRONG_TYPE)
        yield either(f"trade_{number}", encoded("trades", trade_id=number), *told, stream="trades")
    for name, raw in {"1.0": b"1.0", "1e3": b"1e3", "-0.0": b"-0.0"}.items():
        value = spelled("trade_id", raw, "trades")
        yield refused(f"trade_{name}", value, Reason.WRONG_TYPE, "trades")
    yield refused("trade_without_an_id", encoded("trades", trade_id=""), Reason.MISSING, "trades")
    for number in (7, 600000, 2**31, 2**62):
        value = encoded(instrument_id=number)
        yield used(f"entity_{number}", value, instrument_id=str(number))
    yield either("entity_of_2_64", encoded(instrument_id=2**64), None, Reason.WRONG_TYPE)
