"""The gold dataset and the letters: what is visible when, and what a resume removes."""

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from operators.account import Fate
from operators.batch import Batch, Labels, Samples, Vectors
from operators.dead_letters import DeadLetters, Reason
from operators.engine import Refused
from operators.feature_set import FeatureSet
from operators.frames import schema
from operators.streams import Field, Stream
from sinks.dataset import UnreadableError, read_vectors
from sinks.join import joined
from sinks.letters import DEAD, LATE, LettersSink
from sinks.parquet import OPEN_FILES, ParquetSink, dataset_folder
from sinks.shelf import OccupiedError, Owned

TICKS = Stream("ticks", "sensor_id", (Field("x"),), series="channel")
X = TICKS.col("x")
WIDE = FeatureSet(
    "wide", "v1", TICKS, {"mean_2": X.rolling_mean(2), "count_2": X.rolling_count(2)},
    quality={"HIGH": X > 10.0, "LOW": X < -10.0},
)  # fmt: skip
DAY_NS = 86_400 * 10**9
NOON_NS = 20_000 * DAY_NS + DAY_NS // 2


def vectors(ts_ns: list[int], keys: tuple[str, ...] = ("a",), quality: int = 0) -> Vectors:
    count = len(ts_ns)
    codes = np.arange(count, dtype=np.int32) % len(keys)
    ts = np.array(ts_ns, np.int64)
    return Vectors(
        Labels(codes, keys), Labels(codes, tuple(f"{key}_x" for key in keys)), ts,
        {"mean_2": np.where(ts % 2, np.nan, ts * 0.5), "count_2": np.full(count, 2.0)},
        np.full(count, quality), np.ones(count), ts + 1, np.arange(count),
    )  # fmt: skip


def part(tmp_path, state=None, *, job="j", name="00", durable=True):
    sink = ParquetSink(WIDE, tmp_path, Owned(job, (name,), durable), source={"files": ["f"]})
    return sink.build_part("parquet", name, state)


def shown(tmp_path) -> list[str]:
    folder = dataset_folder(tmp_path, WIDE)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("part-*.parquet"))


def hidden(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.rglob("*.aside"))


def test_files_appear_with_the_snapshot_and_by_date(tmp_path):
    sink = part(tmp_path)
    sink.write_batch([vectors([NOON_NS, NOON_NS + DAY_NS]), vectors([NOON_NS + 2])])
    assert shown(tmp_path) == []
    assert sink.snapshot() == {"seq": 2}
    assert shown(tmp_path) == [
        "date=2024-10-04/part-00-000000.parquet",
        "date=2024-10-05/part-00-000001.parquet",
    ]
    assert sink.snapshot() == {"seq": 2}
    assert read_vectors(tmp_path)["ts"].cast(pa.int64()).to_pylist() == [
        NOON_NS, NOON_NS + 2, NOON_NS + DAY_NS,
    ]  # fmt: skip


def test_a_resume_removes_what_will_be_replayed_and_nothing_else(tmp_path):
    sink, other = part(tmp_path), part(tmp_path, name="01")
    sink.write_batch([vectors([NOON_NS])])
    kept = sink.snapshot()
    other.write_batch([vectors([NOON_NS + 1])])
    other.snapshot()
    sink.write_batch([vectors([NOON_NS + 2])])
    sink.snapshot()
    sink.write_batch([vectors([NOON_NS + 4])] * 20_000)
    sink.write_batch([vectors([NOON_NS + 4] * 200_000)])  # on the disk, not visible
    assert len(shown(tmp_path)) == 3
    assert hidden(tmp_path) == [".part-00-000002.aside"]
    resumed = part(tmp_path, kept)
    assert shown(tmp_path) == [
        "date=2024-10-04/part-00-000000.parquet",
        "date=2024-10-04/part-01-000000.parquet",
    ]
    assert hidden(tmp_path) == []
    resumed.write_batch([vectors([NOON_NS + 2])])
    assert resumed.snapshot() == {"seq": 2}


def test_a_first_run_that_was_killed_is_replayed_from_its_start(tmp_path):
    sink = part(tmp_path)
    sink.write_batch([vectors([NOON_NS])])
    sink.snapshot()
    part(tmp_path, None)
    assert shown(tmp_path) == []


def test_without_recovery_files_appear_at_the_end(tmp_path):
    sink = part(tmp_path, durable=False)
    sink.write_batch([vectors([NOON_NS])])
    sink.snapshot()
    assert shown(tmp_path) == []
    sink.close()
    assert len(shown(tmp_path)) == 1


def test_the_files_of_another_job_are_not_touched(tmp_path):
    sink = part(tmp_path)
    sink.write_batch([vectors([NOON_NS])])
    sink.snapshot()
    with pytest.raises(OccupiedError, match="must be empty or of this job, found files of another"):
        part(tmp_path, job="k")
    assert len(shown(tmp_path)) == 1


def test_a_folder_that_another_job_has_left_empty_is_taken_over(tmp_path):
    part(tmp_path)
    part(tmp_path, job="k")
    mark = dataset_folder(tmp_path, WIDE) / "_riffle.json"
    assert json.loads(mark.read_text()) == {"job": "k"}


def test_many_dates_do_not_need_as_many_open_files(tmp_path):
    sink = part(tmp_path)
    days = OPEN_FILES + 10
    sink.write_batch([vectors([NOON_NS + day * DAY_NS for day in range(days)])])
    assert sink.snapshot() == {"seq": days}
    assert len(read_vectors(tmp_path)) == days


def test_columns_and_metadata_say_what_they_are(tmp_path):
    sink = part(tmp_path)
    sink.write_batch([vectors([NOON_NS, NOON_NS + 1], ("a", "b"), quality=3)])
    sink.snapshot()
    (file,) = tmp_path.rglob("part-*.parquet")
    table = pq.ParquetFile(file).read()
    assert table.schema.names == schema(WIDE).names
    assert [str(t) for t in table.schema.types] == [
        "string", "string", "timestamp[ns, tz=UTC]", "string", "string", "double", "int64",
        "list<element: string>", "double", "timestamp[ns, tz=UTC]", "int64", "bool",
    ]  # fmt: skip
    assert table["mean_2"].to_pylist() == [NOON_NS * 0.5, None]
    assert table["quality"].to_pylist() == [["HIGH", "LOW"]] * 2
    told = {key.decode(): value.decode() for key, value in pq.read_metadata(file).metadata.items()}
    assert told["riffle.fingerprint"] == WIDE.fingerprint
    assert json.loads(told["riffle.source"]) == {"files": ["f"]}
    assert {"bits", "python", "numba", "llvmlite", "numpy", "scipy", "tzdata", "architecture"} == (
        set(json.loads(told["riffle.versions"]))
    )
    assert json.loads(told["riffle.formulas"])["mean_2"] == WIDE.feature_exprs["mean_2"].formula


def test_batches_of_many_key_groups_become_one_with_distinct_names():
    few, many = vectors([2, 4], ("a", "b")), vectors([6], ("c", "b", *(f"k{i}" for i in range(99))))
    (both,) = joined([few, many, few])
    assert both.keys.strings() == ["a", "b", "c", "a", "b"]
    assert both.series is not None
    assert both.series.strings() == ["a_x", "b_x", "c_x", "a_x", "b_x"]
    assert both.keys.names == ("a", "b", "c")
    assert joined([]) == []


def letters_sink(tmp_path, kind, state=None):
    return LettersSink(kind, WIDE, tmp_path, Owned("j")).build_part("letters", "00", state)


def test_letters_keep_their_bytes_and_appear_with_the_snapshot(tmp_path):
    sink = letters_sink(tmp_path, DEAD)
    dead = DeadLetters("ticks", "f.csv", (7,), (Reason.MISSING,), ("no x",), (b"a,\xff",))
    batch = Batch(
        "ticks", "f.csv", 0, Labels(np.array([0, 0], np.int32), ("a",)), np.array([5, 6]),
        {"x": np.array([1.5, np.nan]), "w": Samples(np.array([1.0, 2.0]), *np.array([[0, 2]] * 2))},
        Labels(np.array([0, 0], np.int32), ("c",)), np.array([8, 9]),
    )  # fmt: skip
    sink.write_batch([dead, Refused(Fate.DEAD, batch, "too many keys")])
    assert not list(tmp_path.rglob("*.parquet"))
    kept = sink.snapshot()
    (file,) = tmp_path.rglob("*.parquet")
    first, second, third = pq.read_table(file).to_pylist()
    assert first == {
        "stream": "ticks", "partition": "f.csv", "position": 7, "reason": "missing",
        "message": "no x", "original": b"a,\xff",
    }  # fmt: skip
    assert second["reason"] == "dead"
    assert second["message"] == "too many keys"
    assert json.loads(second["original"]) == {
        "key": "a", "series": "c", "ts_ns": 5, "arrival_ts_ns": 8, "x": 1.5, "w": [],
    }  # fmt: skip
    assert json.loads(third["original"])["x"] is None
    sink.write_batch([dead])
    sink.close()
    letters_sink(tmp_path, DEAD, kept)
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


def test_letters_are_not_read_as_vectors(tmp_path):
    sink = letters_sink(tmp_path, LATE)
    sink.write_batch([DeadLetters("t", "p", (1,), (Reason.MISSING,), ("m",), (b"",))])
    sink.snapshot()
    with pytest.raises(UnreadableError, match=r"must hold `.parquet` files of vectors, found none"):
        read_vectors(tmp_path)


def test_what_holds_no_vectors_is_refused(tmp_path):
    with pytest.raises(UnreadableError, match="must be a Parquet file or a dataset folder"):
        read_vectors(tmp_path / "nowhere")
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(UnreadableError, match=r"must have the columns of vectors, lacks .*'final'"):
        read_vectors(tmp_path)
    pl.DataFrame({"y": [1]}).write_parquet(tmp_path / "y.parquet")
    with pytest.raises(UnreadableError, match="must hold vectors of one set and version"):
        read_vectors(tmp_path)
