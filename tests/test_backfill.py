"""The backfill as real processes: shards, a cluster, kills, drains, more files; bit for bit."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dataflows import launch, manifest, progress
from dataflows.commands import compute
from dataflows.commands.diff import compare
from dataflows.inputs import scan_inputs
from dataflows.launch import Request
from dataflows.named_sets import named_set
from dataflows.processes import FailedProcessError, Group
from dataflows.recovery_folder import RecoveryError
from dataflows.shards import UnsplittableError, Weighed, divide
from operators.decode import RefusedInputError
from sinks.dataset import read_vectors
from sinks.letters import DEAD, LATE
from sinks.shelf import OccupiedError

MINUTE_NS = 60 * 10**9
START_NS = 1_700_000_040 * 10**9
FILES, PER_FILE, BARS = 3, 3, 240
BAD_ROWS, LATE_ROWS = 5, 7


def bars(seed: int, names: list[str], first: int = 0, count: int = BARS) -> pl.DataFrame:
    """One-minute bars of some instruments, by time, each known one second after its end."""
    rng = np.random.default_rng(seed)
    rows = count * len(names)
    close = 100 + rng.standard_normal(rows).cumsum() * 0.01
    ts = START_NS + np.repeat(np.arange(first, first + count), len(names)) * MINUTE_NS
    return pl.DataFrame(
        {
            "instrument_id": names * count,
            "timeframe": ["1m"] * rows,
            "ts_ns": ts,
            "arrival_ts_ns": ts + 10**9,
            "open": close,
            "high": close + 0.5,
            "low": close - 0.5,
            "close": close + 0.1,
            "volume": rng.integers(1, 1000, rows).astype(float),
        }
    )


def names_of(index: int) -> list[str]:
    return [f"i{index * PER_FILE + i}" for i in range(PER_FILE)]


def news(names: list[str], count: int) -> pl.DataFrame:
    rng = np.random.default_rng(9)
    ts = START_NS + np.sort(rng.integers(0, BARS * MINUTE_NS, count))
    return pl.DataFrame(
        {
            "instrument_id": rng.choice(names, count),
            "event_id": [f"e{i}" for i in range(count)],
            "ts_ns": ts,
            "sentiment": rng.uniform(-1, 1, count),
            "confidence": rng.uniform(0, 1, count),
        }
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Bars in files by instrument, with bad and late rows, and news of all in one file."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "bars").mkdir()
    for index in range(FILES):
        frame = bars(index, names_of(index))
        if index == 0:
            bad = pl.int_range(len(frame)).is_in(list(range(100, 100 + BAD_ROWS)))
            frame = frame.with_columns(
                pl.when(bad).then(-1.0).otherwise(pl.col("close")).alias("close")
            )
        if index == 1:
            late = pl.int_range(len(frame)).is_in(list(range(300, 300 + LATE_ROWS)))
            shift = pl.when(late).then(10 * 10**9).otherwise(0)
            frame = frame.with_columns(pl.col("arrival_ts_ns") + shift)
        frame.write_parquet(folder / "bars" / f"b{index}.parquet", row_group_size=100)
    names = [name for index in range(FILES) for name in names_of(index)]
    news(names, 300).write_ndjson(folder / "news.jsonl")
    return folder


def market(inputs: Path) -> list[str]:
    return [f"bars={inputs / 'bars'}", f"news={inputs / 'news.jsonl'}"]


def truth(name: str, inputs: list[str], path: Path) -> pa.Table:
    feature_set = named_set(name)
    compute.compute(feature_set, scan_inputs(feature_set, inputs), path, lambda *_: None, 97)
    return read_vectors(path)


@pytest.fixture(scope="module")
def market_truth(inputs, tmp_path_factory) -> pa.Table:
    return truth("market", market(inputs), tmp_path_factory.mktemp("truth") / "market.parquet")


def assert_equal(output: Path, expected: pa.Table) -> None:
    found = compare(read_vectors(output), expected)
    assert found.equal, found
    assert found.same == len(expected)


def letters(output: Path, kind: str) -> list[tuple[str, int | None]]:
    files = sorted((output / kind).rglob("part-*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return [(row["reason"], row["position"]) for row in rows]


def quiet(done: int, total: int) -> None:
    """Watches nothing."""


@pytest.mark.parametrize(
    ("workers", "cluster", "split"),
    [
        (1, False, "one process"),
        (3, False, "its own key groups"),
        (2, True, "one cluster of 2 processes"),
    ],
)
def test_shards_and_a_cluster_give_the_bits_of_one_process(
    inputs, market_truth, tmp_path, workers, cluster, split
):
    request = Request("market", market(inputs), tmp_path / "gold", workers, cluster, batch_rows=150)
    result = launch.backfill(request, quiet)
    assert split in result.split
    assert not result.drained
    assert_equal(request.output, market_truth)
    assert sorted(letters(request.output, DEAD)) == [
        ("out_of_bounds", row) for row in range(100, 100 + BAD_ROWS)
    ]
    assert letters(request.output, LATE) == [("late", None)] * LATE_ROWS
    rows = FILES * PER_FILE * BARS - BAD_ROWS
    counts = result.account["bars"]
    assert counts["in"] == rows
    assert counts["late"] == LATE_ROWS
    assert counts["applied"] == rows - LATE_ROWS
    assert result.account["news"]["applied"] == 300


def test_shards_have_their_own_files_where_entities_split(inputs, tmp_path):
    paths = [f"bars={inputs / 'bars'}"]
    expected = truth("market_lab", paths, tmp_path / "truth.parquet")
    request = Request("market_lab", paths, tmp_path / "gold", workers=2, batch_rows=150)
    result = launch.backfill(request, quiet)
    assert "its own files" in result.split
    assert_equal(request.output, expected)


HOPS = """
from feature_repo.machine import machine_at
slow = machine_at(64.0)
"""


def samples(seconds: int, arrives: bool) -> pl.DataFrame:
    """Samples of five assets with two channels each, of which some end early."""
    rng = np.random.default_rng(4)
    frames = []
    for index in range(5):
        count = 64 * (seconds - index)
        for channel in ("x", "y"):
            ts = START_NS + (np.arange(count) * 10**9) // 64
            frames.append(
                pl.DataFrame(
                    {
                        "asset_id": [f"pump{index}"] * count,
                        "asset_type": ["pump"] * count,
                        "channel": [channel] * count,
                        "ts_ns": ts,
                        "value": rng.standard_normal(count),
                    }
                )
            )
    frame = pl.concat(frames).sort("ts_ns", maintain_order=True)
    return frame.with_columns(arrival_ts_ns=pl.col("ts_ns") + 10**8) if arrives else frame


@pytest.mark.parametrize(("arrives", "apart"), [(False, True), (True, True), (True, False)])
def test_every_shard_knows_where_the_whole_input_ends(tmp_path, monkeypatch, arrives, apart):
    (tmp_path / "hops.py").write_text(HOPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("readings").mkdir()
    frame = samples(9, arrives)
    for key, rows in frame.group_by("asset_id", maintain_order=True) if apart else [("all", frame)]:
        rows.write_parquet(f"readings/{key[0]}.parquet")
    paths = ["readings=readings"]
    expected = truth("hops:slow", paths, tmp_path / "truth.parquet")
    request = Request("hops:slow", paths, Path("gold"), workers=2, batch_rows=500)
    result = launch.backfill(request, quiet)
    assert ("its own files" in result.split) is apart
    assert_equal(request.output, expected)
    sys.modules.pop("hops")


class Running:
    """A backfill by the command line, in a process that can be killed."""

    def __init__(self, recovery: Path, arguments: list[str]) -> None:
        self.recovery = recovery
        for told in recovery.glob("progress-*.json"):
            told.unlink()
        command = [sys.executable, "-m", "dataflows.cli", "backfill", *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def wait_for_rows(self, rows: int) -> None:
        """Until so many rows are in, or the run has ended."""
        while self.process.poll() is None:
            told = [progress.read(path) for path in self.recovery.glob("progress-*.json")]
            if sum(each.rows for each in told if each) >= rows:
                return
            try:
                self.process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue

    def shard(self) -> int | None:
        """A process of the run."""
        children = psutil.Process(self.process.pid).children()
        return int(children[0].pid) if children else None

    def end(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=120)
        return self.process.returncode, said


def resumable(inputs: Path, tmp_path: Path, *more: str) -> tuple[Path, Path, list[str]]:
    output, recovery = tmp_path / "gold", tmp_path / "state"
    flags = [flag for each in market(inputs) for flag in ("--input", each)]
    arguments = ["market", *flags, "--output", str(output), "--recovery", str(recovery)]
    return output, recovery, [*arguments, "--batch-rows", "40", "--snapshot-every", "0", *more]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_resumes_without_gap_or_duplicate(inputs, market_truth, tmp_path, workers):
    output, recovery, arguments = resumable(inputs, tmp_path, "--workers", str(workers))
    chance = random.Random(workers)
    killed = 0
    for round_ in range(3):
        run = Running(recovery, arguments)
        run.wait_for_rows((round_ + 1) * 400 + chance.randrange(200))
        victim = run.process.pid if round_ % 2 else run.shard()
        if run.process.poll() is None and victim is not None:
            os.kill(victim, signal.SIGKILL)
            killed += 1
        code, said = run.end()
        assert code != 0 or not killed, said
    code, said = Running(recovery, arguments).end()
    assert code == 0, said
    assert killed >= 2
    assert_equal(output, market_truth)
    assert len(letters(output, DEAD)) == BAD_ROWS
    assert len(letters(output, LATE)) == LATE_ROWS
    assert not list(output.rglob("*.aside"))


def test_a_drained_run_ends_well_and_goes_on(inputs, market_truth, tmp_path):
    output, recovery, arguments = resumable(inputs, tmp_path)
    run = Running(recovery, arguments)
    run.wait_for_rows(300)
    run.process.send_signal(signal.SIGTERM)
    code, said = run.end()
    assert code == 0, said
    assert "stopped" in said
    done = len(read_vectors(output)) if list(output.rglob("part-*.parquet")) else 0
    assert done < len(market_truth)
    code, said = Running(recovery, arguments).end()
    assert code == 0, said
    assert "done" in said
    assert_equal(output, market_truth)


def test_to_a_time_and_then_on_equals_one_run(tmp_path):
    folder = tmp_path / "bars"
    folder.mkdir()
    names = names_of(0)
    whole = bars(5, names, count=2 * BARS)
    half = len(whole) // 2
    whole[:half].write_csv(folder / "early.csv")
    request = Request(
        "market_lab", [f"bars={folder}"], tmp_path / "gold", recovery=tmp_path / "state"
    )
    launch.backfill(request, quiet)
    first = read_vectors(request.output)
    assert len(first) == half
    whole[half:].write_csv(folder / "later.csv")
    launch.backfill(request, quiet)
    whole.write_csv(tmp_path / "whole.csv")
    expected = truth("market_lab", [f"bars={tmp_path / 'whole.csv'}"], tmp_path / "whole.parquet")
    assert_equal(request.output, expected)


def test_a_run_that_fails_says_why_in_words(inputs, tmp_path, monkeypatch):
    module = tmp_path / "fickle.py"
    module.write_text(
        "import os\n"
        "from feature_repo.sets import ALL\n"
        "if 'RIFFLE_JOB' in os.environ:\n"
        "    raise RuntimeError('the disk of the moon is full')\n"
        "wide = ALL['market_lab']\n"
    )
    monkeypatch.chdir(tmp_path)
    request = Request("fickle:wide", [f"bars={inputs / 'bars'}"], tmp_path / "gold")
    with pytest.raises(FailedProcessError, match=r"shard 0 failed .*\n.*disk of the moon is full"):
        launch.backfill(request, quiet)


SETS = """
from feature_repo.streams import bars
from operators.feature_set import FeatureSet
close = bars.col("close")
old = FeatureSet("own", "v1", bars, {"ret": close.pct_change(1)})
new = FeatureSet("own", "v2", bars, {"ret": close.pct_change(1), "mean": close.rolling_mean(30),
                 "volume": bars.col("volume").rolling_sum("20m")})
changed = FeatureSet("own", "v1", bars, {"ret": close.pct_change(2)})
"""


def test_a_set_with_more_features_goes_on_with_a_warm_up(tmp_path, monkeypatch):
    (tmp_path / "grown.py").write_text(SETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    folder = tmp_path / "bars"
    folder.mkdir()
    whole = bars(5, names_of(0), count=2 * BARS)
    half = len(whole) // 2
    whole[:half].write_parquet(folder / "early.parquet")
    old = Request(
        "grown:old", [f"bars={folder}"], Path("gold"), recovery=Path("state"), batch_rows=100
    )
    launch.backfill(old, quiet)
    whole[half:].write_parquet(folder / "later.parquet")
    with pytest.raises(RecoveryError, match="give a changed set another version"):
        launch.backfill(replace(old, set_name="grown:changed"), quiet)
    new = replace(old, set_name="grown:new")
    with pytest.raises(FailedProcessError, match=r"(?s)the plan needs .*bars.volume.*--warm-up"):
        launch.backfill(new, quiet)
    launch.backfill(replace(new, warm_up=True), quiet)
    expected = truth("grown:new", [f"bars={folder}"], tmp_path / "whole.parquet")
    early = read_vectors(Path("gold/feature_set=own/version=v1"))
    later = expected.filter(pc.greater(expected["ts"], pc.max(early["ts"])))
    assert_equal(Path("gold/feature_set=own/version=v2"), later)
    sys.modules.pop("grown")


# -- refusals, without processes ------------------------------------------------------------


@pytest.fixture
def held(inputs, tmp_path, monkeypatch) -> Request:
    """A request whose recovery directory knows an earlier run of it."""
    monkeypatch.setattr(Group, "run", lambda self, watch: None)
    folder = tmp_path / "bars"
    folder.mkdir()
    for file in (inputs / "bars").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    request = Request(
        "market_lab", [f"bars={folder}"], tmp_path / "gold", recovery=tmp_path / "state"
    )
    launch.backfill(request, quiet)
    return request


def test_two_runs_on_one_recovery_directory_are_refused(held):
    lock = manifest.hold(held.recovery)
    with pytest.raises(RecoveryError, match="must be free, found another run"):
        launch.backfill(held, quiet)
    os.close(lock)
    launch.backfill(held, quiet)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workers": 2}, r"the number of processes \(--workers\) must be 1, found 2"),
        ({"output": Path("elsewhere")}, "the output folder must be .*gold', found .*elsewhere"),
        ({"overwrite": True}, "must be a new recovery directory with --overwrite"),
    ],
)
def test_another_job_is_refused(held, change, message):
    request = Request(**{**vars(held), **change})
    with pytest.raises(RecoveryError, match=message):
        launch.backfill(request, quiet)


def test_another_set_in_the_recovery_directory_is_refused(held, inputs):
    request = Request(**{**vars(held), "set_name": "market", "inputs": market(inputs)})
    with pytest.raises(RecoveryError, match="the feature set must be 'market_lab', found 'market'"):
        launch.backfill(request, quiet)


def test_a_changed_input_is_refused_by_name(held, tmp_path):
    file = tmp_path / "bars" / "b1.parquet"
    bars(77, names_of(1)).write_parquet(file)
    with pytest.raises(RecoveryError, match=r"b1.parquet must be as it was, .* put new rows into"):
        launch.backfill(held, quiet)
    file.unlink()
    with pytest.raises(RecoveryError, match=r"must still have .*b1.parquet, found it gone"):
        launch.backfill(held, quiet)


def test_a_directory_of_other_things_is_refused(held, tmp_path):
    other = tmp_path / "photos"
    other.mkdir()
    (other / "holiday.jpg").touch()
    request = Request(**{**vars(held), "recovery": other})
    with pytest.raises(RecoveryError, match="must be empty or the recovery directory"):
        launch.backfill(request, quiet)
    (other / manifest.NAME).write_text("{}")
    with pytest.raises(RecoveryError, match="must be the manifest of a run"):
        launch.backfill(request, quiet)


def test_an_output_with_vectors_of_another_run_is_refused_or_replaced(held):
    folder = held.output / "feature_set=market_lab" / "version=v1" / "date=2023-11-14"
    folder.mkdir(parents=True)
    foreign = folder / "part-s00p00-000000.parquet"
    foreign.touch()
    request = Request(**{**vars(held), "recovery": None})
    with pytest.raises(OccupiedError, match=r"found vectors of another run; .* --overwrite"):
        launch.backfill(request, quiet)
    launch.backfill(Request(**{**vars(request), "overwrite": True}), quiet)
    assert not foreign.exists()


@pytest.mark.parametrize(
    ("inputs_", "message"),
    [
        (["bars"], "must be STREAM=PATH, such as bars="),
        (["ticks=x.csv"], r"must be of a stream that `market` reads, \['bars', 'news'\]"),
        (["news={}/news.jsonl"], r"found none for \['bars'\]; add --input bars=PATH"),
        (["bars={}/bars", "bars={}/bars/b0.parquet", "news={}/news.jsonl"], "distinct names"),
    ],
)
def test_inputs_are_refused_in_words(inputs, inputs_, message):
    with pytest.raises(RefusedInputError, match=message):
        scan_inputs(named_set("market"), [each.format(inputs) for each in inputs_])


def test_new_files_that_join_two_shards_are_refused():
    old = [Weighed("a", 1, frozenset("x")), Weighed("b", 1, frozenset("y"))]
    new = Weighed("c", 1, frozenset("xy"))
    with pytest.raises(UnsplittableError, match=r"found \['c'\] with those of shards \[0, 1\]"):
        divide([*old, new], 2, {"a": 0, "b": 1})
    assert divide([*old, Weighed("c", 1, frozenset("y"))], 2, {"a": 0, "b": 1}) == {
        "a": 0, "b": 1, "c": 1,
    }  # fmt: skip
