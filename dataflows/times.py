"""Instants the way people write them: a date and time, ``now``, or how long ago."""

from __future__ import annotations

import time

import numpy as np

from dataflows.settings import SettingsError
from operators.durations import parse_duration_ns
from operators.kernels.timestamps import READ, parse_rfc3339


def parse_time_ns(text: str, where: str, now_ns: int | None = None) -> int:
    """Gives the nanoseconds since the epoch of an instant.

    Args:
        text: RFC 3339, ``now``, or a duration with a minus before it, from now on back.
        where: what messages call it.
        now_ns: the present; by default, that of the clock on the wall.

    Raises:
        SettingsError: for other texts.

    >>> parse_time_ns("2026-01-02T03:04:05Z", "--from")
    1767323045000000000
    >>> parse_time_ns("-1h", "--from", now_ns=3_600_000_000_001)
    1
    """
    now_ns = time.time_ns() if now_ns is None else now_ns
    if text == "now":
        return now_ns
    if text.startswith("-"):
        try:
            return now_ns - parse_duration_ns(text[1:])
        except ValueError:
            pass
    else:
        spelled = text if "T" in text.upper() else f"{text}T00:00:00Z"
        data = np.frombuffer(spelled.encode(), np.uint8)
        states, times_ns = parse_rfc3339(data, np.array([0, len(data)]))
        if states[0] == READ:
            return int(times_ns[0])
    msg = (
        f"{where}: must be a time such as '2026-01-31T12:00:00Z', a date, 'now', or '-1h' for an "
        f"hour ago, found {text!r}"
    )
    raise SettingsError(msg)
