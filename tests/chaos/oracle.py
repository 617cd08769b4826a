"""What must come out, computed again from whole topics and by other means than the flow's.

Rows are read with the standard library's idea of JSON, chosen and ordered with polars, and the
formulas of :mod:`tests.chaos.sets` are numpy over one run at a time, two passes each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from tests.chaos.log import Entry
from tests.chaos.messages import BAD, TIMEFRAMES_MS, partition_of
from tests.chaos.sets import BARS_SEEN, MAX_DELAY_NS, market

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

KEY = ["instrument_id", "timeframe", "ts_ns"]
NEWS_SPAN_NS = 10 * 10**9
VOLUME_SPAN_NS = 5 * 10**9
RETURNS = 20
ERRORS = "__riffle.errors."
PLACE = {"partition": ERRORS + "partition", "offset": ERRORS + "offset"}
"""Headers that say where a letter stood."""


class Bar(msgspec.Struct):
    """A bar as it is sent."""

    instrument_id: str
    timeframe: str
    ts: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class News(msgspec.Struct):
    """News as they are sent."""

    instrument_id: str
    event_id: str
    ts: str
    sentiment: float
    confidence: float


@dataclass
class Input:
    """What an input topic holds.

    Attributes:
        rows: those that are to be applied, and what came around them; all columns of the message,
            and ``ts_ns``, ``arrival_ts_ns``.
        late: messages with rows that came too late.
        bad: messages that can't be used.
        count: of all messages.
    """

    rows: pl.DataFrame
    late: list[Entry] = field(default_factory=list)
    bad: list[Entry] = field(default_factory=list)
    count: int = 0


def read_input(chunks: Iterable[Sequence[Entry]], kind: type[Bar | News], partitions: int) -> Input:
    """Takes a topic apart.

    Only its feeder says which messages are bad; that the others are late is a matter of their time.
    """
    found = Input(pl.DataFrame())
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
    frames = []
    for chunk in chunks:
        found.count += len(chunk)
        good = [entry for entry in chunk if entry.header(BAD) is None]
        found.bad += [entry for entry in chunk if entry.header(BAD) is not None]
        if not good:
            continue
        assert all(e.partition == partition_of(e.key or b"", partitions) for e in good)
        rows = _rows(good, decoder)
        late = (rows["arrival_ts_ns"] - rows["ts_ns"] > MAX_DELAY_NS).to_numpy()
        found.late += [good[index] for index in np.flatnonzero(late)]
        frames.append(rows.filter(~late))
    found.rows = pl.concat(frames)
    return found


def _rows(good: Sequence[Entry], decoder: msgspec.json.Decoder[Any]) -> pl.DataFrame:
    rows = [decoder.decode(entry.value or b"") for entry in good]
    names = decoder.type.__struct_fields__
    frame = pl.DataFrame({name: [getattr(row, name) for row in rows] for name in names})
    stamps_ms = pl.Series([entry.timestamp_ms for entry in good], dtype=pl.Int64)
    return frame.with_columns(
        ts_ns=_nanoseconds(frame["ts"]), arrival_ts_ns=stamps_ms * 10**6
    ).drop("ts")


def _nanoseconds(times: pl.Series) -> pl.Series:
    if times.dtype == pl.String:
        return times.str.to_datetime("%+", time_unit="ns", time_zone="UTC").dt.epoch("ns")
    return times.cast(pl.Int64) * 10**6


def applied(rows: pl.DataFrame, identity: Sequence[str], changing: str) -> pl.DataFrame:
    """One row of each identity: that which arrived last; of one moment, the greatest in bits."""
    bits = rows[changing].to_numpy().view(np.int64)
    ordered = rows.with_columns(bits=pl.Series(bits)).sort("arrival_ts_ns", "bits")
    return ordered.unique(identity, keep="last").drop("bits")


# -- formulas -------------------------------------------------------------------------------------


def returns(close: Float64s, rows: int) -> Float64s:
    """Relative change over so many rows."""
    found = np.full(len(close), np.nan)
    found[rows:] = close[rows:] / close[:-rows] - 1.0
    return found


def deviation(values: Float64s, rows: int) -> Float64s:
    """Sample standard deviation of the last rows; null unless all have a value."""
    found = np.full(len(values), np.nan)
    if len(values) >= rows:
        windows = np.lib.stride_tricks.sliding_window_view(values, rows)
        middle = windows.mean(axis=1, keepdims=True)
        found[rows - 1 :] = np.sqrt(((windows - middle) ** 2).sum(axis=1) / (rows - 1))
    return found


def spans(ts_ns: Int64s, of_ns: Int64s, span_ns: int) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    """Rows within a span up to each time, as indices, and which of them count."""
    low = np.searchsorted(of_ns, ts_ns - span_ns, side="right")
    high = np.searchsorted(of_ns, ts_ns, side="right")
    most = int((high - low).max(initial=0))
    index = low[:, None] + np.arange(most)
    inside = index < high[:, None]
    return np.where(inside, index, 0), inside


def over(values: Float64s, index: Int64s, inside: npt.NDArray[np.bool_]) -> Float64s:
    """Sum of the rows of each span."""
    if not len(values):
        return np.zeros(len(index))
    return np.where(inside, values[index], 0.0).sum(axis=1)


def quotient(above: Float64s, below: Float64s) -> Float64s:
    """Null where nothing is below."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)


def run_vectors(span_ms: int, bars: pl.DataFrame, news: pl.DataFrame) -> dict[str, object]:
    """The vectors of one instrument and timeframe, in the order of their times."""
    ts = bars["ts_ns"].to_numpy()
    count = len(ts)
    ret_1 = returns(bars["close"].to_numpy(), 1)
    sentiment, confidence = news["sentiment"].to_numpy(), news["confidence"].to_numpy()
    within, inside = spans(ts, news["ts_ns"].to_numpy(), NEWS_SPAN_NS)
    events = inside.sum(axis=1)
    weight = over(confidence, within, inside)
    last, step = np.full(count, np.nan), np.full(count, np.nan)
    step[1:] = np.diff(ts) / 1e9
    last[RETURNS:] = (ts[RETURNS:] - ts[:-RETURNS]) / 1e9
    seen = np.minimum(np.arange(1, count + 1), BARS_SEEN)
    expected = np.where(np.isnan(last), seen / BARS_SEEN, RETURNS * span_ms / 1e3 / last)
    flags = np.stack([step > 1.5 * span_ms / 1e3, seen < BARS_SEEN, events == 0], axis=1)
    return {
        "ts_ns": ts,
        "ret_1": ret_1,
        "ret_5": returns(bars["close"].to_numpy(), 5),
        "vol_20": deviation(ret_1, RETURNS),
        "volume_5s": over(bars["volume"].to_numpy(), *spans(ts, ts, VOLUME_SPAN_NS)),
        "event_count_10s": events,
        "sentiment_mean_10s": quotient(over(sentiment, within, inside), events.astype(np.float64)),
        "sentiment_weighted_10s": quotient(over(sentiment * confidence, within, inside), weight),
        "coverage": np.minimum(1.0, expected),
        "flags": (flags * [1, 2, 4]).sum(axis=1),
    }


def expected_vectors(bars: pl.DataFrame, news: pl.DataFrame) -> pl.DataFrame:
    """All vectors of rows that are to be applied, nulls as NaN, sorted by `KEY`."""
    bars = applied(bars, KEY, "volume").sort(KEY)
    news = applied(news, ["instrument_id", "event_id", "ts_ns"], "sentiment").sort("ts_ns")
    of_entity = {
        str(key[0]): rows for key, rows in news.partition_by("instrument_id", as_dict=True).items()
    }
    nothing = news.clear()
    frames = []
    for key, run in bars.partition_by(KEY[:2], as_dict=True, maintain_order=True).items():
        name, timeframe = map(str, key)
        vectors = run_vectors(TIMEFRAMES_MS[timeframe], run, of_entity.get(name, nothing))
        names = [pl.lit(name).alias(KEY[0]), pl.lit(timeframe).alias(KEY[1])]
        frames.append(pl.DataFrame(vectors).select(*names, pl.all()))
    return pl.concat(frames)


def in_one_go(bars: pl.DataFrame, news: pl.DataFrame) -> pl.DataFrame:
    """The vectors of one engine that is given everything at once, in this process."""
    frame = market.compute(bars=bars, news=news)
    flags = [
        pl.col("quality").list.contains(name).cast(pl.Int64) * bit for name, bit in FLAGS.items()
    ]
    return frame.with_columns(
        pl.col("ts").dt.epoch("ns").alias("ts_ns"),
        pl.col("known_at").dt.epoch("ns").alias("known_at_ns"),
        pl.sum_horizontal(flags).alias("flags"),
        *(pl.col(name).fill_null(float("nan")) for name in FLOATS),
    )


def latest(vectors: pl.DataFrame) -> pl.DataFrame:
    """The newest vector of each instrument and timeframe."""
    return vectors.sort(KEY).unique(KEY[:2], keep="last", maintain_order=True)


# -- what came out --------------------------------------------------------------------------------


class Vector(msgspec.Struct):
    """A message of the output."""

    instrument_id: str
    timeframe: str
    ts: str
    feature_set: str
    version: str
    ret_1: float | None
    ret_5: float | None
    vol_20: float | None
    volume_5s: float | None
    event_count_10s: int
    sentiment_mean_10s: float | None
    sentiment_weighted_10s: float | None
    quality: list[str]
    coverage: float
    known_at: str
    n_rows: int
    final: bool


FLOATS = ("ret_1", "ret_5", "vol_20", "volume_5s", "sentiment_mean_10s", "sentiment_weighted_10s")
PLAIN = {
    "instrument_id": pl.String,
    "timeframe": pl.String,
    "event_count_10s": pl.Int64,
    "coverage": pl.Float64,
    "n_rows": pl.Int64,
}
FORMULAS = (*FLOATS, "event_count_10s", "flags", "coverage")
IN_BITS = (*FORMULAS, "known_at_ns", "n_rows")
FLAGS = {"MISSING": 1, "INSUFFICIENT": 2, "NO_EVENTS": 4}


def read_vectors(chunks: Iterable[Sequence[Entry]]) -> pl.DataFrame:
    """The vectors of output messages, nulls as NaN, in the order in which they stand."""
    frames = [_vectors(chunk) for chunk in chunks if chunk]
    return pl.concat(frames) if frames else _vectors([])


def _vectors(chunk: Sequence[Entry]) -> pl.DataFrame:
    decode = msgspec.json.Decoder(Vector).decode
    rows = []
    for entry in chunk:
        row = decode(entry.value or b"")
        assert row.final
        assert entry.key == row.instrument_id.encode()
        rows.append(row)
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in PLAIN}
    for name in FLOATS:
        values = [getattr(row, name) for row in rows]
        columns[name] = np.array([math.nan if v is None else v for v in values], np.float64)
    columns["flags"] = [sum(FLAGS[name] for name in row.quality) for row in rows]
    for name, column in (("ts", "ts_ns"), ("known_at", "known_at_ns")):
        texts = [getattr(row, name).removesuffix("Z") for row in rows]
        columns[column] = np.array(texts, "datetime64[ns]").view(np.int64)
    return pl.DataFrame(columns, schema_overrides=PLAIN | {"flags": pl.Int64})


def compare_keys(found: pl.DataFrame, expected: pl.DataFrame) -> list[str]:
    """What is wrong with the keys, in words."""
    said = []
    twice = found.filter(pl.struct(KEY).is_duplicated()).sort(KEY)
    missing = expected.join(found, on=KEY, how="anti")
    extra = found.join(expected, on=KEY, how="anti")
    for what, rows in (("twice", twice), ("missing", missing), ("extra", extra)):
        if len(rows):
            said.append(f"{len(rows)} vectors {what}, such as {rows.select(KEY).rows()[:3]}")
    return said


def compare_values(
    found: pl.DataFrame, expected: pl.DataFrame, columns: Iterable[str], relative: float
) -> list[str]:
    """Where values of the same keys differ, in words; 0 asks for equal bits."""
    joined = found.join(expected, on=KEY, how="inner", suffix="_must")
    said = []
    for name in columns:
        have, must = (joined[each].to_numpy() for each in (name, f"{name}_must"))
        if relative and have.dtype == np.float64:
            wrong = ~np.isclose(have, must, rtol=relative, atol=relative * 1e-3, equal_nan=True)
        elif have.dtype == np.float64:
            null = np.isnan(have) & np.isnan(must)
            wrong = ~null & (have.view(np.int64) != must.view(np.int64))
        else:
            wrong = have != must
        if wrong.any():
            first = joined.filter(wrong).select(*KEY, name, f"{name}_must").rows()[:3]
            said.append(f"{int(wrong.sum())} values of {name} differ, such as {first}")
    return said


def same_letters(
    found: Sequence[Entry], expected: Sequence[Entry], place: Mapping[str, str]
) -> list[str]:
    """Whether letters are these messages, each once and unchanged, in words.

    Args:
        found: what the topic of letters holds.
        expected: the messages that must be there.
        place: names of the headers that say where a letter stood: ``partition``, ``offset``.
    """
    said, held = [], {}
    for entry in found:
        where = (
            int(entry.header(place["partition"]) or -1),
            int(entry.header(place["offset"]) or -1),
        )
        if where in held:
            said.append(f"the letter of {where} stands twice")
        held[where] = entry
    must = {(entry.partition, entry.offset): entry for entry in expected}
    missing, extra = must.keys() - held.keys(), held.keys() - must.keys()
    for what, places in (("missing", missing), ("extra", extra)):
        if places:
            said.append(f"{len(places)} letters {what}, such as {sorted(places)[:3]}")
    for where in must.keys() & held.keys():
        original, letter = must[where], held[where]
        kept = letter.headers[: len(original.headers)] == original.headers
        if (letter.key, letter.value) != (original.key, original.value) or not kept:
            said.append(f"the letter of {where} is not as it was: {letter} for {original}")
    return said
