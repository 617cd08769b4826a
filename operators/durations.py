"""Spans of time written the way people write them: ``"20ms"``, ``"1h"``, ``"1d"``."""

from __future__ import annotations

import re

NS_PER_UNIT = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
    "w": 604_800_000_000_000,
}
_PATTERN = re.compile(r"(\d+)(ns|us|ms|s|m|h|d|w)")


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of a duration such as ``"1h"`` or ``"1h30m"``.

    Raises:
        ValueError: when ``text`` is not a positive duration.

    >>> parse_duration_ns("1h30m") // 10**9
    5400
    """
    parts = _PATTERN.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        msg = f"a duration must look like '20ms', '1h' or '1h30m', got {text!r}"
        raise ValueError(msg)
    total_ns = sum(int(number) * NS_PER_UNIT[unit] for number, unit in parts)
    if total_ns <= 0:
        msg = f"a duration must be positive, got {text!r}"
        raise ValueError(msg)
    return total_ns


def show_duration(span_ns: int) -> str:
    """The shortest exact spelling of a duration.

    >>> show_duration(90_000_000_000), show_duration(3_600_000_000_000), show_duration(0)
    ('90s', '1h', '0s')
    """
    if span_ns == 0:
        return "0s"
    unit = next(u for u in reversed(NS_PER_UNIT) if span_ns % NS_PER_UNIT[u] == 0)
    return f"{span_ns // NS_PER_UNIT[unit]}{unit}"
