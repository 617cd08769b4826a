"""How fast is a backfill, from Parquet to Parquet through the whole Bytewax dataflow?

The flow reads rows in the order of arrival, decodes and checks them, routes them to 64 key groups,
settles them, and writes vectors with key, time, quality, coverage and provenance. polars reads the
same files, sorts them by time, and writes key, time and features, uncompressed as the numbers of
the gold dataset are; lazily into a sink, the fastest of its ways by a tenth. Interpreter start and
imports are not counted for any.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from bytewax.testing import run_main

from benchmarks.columns import rolling_features
from benchmarks.contest import Contender, Timing, contest
from benchmarks.report import Line
from benchmarks.workload import WINDOW, Arrays, Rows, in_order, rows, seven, write_parquet
from dataflows.backfill import build
from dataflows.inputs import scan_inputs, write_files
from dataflows.settings import BackfillSettings
from dataflows.shards import Weighed, divide

SET = "benchmarks.workload:seven"
FILES = 4
"""Files of the input; each has keys of its own."""


@dataclass(frozen=True)
class Sizes:
    """Rows and keys of the inputs."""

    rows: int
    keys: int
    bytewax: tuple[int, int]
    tsflex: tuple[int, int]


FULL = Sizes(8_000_000, 1_000, (2_000, 4), (800, 1))
QUICK = Sizes(40_000, 100, (600, 2), (300, 1))


class BackfillJob:
    """One shard of a backfill.

    Args:
        inputs: folder of the input files.
        output: folder for datasets, a new one for each run.
        files: what the launcher would tell of the files; without it they are scanned in each run.
        shard, shards: which one of how many.
    """

    def __init__(
        self, inputs: str, output: str, files: str | None = None, shard: int = 0, shards: int = 1
    ) -> None:
        self.inputs = (f"ticks={inputs}",)
        self.root = Path(output) / f"{shard}-of-{shards}-{'told' if files else 'scanned'}"
        self.files = files
        self.shard, self.shards = shard, shards
        self.runs = 0

    def prepare(self) -> None:
        """Removes what the last run wrote."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.runs += 1

    def run(self) -> None:
        """Builds the flow and runs it to the end of the input."""
        settings = BackfillSettings(
            feature_set=SET,
            inputs=self.inputs,
            output=self.root,
            job=f"bench-{self.runs}",
            part=f"s{self.shard:02d}p",
            shard=self.shard,
            shards=self.shards,
            by_files=self.shards > 1,
            files=Path(self.files) if self.files else None,
        )
        run_main(build(settings))  # type: ignore[no-untyped-call]

    def outputs(self) -> Arrays:
        """The dataset of the last run."""
        return _vectors(str(self.root / "feature_set=seven" / "**" / "*.parquet"))


class PolarsParquetJob:
    """polars from the same files to one file.

    Args:
        inputs: folder of the input files.
        output: folder for the file.
    """

    def __init__(self, inputs: str, output: str) -> None:
        self.inputs = str(Path(inputs) / "*.parquet")
        self.path = Path(output) / "polars.parquet"

    def prepare(self) -> None:
        """Removes what the last run wrote."""
        self.path.unlink(missing_ok=True)

    def run(self) -> None:
        """Reads, sorts, computes, writes."""
        frame = pl.scan_parquet(self.inputs).select("sensor", "ts", "x").sort("ts")
        found = frame.select("sensor", "ts", **rolling_features("x", "sensor"))
        found.sink_parquet(self.path, compression="uncompressed", statistics=False)

    def outputs(self) -> Arrays:
        """The file of the last run."""
        return _vectors(str(self.path))


def _vectors(pattern: str) -> Arrays:
    """Vectors of Parquet files, by key and time."""
    frame = pl.read_parquet(pattern, columns=["sensor", "ts", *seven.features])
    number = frame["sensor"].cast(pl.String).str.strip_prefix("sensor-").cast(pl.Int64)
    found: Arrays = {"key": number.to_numpy(), "ts": frame["ts"].cast(pl.Int64).to_numpy()}
    for name in seven.features:
        found[name] = frame[name].fill_null(np.nan).to_numpy()
    return in_order(found)


def _write_inputs(folder: Path, sizes: Sizes) -> None:
    data = rows(sizes.rows, sizes.keys)
    for number in range(FILES):
        own = data.key % FILES == number
        part = Rows(data.ts_ns[own], data.arrival_ns[own], data.key[own], data.x[own])
        write_parquet(part, folder / f"part-{number}.parquet", sizes.keys)


def _tell_files(inputs: Path, path: Path, shards: int) -> Path:
    """Writes what the launcher tells its shards: the files, and whose they are."""
    files = scan_inputs(seven, [f"ticks={inputs}"])
    weighed = [Weighed(f"{f.stream}/{f.name}", f.size, frozenset(f.entities)) for f in files]
    owners = divide(weighed, shards)
    assert owners is not None
    told = [msgspec.structs.replace(f, shard=owners[f"{f.stream}/{f.name}"]) for f in files]
    write_files(path, told)
    return path


def measure(sizes: Sizes, rounds: int) -> tuple[list[Line], list[Timing]]:
    """Runs the contests.

    Args:
        sizes: of the inputs.
        rounds: how often each contender runs.
    """
    with tempfile.TemporaryDirectory(prefix="riffle-bench-") as name:
        folder = Path(name)
        inputs, output = folder / "input", folder / "output"
        output.mkdir()
        _write_inputs(inputs, sizes)
        files = {n: str(_tell_files(inputs, folder / f"files-{n}.json", n)) for n in (1, 2)}
        places = {"inputs": str(inputs), "output": str(output)}
        job = f"{__name__}:BackfillJob"
        backfill, polars = contest(
            [
                Contender("backfill", job, places, sizes.rows),
                Contender("polars, files", f"{__name__}:PolarsParquetJob", places, sizes.rows),
            ],
            rounds,
        )
        one, two = contest(
            [
                Contender("one shard", job, {**places, "files": files[1]}, sizes.rows),
                Contender(
                    "two shards", job, {**places, "files": files[2], "shards": 2}, sizes.rows,
                    crew=[{"shard": 0}, {"shard": 1}],
                ),
            ],
            rounds,
        )  # fmt: skip
    # Bytewax pays for each row, tsflex for each whole window.
    windows = _small("Bytewax windows", "BytewaxJob", sizes.bytewax, 0, rounds)
    tsflex = _small("tsflex, stride 1", "TsflexJob", sizes.tsflex, WINDOW - 1, rounds)
    lines = [
        Line.ratio("Parquet to Parquet: backfill over polars", polars, backfill, 1.2),
        Line.ratio("Parquet to Parquet: two shards over one", one, two, 1.7),
        Line.ratio("backfill over Bytewax's own windows", windows, backfill, 100.0),
        Line.ratio("backfill over tsflex at stride 1", tsflex, backfill, 500.0),
    ]
    return lines, [backfill, polars, one, two, windows, tsflex]


def _small(name: str, job: str, size: tuple[int, int], unpaid: int, rounds: int) -> Timing:
    """Times a slow peer on a small input, and checks it against the engine on the same.

    Args:
        name: of the peer.
        job: its class.
        size: rows and keys.
        unpaid: rows of each key that do not count.
        rounds: how often it runs.
    """
    count, keys = size
    settings = {"count": count, "keys": keys}
    engine = {**settings, "batch_rows": count}
    contenders = [
        Contender("engine", "benchmarks.columns:EngineJob", engine, count),
        Contender(name, f"benchmarks.peers:{job}", settings, count - keys * unpaid),
    ]
    return contest(contenders, min(rounds, 3))[1]
