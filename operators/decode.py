"""Raw rows to columns: a frame of what came in becomes a batch and its dead letters.

Whole columns are read and checked at once (``operators.checks`` says in which order); Python looks
at single rows only to word a dead letter. The same value gives the same bits whatever the format it
came in: a number may be text in CSV, an id that spells a whole number is that number everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from operators.batch import NO_CLOCK_NS, Batch, Float64s, Int64s, Labels, Samples
from operators.checks import (
    LONGEST_SPAN_NS,
    Bools,
    Checks,
    Parsed,
    Roles,
    either,
    end_of_rows,
    holding,
    label_problem,
    show,
)
from operators.dead_letters import DeadLetters
from operators.durations import NS_PER_UNIT
from operators.kernels.hashing import hash_strings
from operators.kernels.integers import parse_whole
from operators.kernels.sound import NULL_ID
from operators.kernels.timestamps import MALFORMED, TOO_FAR, parse_rfc3339
from operators.streams import Stream

TIME_UNITS = {"_ns": 1, "": 10**6, "_us": 10**3, "_ms": 10**6, "_s": 10**9}
"""Nanoseconds of a whole number in a time column, by the end of its name; the most exact first."""
STAMPS = {"ts": "end", "start_ts": "start"}


Originals = Callable[[Int64s], Sequence[bytes]]
"""Gives the bytes of some rows, by index."""
Spelled = tuple[npt.NDArray[np.uint8], Int64s]
"""Texts as their bytes and where each begins and ends in them."""


class RefusedInputError(ValueError):
    """An input that cannot be read as the stream it was said to be."""


def render_rows(table: pa.Table, rows: Int64s) -> list[bytes]:
    """Rows as JSON, for dead letters of formats without lines."""
    taken = table.take(pa.array(rows))
    columns = [[_plain(_python(value)) for value in column] for column in taken.columns]
    told = zip(*columns, strict=True) if columns else [()] * len(rows)
    return [
        json.dumps(dict(zip(taken.column_names, row, strict=True)), default=str).encode()
        for row in told
    ]


def _python(value: pa.Scalar) -> Any:
    """A value as Python has it; as text where Python has none.

    Such are times in years that no calendar of Python's reaches, and those of unknown zones.
    """
    try:
        return value.as_py()
    except (ValueError, OverflowError, LookupError):
        kind = str(value.type)
        told = f"{value.value} " if pa.types.is_temporal(value.type) else ""
        return f"{told}of type {kind}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value.isoformat() if hasattr(value, "isoformat") else value


# -- columns ----------------------------------------------------------------------------------


def _nulls(array: pa.Array) -> Bools | None:
    return np.asarray(pc.is_null(array)) if array.null_count else None


def _all_wrong(array: pa.Array, values: Any) -> Parsed:
    null = _nulls(array)
    return Parsed(values, null, np.ones(len(array), np.bool_) if null is None else ~null)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view"


def _text(array: pa.Array) -> tuple[pl.Series, Bools | None]:
    """Texts, and which rows have none; the empty text is none."""
    texts = pl.Series(array.cast(pa.large_string()))
    null = (texts.is_null() | (texts == "")).fill_null(value=True).to_numpy()
    return texts, null if null.any() else None


def _bytes(array: pa.Array) -> tuple[Spelled, Bools | None]:
    """Texts as bytes and their offsets, and which rows have none; the empty text is none."""
    spelled = _buffers(array)
    ends = spelled[1]
    null = ends[1:] == ends[:-1]
    if array.null_count:
        null |= np.asarray(pc.is_null(array))
    return spelled, null if null.any() else None


def _buffers(array: pa.Array) -> Spelled:
    """Bytes and offsets of texts."""
    plain = array.cast(pa.large_string())
    _, offsets, data = plain.buffers()
    held, ends = np.zeros(1, np.uint8), np.zeros(1, np.int64)
    if len(plain) and offsets is not None:
        ends = np.frombuffer(offsets, np.int64)[plain.offset : plain.offset + len(plain) + 1]
        if data is not None and data.size:
            held = np.frombuffer(data, np.uint8)
    # Some buffers may be written and others not, and numba compiles a kernel for each kind.
    held.setflags(write=False)
    ends.setflags(write=False)
    return held, ends


def _integers(array: pa.Array) -> Parsed:
    """Integers of any width as int64; those that do not fit are of another kind."""
    null = _nulls(array)
    filled = pc.fill_null(array, 0) if array.null_count else array
    values = np.asarray(filled)
    wrong = values > np.uint64(2**63 - 1) if values.dtype == np.uint64 else None
    return Parsed(values.astype(np.int64, copy=False), null, wrong)


def _unsigned_zeros(values: Float64s) -> Float64s:
    # Most columns are positive: looking costs a fifth of the copy.
    return values if len(values) and values.min() > 0 else values + 0.0


def _numbers(array: pa.Array, text: bool) -> Parsed:
    """Numbers as float64, NaN where there is none, without a negative zero."""
    kind = array.type
    types = pa.types
    if text and _is_text(kind):
        texts, null = _text(array)
        read = texts.cast(pl.Float64, strict=False)
        if read.null_count() > (0 if null is None else int(null.sum())):
            read = texts.str.strip_chars().cast(pl.Float64, strict=False)
        wrong = read.is_null().to_numpy()
        wrong = wrong if null is None else wrong & ~null
        return Parsed(_unsigned_zeros(read.fill_null(np.nan).to_numpy()), null, wrong)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        if kind != pa.float64():
            array = pc.cast(array, pa.float64(), safe=False)
        return Parsed(_unsigned_zeros(array.to_numpy(zero_copy_only=False)), _nulls(array))
    return _all_wrong(array, np.full(len(array), np.nan))


def _ids(array: pa.Array) -> Parsed:
    """Ids as int64: whole numbers, and texts that spell one, as they are; other texts hashed."""
    if _is_text(array.type):
        texts, null = _bytes(array)
        values, whole = parse_whole(*texts)
        if not whole.all():
            values = np.where(whole, values, hash_strings(*texts))
        parsed = Parsed(values, null)
    elif pa.types.is_integer(array.type):
        parsed = _integers(array)
    else:
        parsed = _all_wrong(array, np.zeros(len(array), np.int64))
    if parsed.null is not None:
        parsed.values = np.where(parsed.null, NULL_ID, parsed.values)
    return parsed


def _labels(array: pa.Array) -> Parsed:
    """Texts, or whole numbers as texts, by code."""
    if pa.types.is_integer(array.type):
        array = array.cast(pa.large_string())
    if not _is_text(array.type):
        return _all_wrong(array, Labels(np.zeros(len(array), np.int32), ("",)))
    coded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    names = tuple("" if name is None else name for name in coded.dictionary.to_pylist())
    null = _nulls(coded)
    indices = pc.fill_null(coded.indices, 0) if null is not None else coded.indices
    codes = np.asarray(indices).astype(np.int32, copy=False)
    if "" in names:  # an empty label is none
        null = either(null, codes == names.index(""))
    return Parsed(Labels(codes, names or ("",)), null)


def _samples(array: pa.Array, text: bool) -> Parsed:
    """Lists of numbers; a list that holds anything else is of another kind."""
    if text and _is_text(array.type):
        return _samples_of_text(array)
    types = pa.types
    if types.is_fixed_size_list(array.type):
        array = array.cast(pa.large_list(array.type.value_type))
    if not (types.is_list(array.type) or types.is_large_list(array.type)):
        nothing = np.zeros(len(array), np.int64)
        return _all_wrong(array, Samples(np.empty(0), nothing, nothing))
    inner = _numbers(array.flatten(), text=False)
    length = np.asarray(pc.fill_null(array.value_lengths(), 0)).astype(np.int64)
    samples = Samples(inner.values, np.cumsum(length) - length, length)
    return Parsed(samples, _nulls(array), holding(samples, either(inner.null, inner.wrong)))


def _samples_of_text(array: pa.Array) -> Parsed:
    """Lists written as JSON."""
    texts, null = _text(array)
    decoder = msgspec.json.Decoder(list[float])
    pieces: list[list[float]] = []
    wrong = np.zeros(len(texts), np.bool_)
    for row, written in enumerate(texts):
        try:
            pieces.append(decoder.decode(written) if written else [])
        except msgspec.DecodeError:
            wrong[row] = True
            pieces.append([])
    length = np.array([len(piece) for piece in pieces], np.int64)
    flat = np.array([value for piece in pieces for value in piece], np.float64) + 0.0
    return Parsed(Samples(flat, np.cumsum(length) - length, length), null, wrong)


def _times(array: pa.Array, column: str, low_ns: int, high_ns: int) -> Parsed:
    """Times as ns: timestamps, whole numbers of a unit, and texts of either."""
    kind = array.type
    unit_ns = TIME_UNITS[column[column.index("ts") + 2 :]]
    if pa.types.is_timestamp(kind):
        unit_ns = NS_PER_UNIT[kind.unit]
        parsed = _integers(array.view(pa.int64()))
        return _scaled(parsed, unit_ns, low_ns, high_ns, any_unit=True)
    if pa.types.is_integer(kind):
        return _scaled(_integers(array), unit_ns, low_ns, high_ns, any_unit=False)
    if not _is_text(kind):
        return _all_wrong(array, np.zeros(len(array), np.int64))
    texts, null = _bytes(array)
    # `ts_ms` and its like are whole numbers.
    dates = parse_rfc3339(*texts) if column.endswith("ts") else None
    if dates is not None and null is None and _all_near(dates[0], dates[1], low_ns, high_ns):
        return Parsed(dates[1])
    values, whole = parse_whole(*texts)
    if null is not None:  # the bytes of a null may be anything
        values[null], whole[null] = 0, False
    parsed = _scaled(Parsed(values, null), unit_ns, low_ns, high_ns, any_unit=False)
    if whole.all():
        return parsed
    written = ~whole if null is None else ~whole & ~null
    if dates is None:
        parsed.wrong = written
        return parsed
    states, times_ns = dates
    near = (times_ns >= low_ns) & (times_ns <= high_ns)
    parsed.wrong = written & (states == MALFORMED)
    parsed.range = np.where(whole, _set(parsed.range), written & ((states == TOO_FAR) | ~near))
    parsed.unit = whole & _set(parsed.unit)
    parsed.values = np.where(written & near, times_ns, parsed.values)
    return parsed


def _all_near(states: Any, times_ns: Int64s, low_ns: int, high_ns: int) -> bool:
    """Whether all texts are dates within the bounds, as they nearly always are."""
    return (
        len(times_ns) > 0
        and not states.any()
        and low_ns <= int(times_ns.min())
        and int(times_ns.max()) <= high_ns
    )


def _set(mask: Bools | None) -> Bools | bool:
    return False if mask is None else mask


def _scaled(parsed: Parsed, unit_ns: int, low_ns: int, high_ns: int, any_unit: bool) -> Parsed:
    """Brings numbers of a unit to ns; outside the bounds they are 0 and marked."""
    values = parsed.values
    # Compared before they are multiplied, which could overflow.
    low, high = -(-low_ns // unit_ns), high_ns // unit_ns
    if len(values) and (values.min() < low or values.max() > high):
        outside = (values < low) | (values > high)
        other = np.zeros(len(values), np.bool_)
        for factor in () if any_unit else set(TIME_UNITS.values()) - {unit_ns}:
            other |= (values >= -(-low_ns // factor)) & (values <= high_ns // factor)
        parsed.unit, parsed.range = outside & other, outside & ~other
        values = np.where(outside, 0, values)
    parsed.values = values * unit_ns if unit_ns != 1 else values
    return parsed


# -- rows -------------------------------------------------------------------------------------


class Decoder:
    """Turns raw rows of one input into batches of its stream.

    Args:
        stream: what the rows are declared to be.
        columns: the columns there are; for rows without fixed columns, those of the first rows.
        where: what messages call the input.
        text: whether numbers and samples come as text, as in CSV.

    Attributes:
        columns: the columns to read; the others are of no use.
        clock_columns: those that tell the clock of a row.

    Raises:
        RefusedInputError: when no column tells the rows' time.
    """

    def __init__(
        self, stream: Stream, columns: Iterable[str], where: str, *, text: bool = False
    ) -> None:
        self.stream = stream
        self.text = text
        found = list(columns)
        labels = (stream.entity,) if stream.series is None else (stream.entity, stream.series)
        time = _time_column(stream, found, where)
        self.roles = Roles(labels, time, _spelled("arrival_ts", found))
        fields = (field.name for field in stream.fields)
        self.columns = tuple(dict.fromkeys([*labels, *self.roles.times, *fields]))
        self.clock_columns = self._clock_columns()

    def _clock_columns(self) -> tuple[str, ...]:
        stream, roles = self.stream, self.roles
        if roles.arrival is not None:
            return (roles.arrival,)
        if not stream.start_stamped:
            return (roles.time,)
        told = [stream.samples.name if stream.samples else stream.series, stream.rate_field]
        return (roles.time, *(name for name in told if name))

    def clock(self, rows: pa.Table | pl.DataFrame) -> tuple[Int64s, Bools]:
        """Arrival of each row, or its time in a stream without; and which rows tell it.

        Args:
            rows: at least the ``clock_columns``.
        """
        table = _as_table(rows)
        parsed = {name: self._column(_array(table, name), name) for name in self.clock_columns}
        clock = self._clock_of(parsed)
        return clock.values, clock.usable(table.num_rows)

    def entities(self, rows: pa.Table | pl.DataFrame) -> tuple[str, ...]:
        """The entities of some rows, the malformed ones among them."""
        labels = _labels(_array(_as_table(rows), self.stream.entity)).values
        return tuple(name for name in labels.used().names if label_problem(name) is None)

    def _clock_of(self, parsed: dict[str, Parsed]) -> Parsed:
        if self.roles.arrival is not None:
            return parsed[self.roles.arrival]
        return self._event_time(parsed)

    def _event_time(self, parsed: dict[str, Parsed]) -> Parsed:
        time = parsed[self.roles.time]
        return end_of_rows(self.stream, time, parsed) if self.stream.start_stamped else time

    def decode(
        self,
        rows: pa.Table | pl.DataFrame,
        partition: str,
        *,
        clock_ns: int = NO_CLOCK_NS,
        positions: Int64s | None = None,
        originals: Originals | None = None,
    ) -> tuple[Batch, DeadLetters]:
        """Rows as a batch, and those that are malformed as dead letters.

        Args:
            rows: the raw rows; columns that the stream does not declare are ignored.
            partition: where they come from.
            clock_ns: the partition's clock before these rows. Each of them moves it, the dead too,
                if only its arrival (its time, in a stream without) is sound.
            positions: of each row in its source; by default, counted from 0.
            originals: gives the bytes of some rows, by index; by default, rendered as JSON.
        """
        table = _as_table(rows)
        # Asked for once: to find a column by its name costs as much as to read a few rows of it.
        columns = dict(zip(table.column_names, table.columns, strict=True))
        missing = pa.chunked_array([pa.nulls(table.num_rows)])
        raw = {name: _whole(columns.get(name, missing)) for name in self.columns}
        parsed = {name: self._column(array, name) for name, array in raw.items()}
        parsed[self.roles.time] = time = self._event_time(parsed)

        def show_raw(name: str, row: int) -> str:
            return show(_python(raw[name][row]))

        checks = Checks(self.stream, self.roles, parsed, show_raw, table.num_rows)
        stream = self.stream
        clock = parsed[self.roles.arrival] if self.roles.arrival else time
        batch = Batch(
            stream=stream.name,
            partition=partition,
            clock_ns=max(clock_ns, _greatest(clock)),
            keys=parsed[stream.entity].values,
            series=parsed[stream.series].values if stream.series else None,
            ts_ns=time.values,
            arrival_ns=parsed[self.roles.arrival].values if self.roles.arrival else None,
            columns={field.name: parsed[field.name].values for field in stream.fields},
        )
        if not checks.found:
            return without_unused(batch), DeadLetters(stream.name, partition)
        dead = np.flatnonzero(checks.failed)
        found = [checks.found[check - 1] for check in checks.failed[dead]]
        letters = DeadLetters(
            stream.name,
            partition,
            tuple((dead if positions is None else positions[dead]).tolist()),
            tuple(reason for reason, _ in found),
            tuple(message(int(row)) for row, (_, message) in zip(dead, found, strict=True)),
            tuple(originals(dead) if originals else render_rows(table, dead)),
        )
        return without_unused(batch.take(checks.failed == 0)), letters

    def _column(self, array: pa.Array, name: str) -> Parsed:
        """A column, in its kind."""
        if name in self.roles.times:
            # A row that says when it starts may start before the first time allowed.
            early_ns = LONGEST_SPAN_NS if name.startswith("start") else 0
            low_ns = self.stream.earliest_ns - early_ns
            return _times(array, name, low_ns, self.stream.latest_ns)
        if name in self.roles.labels:
            return _labels(array)
        field = self.stream.field(name)
        if field.kind == "samples":
            return _samples(array, self.text)
        if field.kind == "id":
            return _ids(array)
        parsed = _numbers(array, self.text)
        if field.nullable:
            # Frames write a missing number as NaN; all of them are made the same bits.
            parsed.values = np.where(np.isnan(parsed.values), np.nan, parsed.values)
        return parsed


def _greatest(clock: Parsed) -> int:
    bad = clock.unusable()
    told = clock.values if bad is None else clock.values[~bad]
    return int(told.max()) if len(told) else NO_CLOCK_NS


def _as_table(rows: pa.Table | pl.DataFrame) -> pa.Table:
    if isinstance(rows, pl.DataFrame):
        return rows.to_arrow()
    return rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])


def _array(table: pa.Table, name: str) -> pa.Array:
    """A column in one piece; nulls where there is none."""
    if name not in table.column_names:
        return pa.nulls(table.num_rows)
    return _whole(table.column(name))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _spelled(stem: str, columns: Sequence[str]) -> str | None:
    """The column of a time: its stem, or that and a unit."""
    return next((stem + unit for unit in TIME_UNITS if stem + unit in columns), None)


def _time_column(stream: Stream, columns: Sequence[str], where: str) -> str:
    stem, other = ("start_ts", "ts") if stream.start_stamped else ("ts", "start_ts")
    found = _spelled(stem, columns)
    if found is not None:
        return found
    hint = f"name the time column `{stem}`"
    if _spelled(other, columns):
        declare = f"start_stamped={not stream.start_stamped}"
        hint = f"if its times stamp the {STAMPS[other]} of a row, declare the stream with {declare}"
    units = [stem + unit for unit in TIME_UNITS if unit]
    msg = (
        f"{where}: rows of stream `{stream.name}` must say when they {STAMPS[stem]} in `{stem}` "
        f"(RFC 3339, a timestamp, or epoch milliseconds) or in one of {units} (whole numbers), "
        f"found {sorted(columns)}; {hint}"
    )
    raise RefusedInputError(msg)


def without_unused(batch: Batch) -> Batch:
    """Leaves out the labels that no row has: the names of dead rows must not become entities."""
    series = batch.series.used() if batch.series is not None else None
    return replace(batch, keys=batch.keys.used(), series=series)


def decode(
    stream: Stream, rows: pa.Table | pl.DataFrame, partition: str = "frame"
) -> tuple[Batch, DeadLetters]:
    """Decodes a whole frame of raw rows.

    >>> from operators.streams import Field, Stream
    >>> ticks = Stream("ticks", "id", (Field("price", above=0),))
    >>> batch, dead = decode(
    ...     ticks, pl.DataFrame({"id": ["a", "b"], "ts_s": [10**9] * 2, "price": [1.5, -2.0]})
    ... )
    >>> batch.keys.strings(), dead.messages
    (['a'], ('`price` must be above 0, got -2.0',))
    """
    table = _as_table(rows)
    return Decoder(stream, table.column_names, partition).decode(table, partition)
