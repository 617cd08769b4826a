"""What a stream demands of its rows, asked of whole columns.

A row that fails several checks is refused for the first in this order, each over the columns in the
order entity, series, time, arrival, then the fields as declared:

1. ``wrong_type``: a value is not of the column's kind;
2. ``missing``: a value that must be there is null;
3. ``bad_entity``, ``bad_series``: a label that is over-long or has other characters;
   ``bad_duration``: a series that must spell a duration and does not;
4. ``time_unit``: a time that would make sense in another unit; ``time_range``: one that would not;
   ``time_ahead``: one that lies beyond its arrival;
5. ``not_finite``: a number that is infinite or none;
6. ``out_of_bounds``: a number that its field does not admit; ``no_samples``: a message without any;
7. ``broken_rule``: a field below another that it must not be below.

Before all of them comes ``malformed``, a line that could not be taken apart, which sources find.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from operators.batch import Float64s, Labels, Samples
from operators.dead_letters import Reason
from operators.durations import parse_duration_ns, show_duration
from operators.streams import Field, NotBelow, Stream

Bools = npt.NDArray[np.bool_]
Message = Callable[[int], str]
"""Words, for one row, what must be and what was found."""
Measured = tuple[Field, Float64s | Samples, Float64s]
"""A field, its values, and all their numbers in one array."""

LABEL = re.compile(r"[A-Za-z0-9._:\-/]{1,64}")
"""What an entity or series may be called."""
LONGEST_SPAN_NS = 366 * 86_400 * 10**9
"""No bar and no message is longer."""
SHOWN = 80
"""Characters of a value that a message shows."""
KINDS = {"number": "a number", "id": "a text or whole number", "samples": "a list of numbers"}


@dataclass(slots=True)
class Parsed:
    """A column: its values, and the rows without a value of its kind.

    Attributes:
        values: numbers, ``Labels`` or ``Samples``.
        null: rows that have none.
        wrong: rows whose value is of another kind.
        unit: rows whose time is of another unit.
        range: rows whose time is out of bounds.
        span: rows that say when they start, but not for how long.
    """

    values: Any
    null: Bools | None = None
    wrong: Bools | None = None
    unit: Bools | None = None
    range: Bools | None = None
    span: Bools | None = None

    def unusable(self) -> Bools | None:
        """Rows without a value of the column's kind; None for none."""
        return either(self.null, self.wrong, self.unit, self.range, self.span)

    def usable(self, count: int) -> Bools:
        """Rows that have a value."""
        bad = self.unusable()
        return np.ones(count, np.bool_) if bad is None else ~bad


def either(*masks: Bools | None) -> Bools | None:
    """Rows that any of the masks has."""
    given = [mask for mask in masks if mask is not None]
    return np.logical_or.reduce(given) if given else None


def holding(samples: Samples, bad: Bools | None) -> Bools | None:
    """Rows one of whose samples is bad."""
    if bad is None or not bad.any():
        return None
    before = np.concatenate([[0], np.cumsum(bad)])
    return before[samples.start + samples.length] > before[samples.start]


def show(value: object) -> str:
    """A value as messages show it."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."


@lru_cache(maxsize=65_536)
def label_problem(name: str) -> str | None:
    """What is wrong with a label; None if nothing is."""
    if LABEL.fullmatch(name):
        return None
    if len(name) > 64:
        return f"must have at most 64 characters, got {len(name)}: {show(name)}"
    return f"must be made of letters, digits and ._:-/ only, got {show(name)}"


@lru_cache(maxsize=65_536)
def span_of_label(name: str) -> int:
    """The duration in ns that a series spells; 0 for none.

    >>> span_of_label("1m"), span_of_label("one minute")
    (60000000000, 0)
    """
    try:
        span_ns = parse_duration_ns(name)
    except ValueError:
        return 0
    return span_ns if span_ns <= LONGEST_SPAN_NS else 0


@lru_cache(maxsize=1_024)
def _day(ts_ns: int) -> str:
    return str(np.datetime64(ts_ns, "ns"))[:10]


def end_of_rows(stream: Stream, start: Parsed, columns: Mapping[str, Parsed]) -> Parsed:
    """The event time of rows that say when they start: when they end.

    A bar lasts as long as its series says, a message as long as its samples at its sampling rate.
    """
    count = len(start.values)
    if stream.samples is None:
        labels = columns[stream.series or ""]
        spans = np.array([span_of_label(name) for name in labels.values.names], np.int64)
        span_ns = spans[labels.values.codes]
        known = labels.usable(count) & (span_ns > 0)
    else:
        held = columns[stream.samples.name]
        rate_hz: Any = stream.rate_hz
        if stream.rate_field is not None:
            rate_hz = columns[stream.rate_field].values
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            span = np.rint(held.values.length * 1e9 / rate_hz)
        known = held.usable(count) & (span > 0) & (span <= LONGEST_SPAN_NS)
        span_ns = np.where(known, span, 0).astype(np.int64)
    sound = start.usable(count)
    end_ns = np.where(sound, start.values + span_ns, 0)
    outside = sound & ((end_ns < stream.earliest_ns) | (end_ns > stream.latest_ns))
    return Parsed(end_ns, start.null, start.wrong, start.unit, either(start.range, outside), ~known)


@dataclass(frozen=True, slots=True)
class Roles:
    """Which columns are labels and times; the others are fields."""

    labels: tuple[str, ...]
    time: str
    arrival: str | None

    @property
    def times(self) -> tuple[str, ...]:
        """The columns of times."""
        return (self.time,) if self.arrival is None else (self.time, self.arrival)


class Checks:
    """The first check that each row fails.

    Args:
        stream: what the rows must be.
        roles: which columns are labels and times.
        columns: all of them, with the event time in place of a start.
        show_raw: shows the value of a column and row as it came.
        count: number of rows.
    """

    def __init__(
        self,
        stream: Stream,
        roles: Roles,
        columns: Mapping[str, Parsed],
        show_raw: Callable[[str, int], str],
        count: int,
    ) -> None:
        self.stream = stream
        self.roles = roles
        self.columns = columns
        self.show_raw = show_raw
        self.failed = np.zeros(count, np.int16)
        """Per row, the number of its failed check in ``found``, from 1; 0 for none."""
        self.found: list[tuple[Reason, Message]] = []
        self._presence()
        self._labels()
        self._times()
        doubtful = self._doubtful()
        self._finiteness(doubtful)
        self._bounds(doubtful)
        self._rules()

    def _refuse(self, rows: Bools | None, reason: Reason, message: Message) -> None:
        if rows is not None and rows.any():
            self.found.append((reason, message))
            self.failed[rows & (self.failed == 0)] = len(self.found)

    def _presence(self) -> None:
        optional = [field.name for field in self.stream.fields if field.nullable]

        def wrong(name: str) -> Message:
            return lambda row: (
                f"`{name}` must be {self._kind(name)}, got {self.show_raw(name, row)}"
            )

        for name, column in self.columns.items():
            self._refuse(column.wrong, Reason.WRONG_TYPE, wrong(name))
        for name, column in self.columns.items():
            if name not in optional:
                self._refuse(
                    column.null, Reason.MISSING, _saying(f"`{name}` must be there, got none")
                )

    def _kind(self, column: str) -> str:
        """What the values of a column must be, in words."""
        if column in self.roles.labels:
            return "a text"
        if column in self.roles.times:
            return "a time: RFC 3339, a timestamp, or a whole number of its unit"
        return KINDS[self.stream.field(column).kind]

    def _labels(self) -> None:
        def problem(name: str, labels: Labels) -> Message:
            return lambda row: f"`{name}` {label_problem(labels.names[labels.codes[row]])}"

        def no_duration(name: str, labels: Labels) -> Message:
            must = f"`{name}` must be a duration of at most 366 days, such as '1h'"
            return lambda row: f"{must}, got {show(labels.names[labels.codes[row]])}"

        reasons = (Reason.BAD_ENTITY, Reason.BAD_SERIES)
        for name, reason in zip(self.roles.labels, reasons, strict=False):
            labels: Labels = self.columns[name].values
            bad = [label_problem(label) is not None for label in labels.names]
            if any(bad):
                self._refuse(np.array(bad)[labels.codes], reason, problem(name, labels))
        if self.stream.series is not None and self.stream.series_is_duration:
            labels = self.columns[self.stream.series].values
            bad = [span_of_label(label) == 0 for label in labels.names]
            if any(bad):
                message = no_duration(self.stream.series, labels)
                self._refuse(np.array(bad)[labels.codes], Reason.BAD_DURATION, message)

    def _times(self) -> None:
        stream, roles = self.stream, self.roles

        def outside(name: str, hint: str) -> Message:
            def message(row: int) -> str:
                bounds = f"between {_day(stream.earliest_ns)} and {_day(stream.latest_ns)}"
                return f"`{name}` must lie {bounds}, got {self.show_raw(name, row)}{hint}"

            return message

        for name in roles.times:
            hint = ", which would fit in another unit of time"
            self._refuse(self.columns[name].unit, Reason.TIME_UNIT, outside(name, hint))
        for name in roles.times:
            self._refuse(self.columns[name].range, Reason.TIME_RANGE, outside(name, ""))
        if roles.arrival is None:
            return
        ahead_ns = self.columns[roles.time].values - self.columns[roles.arrival].values

        def ahead(row: int) -> str:
            must = (
                f"the time in `{roles.time}` must not be more than "
                f"{show_duration(stream.future_skew_ns)} after `{roles.arrival}`"
            )
            return f"{must}, got {ahead_ns[row] / 1e9:g}s"

        self._refuse(ahead_ns > stream.future_skew_ns, Reason.TIME_AHEAD, ahead)

    def _finiteness(self, doubtful: list[Measured]) -> None:
        for field, values, flat in doubtful:
            if not np.isfinite(flat).all():
                bad = ~np.isfinite(flat) & ~(np.isnan(flat) & field.nullable)
                message = _found(field, "finite", values, bad)
                self._refuse(_of_rows(values, bad), Reason.NOT_FINITE, message)

    def _bounds(self, doubtful: list[Measured]) -> None:
        for field, values, flat in doubtful:
            for must, beyond in _beyond(field):
                bad = beyond(flat)
                if bad.any():
                    message = _found(field, must, values, bad)
                    self._refuse(_of_rows(values, bad), Reason.OUT_OF_BOUNDS, message)
            if isinstance(values, Samples):
                empty = f"`{field.name}` must hold samples, got none"
                self._refuse(values.length == 0, Reason.NO_SAMPLES, _saying(empty))
        # A span that no earlier check found fault with: samples at a rate near zero.
        endless = f"`{self.roles.time}` must start a span of at most 366 days, got a longer one"
        self._refuse(self.columns[self.roles.time].span, Reason.TIME_RANGE, _saying(endless))

    def _rules(self) -> None:
        def below(rule: NotBelow, upper: Float64s, lower: Float64s) -> Message:
            must = f"`{rule.upper}` must not be below `{rule.lower}`"
            return lambda row: f"{must}, got {float(upper[row])!r} < {float(lower[row])!r}"

        for rule in self.stream.rules:
            upper, lower = self.columns[rule.upper].values, self.columns[rule.lower].values
            self._refuse(upper < lower, Reason.BROKEN_RULE, below(rule, upper, lower))

    def _doubtful(self) -> list[Measured]:
        """The fields with numbers that may be wrong.

        The least and the greatest of each tell: for 40 rows that saves a sixth of all the checks.
        """
        found = []
        for field in self.stream.fields:
            if field.kind == "id":
                continue
            values = self.columns[field.name].values
            flat = values.flat if isinstance(values, Samples) else values
            if isinstance(values, Samples) or not _within(field, flat):
                found.append((field, values, flat))
        return found


def _within(field: Field, values: Float64s) -> bool:
    """Whether all numbers of a field are finite and in its bounds; NaN is not."""
    if not len(values):
        return True
    least, most = np.minimum.reduce(values), np.maximum.reduce(values)
    if not (-np.inf < least and most < np.inf):
        return False
    return not any(beyond(least) or beyond(most) for _, beyond in _beyond(field))


def _beyond(field: Field) -> list[tuple[str, Callable[[Any], Any]]]:
    """What numbers of a field must be, and which are not: of one, or of each in an array."""
    bounds: list[tuple[str, Callable[[Any], Any]]] = []
    if (above := field.above) is not None:
        bounds.append((f"above {above:g}", lambda values: values <= above))
    if (least := field.least) is not None:
        bounds.append((f"at least {least:g}", lambda values: values < least))
    if (most := field.most) is not None:
        bounds.append((f"at most {most:g}", lambda values: values > most))
    return bounds


def _saying(message: str) -> Message:
    return lambda _: message


def _of_rows(values: Float64s | Samples, bad: Bools) -> Bools | None:
    return holding(values, bad) if isinstance(values, Samples) else bad


def _found(field: Field, must: str, values: Float64s | Samples, bad: Bools) -> Message:
    """Words what a number must be, and which was found instead."""

    def message(row: int) -> str:
        if not isinstance(values, Samples):
            return f"`{field.name}` must be {must}, got {float(values[row])!r}"
        first = int(values.start[row])
        at = int(np.argmax(bad[first : first + values.length[row]]))
        value = float(values.flat[first + at])
        return f"`{field.name}` must be {must}, got {value!r} at sample {at}"

    return message
