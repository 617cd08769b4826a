"""Rows that could not be used: why, where they stood, and their bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a row is a dead letter; stable, for counters and alerts."""

    MALFORMED = "malformed"
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


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Rows that could not be used.

    Attributes:
        stream: the stream they should have belonged to.
        partition: where they come from.
        positions: the line number from 1 in a text file, the row number from 0 elsewhere.
        reasons: why each was refused.
        messages: the same for people.
        originals: their bytes: the line as it stood, or the row rendered as JSON.
    """

    stream: str
    partition: str
    positions: tuple[int, ...] = ()
    reasons: tuple[Reason, ...] = ()
    messages: tuple[str, ...] = ()
    originals: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)
