"""Rows that could not be used: why, where they stood, and their bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """Why a row is a dead letter; stable, for counters and alerts."""

    TOMBSTONE = "tombstone"
    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    MALFORMED = "malformed"
    TOO_DEEP = "too_deep"
    DUPLICATE_KEY = "duplicate_key"
    WRONG_TYPE = "wrong_type"
    MISSING = "missing"
    BAD_ENTITY = "bad_entity"
    BAD_SERIES = "bad_series"
    BAD_DURATION = "bad_duration"
    TIME_UNIT = "time_unit"
    TIME_RANGE = "time_range"
    TIME_AHEAD = "time_ahead"
    NOT_FINITE = "not_finite"
    OUT_OF_BOUNDS = "out_of_bounds"
    NO_SAMPLES = "no_samples"
    BROKEN_RULE = "broken_rule"
    WRONG_PARTITION = "wrong_partition"
    LATE = "late"

    # That of enumerations is a function of Python's, which each letter would call several times.
    __hash__ = str.__hash__


class Record(NamedTuple):
    """What stood around the bytes of a message in its log.

    Attributes:
        key: its key.
        headers: names and values, in their order.
        timestamp_ms: its stamp, ms since the epoch.
    """

    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Rows that could not be used.

    Attributes:
        stream: the stream they should have belonged to.
        partition: where they come from.
        positions: the line number from 1 in a text file, the offset in a log, the row number from
            0 elsewhere.
        reasons: why each was refused.
        messages: the same for people.
        originals: their bytes: the line or message as it stood, or the row rendered as JSON; empty
            for a tombstone, which has none.
        records: what stood around the bytes, one for each where they are messages of a log.
        rows: how many rows each holds, where that may be more than one.
    """

    stream: str
    partition: str
    positions: tuple[int, ...] = ()
    reasons: tuple[Reason, ...] = ()
    messages: tuple[str, ...] = ()
    originals: tuple[bytes, ...] = ()
    records: tuple[Record, ...] = ()
    rows: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)

    def rows_by_reason(self) -> dict[Reason, int]:
        """How many rows were refused, by reason.

        >>> DeadLetters(
        ...     "ticks", "0", (7, 9), (Reason.LATE,) * 2, ("", ""), (b"", b"")
        ... ).rows_by_reason()
        {<Reason.LATE: 'late'>: 2}
        """
        counts: dict[Reason, int] = {}
        for reason, rows in zip(self.reasons, self.rows or (1,) * len(self), strict=True):
            counts[reason] = counts.get(reason, 0) + rows
        return counts
