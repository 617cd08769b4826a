"""Files as partitions: nothing lost, nothing twice, from any position, whatever the batches."""

import json
import random
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, cluster_main, run_main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.streams import bars, trades, windows
from operators.batch import NO_CLOCK_NS, Samples
from operators.dead_letters import Reason
from operators.decode import RefusedInputError
from operators.streams import Field, Stream
from sources import bytewax_files
from sources.alignment import Alignment
from sources.bytewax_files import FilesSource
from sources.csv import CsvFile
from sources.files import InputFile, list_files
from sources.lines import LineFile
from sources.parquet import ParquetFile
from sources.reader import PartitionReader
from sources.rows import Lines
from sources.stop import STOP
from sources.summary import scan_summary

TICKS = Stream("ticks", "id", (Field("price", above=0), Field("name", kind="id", nullable=True)))
BASE_MS = 1_704_196_800_000
MS = 10**6
FORMATS = ("parquet", "csv", "jsonl")
SETTINGS = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ticks(count, *, start=0, step=1000, shuffled=False, arrival=False, entity=None):
    rows = [
        {
            "id": entity or f"id{i % 3}",
            "ts": BASE_MS + start + i * step,
            # Every seventh price is refused.
            "price": -1.0 if i % 7 == 3 else 1 + i / 8,
            "name": f"n{i}",
        }
        for i in range(count)
    ]
    if arrival:
        for i, row in enumerate(rows):
            row["arrival_ts"] = row["ts"] + (i * 7 % 11) * 1500
        rows.sort(key=lambda row: row["arrival_ts"])
    if shuffled:
        random.Random(5).shuffle(rows)
    return pl.DataFrame(rows)


def write(path, frame):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame.write_parquet(path, row_group_size=17)
    elif path.suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_ndjson(path)
    return path


@dataclass
class Heard:
    """Everything that a reader said, row by row."""

    rows: list[Any]
    dead: list[Any]
    clocks: list[Any]
    ends: list[Any]


def hear(reads):
    heard = Heard([], [], [], [])
    for batch, dead in reads:
        values = [list(column) for column in batch.columns.values()]
        heard.rows += zip(batch.keys.strings(), batch.ts_ns.tolist(), *values, strict=True)
        heard.dead += zip(dead.positions, dead.reasons, dead.messages, dead.originals, strict=True)
        heard.clocks.append(batch.clock_ns)
        heard.ends.append(batch.end)
    return heard


@pytest.fixture(name="reader_of")
def make_reader():
    """Opens readers that may stop early, and closes them."""
    made = []

    def reader_of(*args, **options):
        made.append(PartitionReader(*args, **options))
        return made[-1]

    yield reader_of
    for reader in made:
        reader.close()


def read_all(stream, path, batch_rows=10, **options):
    reader = PartitionReader(stream, path, batch_rows, **options)
    reads = []
    while not reader.ended:
        reads.append(reader.read())
    reader.close()
    return hear(reads)


def read_with_stops(stream, path, sizes):
    """Reads one batch at a time, each with another size by another reader that goes on."""
    position, reads, sizes = None, [], iter(sizes)
    while position is None or not position["ended"]:
        reader = PartitionReader(stream, path, next(sizes, 50), position)
        reads.append(reader.read())
        position = json.loads(json.dumps(reader.position()))
        reader.close()
    return hear(reads)


# -- partitions -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("shuffled", [False, True])
def test_all_formats_give_the_same_rows_in_the_order_of_their_clock(tmp_path, suffix, shuffled):
    frame = ticks(100, shuffled=shuffled)
    heard = read_all(TICKS, write(tmp_path / f"a.{suffix}", frame))
    plain = read_all(TICKS, write(tmp_path / "plain.parquet", ticks(100)))
    assert heard.rows == plain.rows
    assert [message for _, _, message, _ in heard.dead] == [m for _, _, m, _ in plain.dead]
    assert len(heard.rows) + len(heard.dead) == 100
    assert heard.clocks == sorted(heard.clocks)


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_first_batch_is_empty_and_says_when_the_file_begins(reader_of, tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", ticks(20, start=500, shuffled=True))
    reader = reader_of(TICKS, path, 10)
    assert reader.clock_ns == NO_CLOCK_NS
    batch, dead = reader.read()
    assert (len(batch), len(dead), batch.end) == (0, 0, False)
    assert batch.clock_ns == (BASE_MS + 500) * MS
    assert read_all(TICKS, path).ends == [False, False, True]


def test_behind_the_end_the_end_is_said_again(reader_of, tmp_path):
    path = write(tmp_path / "a.csv", ticks(5))
    reader = reader_of(TICKS, path, 10)
    assert [reader.read()[0].end for _ in range(4)] == [False, True, True, True]
    resumed = reader_of(TICKS, path, 10, reader.position())
    batch, _ = resumed.read()
    assert (len(batch), batch.end, batch.clock_ns) == (0, True, reader.clock_ns)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("shuffled", [False, True])
@given(sizes=st.lists(st.integers(1, 40), max_size=20), batch_rows=st.integers(1, 60))
@SETTINGS
def test_any_batches_and_any_stops_give_the_same(tmp_path, suffix, shuffled, sizes, batch_rows):
    path = tmp_path / f"a.{suffix}"
    if not path.exists():
        write(path, ticks(90, shuffled=shuffled))
    whole = read_all(TICKS, path, 1000)
    for heard in (read_all(TICKS, path, batch_rows), read_with_stops(TICKS, path, sizes)):
        assert heard.rows == whole.rows
        assert sorted(heard.dead) == sorted(whole.dead)
        assert heard.clocks == sorted(heard.clocks)
        assert heard.clocks[-1] == whole.clocks[-1]
        assert heard.ends[-1]
        assert not any(heard.ends[:-1])


def test_batches_after_a_stop_are_those_that_would_have_come(reader_of, tmp_path):
    path = write(tmp_path / "a.parquet", ticks(90))
    reader = reader_of(TICKS, path, 20)
    for _ in range(3):
        reader.read()
    position = reader.position()
    rest = [len(reader.read()[0]) for _ in range(3)]
    resumed = reader_of(TICKS, path, 20, position)
    assert [len(resumed.read()[0]) for _ in range(3)] == rest


@pytest.mark.parametrize("suffix", FORMATS)
def test_arrival_orders_a_stream_that_has_it(tmp_path, suffix):
    sound = ticks(60, arrival=True)
    heard = read_all(TICKS, write(tmp_path / f"a.{suffix}", sound), 7)
    times = [row[1] for row in heard.rows]
    assert times != sorted(times)
    assert times == [t * MS for t, p in zip(sound["ts"], sound["price"], strict=True) if p > 0]
    mixed = write(tmp_path / f"b.{suffix}", sound.sample(fraction=1, shuffle=True, seed=3))
    clocks = read_all(TICKS, mixed, 7).clocks
    assert clocks == sorted(clocks)


def test_equal_clocks_keep_the_order_of_the_file_and_bad_clocks_stay_behind_their_neighbour(
    tmp_path,
):
    lines = [
        '{"id":"a","ts":1704196802000,"price":1}',
        '{"id":"a","ts":"soon","price":2}',
        '{"id":"a","ts":1704196801000,"price":3}',
        "garbage",
        '{"id":"a","ts":1704196801000,"price":4}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    heard = read_all(TICKS, tmp_path / "a.jsonl", 1)
    assert [row[2] for row in heard.rows] == [3.0, 4.0, 1.0]
    assert [position for position, *_ in heard.dead] == [4, 2]
    assert [original.decode() for *_, original in heard.dead] == [lines[3], lines[1]]


def test_long_messages_are_read_few_at_a_time(reader_of, tmp_path):
    rows = [
        {"asset_id": "m", "channel": "x", "start_ts": BASE_MS + i * 1000,
         "sampling_rate_hz": 1000.0, "values": [float(i)] * 1000}
        for i in range(30)
    ]  # fmt: skip
    frame = pl.DataFrame(rows)
    written = frame.with_columns(pl.Series("values", [json.dumps(row["values"]) for row in rows]))
    for suffix in FORMATS:
        path = write(tmp_path / f"w.{suffix}", written if suffix == "csv" else frame)
        reader = reader_of(windows, path, 1000, block_bytes=20_000)
        batches = [reader.read()[0]]
        while not reader.ended:
            batches.append(reader.read()[0])
        assert sum(map(len, batches)) == 30
        assert 1 <= max(map(len, batches)) <= 10
        for batch in batches:
            samples = batch.columns["values"]
            assert isinstance(samples, Samples)
            assert samples.length.tolist() == [1000] * len(batch)
        first = batches[1].columns["values"]
        assert isinstance(first, Samples)
        assert first.flat[first.start[0]] == 0.0


def test_a_file_that_has_changed_is_refused(reader_of, tmp_path):
    path = write(tmp_path / "a.csv", ticks(20))
    reader = reader_of(TICKS, path, 5)
    reader.read()
    write(path, ticks(21))
    with pytest.raises(RefusedInputError, match="must be what was read before, found"):
        reader_of(TICKS, path, 5, reader.position())


def test_batches_without_rows_are_refused(reader_of, tmp_path):
    with pytest.raises(ValueError, match="at least one row, got batch_rows=0"):
        reader_of(TICKS, write(tmp_path / "a.csv", ticks(1)), 0)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_without_rows_ends_at_once(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", ticks(3).clear())
    heard = read_all(TICKS, path)
    assert (heard.rows, heard.dead, heard.ends[-1]) == ([], [], True)
    assert set(heard.clocks) == {NO_CLOCK_NS}


def test_a_file_without_a_time_is_refused_when_it_is_opened(reader_of, tmp_path):
    for suffix in FORMATS:
        path = write(tmp_path / f"a.{suffix}", ticks(3).rename({"ts": "timestamp"}))
        with pytest.raises(RefusedInputError, match=f"a.{suffix}: rows of stream `ticks` must say"):
            reader_of(TICKS, path, 5)


# -- text -------------------------------------------------------------------------------------

HEADER = b"id,ts,price,name\n"
GOOD = b"a,1704196800000,1.5,x"


def read_bytes(tmp_path, name, data, batch_rows=100):
    (tmp_path / name).write_bytes(data)
    return read_all(TICKS, tmp_path / name, batch_rows)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + HEADER + GOOD,
        b"\n\n" + HEADER + b"\n  \n" + GOOD + b"\n\n\n",
        HEADER.replace(b"\n", b"\r\n") + GOOD + b"\r\n\r\n",
        b'"id","ts","price","name"\n"a","1704196800000","1.5","x"\n',
        b"ts, name ,price,id\n1704196800000,x,1.5,a",
        b'id,more,ts,price,name\na,"one, ""two""",2024-01-02T12:00:00Z,1.5,x\n',
    ],
)
@pytest.mark.parametrize("batch_rows", [1, 100])
def test_csv_as_programs_write_it(tmp_path, data, batch_rows):
    heard = read_bytes(tmp_path, "a.csv", data, batch_rows)
    assert heard.dead == []
    assert [row[:3] for row in heard.rows] == [("a", BASE_MS * MS, 1.5)]


BAD_CSV = {
    "too few values": (b"a,1704196800000,1.5", "must have 4 values like the header, got 3"),
    "too many values": (GOOD + b",y", "must have 4 values like the header, got 5"),
    "an open quote": (b'a,1704196800000,1.5,"x', "a quote must enclose a whole value"),
    "a quote amid a value": (b'a,1704196800000,1.5,x"y"z', "a quote must enclose a whole value"),
    "text behind a quote": (b'a,1704196800000,1.5,"x" y', "a quote must enclose a whole value"),
    "other bytes": (b"\xff\xfe,1704196800000,1.5,x", "must be UTF-8"),
    "a zero byte": (b"a\0,1704196800000,1.5,x", "got a zero byte"),
    "words": (b"the quick brown fox", "got 1"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_CSV.values(), ids=BAD_CSV.keys())
@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_a_bad_csv_line_spoils_no_other(tmp_path, bad, message, batch_rows):
    data = HEADER + GOOD + b"\r\n" + bad + b"\n\n" + bad + b"\r\n" + GOOD
    heard = read_bytes(tmp_path, "a.csv", data, batch_rows)
    assert len(heard.rows) == 2
    assert [(p, r, o) for p, r, _, o in heard.dead] == [
        (3, Reason.MALFORMED, bad),
        (5, Reason.MALFORMED, bad),
    ]
    assert message in heard.dead[0][2]


@pytest.mark.parametrize(
    ("data", "found"),
    [(b"", "nothing"), (b"\n\n", "nothing"), (b"a,ts,a\n1,2,3", r"\['a'\] twice")],
)
def test_a_csv_file_without_a_sound_header_is_refused(tmp_path, data, found):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(RefusedInputError, match=f"distinct column names, found {found}"):
        CsvFile(tmp_path / "a.csv")


def test_a_line_of_csv_that_is_read_as_two_is_noticed(tmp_path):
    (tmp_path / "a.csv").write_bytes(HEADER)
    lines = Lines.of([GOOD, b"1,2\n3,4,5"], np.array([2, 3]))
    with (
        closing(CsvFile(tmp_path / "a.csv")) as file,
        pytest.raises(RuntimeError, match="2 lines of CSV were read as 3 rows"),
    ):
        file.parse(lines, ["id", "ts"])


JSON_GOOD = b'{"id":"a","ts":1704196800000,"price":1.5,"name":"x"}'

BAD_JSON = {
    "garbage": (b"garbage", "malformed"),
    "cut off": (JSON_GOOD[:-1], "malformed"),
    "two objects": (JSON_GOOD + JSON_GOOD, "malformed"),
    "no object": (b"[1, 2]", "malformed"),
    "a number": (b"7", "malformed"),
    "a key twice": (JSON_GOOD[:-1] + b',"price":2}', "duplicate_key"),
    "a key twice, spelled otherwise": (JSON_GOOD[:-1] + b',"pr\\u0069ce":2}', "duplicate_key"),
    "a key twice, spaced": (JSON_GOOD[:-1] + b',"price" : 2}', "duplicate_key"),
    "another key twice": (JSON_GOOD[:-1] + b',"x":1,"x":1}', "duplicate_key"),
    "other bytes": (JSON_GOOD.replace(b'"x"', b'"\xff"'), "not_utf8"),
    "other bytes in another key": (JSON_GOOD[:-1] + b',"more":"\xff"}', "not_utf8"),
    "a lone surrogate": (JSON_GOOD.replace(b'"x"', b'"\\ud800"'), "malformed"),
    "a zero byte": (JSON_GOOD.replace(b'"x"', b'"\0"'), "malformed"),
    "deep": (b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed"),
    "NaN": (JSON_GOOD.replace(b"1.5", b"NaN"), "not_finite"),
    "Infinity": (JSON_GOOD.replace(b"1.5", b"-Infinity"), "not_finite"),
    "too great": (JSON_GOOD.replace(b"1.5", b"1e999"), "not_finite"),
    "too long": (JSON_GOOD.replace(b"1.5", b"9" * 400), "not_finite"),
    "text": (JSON_GOOD.replace(b"1.5", b'"1.5"'), "wrong_type"),
    "truth": (JSON_GOOD.replace(b"1.5", b"true"), "wrong_type"),
    "a list": (JSON_GOOD.replace(b"1.5", b"[1.5]"), "wrong_type"),
    "an object as id": (JSON_GOOD.replace(b'"a"', b'{"x":1}'), "wrong_type"),
    "a time with a point": (JSON_GOOD.replace(b"800000,", b"800000.5,"), "wrong_type"),
    "a gap": (JSON_GOOD.replace(b"1.5", b"null"), "missing"),
    "an empty object": (b"{}", "missing"),
    "seconds": (JSON_GOOD.replace(b"800000,", b"800,"), "time_unit"),
    "a huge time": (JSON_GOOD.replace(b"800000,", b"8" * 30 + b","), "wrong_type"),
}


@pytest.mark.parametrize(("bad", "reason"), BAD_JSON.values(), ids=BAD_JSON.keys())
@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_a_bad_json_line_spoils_no_other(tmp_path, bad, reason, batch_rows):
    data = JSON_GOOD + b"\r\n" + bad + b"\n\n" + JSON_GOOD + b"\n" + bad
    heard = read_bytes(tmp_path, "a.jsonl", data, batch_rows)
    assert len(heard.rows) == 2
    assert [(p, r, o) for p, r, _, o in heard.dead] == [
        (2, Reason(reason), bad),
        (5, Reason(reason), bad),
    ]
    assert all(message for _, _, message, _ in heard.dead)


def test_json_as_programs_write_it(tmp_path):
    lines = [
        b"\xef\xbb\xbf" + JSON_GOOD,
        b' { "name" : "x" , "price" : 15e-1, "ts" : "2024-01-02T12:00:00Z", "id" : "\\u0061" } ',
        b"\t",
        b'{"ts":"1704196800000","id":"a","price":1.5,"name":"x","more":{"price":[{"id":1},{"id":2}]}}',
    ]
    for batch_rows in (1, 100):
        heard = read_bytes(tmp_path, "a.jsonl", b"\n".join(lines), batch_rows)
        assert heard.dead == []
        assert len(heard.rows) == 3
        assert len(set(heard.rows)) == 1


def test_ids_may_be_texts_and_numbers_in_one_file(tmp_path):
    row = {"instrument_id": "A", "ts": BASE_MS, "price": 1.0, "size": 1.0}
    ids = [7, "7", "t7", 2**70]
    lines = [json.dumps(row | {"trade_id": id_}) for id_ in ids]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    for batch_rows in (1, 10):
        found = [row[2] for row in read_all(trades, tmp_path / "a.jsonl", batch_rows).rows]
        assert found[:2] == [7, 7]
        assert len(set(found)) == 3


PIECES = st.one_of(
    st.sampled_from([GOOD, JSON_GOOD, b"\n", b"\r\n", b'"', b",", b'""', b"{", b'{"id":"a"}']),
    st.binary(max_size=6),
    st.text(max_size=4).map(str.encode),
)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@given(st.lists(PIECES, max_size=30), st.integers(1, 9))
@SETTINGS
def test_no_garbage_crashes_and_every_line_is_accounted_for(tmp_path, suffix, pieces, batch_rows):
    first = HEADER if suffix == "csv" else JSON_GOOD + b"\n"
    data = first + b"".join(pieces)
    heard = read_bytes(tmp_path, f"a.{suffix}", data, batch_rows)
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    expected = {i + 1: line for i, line in enumerate(lines) if line.strip(b" \t\r\x0b\x0c")}
    if suffix == "csv":
        del expected[1]
    dead = {position: original for position, _, _, original in heard.dead}
    assert len(dead) == len(heard.dead)
    assert dead.items() <= expected.items()
    assert len(heard.rows) + len(heard.dead) == len(expected)
    whole = read_bytes(tmp_path, f"a.{suffix}", data, 1000)
    assert (sorted(heard.dead), heard.rows) == (sorted(whole.dead), whole.rows)


@given(
    st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"")), max_size=20),
    st.booleans(), st.integers(1, 5), st.integers(1, 40),
)  # fmt: skip
@SETTINGS
def test_lines_are_found_whatever_the_blocks(tmp_path, lines, fed, count, block_bytes):
    data = b"\n".join(lines) + (b"\n" if fed else b"")
    (tmp_path / "a.txt").write_bytes(data)
    file = LineFile(tmp_path / "a.txt", block_bytes)
    place, found = file.start(), []
    begin = place["offset"]
    while not file.ends_at(place):
        block, place = file.read(place, count)
        found += [(int(number), block[i]) for i, number in enumerate(block.numbers)]
        assert len(block) <= count
        joined = block.joined()
        assert joined == b"".join(block[i] + b"\n" for i in range(len(block)))
    file.close()
    plain = [line.removesuffix(b"\r") for line in data[begin:].split(b"\n")]
    blank = b" \t\r\x0b\x0c"
    assert found == [(i + 1, line) for i, line in enumerate(plain) if line.strip(blank)]


# -- parquet ----------------------------------------------------------------------------------


def test_what_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(RefusedInputError, match=r"a.parquet: must be a Parquet file, got one that"):
        ParquetFile(tmp_path / "a.parquet")


def test_a_dead_row_of_parquet_is_rendered_as_json(tmp_path):
    frame = ticks(1).with_columns(price=float("inf"))
    heard = read_all(TICKS, write(tmp_path / "a.parquet", frame))
    position, reason, _, original = heard.dead[0]
    assert (position, reason) == (0, Reason.NOT_FINITE)
    assert json.loads(original) == {"id": "id0", "ts": BASE_MS, "price": "inf", "name": "n0"}


def test_dictionaries_that_differ_between_row_groups_are_joined(tmp_path):
    tables = [
        pa.table({"id": pa.array(ids).dictionary_encode(), "ts": [BASE_MS] * 3, "price": [1.0] * 3})
        for ids in (["a", "b", "a"], ["c", "b", "c"])
    ]
    with pq.ParquetWriter(tmp_path / "a.parquet", tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    for batch_rows in (2, 4, 10):
        heard = read_all(TICKS, tmp_path / "a.parquet", batch_rows)
        assert [row[0] for row in heard.rows] == ["a", "b", "a", "c", "b", "c"]


# -- files ------------------------------------------------------------------------------------


def test_a_folder_is_listed_by_name_without_bookkeeping(tmp_path):
    for name in ("b.csv", "a/2.jsonl", "a/10.parquet", "_delta/x.json", ".hidden.csv", "_SUCCESS"):
        write(tmp_path / name, ticks(1)) if name.endswith(FORMATS) else None
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in list_files(tmp_path)] == ["a/10.parquet", "a/2.jsonl", "b.csv"]
    assert [file.name for file in list_files(tmp_path / "b.csv")] == ["b.csv"]


def test_what_is_no_input_is_refused(tmp_path):
    with pytest.raises(RefusedInputError, match="must be a file or folder, found neither"):
        list_files(tmp_path / "none")
    with pytest.raises(RefusedInputError, match=r"must hold .parquet, .csv or .jsonl files, found"):
        list_files(tmp_path)
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(RefusedInputError, match=r"a.xlsx: the format .* found .xlsx; rename or"):
        list_files(tmp_path)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("shuffled", [False, True])
def test_folders_named_column_equals_value_give_a_column(tmp_path, suffix, shuffled):
    frame = ticks(10, shuffled=shuffled).drop("id")
    write(tmp_path / "id=BTC%2FUSD" / "y=1" / f"a.{suffix}", frame)
    (file,) = list_files(tmp_path)
    assert {row[0] for row in read_all(TICKS, file).rows} == {"BTC/USD"}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_summary_says_when_a_file_begins_and_ends_and_whom_it_is_about(tmp_path, suffix):
    write(tmp_path / f"a.{suffix}", ticks(30))
    write(tmp_path / f"b.{suffix}", ticks(30, start=99, shuffled=True, entity="x"))
    write(tmp_path / f"c.{suffix}", ticks(3).clear())
    files = list_files(tmp_path)
    a, b, c = scan_summary(TICKS, files)
    assert (a.first_clock_ns, a.last_clock_ns) == (BASE_MS * MS, (BASE_MS + 29_000) * MS)
    assert (a.in_order, a.row_count, a.entities) == (True, 30, ("id0", "id1", "id2"))
    assert (b.first_clock_ns, b.in_order, b.entities) == ((BASE_MS + 99) * MS, False, ("x",))
    assert (c.first_clock_ns, c.last_clock_ns, c.row_count) == (NO_CLOCK_NS, NO_CLOCK_NS, 0)
    for file, summary in zip(files, (a, b, c), strict=True):
        assert read_all(TICKS, file, summary=summary) == read_all(TICKS, file)


def test_a_summary_of_bars_stamped_at_their_start_is_of_their_ends(tmp_path):
    row = {"instrument_id": "A", "timeframe": "1m", "start_ts": BASE_MS, "volume": 1.0}
    row |= dict.fromkeys(("open", "high", "low", "close"), 1.0)
    write(tmp_path / "a.csv", pl.DataFrame([row, row | {"timeframe": "soon"}]))
    (summary,) = scan_summary(replace(bars, start_stamped=True), list_files(tmp_path))
    assert summary.first_clock_ns == summary.last_clock_ns == (BASE_MS + 60_000) * MS


# -- in step ----------------------------------------------------------------------------------


def test_who_is_ahead_waits_for_the_slowest():
    alignment = Alignment(10)
    assert alignment.may_read("unheard of")
    alignment.join("a")
    alignment.join("b")
    alignment.report("a", 100)
    assert not alignment.may_read("a")  # b may be anywhere
    assert alignment.may_read("b")
    alignment.report("b", 90)
    assert alignment.may_read("a")
    alignment.report("a", 101)
    assert not alignment.may_read("a")
    alignment.leave("b")
    alignment.leave("b")
    assert alignment.may_read("a")


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match="by 0 ns or more, got -1"):
        Alignment(-1)


def inputs(root):
    return [(TICKS, file) for file in list_files(root)]


def flow_of(source, out):
    flow = Dataflow("files")
    op.output("out", op.input("in", flow, source), TestingSink(out))
    return flow


@pytest.fixture
def not_stopped():
    yield
    STOP.clear()


@pytest.mark.parametrize("workers", [1, 2])
def test_files_run_in_step_through_a_dataflow(tmp_path, workers):
    write(tmp_path / "dense.parquet", ticks(200, step=100))
    write(tmp_path / "sparse.csv", ticks(20, step=1000))
    write(tmp_path / "later.jsonl", ticks(20, start=100_000))
    limit_ns = 3 * 10**9
    out: list[Any] = []
    source = FilesSource(inputs(tmp_path), 10, Alignment(limit_ns))
    cluster_main(flow_of(source, out), [], 0, worker_count_per_proc=workers)
    clocks: dict[str, int] = {}
    for read in out:
        batch = read.batch
        slowest = min(clocks.values(), default=NO_CLOCK_NS)
        before = clocks.get(batch.partition, NO_CLOCK_NS)
        assert workers > 1 or before <= max(slowest, before - limit_ns) + limit_ns
        clocks[batch.partition] = 2**63 if batch.end else batch.clock_ns
    for name in ("dense.parquet", "sparse.csv", "later.jsonl"):
        heard = hear((r.batch, r.dead) for r in out if r.batch.partition == name)
        alone = read_all(TICKS, tmp_path / name, 10)
        assert (heard.rows, heard.dead) == (alone.rows, alone.dead)
        assert heard.ends[-1]


def test_a_run_that_is_stopped_goes_on_where_it_was(tmp_path, not_stopped):
    data, recovery = tmp_path / "data", tmp_path / "recovery"
    write(data / "a.csv", ticks(100))
    write(data / "b.parquet", ticks(100, shuffled=True))
    recovery.mkdir()
    init_db_dir(recovery, 1)
    runs = []
    for stop_after in (4, 9, 10**9):
        out: list[Any] = []

        def stopping(read, out=out, stop_after=stop_after):
            out.append(read)
            if len(out) >= stop_after:
                STOP.set()
            return read

        STOP.clear()
        source = FilesSource(inputs(data), 10, Alignment(5 * 10**9))
        flow = Dataflow("files")
        stream = op.map("stop", op.input("in", flow, source), stopping)
        op.output("out", stream, TestingSink([]))
        run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(str(recovery)))
        runs.append(out)
    assert not any(read.batch.end for run in runs[:2] for read in run)
    assert all(len(run[0].batch) == 0 for run in runs)
    for name in ("a.csv", "b.parquet"):
        reads = [read for run in runs for read in run if read.batch.partition == name]
        heard = hear((read.batch, read.dead) for read in reads)
        alone = read_all(TICKS, data / name, 10)
        assert (heard.rows, heard.dead) == (alone.rows, alone.dead)
        assert heard.ends.count(True) == 1
    # Once more: each file says its end again, and nothing else.
    again: list[Any] = []
    source = FilesSource(inputs(data), 10, Alignment(0))
    run_main(flow_of(source, again), recovery_config=RecoveryConfig(str(recovery)))
    assert [(len(read.batch), len(read.dead), read.batch.end) for read in again] == [
        (0, 0, True)
    ] * 2


def test_files_of_one_name_are_refused(tmp_path):
    files = [InputFile(tmp_path / name / "a.csv", "a.csv") for name in "xy"]
    with pytest.raises(RefusedInputError, match=r"distinct names, found 'ticks/a.csv' twice"):
        FilesSource([(TICKS, file) for file in files], 10, Alignment(0))


def test_a_partition_without_its_file_is_refused(tmp_path):
    write(tmp_path / "a.csv", ticks(1))
    source = FilesSource(inputs(tmp_path), 10, Alignment(0))
    assert source.list_parts() == ["ticks/a.csv"]
    with pytest.raises(RefusedInputError, match=r"step 'in': .* found none for 'ticks/b.csv'"):
        source.build_part("in", "ticks/b.csv", None)


def test_a_waiting_partition_looks_again_less_and_less_often(tmp_path):
    write(tmp_path / "a.csv", ticks(20))
    alignment = Alignment(0)
    alignment.join("ticks/slow.csv", 0)
    part = FilesSource(inputs(tmp_path), 5, alignment).build_part("in", "ticks/a.csv", None)
    assert part.next_awake() is None
    assert len(part.next_batch()) == 1
    waits: list[Any] = []
    for _ in range(8):
        assert part.next_batch() == []
        waits.append(part.next_awake())
    assert all(earlier < later for earlier, later in pairwise(waits))
    assert part._wait == bytewax_files.LONGEST_WAIT
    alignment.leave("ticks/slow.csv")
    assert len(part.next_batch()[0].batch) > 0
    assert part.next_awake() is None
    part.close()
