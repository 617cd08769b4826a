"""Random rows of a stream, and random ways in which they may come in.

Rows are dicts as :mod:`tests.naive_rows` has them. What arrives is in the order of arrival; what
has no arrival, in the order of time.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from operators.batch import NO_CLOCK_NS, Batch, Labels, Samples, Values
from operators.streams import Field, NotBelow, Stream
from tests.naive_rows import Key, Row, arrival_ns, identifier

MINUTE_NS = 60_000_000_000
START_NS = 1_700_000_000_000_000_000 // MINUTE_NS * MINUTE_NS

PRICES = tuple(Field(name, "price", above=0.0) for name in ("open", "high", "low", "close"))
BARS = Stream(
    "bars",
    "instrument_id",
    (*PRICES, Field("volume", "unit", least=0.0, nullable=True)),
    series="timeframe",
    series_is_duration=True,
    max_delay_ns=2 * MINUTE_NS,
    rules=(NotBelow("high", "low"),),
)
NEWS = Stream(
    "news",
    "instrument_id",
    (
        Field("event_id", kind="id"),
        Field("sentiment", least=-1.0, most=1.0, nullable=True),
        Field("confidence", least=0.0, most=1.0),
    ),
    identity=("event_id",),
    max_delay_ns=5 * MINUTE_NS,
)
TRADES = Stream(
    "trades",
    "instrument_id",
    (
        Field("trade_id", kind="id"),
        Field("price", "price", above=0.0),
        Field("size", "unit", least=0.0),
    ),
    identity=("trade_id",),
    sequence="trade_id",
    corrections=False,
    max_delay_ns=MINUTE_NS,
)
TICKS = replace(TRADES, name="ticks", fields=TRADES.fields[1:], identity=None, sequence=None)
READINGS = Stream(
    "readings",
    "asset_id",
    (Field("value", "g", nullable=True),),
    series="channel",
    identity=(),
    max_delay_ns=500_000_000,
    rate_hz=20.0,
)
WINDOWS = Stream(
    "windows",
    "asset_id",
    (Field("sampling_rate_hz", "Hz", above=0.0), Field("values", "g", kind="samples")),
    series="channel",
    max_delay_ns=1_000_000_000,
    rate_field="sampling_rate_hz",
)
KEYS: dict[str, list[Key]] = {
    "bars": [("AAPL", "1m"), ("AAPL", "1h"), ("MSFT", "1m")],
    "news": [("AAPL", ""), ("MSFT", ""), ("SILENT", "")],
    "trades": [("AAPL", ""), ("MSFT", "")],
    "ticks": [("AAPL", ""), ("MSFT", "")],
    "readings": [("pump", "x"), ("pump", "y"), ("fan", "x")],
    "windows": [("pump", "x"), ("pump", "y"), ("fan", "x")],
}
STEPS_NS: dict[str, int] = {
    "bars": MINUTE_NS, "news": 11 * MINUTE_NS, "trades": 1_300_000_000, "ticks": 1_300_000_000,
    "readings": 50_000_000, "windows": 1_000_000_000,
}  # fmt: skip


def rounded(value: float) -> float:
    """To nine decimals: squares of tinier numbers vanish, and whether they do is no promise."""
    return round(value, 9)


def numbers(field: Field) -> st.SearchStrategy[float | None]:
    """Values that a field allows, some of them often."""
    low = field.least if field.least is not None else (0.01 if field.above is not None else -1e6)
    high = field.most if field.most is not None else 1e6
    common = st.sampled_from(
        [min(max(value, low), high) for value in (0.0, 0.5, 1.0, 100.0, 100.25)]
    )
    values = common | st.floats(low, high).map(rounded).filter(lambda value: low <= value <= high)
    return values | st.none() if field.nullable else values


@st.composite
def samples(draw: st.DrawFn) -> list[float | None]:
    """Samples of a message, rarely with one missing."""
    value = st.sampled_from([0.0, 1.0, -1.0]) | st.floats(-100.0, 100.0).map(rounded)
    size = draw(st.sampled_from([0, 1, 2, 3, 8, 8, 16, 16]))
    found: list[float | None] = [draw(value) for _ in range(size)]
    if found and draw(st.integers(0, 5)) == 0:
        found[draw(st.integers(0, size - 1))] = None
    return found


@st.composite
def contents(draw: st.DrawFn, stream: Stream) -> Row:
    """The fields of a row but its ids, with the stream's rules kept."""
    row: Row = {}
    for field in stream.fields:
        if field.kind == "samples":
            row[field.name] = draw(samples())
        elif field.name == stream.rate_field:
            row[field.name] = draw(st.sampled_from([8.0, 100.0]))
        elif field.kind == "number":
            row[field.name] = draw(numbers(field))
    for rule in stream.rules:
        upper, lower = row[rule.upper], row[rule.lower]
        row[rule.upper], row[rule.lower] = max(upper, lower), min(upper, lower)
    return row


@st.composite
def times(draw: st.DrawFn, stream: Stream, count: int, step_ns: int) -> list[int]:
    """Increasing times: regular, irregular, with gaps, and equal ones."""
    kinds = st.sampled_from(["regular", "regular", "equal", "irregular", "jittered", "gap"])
    ts, result = START_NS + draw(st.integers(0, 3)) * step_ns, []
    for _ in range(count):
        match draw(kinds):
            case "regular":
                ts = ts // step_ns * step_ns + step_ns
            case "irregular":
                ts += draw(st.integers(1, 2 * step_ns))
            case "jittered":
                ts = ts // step_ns * step_ns + step_ns + draw(st.sampled_from([1, step_ns // 25]))
            case "gap":
                ts += draw(st.sampled_from([3, 10, 200])) * step_ns
        result.append(ts)
    return result


@st.composite
def arrivals(draw: st.DrawFn, stream: Stream, ts: int) -> int:
    """Mostly in time, sometimes at the last moment, rarely late."""
    delay_ns = draw(
        st.sampled_from([0, 0, stream.max_delay_ns])
        | st.integers(0, stream.max_delay_ns)
        | st.integers(0, stream.max_delay_ns)
        | st.sampled_from([stream.max_delay_ns + 1, 3 * stream.max_delay_ns + 7])
    )
    return ts + delay_ns


@st.composite
def rows(
    draw: st.DrawFn,
    stream: Stream,
    *,
    max_rows: int = 12,
    keys: Sequence[Key] | None = None,
    step_ns: int | None = None,
    with_arrival: bool = True,
) -> list[Row]:
    """Rows of some runs of a stream in the order in which they can be read.

    Up to `max_rows` for each run of `keys`, about `step_ns` apart. Some come twice, some are
    corrected, and, where they have arrivals, some are late.
    """
    step_ns = step_ns or STEPS_NS.get(stream.name, MINUTE_NS)
    found: list[Row] = []
    number = 0
    for entity, series in keys or KEYS[stream.name]:
        for ts in draw(times(stream, draw(st.integers(0, max_rows)), step_ns)):
            ids = {}
            for field in stream.fields:
                if field.kind == "id":
                    number += 1
                    ids[field.name] = number
            row: Row = {"entity": entity, "ts": ts, **ids, **draw(contents(stream))}
            if stream.series is not None:
                row["series"] = series
            copies = [row]
            match draw(st.integers(0, 11)):
                case 0:
                    copies.append(dict(row))
                case 1:
                    copies.append({**row, **draw(contents(stream))})
                case 2:
                    copies += [{**row, **draw(contents(stream))}, dict(row)]
            if with_arrival:
                for copy in copies:
                    copy["arrival"] = draw(arrivals(stream, ts))
            found += copies
    shuffled = draw(st.permutations(found)) if len(found) <= 40 else found
    return sorted(shuffled, key=arrival_ns)


@st.composite
def cuts(draw: st.DrawFn, length: int) -> list[slice]:
    """A sequence of that length cut into batches, some of them empty."""
    inner = draw(st.lists(st.integers(0, length), max_size=6))
    bounds = [0, *sorted(inner), length]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


@st.composite
def partitions(draw: st.DrawFn, whole: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows spread over partitions by entity, by time, or at random; each keeps its order."""
    count = draw(st.integers(1, 3))
    how = draw(st.sampled_from(["entity", "time", "random"]))
    parts: dict[str, list[Row]] = {f"part-{i}": [] for i in range(count)}
    for place, row in enumerate(whole):
        match how:
            case "entity":
                part = zlib.crc32(row["entity"].encode()) % count
            case "time":
                part = place * count // len(whole)
            case _:
                part = draw(st.integers(0, count - 1))
        parts[f"part-{part}"].append(row)
    return parts


@dataclass(frozen=True)
class Read:
    """One batch of one partition, as a source reads it."""

    stream: str
    partition: str
    rows: list[Row]
    clock_ns: int
    end: bool


@st.composite
def reads(
    draw: st.DrawFn, parts: Mapping[str, Mapping[str, Sequence[Row]]], *, end: bool = True
) -> list[Read]:
    """Partitions of streams cut into batches, and the batches interleaved at random.

    `parts` holds for each stream the rows of each partition; at last each says that it ends.
    """
    queues: list[list[Read]] = []
    for stream, of_stream in parts.items():
        for partition, whole in of_stream.items():
            queue = []
            clock_ns = NO_CLOCK_NS
            for cut in draw(cuts(len(whole))):
                clock_ns = max([clock_ns, *map(arrival_ns, whole[cut])])
                queue.append(Read(stream, partition, list(whole[cut]), clock_ns, end=False))
            if end:
                queue[-1] = replace(queue[-1], end=True)
            queues.append(queue)
    read: list[Read] = []
    while queues:
        queue = queues[draw(st.integers(0, len(queues) - 1))]
        read.append(queue.pop(0))
        queues = [queue for queue in queues if queue]
    return read


def labels(names: Sequence[str]) -> Labels:
    """Names as codes into the distinct ones."""
    distinct = tuple(dict.fromkeys(names)) or ("",)
    codes = [distinct.index(name) for name in names]
    return Labels(np.array(codes, np.int32), distinct)


def _values(field: Field, whole: Sequence[Row]) -> Values:
    if field.kind == "id":
        return np.array([identifier(row[field.name]) for row in whole], np.int64)
    if field.kind == "number":
        return np.array([as_nan(row.get(field.name)) for row in whole], np.float64)
    lists = [[as_nan(value) for value in row[field.name]] for row in whole]
    length = np.array([len(values) for values in lists], np.int64)
    flat = np.array([value for values in lists for value in values], np.float64)
    return Samples(flat, np.cumsum(length) - length, length)


def as_nan(value: Any) -> float:
    """Null as the columns have it."""
    return float("nan") if value is None else float(value)


def batch_of(
    stream: Stream,
    whole: Sequence[Row],
    partition: str = "part-0",
    clock_ns: int = NO_CLOCK_NS,
    *,
    end: bool = False,
) -> Batch:
    """Rows as the engine takes them."""
    has_arrival = any("arrival" in row for row in whole)
    return Batch(
        stream=stream.name,
        partition=partition,
        clock_ns=clock_ns,
        keys=labels([row["entity"] for row in whole]),
        series=labels([row["series"] for row in whole]) if stream.series is not None else None,
        ts_ns=np.array([row["ts"] for row in whole], np.int64),
        arrival_ns=np.array(list(map(arrival_ns, whole)), np.int64) if has_arrival else None,
        columns={field.name: _values(field, whole) for field in stream.fields},
        end=end,
    )


def clock_after(
    read: Sequence[Read], parts: Mapping[str, Mapping[str, Sequence[Row]]]
) -> int | None:
    """The least clock of the partitions that have not ended; None when all have."""
    clocks = {(stream, part): NO_CLOCK_NS for stream, of in parts.items() for part in of}
    for each in read:
        clocks[each.stream, each.partition] = each.clock_ns
    for each in read:
        if each.end:
            del clocks[each.stream, each.partition]
    return min(clocks.values(), default=None)
