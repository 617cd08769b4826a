"""Tables as bounded inputs: the bits of files, one snapshot, resumed where a run was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dataflows.commands.compute import compute
from dataflows.commands.diff import compare
from dataflows.inputs import scan_inputs
from dataflows.named_sets import named_set
from feature_repo.streams import bars
from sinks.dataset import read_vectors
from sources.database import Database
from sources.messages import Read
from sources.reader import PartitionReader, Position
from sources.table_columns import TableName
from sources.tables import InputTable, TableSnapshot
from tests.input_tables import connected, fill, make, tell

START = pl.datetime(2024, 1, 2, time_unit="us", time_zone="UTC")


def ohlcv(count: int, names: int = 5, seed: int = 0) -> pl.DataFrame:
    """Bars of some instruments, shuffled, with some that are bad and some that are late."""
    rng = np.random.default_rng(seed)
    close = 100 + rng.standard_normal(count).cumsum()
    frame = pl.DataFrame(
        {
            "instrument_id": [f"i{k % names}" for k in range(count)],
            "timeframe": ["1m"] * count,
            "minute": np.arange(count) // names,
            "open": close,
            "high": close + 0.1 + 0.2,
            "low": close - 0.5,
            "close": np.where(np.arange(count) % 41 == 7, -1.0, close),
            "volume": rng.integers(0, 1000, count).astype(float),
        }
    ).with_columns(ts=START + pl.duration(minutes="minute"))
    late = pl.int_range(count) % 37 == 5
    delay = pl.when(late).then(90_000_000).otherwise(pl.int_range(count) % 900_000)
    frame = frame.with_columns(arrival_ts=pl.col("ts") + pl.duration(microseconds=delay))
    return frame.drop("minute").sample(fraction=1, shuffle=True, seed=seed)


@pytest.fixture
def url(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    tell(monkeypatch, database)
    return database


def read_all(
    given: InputTable, stream: Any = bars, rows: int = 97, position: Position | None = None
) -> tuple[list[Read], list[Position]]:
    reader = PartitionReader(stream, given, rows, position)
    reads, positions = [], []
    while not reader.ended:
        batch, dead = reader.read()
        reads.append(Read(batch, dead))
        positions.append(reader.position())
    reader.close()
    return reads, positions


def table(url: str, name: str = "ohlcv", stream: Any = bars) -> InputTable:
    """A table as it is at this moment."""
    with TableSnapshot(Database(url)) as snapshot:
        (facts,) = snapshot.facts(stream, TableName.of(name))
    return InputTable(Database(url), facts.slice.__class__(name, rows=facts.slice.rows))


def test_a_table_gives_the_bits_of_a_file(url: str, tmp_path: Path) -> None:
    frame = ohlcv(1_000)
    frame.write_parquet(tmp_path / "bars.parquet")
    with connected(url) as connection:
        make(connection, "ohlcv")
        fill(connection, "ohlcv", frame)
    market = named_set("market")
    news = tmp_path / "news.jsonl"
    news.write_text(
        '{"instrument_id":"i0","event_id":"e","ts":1704153600000,"sentiment":0,"confidence":1}\n'
    )
    found = []
    for given in (f"bars={tmp_path}/bars.parquet", "bars=table:ohlcv"):
        output = tmp_path / f"{len(found)}.parquet"
        files = scan_inputs(market, [given, f"news={news}"])
        told = compute(market, files, output, lambda *_: None, 97)
        found.append((read_vectors(output), told.account, told.unread))
        assert files[0].first_ns < files[0].last_ns
    assert compare(found[0][0], found[1][0]).equal
    assert found[0][1:] == found[1][1:]
    assert found[0][2], "some rows must have been refused"
