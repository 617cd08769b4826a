"""Set-up compiles every kernel that a run needs, so that processes only ever read the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from feature_repo.market import market
from feature_repo.sets import ALL
from operators.kernels import writable_view
from tests.golden import rows_of
from tests.kernel_cache import copy_cache
from tests.prove_parity import write_parts

FILES = "*.nbc"
UNUSUAL = """
import numpy as np
from operators.kernels.ordering import group_by_run
group_by_run(np.zeros(3, np.int8), 1)
"""
MESSAGES = """
import numpy as np
from feature_repo.streams import bars, windows
from operators.dead_letters import Record
from sources.message_decoder import MessageDecoder
from sources.messages import Messages
bar = (
    b'{"instrument_id":"A","timeframe":"1m","ts":%d,'
    b'"open":1,"high":2.5,"low":1,"close":1,"volume":%s}'
)
window = (
    b'{"asset_id":"A","channel":"x","start_ts":%d,'
    b'"sampling_rate_hz":2,"values":[1,0.30000000000000004]}'
)
NOW = 1_704_196_800_000
for stream, values in (
    (bars, [bar % (NOW, b"0.30000000000000004"), b"x", b"[" * 50, bar % (NOW, b"-1")]),
    (windows, [window % (NOW - 2000)]),
):
    count = len(values)
    stamps = np.full(count, NOW)
    messages = Messages(values, np.arange(count), stamps, lambda i: Record(None, (), NOW))
    read = MessageDecoder(stream, partitioner="none").decode(messages, "0", 0)
    assert len(read.batch) == 1, read
"""
VECTORS = """
from sinks.vector_messages import VectorMessages
from tests.kafka_topics import TINY, tiny_vectors
VectorMessages(TINY).values(tiny_vectors([1, 2]))
"""
ENGINE_SETS = ("market", "asset", "waveform", "market_from_trades")


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that only set-up has written."""
    cache = tmp_path_factory.mktemp("cache") / "numba"
    copy_cache(cache)
    python(cache, "-m", "operators.warm")
    return cache


def python(cache: Path, *arguments: str) -> None:
    """Runs Python with a cache of its own."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    subprocess.run([sys.executable, *arguments], check=True, env=environment, capture_output=True)


def compiled(cache: Path) -> set[str]:
    """The compiled kernels in a cache."""
    return {path.name for path in cache.rglob(FILES)}


def command(name: str, folder: Path, *, csv: bool = False) -> list[str]:
    """The command that computes a set from rows of its own."""
    arguments = []
    for stream in ALL[name].streams:
        given = write_parts(folder, stream, [rows_of(stream, 60)])
        if csv:
            lines = folder / stream.name / "part-0.jsonl"
            pl.read_ndjson(lines).write_csv(lines.with_suffix(".csv"))
            lines.unlink()
        arguments += ["--input", given]
    return [
        "-m",
        "dataflows.cli",
        "compute",
        name,
        *arguments,
        "--output",
        str(folder / "out.parquet"),
    ]


@pytest.mark.parametrize("name", ENGINE_SETS)
def test_a_run_after_set_up_compiles_nothing(name: str, warmed: Path, tmp_path: Path) -> None:
    before = compiled(warmed)
    python(warmed, *command(name, tmp_path))
    assert before
    assert compiled(warmed) == before


def test_a_cache_that_cannot_be_written_serves_all_the_same(warmed: Path, tmp_path: Path) -> None:
    """What must be compiled on top stays with the process that needed it."""
    before = {path: path.stat().st_mtime_ns for path in warmed.rglob("*")}
    with writable_view(warmed) as view:
        python(Path(view), *command("market", tmp_path))
        assert compiled(Path(view)) == compiled(warmed)
        python(Path(view), "-c", UNUSUAL)
        assert compiled(Path(view)) > compiled(warmed)
    assert {path: path.stat().st_mtime_ns for path in warmed.rglob("*")} == before


def test_a_run_from_csv_and_parquet_compiles_nothing(warmed: Path, tmp_path: Path) -> None:
    before = compiled(warmed)
    python(warmed, *command("market", tmp_path / "csv", csv=True))
    wanted = command("market", tmp_path / "parquet")
    for stream in market.streams:
        lines = tmp_path / "parquet" / stream.name / "part-0.jsonl"
        pl.read_ndjson(lines).write_parquet(lines.with_suffix(".parquet"))
        lines.unlink()
    python(warmed, *wanted)
    output = ["--output", str(tmp_path / "gold")]
    python(warmed, "-m", "dataflows.cli", "backfill", *wanted[3:-2], *output)
    assert compiled(warmed) == before


@pytest.mark.parametrize("script", [MESSAGES, VECTORS])
def test_reading_and_writing_messages_compiles_nothing(script: str, warmed: Path) -> None:
    before = compiled(warmed)
    python(warmed, "-c", script)
    assert compiled(warmed) == before
