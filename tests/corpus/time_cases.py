"""Times in the wrong unit, of the wrong year, and at the edge of what is in time."""

from __future__ import annotations

from collections.abc import Iterator

from operators.dead_letters import Reason
from tests.corpus.cases import (
    ARRIVAL_MS,
    SECOND_MS,
    STREAMS,
    TS_MS,
    Case,
    either,
    encoded,
    refused,
    rfc3339,
    spelled,
    used,
)

TIME_UNIT, TIME_RANGE, TIME_AHEAD = Reason.TIME_UNIT, Reason.TIME_RANGE, Reason.TIME_AHEAD
LATE, WRONG_TYPE = Reason.LATE, Reason.WRONG_TYPE
HOUR_MS = 3600 * SECOND_MS
DAY_MS = 24 * HOUR_MS


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _units()
    yield from _edges()
    yield from _ages()
    yield from _spellings()


def _units() -> Iterator[Case]:
    """``ts`` holds ms when it is a number; others are told by their size."""
    yield used("time_in_ms", encoded(ts=TS_MS), ts=TS_MS)
    yield used("time_in_ms_as_text", encoded(ts=str(TS_MS)), ts=TS_MS)
    for name, value in {
        "s": TS_MS // 1000,
        "us": TS_MS * 1000,
        "ns": TS_MS * 10**6,
    }.items():
        yield refused(f"time_in_{name}", encoded(ts=value), TIME_UNIT)
        yield refused(f"time_in_{name}_as_text", encoded(ts=str(value)), TIME_UNIT)
    for name, raw in {
        "s_with_a_fraction": b"1765999998.5",
        "ms_with_a_point": b"1765999998000.0",
        "ms_with_an_exponent": b"1.765999998e12",
    }.items():
        yield refused(f"time_in_{name}", spelled("ts", raw), WRONG_TYPE)
    for name, value in {
        "minutes": TS_MS // 60_000,
        "days": TS_MS // DAY_MS,
        "ps": TS_MS * 10**9,
        "windows_ticks": (TS_MS + 11_644_473_600_000) * 10_000,
        "zero": 0,
        "one": 1,
        "minus_one": -1,
        "negative": -TS_MS,
        "int32": 2**31 - 1,
        "int32_least": -(2**31),
        "uint32": 2**32 - 1,
        "int63": 2**63 - 1,
        "int63_least": -(2**63),
        "uint64": 2**64 - 1,
        "beyond": 10**30,
        "a_date": 20251217,
        "a_date_and_time": 20251217120000,
        "excel": 46008,
        "ntp": 3_975_000_000,
    }.items():
        told = (TIME_UNIT, TIME_RANGE, WRONG_TYPE)
        yield either(f"time_as_{name}", encoded(ts=value), *told)
        yield either(f"time_as_text_of_{name}", encoded(ts=str(value)), *told)


def _edges() -> Iterator[Case]:
    """Late and ahead are told from the stamp of the message, to the millisecond."""
    for stream in ("bars", "news", "trades", "readings"):
        delay_ms = STREAMS[stream].max_delay_ns // 10**6
        ahead_ms = STREAMS[stream].future_skew_ns // 10**6
        for name, ts_ms in {
            "at_its_arrival": ARRIVAL_MS,
            "as_old_as_may_be": ARRIVAL_MS - delay_ms,
            "as_far_ahead_as_may_be": ARRIVAL_MS + ahead_ms,
        }.items():
            yield used(f"{stream}_{name}", encoded(stream, ts=rfc3339(ts_ms)), stream, ts=ts_ms)
        late = encoded(stream, ts=rfc3339(ARRIVAL_MS - delay_ms - 1))
        yield refused(f"{stream}_late_by_a_ms", late, LATE, stream)
        ahead = encoded(stream, ts=rfc3339(ARRIVAL_MS + ahead_ms + 1))
        yield refused(f"{stream}_ahead_by_a_ms", ahead, TIME_AHEAD, stream)
    exact = rfc3339(ARRIVAL_MS - 5000)
    yield refused("late_by_a_ns", encoded(ts=rfc3339(ARRIVAL_MS - 5001)[:-1] + "999999Z"), LATE)
    yield used("as_old_as_may_be_in_ns", encoded(ts=exact[:-1] + "000000Z"), ts=ARRIVAL_MS - 5000)
    ended = encoded("windows", start_ts=rfc3339(ARRIVAL_MS - 5040), values=[0.5] * 4)
    yield used("a_window_that_ended_in_time", ended, "windows")
    ended = encoded("windows", start_ts=rfc3339(ARRIVAL_MS - 5041), values=[0.5] * 4)
    yield refused("a_window_that_ended_too_late", ended, LATE, "windows")
    ahead = encoded("windows", start_ts=rfc3339(ARRIVAL_MS), values=[0.5] * 501)
    yield refused("a_window_that_ends_ahead", ahead, TIME_AHEAD, "windows")


def _ages() -> Iterator[Case]:
    for name, ts_ms in {
        "a_minute": 60_000,
        "an_hour": HOUR_MS,
        "a_day": DAY_MS,
        "a_month": 30 * DAY_MS,
        "a_year": 365 * DAY_MS,
        "30_years": 30 * 365 * DAY_MS,
    }.items():
        yield refused(f"{name}_old", encoded(ts=rfc3339(ARRIVAL_MS - ts_ms)), LATE)
        yield refused(f"{name}_old_in_ms", encoded(ts=ARRIVAL_MS - ts_ms), LATE)
        yield refused(f"{name}_ahead", encoded(ts=rfc3339(ARRIVAL_MS + ts_ms)), TIME_AHEAD)
        yield refused(f"{name}_ahead_in_ms", encoded(ts=ARRIVAL_MS + ts_ms), TIME_AHEAD)
    for text in (
        "1989-12-31T23:59:59Z",
        "1970-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "1900-01-01T00:00:00Z",
        "1678-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "2100-01-02T00:00:00Z",
        "2262-04-12T00:00:00Z",
        "2300-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999999Z",
    ):
        yield refused(f"time_{text}", encoded(ts=text), TIME_RANGE)


def _spellings() -> Iterator[Case]:
    whole = rfc3339(TS_MS)
    yield used("time_without_a_zone_is_utc", encoded(ts=whole[:-1]), ts=TS_MS)
    seconds = whole[:-5]
    for name, text in {
        "whole_seconds": seconds + "Z",
        "tenths": seconds + ".0Z",
        "us": seconds + ".000000Z",
        "ns": seconds + ".000000000Z",
        "offset_0": seconds + "+00:00",
        "minus_0": seconds + "-00:00",
        "lower_case": seconds.lower() + "z",
        "blank_for_t": seconds.replace("T", " ") + "Z",
    }.items():
        unsure = name in {"lower_case", "blank_for_t", "minus_0"}
        told = (None, WRONG_TYPE) if unsure else (None,)
        yield either(f"time_with_{name}", encoded(ts=text), *told)
    for name, hours in {"+05:30": 5.5, "-08:00": -8, "+14:00": 14, "-12:00": -12}.items():
        local = rfc3339(TS_MS + int(hours * HOUR_MS))[:-1] + name
        yield used(f"time_at_{name}", encoded(ts=local), ts=TS_MS)
    for name, text in {
        "a_named_zone": seconds + " Europe/Berlin",
        "a_short_zone": seconds + " CET",
        "date_only": seconds[:10],
        "time_only": seconds[11:],
        "month_13": "2025-13-01T00:00:00Z",
        "day_32": "2025-12-32T00:00:00Z",
        "day_0": "2025-12-00T00:00:00Z",
        "no_leap_day": "2025-02-29T00:00:00Z",
        "hour_25": "2025-12-17T25:00:00Z",
        "minute_60": "2025-12-17T00:60:00Z",
        "second_61": "2025-12-17T00:00:61Z",
        "blank_before": " " + whole,
        "blank_after": whole + " ",
        "slashes": "2025/12/17 00:00:00",
        "american": "12/17/2025 6:46 PM",
        "rfc_2822": "Wed, 17 Dec 2025 06:46:38 +0000",
        "words": "yesterday",
        "now": "now",
        "no_digits": "----T--:--:--Z",
        "full_width_digits": "\uff12\uff10\uff12\uff15-12-17T00:00:00Z",
        "two_zones": seconds + "Z+00:00",
        "two_points": seconds + ".0.0Z",
        "point_only": seconds + ".Z",
        "five_digit_year": "12025-12-17T00:00:00Z",
        "two_digit_year": "25-12-17T00:00:00Z",
        "week": "2025-W51-3",
        "ordinal": "2025-351",
        "iso_basic": "20251217T064638Z",
        "nul_inside": "2025-12-17\0T00:00:00Z",
        "exponent": "1.7e12",
        "hex": "0x19b2a",
        "offset_of_25_hours": seconds + "+25:00",
    }.items():
        fates = (WRONG_TYPE, Reason.TIME_RANGE, TIME_UNIT, LATE)
        yield either(f"time_as_{name}", encoded(ts=text), *fates)
    yield either("time_with_a_leap_second", encoded(ts="2016-12-31T23:59:60Z"), LATE, WRONG_TYPE)
    yield either("time_at_24", encoded(ts="2025-12-16T24:00:00Z"), LATE, WRONG_TYPE)
    yield either("time_with_12_digits", encoded(ts=seconds + ".000000000000Z"), None, WRONG_TYPE)
    yield either(
        "time_of_1000_digits", encoded(ts=seconds + "." + "0" * 1000 + "Z"), None, WRONG_TYPE
    )
