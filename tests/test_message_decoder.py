"""Messages become the same rows as lines of a file do, each by itself, or letters that say why."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.streams import trades, windows
from operators.batch import NO_CLOCK_NS, Batch, Samples
from operators.dead_letters import DeadLetters, Reason, Record
from operators.streams import Field, Stream
from sources.message_decoder import MessageDecoder
from sources.messages import Messages, Read
from sources.reader import PartitionReader

T0_MS = 1_704_196_800_000
TICKS = Stream(
    "ticks",
    "id",
    (
        Field("price", above=0, nullable=True),
        Field("name", kind="id", nullable=True),
        Field("values", kind="samples"),
    ),
    series="channel",
    max_delay_ns=10**18,
)
GOOD = {
    "id": "A",
    "channel": "x",
    "ts": T0_MS,
    "price": 1.5,
    "values": [1],
    "arrival_ts": T0_MS + 10,
}


def messages_of(values: Sequence[bytes | None], first: int = 0) -> Messages:
    stamps = np.full(len(values), T0_MS + 10, np.int64)
    offsets = np.arange(first, first + len(values), dtype=np.int64)
    return Messages(values, offsets, stamps, lambda index: Record(b"%d" % index, (), T0_MS + 10))


def decoded(values: Sequence[bytes | None], stream: Stream = TICKS, **more: Any) -> Read:
    decoder = MessageDecoder(stream, partitioner="none", **more)
    return decoder.decode(messages_of(values), "0", NO_CLOCK_NS)


def rows(batch: Batch) -> list[tuple[Any, ...]]:
    """Rows as plain values, floats by their bits."""
    columns: list[list[Any]] = [batch.keys.strings(), batch.ts_ns.tolist()]
    if batch.series is not None:
        columns.append(batch.series.strings())
    if batch.arrival_ns is not None:
        columns.append(batch.arrival_ns.tolist())
    for values in batch.columns.values():
        if isinstance(values, Samples):
            spans = zip(values.start, values.start + values.length, strict=True)
            flat = values.flat.view(np.int64)
            columns.append([tuple(flat[start:end].tolist()) for start, end in spans])
        else:
            columns.append(values.view(np.int64).tolist())
    return list(zip(*columns, strict=True))


def placed(read: Read) -> dict[int, tuple[Any, ...]]:
    """What became of each message: its row, or the reason and words of its letter."""
    assert read.batch.positions is not None
    found = dict(zip(read.batch.positions.tolist(), rows(read.batch), strict=True))
    for letters in (read.dead, read.late):
        for at, reason, words in zip(
            letters.positions, letters.reasons, letters.messages, strict=True
        ):
            assert at not in found
            found[at] = (str(reason), words)
    return found


def from_lines(
    lines: Sequence[bytes], folder: Path, stream: Stream = TICKS
) -> tuple[list[tuple[Any, ...]], DeadLetters]:
    """Rows of a JSON Lines file."""
    path = folder / "lines.jsonl"
    path.write_bytes(b"\n".join(lines))
    reader = PartitionReader(stream, path, 10**6)
    found: list[tuple[Any, ...]] = []
    dead: list[DeadLetters] = []
    while not reader.ended:
        batch, letters = reader.read()
        found += rows(batch)
        dead.append(letters)
    (letters,) = [some for some in dead if len(some)] or [DeadLetters("", "")]
    return found, letters


NUMBERS = [
    "0", "-0", "-0.0", "1", "12.50", "1e3", "1E+2", "1e-7", "123456789012345678", "0.1",
    "1234567890123456789", "12345678901234567890", "99999999999999999999999", "1e22", "1e23",
    "9223372036854775807", "9223372036854775808", "-9223372036854775807", "-9223372036854775808",
    "9007199254740993", "0.30000000000000004", "1.7976931348623157e308", "5e-324", "2.5e-320",
    "1e309", "-1e400", "123456789.123456789123456789", "100.4485213578664512345", "3.14159e250",
    "1" + "0" * 100 + "e250", "-1" + "0" * 400 + ".5", "1" + "0" * 280 + ".5",
    "1" + "0" * 300 + "e-290", "1" + "0" * 400,
    "0.000000000000000000000000000000001234567890123456", "01", "1.", ".5", "+1", "1e", "--1", "-",
    "NaN", "Infinity", "true", "null", '"1"', '""', "[]", "{}", "[1]", "[1,2.5]", "[1, \"2\"]",
    "[1,]", "[,1]", "[1 2]", "[ 1 , 2e5 , 0.30000000000000004 ]", "[[1]]", '{"a":1}', '"\\u0041"',
    '"a\\"b"', '"ä"', '"\\ud800"', '"tab\\t"', '"x\ty"', "nul", "tru", "1x", "1.5.5", "1e5e5",
]  # fmt: skip
TAILS = [
    "", ',"more":{"a":[1,{"b":null}]}', ',"more":{"a":1,"a":2}', ',"x":1,"x":1', ',"x":[{},[]]',
    ',"more":"} {"', ',"price":2', ',"pr\\u0069ce":2', ',"text":"a\\\\"', ',"text":"\\"',
    ",", ',"x"', ',"x":{"k" : 1}',
    ',"x":', ',"x":1e999', ',"x":01', ',"ä":"ö"', ',"x":[1}', ',"deep":' + "[" * 30 + "]" * 30,
    ',"t":true,"f":false,"n":null', ',"x":truth', ',"":1', ',"":1,"":2', ',"x":"\x01"',
]  # fmt: skip


def spelled(chance: random.Random) -> bytes:
    """A message of the stream, or something like it."""
    fields = {
        "id": chance.choice(['"A"', '"B/c"', "7", '"007"', '"a b"', "null", '"' + "x" * 70 + '"']),
        "channel": '"x"',
        "ts": chance.choice(
            [str(T0_MS), f'"{T0_MS}"', '"2024-01-02T12:00:00.5Z"', "1.5", '"no"', "12"]
        ),
        "arrival_ts": str(T0_MS + 10),
        "price": chance.choice(NUMBERS),
        "name": chance.choice(NUMBERS),
        "values": chance.choice(NUMBERS),
    }
    for name in ("id", "channel", "ts", "arrival_ts"):
        if chance.random() < 0.8 and name != "arrival_ts":
            fields[name] = {"id": '"A"', "channel": '"x"', "ts": str(T0_MS)}[name]
    if chance.random() < 0.7:
        fields["values"] = chance.choice(["[1]", "[1, -2.5e-3]", "[0.30000000000000004,7]", "[]"])
    for name in ("price", "name"):
        if chance.random() < 0.5:
            fields.pop(name)
    if chance.random() < 0.02:
        fields.pop(chance.choice(list(fields)))
    items = list(fields.items())
    if chance.random() < 0.3:
        chance.shuffle(items)
    gap = chance.choice(["", "", " ", "  "])
    body = f",{gap}".join(f'"{name}"{gap}:{gap}{value}' for name, value in items)
    tail = chance.choice(TAILS) if chance.random() < 0.3 else ""
    text = gap + "{" + body + tail + gap + "}" + gap
    made = bytearray(text.encode())
    if chance.random() < 0.15:
        for _ in range(chance.randrange(1, 3)):
            at = chance.randrange(len(made))
            if chance.random() < 0.5:
                made[at] = chance.randrange(256)
            else:
                del made[at : at + chance.randrange(1, 9)]
    return bytes(made)


def corpus(seed: int, count: int) -> list[bytes]:
    chance = random.Random(seed)
    made = [spelled(chance) for _ in range(count)]
    # What a file takes for the end of a line, or for none, is left to the tests of files.
    kept = [text for text in made if not set(text) & set(b"\r\n\v\f\x1c\x1d\x1e\x85")]
    return [text for text in kept if text.strip() and text.strip(b" \t") == text.strip()]


@pytest.mark.parametrize("seed", range(4))
def test_messages_are_the_rows_that_lines_of_a_file_are(seed, tmp_path):
    whole = {"name": "n"}
    texts = [json.dumps(GOOD | whole).encode(), *corpus(seed, 1500)]
    expected, dead = from_lines(texts, tmp_path)
    read = decoded(texts, arrival="column")
    assert rows(read.batch) == expected
    assert len(expected) > 150
    assert [at + 1 for at in read.dead.positions] == list(dead.positions)
    assert read.dead.originals == dead.originals
    different = {
        (ours, theirs, text)
        for ours, theirs, text in zip(read.dead.reasons, dead.reasons, dead.originals, strict=True)
        if ours != theirs
    }
    assert not different


@pytest.mark.parametrize("seed", range(4, 6))
def test_no_message_changes_how_another_is_read(seed):
    texts = corpus(seed, 400)
    together = placed(decoded(texts, arrival="column"))
    decoder = MessageDecoder(TICKS, partitioner="none", arrival="column")
    alone: dict[int, tuple[Any, ...]] = {}
    for index, text in enumerate(texts):
        alone |= placed(decoder.decode(messages_of([text], index), "0", NO_CLOCK_NS))
    # The time that a row lacks is named after those of its neighbours.
    assert {at: row[:1] for at, row in together.items()} == {
        at: row[:1] for at, row in alone.items()
    }
    assert {at: row for at, row in together.items() if len(row) > 2} == {
        at: row for at, row in alone.items() if len(row) > 2
    }


@settings(max_examples=300)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_is_rounded_as_python_does(value):
    texts = [repr(value), f"{value:.17g}", f"{value:.20e}", f"{value:.3f}"]
    made = [
        b'{"id":"A","channel":"x","ts":%d,"price":%s}' % (T0_MS, text.encode()) for text in texts
    ]
    stream = replace(TICKS, fields=(Field("price"),))
    found = decoded(made, stream).batch.columns["price"]
    assert isinstance(found, np.ndarray)
    expected = [np.float64(float(text)) + 0.0 for text in texts]
    assert found.view(np.int64).tolist() == np.array(expected).view(np.int64).tolist()


@settings(max_examples=300)
@given(
    st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
)
def test_every_spelling_of_a_number_is_read(text):
    made = b'{"id":"A","channel":"x","ts":%d,"price":%s,"values":[1,%s]}'
    stream = replace(TICKS, fields=(Field("price"), Field("values", kind="samples")))
    read = decoded([made % (T0_MS, text.encode(), text.encode())], stream)
    expected = float(text)
    if np.isinf(expected):
        assert list(read.dead.reasons) == [Reason.NOT_FINITE]
        return
    price, values = read.batch.columns["price"], read.batch.columns["values"]
    assert isinstance(price, np.ndarray)
    assert isinstance(values, Samples)
    assert price.tolist() == values.flat[1:].tolist() == [expected]


def with_(**more: Any) -> bytes:
    return json.dumps(GOOD | more).encode()


LETTERS: dict[str, tuple[bytes | None, Reason, str]] = {
    "a tombstone": (None, Reason.TOMBSTONE, "must have a value, got a tombstone"),
    "nothing": (b"", Reason.MALFORMED, "a message must be a JSON object"),
    "too large": (b'"' + b"x" * 300_000, Reason.TOO_LARGE, "at most 262144 bytes, got 300001"),
    "too large to look at": (b"\xff" * 300_000, Reason.TOO_LARGE, "at most 262144 bytes"),
    "other bytes": (b'{"id":"\xff"}', Reason.NOT_UTF8, "must be UTF-8, got byte 0xff at 7"),
    "a lone surrogate": (b'{"id":"\xed\xa0\x80"}', Reason.NOT_UTF8, "must be UTF-8"),
    "garbage": (b"garbage", Reason.MALFORMED, "a message must be a JSON object, got: JSON is"),
    "two objects": (with_() + with_(), Reason.MALFORMED, "a message must be a JSON object"),
    "two lines": (with_() + b"\n" + with_(), Reason.MALFORMED, "a message must be a JSON object"),
    "a mark in front": (b"\xef\xbb\xbf" + with_(), Reason.MALFORMED, "must be a JSON object"),
    "a list": (b"[1, 2]", Reason.MALFORMED, r"must be a JSON object, got \[1, 2\]"),
    "a key twice": (with_()[:-1] + b',"x":1,"x":1}', Reason.DUPLICATE_KEY, "got 'x' twice"),
    "a key twice inside": (with_(x=0)[:-2] + b'{"k":1,"k":1}}', Reason.DUPLICATE_KEY, "'k' twice"),
    "33 deep": (with_(x=0)[:-2] + b"[" * 32 + b"]" * 32 + b"}", Reason.TOO_DEEP, "32 .* got 33"),
    "very deep": (b"[" * 100_000, Reason.TOO_DEEP, "got 100000"),
    "no number": (b'{"price":NaN}', Reason.NOT_FINITE, "a number must be finite, got NaN"),
    "an infinity": (b'{"x":-Infinity}', Reason.NOT_FINITE, "must be finite, got -Infinity"),
    "beyond floats": (with_(price=0)[:-25] + b"}", Reason.MALFORMED, "must be a JSON object"),
    "a text for a number": (with_(price="1"), Reason.WRONG_TYPE, "must be a number, got '1'"),
    "a truth": (with_(id=True), Reason.WRONG_TYPE, "`id` must be a text or whole number, got True"),
    "no time": (with_(ts=None), Reason.MISSING, "`ts` must be there, got none"),
    "seconds": (with_(ts=T0_MS // 1000), Reason.TIME_UNIT, "would fit in another unit of time"),
    "long ago": (with_(ts=-(10**15)), Reason.TIME_RANGE, "must lie between"),
    "ahead": (with_(ts=T0_MS + 6000), Reason.TIME_AHEAD, "5s after `arrival_ts`, got 5.99s"),
    "below": (with_(price=-1), Reason.OUT_OF_BOUNDS, "`price` must be above 0, got -1.0"),
    "a name": (with_(id="a b"), Reason.BAD_ENTITY, "must be made of letters"),
}


@pytest.mark.parametrize(("value", "reason", "words"), LETTERS.values(), ids=LETTERS)
def test_what_cannot_be_used_is_a_letter_with_its_reason_and_bytes(value, reason, words):
    read = decoded([with_(), value, with_()])
    assert len(read.batch) == 2
    assert read.dead.positions == (1,)
    assert read.dead.reasons == (reason,)
    assert read.dead.originals == (value or b"",)
    assert read.dead.records == (Record(b"1", (), T0_MS + 10),)
    with pytest.raises(ValueError, match=words):
        raise ValueError(*read.dead.messages)
    assert read.came_in == 3


def test_the_depth_that_is_allowed_is_read():
    assert len(decoded([with_(x=0)[:-2] + b"[" * 31 + b"]" * 31 + b"}"]).batch) == 1


def test_the_stamp_of_the_message_wins_over_a_column_of_the_row():
    assert rows(decoded([with_(arrival_ts=5)]).batch)[0][3] == (T0_MS + 10) * 10**6
    column = decoded([with_(arrival_ts=T0_MS + 77)], arrival="column").batch
    assert rows(column)[0][3] == (T0_MS + 77) * 10**6
    assert column.clock_ns == (T0_MS + 77) * 10**6
    missing = {name: value for name, value in GOOD.items() if name != "arrival_ts"}
    dead = decoded([json.dumps(missing).encode()], arrival="column").dead
    assert dead.messages == ("`arrival_ts` must be there, got none",)


def test_the_clock_moves_with_every_message_the_broker_stamped():
    assert decoded([None]).batch.clock_ns == (T0_MS + 10) * 10**6
    assert decoded([None], arrival="producer").batch.clock_ns == NO_CLOCK_NS
    assert decoded([with_()], arrival="producer").batch.clock_ns == (T0_MS + 10) * 10**6


def test_times_may_be_spelled_in_several_ways_among_each_other():
    plain = {name: value for name, value in GOOD.items() if name != "ts"}
    ways: list[dict[str, Any]] = [
        {"ts_s": T0_MS // 1000}, {"ts": T0_MS}, {"ts_ns": T0_MS * 10**6}, {"ts_us": T0_MS * 1000},
        {"ts_ms": T0_MS}, {"ts": "2024-01-02T12:00:00Z"}, {}, {"ts_ns": T0_MS * 10**6, "ts": 5},
        {"ts_s": "x"},
    ]  # fmt: skip
    values = [json.dumps(plain | way | {"id": f"E{n}"}).encode() for n, way in enumerate(ways)]
    read = decoded(values)
    assert [(row[0], row[1]) for row in rows(read.batch)] == [
        (f"E{n}", T0_MS * 10**6) for n in (0, 1, 2, 3, 4, 5, 7)
    ]
    assert read.dead.positions == (6, 8)
    assert read.dead.reasons == (Reason.MISSING, Reason.WRONG_TYPE)
    assert read.came_in == 9


def test_late_rows_are_put_aside_with_their_bytes():
    stream = replace(TICKS, max_delay_ns=10**9)
    values = [with_(ts=T0_MS + 10 - ago) for ago in (0, 999, 1000, 1001, 50_000)]
    read = decoded(values, stream)
    assert len(read.batch) == 3
    assert read.late.positions == (3, 4)
    assert read.late.originals == tuple(values[3:])
    assert read.late.reasons == (Reason.LATE,) * 2
    assert read.late.messages[0] == "a row must arrive within 1s of its time, got 1.001s"
    assert not len(read.dead)


def arrow(made: list[dict[str, Any]], schema: pa.Schema | None = None) -> bytes:
    table = pa.Table.from_pylist(made, schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def test_a_message_of_rows_keeps_the_good_ones():
    made = [GOOD, GOOD | {"price": -1.0}, GOOD | {"price": 2.5}, GOOD | {"id": ""}]
    read = decoded([arrow(made), arrow([GOOD]), arrow([GOOD | {"price": -1.0}])], form="arrow")
    assert read.batch.positions is not None
    assert read.batch.positions.tolist() == [0, 0, 1]
    assert read.dead.positions == (0, 2)
    assert read.dead.rows == (2, 1)
    assert read.dead.messages == (
        "row 1 of 4: `price` must be above 0, got -1.0; 1 more were refused",
        "`price` must be above 0, got -1.0",
    )
    part = pa.ipc.open_stream(read.dead.originals[0]).read_all().to_pylist()
    assert part == [made[1], made[3]]
    assert read.dead.originals[1] == arrow([GOOD | {"price": -1.0}])
    assert read.came_in == 6


ARROWS: dict[str, tuple[Callable[[], bytes], str]] = {
    "garbage": (lambda: b"garbage", "must be an Arrow IPC stream"),
    "cut off": (lambda: arrow([GOOD])[:-60], "must be an Arrow IPC stream"),
    "no rows": (lambda: arrow([], pa.schema([("ts", pa.int64())])), "with rows, got none"),
    "a column twice": (
        lambda: arrow_of(pa.table([[1], [1]], names=["ts", "ts"])),
        r"with distinct columns, got \['ts'\] twice",
    ),
    "bad text": (
        lambda: arrow_of(
            pa.table({"id": pa.array([b"\xff"], pa.binary()).view(pa.string()), "ts": [T0_MS]})
        ),
        "Invalid UTF8",
    ),
}


def arrow_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(("make", "words"), ARROWS.values(), ids=ARROWS)
def test_what_is_no_arrow_message_is_a_letter(make, words):
    value = make()
    read = decoded([arrow([GOOD]), value], form="arrow")
    assert len(read.batch) == 1
    assert read.dead.originals == (value,)
    with pytest.raises(ValueError, match=words):
        raise ValueError(*read.dead.messages)


def test_arrow_messages_may_differ_in_their_columns():
    other = {name: value for name, value in GOOD.items() if name != "ts"}
    stamped = pa.schema(
        [
            ("id", pa.dictionary(pa.int8(), pa.string())),
            ("channel", pa.string()),
            ("ts", pa.timestamp("us")),
            ("values", pa.list_(pa.float32())),
        ]
    )
    values = [
        arrow([GOOD]),
        arrow([GOOD | {"id": "B", "ts": T0_MS * 1000}], stamped),
        arrow([other]),
        arrow([other | {"ts_s": T0_MS // 1000}]),
    ]
    read = decoded(values, form="arrow")
    assert [(row[0], row[1]) for row in rows(read.batch)] == [
        ("A", T0_MS * 10**6), ("B", T0_MS * 10**6), ("A", T0_MS * 10**6)
    ]  # fmt: skip
    assert read.dead.messages == ("`ts` must be there, got none",)


def test_shipped_streams_read_messages():
    trade = {"instrument_id": "A", "ts": T0_MS, "trade_id": 7, "price": 1, "size": 2, "side": None}
    assert len(decoded([json.dumps(trade).encode()], trades).batch) == 1
    window = {
        "asset_id": "A", "channel": "x", "start_ts": T0_MS - 3000, "sampling_rate_hz": 2,
        "values": [1, 2.5, 0.30000000000000004, 1e-5],
    }  # fmt: skip
    read = decoded([json.dumps(window).encode()], windows)
    assert read.batch.ts_ns.tolist() == [(T0_MS - 1000) * 10**6]
    values = read.batch.columns["values"]
    assert isinstance(values, Samples)
    assert values.flat.tolist() == window["values"]


def test_other_forms_are_refused():
    msg = "of messages must be one of"
    with pytest.raises(ValueError, match=msg):
        MessageDecoder(TICKS, "xml")
    with pytest.raises(ValueError, match=msg):
        MessageDecoder(TICKS, arrival="wall")
    with pytest.raises(ValueError, match=msg):
        MessageDecoder(TICKS, partitioner="random")
