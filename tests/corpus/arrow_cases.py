"""Messages that are Arrow IPC streams, or would be."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq

from operators.dead_letters import Reason
from tests.corpus.cases import ARRIVAL_MS, ROWS, TS_MS, Case, either, encoded, refused, used

MALFORMED, WRONG_TYPE, MISSING = Reason.MALFORMED, Reason.WRONG_TYPE, Reason.MISSING
TIMES = ("ts", "start_ts")
STAMP = pa.timestamp("ms", tz="UTC")
BOMB_ROWS = 50_000_000
"""Zeros: 400 MB that a kilobyte or two can say."""


def table(stream: str = "bars", rows: int = 1) -> pa.Table:
    """Sound rows, with times as timestamps."""
    columns = {}
    for name, value in ROWS[stream].items():
        if name in TIMES:
            stamp = TS_MS if stream != "readings" else ARRIVAL_MS
            columns[name] = pa.array([stamp + row for row in range(rows)], STAMP)
        else:
            columns[name] = pa.array([value] * rows)
    return pa.table(columns)


def with_column(name: str, array: pa.Array, stream: str = "bars") -> pa.Table:
    """Sound rows with one column replaced."""
    whole = table(stream, len(array))
    return whole.set_column(whole.column_names.index(name), name, array)


def packed(rows: pa.Table, compression: str | None = None, chunk: int | None = None) -> bytes:
    """A table as a message."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows, max_chunksize=chunk)
    return bytes(sink.getvalue())


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _forms()
    yield from _kinds()
    yield from _tables()
    yield from _bombs()


def _forms() -> Iterator[Case]:
    """Bytes that are another format."""
    bars = table()
    for stream in ROWS:
        yield used(f"arrow_{stream}", packed(table(stream)), stream)
    for name in ("lz4", "zstd"):
        yield refused(f"arrow_{name}", packed(bars, name), MALFORMED)
    for name, value in {
        "nothing": b"",
        "json": encoded(),
        "zeros": bytes(64),
        "ones": b"\xff" * 64,
        "end_of_stream": b"\xff\xff\xff\xff\0\0\0\0",
        "schema_only": packed(bars.slice(0, 0)),
        "no_columns": packed(pa.table({})),
        "file": _written(lambda out: _file(out, bars)),
        "feather": _written(lambda out: pyarrow.feather.write_feather(bars, out)),
        "parquet": _written(lambda out: pq.write_table(bars, out)),
        "magic": b"ARROW1\0\0",
        "length_beyond_the_end": b"\xff\xff\xff\xff\xff\xff\xff\x7f",
        "negative_length": b"\xff\xff\xff\xff\xfe\xff\xff\xff",
        "json_text_as_length": b"{}{}{}{}",
    }.items():
        yield refused(f"arrow_is_{name}", value, MALFORMED)
    yield refused("arrow_tombstone", None, Reason.TOMBSTONE)
    yield refused("arrow_too_large", packed(table(rows=20_000)), Reason.TOO_LARGE)
    yield either("arrow_twice", packed(bars) * 2, None, MALFORMED)
    yield either("arrow_and_more", packed(bars) + b"more", None, MALFORMED)


def _written(write: Callable[[io.BytesIO], None]) -> bytes:
    out = io.BytesIO()
    write(out)
    return out.getvalue()


def _file(out: io.BytesIO, rows: pa.Table) -> None:
    with pa.ipc.new_file(out, rows.schema) as writer:
        writer.write_table(rows)


def _kinds() -> Iterator[Case]:
    """Columns of other types."""
    good: Mapping[str, Mapping[str, pa.Array]] = {
        "open": {
            "float32": pa.array([100.5], pa.float32()),
            "int64": pa.array([100], pa.int64()),
            "uint8": pa.array([100], pa.uint8()),
            "decimal": pa.array([100], pa.decimal128(10, 2)),
        },
        "instrument_id": {
            "large_string": pa.array(["AAPL"], pa.large_string()),
            "dictionary": pa.array(["AAPL"]).dictionary_encode(),
            "int32": pa.array([7], pa.int32()),
        },
        "ts": {
            **{
                unit: pa.array([TS_MS], STAMP).cast(pa.timestamp(unit, tz="UTC"))
                for unit in ("s", "ms", "us", "ns")
            },
            "another_zone": pa.array([TS_MS], pa.timestamp("ms", tz="Asia/Tokyo")),
            "text": pa.array([json.loads(encoded())["ts"]]),
            "ms": pa.array([TS_MS], pa.int64()),
        },
    }
    for column, arrays in good.items():
        for name, array in arrays.items():
            yield used(f"arrow_{column}_is_{name}", packed(with_column(column, array)))
    wrong: Mapping[str, pa.Array] = {
        "binary": pa.array([b"AAPL"]),
        "true": pa.array([True]),
        "list": pa.array([[1.0]]),
        "struct": pa.array([{"a": 1}]),
        "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        "duration": pa.array([1], pa.duration("s")),
        "time": pa.array([1], pa.time32("s")),
        "list_of_lists": pa.array([[[1.0]]]),
        "dictionary_of_numbers": pa.array([1.5]).dictionary_encode(),
        "fixed_binary": pa.array([b"AAPL"], pa.binary(4)),
        "interval": pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
        "union": pa.UnionArray.from_dense(
            pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1.5])]
        ),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array([1.5])),
    }
    for column in ROWS["bars"]:
        for name, array in wrong.items():
            # Some of these a reader may refuse as a whole, and some may be read as what they hold.
            told = (WRONG_TYPE, MALFORMED, Reason.BAD_ENTITY, Reason.BAD_SERIES)
            yield either(f"arrow_{column}_is_{name}", packed(with_column(column, array)), *told)
        nulls = pa.nulls(1)
        yield refused(f"arrow_{column}_is_null", packed(with_column(column, nulls)), MISSING)
        dropped = packed(table().drop_columns([column]))
        yield refused(f"arrow_{column}_is_absent", dropped, MISSING)
    for name, value in {"nan": np.nan, "inf": np.inf, "minus_inf": -np.inf}.items():
        array = pa.array([value], pa.float64(), from_pandas=False)
        fates = (Reason.NOT_FINITE, MISSING)
        yield either(f"arrow_open_is_{name}", packed(with_column("open", array)), *fates)
    far = pa.array([2**64 - 1], pa.uint64())
    changed = packed(with_column("trade_id", far, "trades"))
    yield refused("arrow_trade_id_is_uint64", changed, WRONG_TYPE, "trades")
    date = packed(with_column("ts", pa.array([20_000], pa.date32())))
    yield either("arrow_ts_is_a_date", date, Reason.LATE, WRONG_TYPE)
    for unit in ("s", "ms", "us", "ns"):
        for name, value in {"first": -(2**63) + 1, "last": 2**63 - 1, "ancient": -(2**40)}.items():
            for zone in ("UTC", "Nowhere/Land", "+99:99", "\n", None):
                array = pa.array([value], pa.int64()).cast(pa.timestamp(unit, tz=zone))
                title = f"arrow_ts_is_{name}_{unit}_{zone!r}"
                yield refused(title, packed(with_column("ts", array)), Reason.TIME_RANGE)
    for zone in ("Nowhere/Land", "+99:99", "\n"):
        array = pa.array([TS_MS], pa.timestamp("ms", tz=zone))
        zoned = packed(with_column("ts", array))
        yield either(f"arrow_ts_in_{zone!r}", zoned, None, MALFORMED, WRONG_TYPE)
    yield refused("arrow_text_is_no_utf_8", _spoilt_text(), MALFORMED)


def _spoilt_text() -> bytes:
    """A text column whose bytes are none; Arrow does not look unless asked."""
    message = packed(table())
    at = message.rindex(b"AAPL")
    return message[:at] + b"\xff\xfe\xff\xfe" + message[at + 4 :]


def _tables() -> Iterator[Case]:
    """Tables of other shapes."""
    bars = table()
    yield used("arrow_more_columns", packed(bars.append_column("extra", pa.array([[{"a": 1}]]))))
    yield used("arrow_other_order", packed(bars.select(bars.column_names[::-1])))
    doubled = pa.table([*bars.columns, pa.array([1.0])], names=[*bars.column_names, "open"])
    yield refused("arrow_column_twice", packed(doubled), MALFORMED)
    other = pa.table([*bars.columns, pa.array([1.0])], names=[*bars.column_names, "a"])
    twice = other.append_column("a", pa.array([2.0]))
    yield either("arrow_unknown_column_twice", packed(twice), None, MALFORMED)
    meta = bars.replace_schema_metadata({b"\xff": b"\0", b"pandas": b"{"})
    yield used("arrow_with_metadata", packed(meta))
    deep: Any = pa.float64()
    for _ in range(60):
        deep = pa.list_(deep)
    nested = bars.append_column("deep", pa.nulls(1, deep))
    yield either("arrow_deep_column", packed(nested), None, MALFORMED, Reason.TOO_DEEP)
    wide = pa.table({**{name: bars[name] for name in bars.column_names},
                     **{f"c{number}": [0] for number in range(400)}})  # fmt: skip
    yield used("arrow_many_columns", packed(wide))
    extended = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\0" * 16], pa.binary(16)))
    yield used("arrow_extension_column", packed(bars.append_column("id", extended)))
    told = (MALFORMED, WRONG_TYPE, MISSING)
    yield either("arrow_of_another_stream", packed(table("windows")), *told)


def _bombs() -> Iterator[Case]:
    """Small messages that say a lot, which must be refused before they are unfolded."""
    nothing = pa.nulls(BOMB_ROWS)
    yield refused("arrow_rows_of_nothing", packed(pa.table({"open": nothing})), MALFORMED)
    zeros = pa.array(np.zeros(BOMB_ROWS))
    yield refused("arrow_zeros_of_zstd", packed(pa.table({"open": zeros}), "zstd"), MALFORMED)
    stream = "windows"
    for name, samples in {
        "many_zeros": pa.array([np.zeros(1_000_000)], pa.list_(pa.float64())),
        "nulls": pa.ListArray.from_arrays(pa.array([0, 2**30], pa.int32()), pa.nulls(2**30)),
        "nulls_of_a_fixed_size": pa.FixedSizeListArray.from_arrays(pa.nulls(2**30), 2**30),
        "one_list_seen_often": _views_of_one_list(),
    }.items():
        rows = table(stream, len(samples))
        rows = rows.set_column(rows.column_names.index("values"), "values", samples)
        compression = "zstd" if name == "many_zeros" else None
        yield refused(f"arrow_list_of_{name}", packed(rows, compression), MALFORMED, stream)
    long = "x" * 100_000
    for column in ("ts", "instrument_id", "timeframe"):
        same = pa.DictionaryArray.from_arrays(pa.array([0] * 30_000, pa.int8()), [long])
        rows = pa.table({column: same})
        yield refused(f"arrow_one_long_{column}_seen_often", packed(rows), MALFORMED)
        views = pa.table({column: _views_of_one_text(long.encode())})
        yield refused(f"arrow_{column}_as_views_of_one_text", packed(views), MALFORMED)


def _views_of_one_list() -> pa.Array:
    rows, length = 4_000, 20_000
    starts, lengths = pa.array([0] * rows, pa.int32()), pa.array([length] * rows, pa.int32())
    return pa.ListViewArray.from_arrays(starts, lengths, pa.array(np.zeros(length, np.int8)))


def _views_of_one_text(text: bytes) -> pa.Array:
    rows = 5_000
    view = np.array([len(text), int.from_bytes(text[:4], "little"), 0, 0], np.int32)
    views = pa.py_buffer(np.tile(view, rows).tobytes())
    return pa.Array.from_buffers(pa.string_view(), rows, [None, views, pa.py_buffer(text)])
