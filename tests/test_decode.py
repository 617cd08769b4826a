"""Raw rows to columns: the same bits from every spelling, and a reason for every row refused."""

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.streams import bars, news, readings, trades, windows
from operators.batch import Samples
from operators.dead_letters import Reason
from operators.decode import Decoder, RefusedInputError, decode
from operators.kernels.hashing import hash_names
from operators.kernels.integers import parse_whole
from operators.kernels.sound import NULL_ID
from operators.kernels.timestamps import MALFORMED, READ, TOO_FAR, parse_rfc3339
from operators.streams import Field, Stream

NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)
NOON_NS = 1_704_196_800 * 10**9
TICKS = Stream("ticks", "id", (Field("price", above=0), Field("note", nullable=True)))


def bar(**changed):
    row = {
        "instrument_id": "AAPL",
        "timeframe": "1m",
        "ts": NOON,
        "open": 10.0,
        "high": 12.0,
        "low": 9.0,
        "close": 11.0,
        "volume": 100.0,
    }
    return row | changed


def tick(**changed):
    return {"id": "a", "ts": NOON, "price": 1.0} | changed


def decoded_frame(stream, frame):
    return decode(stream, frame)


def decoded_text(stream, frame):
    return Decoder(stream, frame.columns, "x.csv", text=True).decode(frame, "p")


def decoded(stream, *rows):
    return decode(stream, pl.DataFrame(list(rows), strict=False, infer_schema_length=None))


def test_a_sound_row_comes_out_as_it_went_in():
    batch, dead = decoded(bars, bar(), bar(instrument_id="MSFT", timeframe="1h"))
    assert len(dead) == 0
    assert batch.keys.strings() == ["AAPL", "MSFT"]
    assert batch.series.strings() == ["1m", "1h"]
    assert batch.ts_ns.tolist() == [NOON_NS, NOON_NS]
    assert batch.columns["high"].tolist() == [12.0, 12.0]
    assert (batch.arrival_ns, batch.end, batch.clock_ns) == (None, False, NOON_NS)


REFUSED = {
    "text for a number": (bars, bar(open="x"), "wrong_type", "`open` must be a number, got 'x'"),
    "truth for a number": (bars, bar(open=True), "wrong_type", "`open` must be a number, got True"),
    "no number": (bars, bar(open=None), "missing", "`open` must be there, got none"),
    "no entity": (bars, bar(instrument_id=None), "missing", "`instrument_id` must be there"),
    "empty entity": (bars, bar(instrument_id=""), "missing", "`instrument_id` must be there"),
    "a number with a point as entity": (
        bars, bar(instrument_id=1.5), "wrong_type", "`instrument_id` must be a text, got 1.5"
    ),
    "long entity": (bars, bar(instrument_id="x" * 65), "bad_entity", "at most 64 .* got 65: 'xxx"),
    "odd entity": (bars, bar(instrument_id="a b"), "bad_entity", "letters, digits .*, got 'a b'"),
    "entity with a line feed": (bars, bar(instrument_id="AAPL\n"), "bad_entity", r"got 'AAPL\\n'"),
    "odd series": (bars, bar(timeframe="1 m"), "bad_series", "letters, digits .*, got '1 m'"),
    "series no duration": (bars, bar(timeframe="day"), "bad_duration", "such as '1h', got 'day'"),
    "series too long": (bars, bar(timeframe="9999d"), "bad_duration", "at most 366 days"),
    "infinite": (bars, bar(high=float("inf")), "not_finite", "`high` must be finite, got inf"),
    "not a number": (bars, bar(volume=float("nan")), "not_finite", "`volume` must be finite"),
    "price zero": (bars, bar(low=0.0), "out_of_bounds", "`low` must be above 0, got 0.0"),
    "volume below zero": (bars, bar(volume=-1.0), "out_of_bounds", "must be at least 0, got -1.0"),
    "high below low": (
        bars,
        bar(open=1.0, high=1.0, low=2.0, close=1.5),
        "broken_rule",
        "`high` must not be below `low`, got 1.0 < 2.0",
    ),
    "close above high": (bars, bar(close=12.5), "broken_rule", "`high` must not be below `close`"),
    "first check wins": (bars, bar(instrument_id="a b", high=-1.0), "bad_entity", "got 'a b'"),
    "a kind before a gap": (bars, bar(open=None, volume="x"), "wrong_type", "`volume` must be"),
    "year 1980": (bars, bar(ts=datetime(1980, 1, 1, tzinfo=UTC)), "time_range", "1990-01-01 and"),
    "year 9999": (bars, bar(ts="9999-01-01T00:00:00Z"), "time_range", "got '9999-01-01T00:00:00Z'"),
    "seconds in ts": (bars, bar(ts=1_704_196_800), "time_unit", "fit in another unit"),
    "nanoseconds in ts": (bars, bar(ts=NOON_NS), "time_unit", "got 1704196800000000000, which"),
    "no unit fits": (bars, bar(ts=7), "time_range", "`ts` must lie between .*, got 7"),
    "a day": (bars, bar(ts=NOON.date()), "wrong_type", "`ts` must be a time: RFC 3339"),
    "words for a time": (bars, bar(ts="noon"), "wrong_type", "`ts` must be a time.*got 'noon'"),
    "seconds with a point": (bars, bar(ts=1.7e12), "wrong_type", "`ts` must be a time"),
    "sentiment": (
        news,
        {"instrument_id": "A", "event_id": "e", "ts": NOON, "sentiment": 1.1, "confidence": 0.5},
        "out_of_bounds",
        "`sentiment` must be at most 1, got 1.1",
    ),
    "id with a point": (
        trades,
        {"instrument_id": "A", "trade_id": 1.5, "ts": NOON, "price": 1.0, "size": 1.0},
        "wrong_type",
        "`trade_id` must be a text or whole number, got 1.5",
    ),
    "before its time": (
        TICKS,
        tick(arrival_ts=NOON - timedelta(seconds=6)),
        "time_ahead",
        "`ts` must not be more than 5s after `arrival_ts`, got 6s",
    ),
    "no arrival": (TICKS, tick(arrival_ts=None), "missing", "`arrival_ts` must be there"),
    "arrival unit": (TICKS, tick(arrival_ts=17), "time_range", "`arrival_ts` must lie between"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("stream", "row", "reason", "message"), REFUSED.values(), ids=REFUSED.keys()
)
def test_a_bad_row_is_refused_for_one_reason(stream, row, reason, message):
    batch, dead = decoded(stream, row)
    assert len(batch) == 0
    assert batch.keys.names == ()
    assert dead.reasons == (Reason(reason),)
    with pytest.raises(ValueError, match=message):
        raise ValueError(dead.messages[0])
    assert dead.positions == (0,)
    assert json.loads(dead.originals[0]).keys() == row.keys()


def test_a_bad_row_harms_no_other():
    rows = [bar(close=10 + i / 100) for i in range(100)]
    bad = {3: bar(high=-1.0), 50: bar(instrument_id="?"), 99: bar(volume=None)}
    batch, dead = decoded(bars, *(bad.get(i, row) for i, row in enumerate(rows)))
    assert dead.positions == (3, 50, 99)
    assert dead.reasons == (Reason.OUT_OF_BOUNDS, Reason.BAD_ENTITY, Reason.MISSING)
    kept = [row["close"] for i, row in enumerate(rows) if i not in bad]
    assert batch.columns["close"].tolist() == kept
    assert batch.keys.names == ("AAPL",)


def test_a_column_that_is_not_there_is_missing_in_every_row():
    frame = pl.DataFrame([bar(), bar()]).drop("volume")
    batch, dead = decoded_frame(bars, frame)
    assert (len(batch), set(dead.messages)) == (0, {"`volume` must be there, got none"})


def test_a_nullable_number_may_be_null_or_nan_and_has_one_spelling_of_it():
    odd_nan = np.array([0x7FF8000000000123], np.uint64).view(np.float64)[0]
    frame = pl.DataFrame([tick(note=None), tick(note=2.0), tick(note=0.0)])
    frame = frame.with_columns(note=pl.Series([None, odd_nan, -0.0]))
    batch, dead = decoded_frame(TICKS, frame)
    assert len(dead) == 0
    bits = batch.columns["note"].view(np.uint64)
    assert bits[0] == bits[1] == np.array([np.nan]).view(np.uint64)[0]
    assert bits[2] == 0


def test_without_its_column_a_nullable_field_is_null():
    batch, dead = decoded(TICKS, tick())
    assert len(dead) == 0
    assert np.isnan(batch.columns["note"]).all()


@pytest.mark.parametrize("type_", [pl.Int8, pl.UInt64, pl.Float32, pl.Decimal(10, 2)])
def test_any_number_type_is_a_number(type_):
    frame = pl.DataFrame([tick()]).with_columns(price=pl.Series([7]).cast(type_))
    batch, dead = decoded_frame(TICKS, frame)
    assert (batch.columns["price"].tolist(), len(dead)) == ([7.0], 0)


@pytest.mark.parametrize("type_", [pl.String, pl.Categorical, pl.Enum(["b", "a", "unused"])])
def test_any_text_type_is_a_label(type_):
    frame = pl.DataFrame([tick(id="a"), tick(id="b")]).with_columns(pl.col("id").cast(type_))
    batch, _ = decoded_frame(TICKS, frame)
    assert batch.keys.strings() == ["a", "b"]
    assert set(batch.keys.names) == {"a", "b"}


def test_a_whole_number_is_a_label_as_its_digits():
    assert decoded(TICKS, tick(id=42))[0].keys.strings() == ["42"]


def test_ids_are_whole_numbers_or_hashes_and_agree_across_formats():
    def ids(*values):
        rows = [
            {"instrument_id": "A", "trade_id": v, "ts": NOON, "price": 1.0, "size": 1.0}
            for v in values
        ]
        return decoded(trades, *rows)[0].columns["trade_id"].tolist()

    hashed = hash_names(["t-1", "007"]).tolist()
    assert ids(123, -5) == ids("123", "-5") == [123, -5]
    assert ids("t-1", "007", "12") == [*hashed, 12]


def test_a_null_id_has_a_value_of_its_own():
    row = {"asset_id": "m", "channel": "x", "asset_type": None, "ts": NOON, "value": 1.0}
    batch, dead = decoded(readings(100), row)
    assert (batch.columns["asset_type"].tolist(), len(dead)) == ([NULL_ID], 0)


# -- time -------------------------------------------------------------------------------------

SPELLINGS = {
    "RFC 3339": {"ts": "2024-01-02T12:00:00Z"},
    "with an offset": {"ts": "2024-01-02T13:00:00.000+01:00"},
    "with a space, without an offset": {"ts": "2024-01-02 12:00:00"},
    "epoch milliseconds": {"ts": NOON_NS // 10**6},
    "epoch milliseconds as text": {"ts": str(NOON_NS // 10**6)},
    "timestamp with another zone": {"ts": NOON.astimezone(timezone(timedelta(hours=9)))},
    "timestamp without a zone": {"ts": NOON.replace(tzinfo=None)},
    "ts_ns": {"ts_ns": NOON_NS},
    "ts_us": {"ts_us": NOON_NS // 10**3},
    "ts_ms": {"ts_ms": NOON_NS // 10**6},
    "ts_s": {"ts_s": NOON_NS // 10**9},
    "ts_s as text": {"ts_s": str(NOON_NS // 10**9)},
    "the exact one of two": {"ts": NOON, "ts_ns": NOON_NS},
}


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_of_a_time_is_the_same_instant(spelled):
    batch, dead = decoded(TICKS, {"id": "a", "price": 1.0} | spelled)
    assert dead.messages == ()
    assert batch.ts_ns.tolist() == [NOON_NS]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_arrow_timestamps_of_any_unit_are_times(unit):
    times = pa.array([NOON_NS]).cast(pa.timestamp("ns")).cast(pa.timestamp(unit))
    table = pa.table({"id": ["a"], "price": [1.0], "ts": times, "arrival_ts": times})
    batch, dead = decoded_frame(TICKS, table)
    assert (len(dead), batch.ts_ns.tolist(), batch.arrival_ns.tolist()) == (0, [NOON_NS], [NOON_NS])


def test_times_of_mixed_spelling_in_one_column_are_read_row_by_row():
    texts = ["1704196800000", "2024-01-02T12:00:00Z", "1704196800", "soon", None]
    batch, dead = decoded_frame(TICKS, pl.DataFrame([tick(ts=text) for text in texts]))
    assert batch.ts_ns.tolist() == [NOON_NS, NOON_NS]
    assert dead.reasons == (Reason.TIME_UNIT, Reason.WRONG_TYPE, Reason.MISSING)


def naive_rfc3339(text):
    """The time of a text with at most microseconds."""
    time = datetime.fromisoformat(text)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return (time.replace(tzinfo=time.tzinfo or UTC) - epoch) // timedelta(microseconds=1) * 1000


def parsed(*texts):
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)])
    return parse_rfc3339(np.frombuffer(b"".join(encoded) or b"\0", np.uint8), offsets)


@given(
    st.datetimes(datetime(1700, 1, 1), datetime(2260, 1, 1)),  # noqa: DTZ001 - any zone is added
    st.sampled_from([None, 0, 60, -90, 840, -720]),
    st.sampled_from("T "),
)
def test_times_agree_with_pythons_own(time, offset, separator):
    zone = None if offset is None else timezone(timedelta(minutes=offset))
    text = time.replace(tzinfo=zone).isoformat(sep=separator)
    states, times_ns = parsed(text)
    assert (states[0], times_ns[0]) == (READ, naive_rfc3339(text))


@pytest.mark.parametrize(
    "text",
    [
        "", "2024-01-02", "2024-01-02T12:00", "2024-02-30T00:00:00Z", "2023-02-29T00:00:00Z",
        "2024-13-01T00:00:00Z", "2024-00-01T00:00:00Z", "2024-01-01T24:00:00Z",
        "2024-01-01T00:60:00Z", "2024-01-01T00:00:61Z", "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00,5Z", "2024-01-01T00:00:00+1", "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00 Z", "24-01-01T00:00:00Z   ", "2024/01/01T00:00:00Z",
        "2024-01-01T00:00:00+01:6x", "+024-01-01T00:00:00Z",
    ],
)  # fmt: skip
def test_what_is_no_time_is_not_taken_for_one(text):
    assert parsed(text)[0].tolist() == [MALFORMED]


def test_nanoseconds_leap_seconds_and_far_years_are_read():
    states, times_ns = parsed(
        "2024-01-02T12:00:00.123456789Z", "2024-01-02T12:00:00.1234567899Z",
        "2016-12-31T23:59:60Z", "1677-01-01T00:00:00Z", "2262-01-01T00:00:00Z",
    )  # fmt: skip
    assert states.tolist() == [READ, READ, READ, TOO_FAR, TOO_FAR]
    assert times_ns[:3].tolist() == [NOON_NS + 123456789] * 2 + [1_483_228_800 * 10**9]


def test_bars_stamped_at_their_start_are_moved_to_their_end():
    stream = replace(bars, start_stamped=True)
    rows = [bar(timeframe="1m"), bar(timeframe="1d"), bar(timeframe="never")]
    frame = pl.DataFrame(rows).rename({"ts": "start_ts"})
    batch, dead = decoded_frame(stream, frame)
    assert (batch.ts_ns - NOON_NS).tolist() == [60 * 10**9, 86_400 * 10**9]
    assert dead.reasons == (Reason.BAD_DURATION,)


def test_a_message_is_true_at_its_end():
    batch, dead = decoded(windows, message(values=[1.0] * 500, sampling_rate_hz=1000.0))
    assert len(dead) == 0
    assert batch.ts_ns.tolist() == [NOON_NS + 10**9 // 2]
    assert batch.clock_ns == NOON_NS + 10**9 // 2


def test_a_file_without_a_time_is_refused():
    with pytest.raises(
        RefusedInputError,
        match=r"x\.csv: rows of stream `bars` must say when they end in `ts` .* found \['close'\]; "
        "name the time column `ts`",
    ):
        Decoder(bars, ["close"], "x.csv")


@pytest.mark.parametrize(
    ("stream", "column", "hint"),
    [
        (bars, "start_ts_ms", "stamp the start of a row, declare .* start_stamped=True"),
        (windows, "ts", "stamp the end of a row, declare .* start_stamped=False"),
    ],
)
def test_start_or_end_is_never_guessed(stream, column, hint):
    with pytest.raises(RefusedInputError, match=hint):
        Decoder(stream, [column, "instrument_id"], "x.parquet")


def test_the_dead_move_the_clock_if_their_time_is_sound():
    late, broken = NOON + timedelta(hours=1), NOON + timedelta(hours=2)
    batch, dead = decoded(TICKS, tick(), tick(ts=late, price=-1.0), tick(ts=broken, id=None))
    assert (len(batch), len(dead)) == (1, 2)
    assert batch.clock_ns == NOON_NS + 7200 * 10**9
    batch, _ = decoded(TICKS, tick(), tick(ts=datetime(2200, 1, 1, tzinfo=UTC)))
    assert batch.clock_ns == NOON_NS


def test_arrival_is_the_clock_where_there_is_one():
    arrival = NOON + timedelta(seconds=30)
    batch, _ = decoded(TICKS, tick(arrival_ts=arrival))
    assert batch.clock_ns == batch.arrival_ns[0] == NOON_NS + 30 * 10**9
    decoder = Decoder(TICKS, ["ts", "arrival_ts"], "x")
    clock_ns, told = decoder.clock(pl.DataFrame({"arrival_ts": [arrival, None]}))
    assert (clock_ns[0], told.tolist()) == (batch.clock_ns, [True, False])


# -- samples ----------------------------------------------------------------------------------


def message(**changed):
    row = {
        "asset_id": "m1",
        "channel": "x",
        "start_ts": NOON,
        "sampling_rate_hz": 100.0,
        "values": [1.0, -0.0],
    }
    return row | changed


BAD_MESSAGES = {
    "empty": (message(values=[]), "no_samples", "`values` must hold samples, got none"),
    "null": (message(values=None), "missing", "`values` must be there"),
    "infinite": (message(values=[1.0, np.inf]), "not_finite", "finite, got inf at sample 1"),
    "a null inside": (message(values=[1.0, None]), "wrong_type", "must be a list of numbers"),
    "no rate": (message(sampling_rate_hz=0.0), "out_of_bounds", "must be above 0, got 0.0"),
    "rate below zero": (message(sampling_rate_hz=-1.0), "out_of_bounds", "above 0, got -1.0"),
    "endless": (message(sampling_rate_hz=1e-300), "time_range", "at most 366 days"),
}


@pytest.mark.parametrize(("row", "reason", "words"), BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
def test_a_bad_message_is_refused(row, reason, words):
    batch, dead = decoded(windows, message(), row, message(values=[3.0]))
    assert dead.positions == (1,)
    assert dead.reasons == (Reason(reason),)
    assert words in dead.messages[0]
    samples = batch.columns["values"]
    assert [samples.flat[s : s + n].tolist() for s, n in zip(samples.start, samples.length)] == [  # noqa: B905
        [1.0, 0.0],
        [3.0],
    ]


@pytest.mark.parametrize("type_", [pl.List(pl.Float32), pl.Array(pl.Int64, 2), pl.List(pl.Int16)])
def test_any_list_of_numbers_is_samples(type_):
    frame = pl.DataFrame([message(values=[1, 2])]).with_columns(pl.col("values").cast(type_))
    batch, dead = decoded_frame(windows, frame)
    assert len(dead) == 0
    samples = batch.columns["values"]
    assert isinstance(samples, Samples)
    assert samples.flat.tolist() == [1.0, 2.0]


def test_a_slice_of_a_frame_has_its_own_samples():
    frame = pl.DataFrame([message(values=[float(i)] * i) for i in range(1, 6)])
    batch, _ = decoded_frame(windows, frame[2:4])
    samples = batch.columns["values"]
    assert samples.length.tolist() == [3, 4]
    assert samples.flat[samples.start].tolist() == [3.0, 4.0]


def test_bounds_hold_for_samples_too():
    stream = replace(windows, fields=(windows.fields[1], Field("values", kind="samples", most=5)))
    _, dead = decoded(stream, message(values=[1.0, 9.0]))
    assert dead.messages == ("`values` must be at most 5, got 9.0 at sample 1",)


# -- text -------------------------------------------------------------------------------------


def test_text_is_parsed_where_numbers_come_as_text():
    columns = ["id", "ts", "price", "note"]
    rows = [["a", "2024-01-02T12:00:00Z", value, ""] for value in ("1.5", " 2e3 ", "", "x", "nan")]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
    batch, dead = decoded_text(TICKS, frame)
    assert batch.columns["price"].tolist() == [1.5, 2000.0]
    assert dead.reasons == (Reason.MISSING, Reason.WRONG_TYPE, Reason.NOT_FINITE)


def test_numbers_in_text_are_rounded_like_everywhere_else():
    rng = random.Random(7)
    texts = [
        f"{rng.random() * 10 ** rng.randint(-9, 9):.{rng.randint(1, 20)}g}" for _ in range(999)
    ]
    frame = pl.DataFrame({"id": "a", "ts": "2024-01-02T12:00:00Z", "price": texts})
    batch, _ = decoded_text(TICKS, frame)
    assert batch.columns["price"].tolist() == [float(text) for text in texts]


def test_samples_in_text_are_json():
    written = ["[1, 2.5]", "[1, null]", "1,2", "", "[]"]
    frame = pl.DataFrame(
        [message(values=w, sampling_rate_hz="10", start_ts="1704196800000") for w in written]
    )
    batch, dead = decoded_text(windows, frame)
    assert batch.columns["values"].flat[:2].tolist() == [1.0, 2.5]
    reasons = (Reason.WRONG_TYPE, Reason.WRONG_TYPE, Reason.MISSING, Reason.NO_SAMPLES)
    assert dead.reasons == reasons


KINDS = (
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=5),
    st.lists(st.floats(), max_size=2), st.datetimes(), st.dates(), st.timedeltas(),
    st.binary(max_size=3), st.just("2024-01-02T12:00:00Z"), st.just(10.0), st.just("1m"),
)  # fmt: skip
COLUMN = st.sampled_from(KINDS).flatmap(
    lambda kind: st.lists(st.none() | kind, min_size=3, max_size=3)
)


@given(st.fixed_dictionaries(dict.fromkeys(bar(), COLUMN)))
def test_no_garbage_crashes_and_no_row_is_lost(columns):
    batch, dead = decoded_frame(bars, pl.DataFrame(columns, strict=False))
    assert len(batch) + len(dead) == 3
    assert all(dead.messages)
    assert [json.loads(original).keys() for original in dead.originals] == [bar().keys()] * len(
        dead
    )


def test_an_empty_frame_gives_an_empty_batch():
    batch, dead = decoded_frame(bars, pl.DataFrame([bar()]).clear())
    assert (len(batch), len(dead)) == (0, 0)
    assert batch.series is not None


@given(
    st.lists(
        st.one_of(
            st.integers(-(2**64), 2**64).map(str),
            st.sampled_from([-(2**63) - 1, -(2**63), 2**63 - 1, 2**63]).map(str),
            st.sampled_from(
                ["", "-", "0", "-0", "00", "+1", " 1", "1 ", "1e3", "1.0", "٣", "-01", "9" * 40]
            ),
            st.text("0123456789-+. x", max_size=21),
        )
    )
)
def test_whole_numbers_are_those_that_python_would_spell_the_same(texts):
    encoded = [text.encode() for text in texts]
    ends = np.concatenate([[0], np.cumsum([len(each) for each in encoded])]).astype(np.int64)
    ends.setflags(write=False)
    data = np.frombuffer(b"".join(encoded) or b"\0", np.uint8)
    values, spelled = parse_whole(data, ends)

    def naive(text):
        try:
            number = int(text)
        except ValueError:
            return 0, False
        held = str(number) == text and -(2**63) <= number < 2**63
        return (number, True) if held else (0, False)

    assert list(zip(values.tolist(), spelled.tolist(), strict=True)) == [naive(t) for t in texts]
