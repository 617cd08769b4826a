"""Compiles every kernel once, into the cache that running processes read.

Run by set-up and by the image build: ``python -m operators.warm``. It computes each kind of step
once, over a handful of rows that come late, twice and out of order, as frames and as routed
batches.
"""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import polars as pl

from operators.batch import Batch
from operators.decode import decode
from operators.engine import Engine
from operators.expr import Expr, GridCoverage
from operators.feature_set import FeatureSet
from operators.kernels import copy_rows, json_rows, numbers, objects, sound
from operators.notebook import RefusedRowsWarning
from operators.plan import compile_plan
from operators.route import of_groups, route
from operators.snapshot import restore, snapshot
from operators.streams import Field, Stream

SECOND_NS = 1_000_000_000
ROWS = 64

bars = Stream(
    "bars", "id", (Field("x", nullable=True), Field("y")), series="timeframe",
    series_is_duration=True, max_delay_ns=SECOND_NS,
)  # fmt: skip
events = Stream(
    "events", "id", (Field("event", kind="id"), Field("z")), identity=("event",), sequence="event",
    max_delay_ns=SECOND_NS,
)  # fmt: skip
samples = Stream("samples", "id", (Field("value"),), series="timeframe", rate_hz=1.0)
messages = Stream(
    "messages", "id", (Field("rate", above=0.0), Field("values", kind="samples")),
    series="timeframe", rate_field="rate",
)  # fmt: skip


def rolling(x: Expr, y: Expr, window: int | str) -> list[Expr]:
    """Every aggregate over one window."""
    return [
        x.rolling_mean(window), x.rolling_sum(window), x.rolling_count(window),
        x.rolling_std(window), x.rolling_var(window), x.rolling_rms(window), x.rolling_skew(window),
        x.rolling_kurtosis(window), x.rolling_min(window), x.rolling_max(window),
        x.rolling_first(window), x.rolling_last(window), x.rolling_median(window),
        x.rolling_slope(window), x.rolling_weighted_mean(y, window), x.rolling_cov(y, window),
        x.rolling_corr(y, window), x.shift(1), x.ewm_mean(alpha=0.9),
    ]  # fmt: skip


def whole(x: Expr) -> list[Expr]:
    """Every feature of a frame of samples."""
    return [
        x.mean(), x.sum(), x.skew(), x.min(), x.first(), x.zero_crossing_rate(),
        x.dominant_frequency(), x.spectral_centroid(), x.spectral_bandwidth(),
        x.spectral_rolloff(), x.spectral_entropy(), x.band_power(0.0, 1.0, of_nyquist=True),
        GridCoverage(x),
    ]  # fmt: skip


def compared(x: Expr, y: Expr) -> list[Expr]:
    """Every way to compare, and to join what was compared."""
    return [(x < y) & (x <= y), (x > y) | (x >= y), x == y, x != y]


def named(exprs: list[Expr]) -> dict[str, Expr]:
    """Expressions under numbers."""
    return {f"f{i}": expr for i, expr in enumerate(exprs)}


def sets() -> list[FeatureSet]:
    """Sets that use every kernel."""
    x, y, z = bars.col("x"), bars.col("y"), events.col("z")
    hopping = FeatureSet(
        "hops", "v1", samples.hop("8s", every="4s"), named(whole(samples.col("value")))
    )
    rms = hopping.output().col("f0")
    over_bars = [
        *rolling(x, y, 4), *rolling(y, x, "3s"), *rolling(z, z, 4), *rolling(z, z, "3s"),
        bars.elapsed(1), events.elapsed(0), bars.off_grid(), bars.series_seconds(),
        bars.one_series("1s").col("y"), *compared(x, y),
    ]  # fmt: skip
    across = [
        rms.across_mean(), rms.across_min(), rms.across_max(), rms.across_count(),
        rms.across_corr(3),
    ]  # fmt: skip
    asset = hopping.output().across_series()
    return [
        FeatureSet("rows", "v1", bars, named(over_bars), quality={"LESS": x < y}, ttl="1h"),
        hopping,
        FeatureSet("across", "v1", asset, named(across)),
        FeatureSet("messages", "v1", messages, named(whole(messages.col("values")))),
    ]


def frames() -> dict[str, pl.DataFrame]:
    """A few rows of each stream: out of order, twice, late."""
    rng = np.random.default_rng(0)
    seconds = np.concatenate([np.arange(ROWS), [ROWS - 2, 5]]) + 1_600_000_000
    ts_ns = seconds * SECOND_NS
    count = len(ts_ns)
    arrival_ns = np.maximum.accumulate(ts_ns)
    base = {"id": ["a", "b/c"] * (count // 2), "timeframe": ["1s"] * count, "ts_ns": ts_ns}
    numbers = rng.standard_normal(count)
    return {
        "bars": pl.DataFrame({**base, "arrival_ts_ns": arrival_ns, "x": numbers, "y": numbers}),
        "events": pl.DataFrame(
            {**base, "arrival_ts_ns": arrival_ns, "event": ["e"] * count, "z": numbers}
        ),
        "samples": pl.DataFrame({**base, "id": ["a"] * count, "value": numbers}),
        "messages": pl.DataFrame(
            {**base, "rate": [8.0] * count, "values": [list(numbers[:8])] * count}
        ),
    }


def read_only_in_part(batch: Batch) -> list[Batch]:
    """The batch with any of its columns read-only, as they are when they lie in a file's buffer.

    numba compiles a kernel anew for arrays that may not be written.
    """
    made = []
    for ts, arrival, rest in itertools.product([True, False], repeat=3):
        copy = batch.take(np.arange(len(batch)))
        copy.ts_ns.setflags(write=ts)
        if copy.arrival_ns is not None:
            copy.arrival_ns.setflags(write=arrival)
        for column in (copy.keys.codes, *copy.columns.values()):
            if isinstance(column, np.ndarray):
                column.setflags(write=rest)
        made.append(copy)
    return made


def warm_objects() -> None:
    """Runs the kernels of JSON over arrays like those of messages."""
    spare = bytes(objects.SPARE)
    data = np.frombuffer(b'{"a":"x","b":1.5,"c":[1,2],"d":{"e":1}}' + spare, np.uint8)
    names = np.frombuffer(b"abc" + spare, np.uint8)
    ends = np.array([len(data) - objects.SPARE])
    out = np.zeros(1, np.uint8)
    kinds = np.array([numbers.OF_ID, numbers.OF_NUMBER, numbers.OF_SAMPLES], np.uint8)
    what = np.zeros((3, 1), np.uint8)
    first, length, values = (np.zeros((3, 1), np.int64) for _ in range(3))
    places = np.arange(4)
    objects.locate(data, ends - ends, ends, names, places, kinds, out, what, first, length)
    found = (data, out, what[0], first[0], length[0])
    numbers.whole_numbers(*found, values[0])
    numbers.real_numbers(*found, np.empty(1), values[0])
    numbers.count_samples(*found)
    numbers.sample_numbers(*found, values[0], np.empty(2), values[0], values[0])
    objects.gather(data, first[0], length[0], np.ones(1, np.bool_))
    objects.nesting(data)


def warm_sound_rows() -> None:
    """Runs the kernels of rows that are sound over one: a label, a time, a number and an id."""
    data = np.frombuffer(b"a12", np.uint8)
    what = np.array([[numbers.TEXT], [numbers.NUMBER], [numbers.NUMBER], [numbers.TEXT]], np.uint8)
    first, length = np.array([[0], [1], [2], [0]]), np.ones((4, 1), np.int64)
    column, flag, good = np.zeros(1, np.int64), np.ones(1, np.bool_), np.ones(1, np.bool_)
    number, real, limits_ns = np.ones(1), np.ones((1, 1)), np.array([0, 10**18, 10**9])
    sound.read_rows(
        data, what, first, length, column, column + 1, column + 1, flag, limits_ns, column + 2,
        flag, column + 3, flag, good, np.zeros(1, np.int64), np.zeros(1, np.int64), real,
        np.zeros((1, 1), np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64),
    )  # fmt: skip
    sound.keep_admitted(real, number, number, number, column, column, good)
    texts, places = np.frombuffer(b"a", np.uint8).copy(), np.array([0, 1])
    slots, codes = np.full(8, sound.NEW, np.int32), np.empty(1, np.int32)
    sound.learn(texts, places, 0, 1, slots)
    sound.look_up(data, what[0], first[0], length[0], texts, places, slots, good, codes)


def warm_copy_rows() -> None:
    """Runs the kernels of PostgreSQL's rows over one: a number, and an array of one."""
    array = bytes([0, 0, 0, 1] + [0] * 8 + [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 8]) + bytes(8)
    row = b"\0\2\0\0\0\x08" + bytes(8) + b"\0\0\0" + bytes([len(array)]) + array
    data = np.frombuffer(row, np.uint8)
    first, length = np.empty((2, 1), np.int32), np.empty((2, 1), np.int32)
    copy_rows.split(data, len(data), first, length)
    out, ends = np.empty(1, np.int64), np.empty(2, np.int64)
    copy_rows.wide(data, first[0], length[0], out)
    copy_rows.texts(data, first[0], length[0], ends, np.empty(8, np.uint8))
    copy_rows.count_elements(data, first[1], length[1], ends)
    copy_rows.elements(data, first[1], ends, out, np.zeros(1, np.bool_))


def warm_json_rows() -> None:
    """Runs the kernels of JSON that is written over one row."""
    kinds = np.arange(6, dtype=np.uint8)
    source = np.array([0, 1, 2, 0, 1, 2])
    text = np.frombuffer(bytes(json_rows.SPARE), np.uint8)
    cells = np.empty((6, json_rows.CELL), np.uint8)
    sizes, wholes = np.empty((6, 1), np.int64), np.zeros((6, 1), np.int64)
    told, rows = (kinds, source, wholes), (0, 1)
    json_rows.write_cells(*told, np.zeros((3, 1)), *rows, cells, sizes)
    out = np.empty(8 * json_rows.CELL, np.uint8)
    json_rows.write_rows(*told, text, np.zeros(8, np.int64), *rows, cells, sizes, out)


def warm() -> None:
    """Runs every set over the rows: whole, and cut, routed and restored."""
    warm_objects()
    warm_sound_rows()
    warm_copy_rows()
    warm_json_rows()
    rows = frames()
    texts = rows["bars"].with_columns(ts=pl.lit("2020-09-13T12:26:40Z")).drop("ts_ns")
    decode(bars, texts)
    for feature_set in sets():
        inputs = {stream.name: rows[stream.name] for stream in feature_set.streams}
        feature_set.compute(**inputs)
        plan = compile_plan(feature_set)
        parts = [(name, "frame") for name in inputs]
        engine = Engine(plan, parts)
        for stream in feature_set.streams:
            for start in range(0, ROWS, 16):
                batch, _ = decode(stream, inputs[stream.name].slice(start, 16))
                for _, part in route(of_groups(batch, frozenset(range(64)))):
                    engine.process(part)
                for part in read_only_in_part(batch):
                    engine.process(part)
                engine = restore(plan, parts, snapshot(engine))
        engine.provisional()


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RefusedRowsWarning)  # the late rows are meant
        warm()
