"""Tables as bounded inputs: the bits of files, one snapshot, resumed where a run was killed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dataflows.commands.compute import compute
from dataflows.commands.diff import compare
from dataflows.inputs import scan_inputs
from dataflows.launch import Request, backfill
from dataflows.named_sets import named_set
from dataflows.recovery_folder import RecoveryError
from dataflows.settings import SettingsError
from dataflows.table_inputs import TableInputs
from dataflows.table_inputs import database as told_database
from feature_repo.streams import bars, readings, windows
from operators.decode import RefusedInputError
from operators.streams import Stream
from sinks.dataset import read_vectors
from sources.database import Database, DatabaseError
from sources.files import Input
from sources.messages import Read
from sources.reader import PartitionReader, Position
from sources.table_columns import TableName
from sources.table_feed import plan_feed
from sources.tables import InputTable, TableSnapshot
from tests.input_tables import OHLCV, WINDOWS, connected, fill, letters, make, plain, tell
from tests.test_backfill import Running

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
    given: Input | Path,
    stream: Stream = bars,
    rows: int = 97,
    position: Position | None = None,
) -> tuple[list[Read], list[Position]]:
    reader = PartitionReader(stream, given, rows, position)
    reads, positions = [], []
    while not reader.ended:
        batch, dead = reader.read()
        reads.append(Read(batch, dead))
        positions.append(reader.position())
    reader.close()
    return reads, positions


def sliced(url: str, name: str = "ohlcv", stream: Stream = bars) -> InputTable:
    """A table as it is at this moment, to be read in snapshots of later ones."""
    with TableSnapshot(Database(url)) as snapshot:
        (facts,) = snapshot.facts(stream, TableName.of(name))
    return InputTable(Database(url), replace(facts.slice, snapshot=None))


def filled(url: str, frame: pl.DataFrame, name: str = "ohlcv", ddl: str = OHLCV) -> None:
    with connected(url) as connection:
        make(connection, name, ddl)
        fill(connection, name, frame)


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
    found: list[tuple[Any, ...]] = []
    for given in (f"bars={tmp_path}/bars.parquet", "bars=table:ohlcv"):
        output = tmp_path / f"{len(found)}.parquet"
        files = scan_inputs(market, [given, f"news={news}"])
        told = compute(market, files, output, lambda *_: None, 97)
        found.append((read_vectors(output), told.account, told.unread))
        assert files[0].first_ns < files[0].last_ns
    assert compare(found[0][0], found[1][0]).equal
    assert found[0][1:] == found[1][1:]
    assert found[0][2], "some rows must have been refused"


def windowed(count: int) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    lists = [rng.standard_normal(4 + k % 3).tolist() for k in range(count)]
    frame = pl.DataFrame(
        {
            "asset_id": [f"pump{k % 3}" for k in range(count)],
            "asset_type": ["pump" if k % 2 else None for k in range(count)],
            "channel": ["x"] * count,
            "start_ts": [
                datetime(2024, 1, 2, tzinfo=UTC) + timedelta(seconds=k) for k in range(count)
            ],
            "sampling_rate_hz": [float(4 + k % 2) for k in range(count)],
            "values": lists,
        }
    )
    return frame.sample(fraction=1, shuffle=True, seed=1)


def test_windows_come_as_arrays_in_the_order_of_their_ends(url: str, tmp_path: Path) -> None:
    frame = windowed(200)
    frame.write_parquet(tmp_path / "w.parquet")
    ddl = WINDOWS.replace(" DEFAULT clock_timestamp()", "").replace(
        "NOT NULL\n)", "NOT NULL DEFAULT clock_timestamp()\n)"
    )
    filled(url, frame, "windowed_sensor_data", ddl)
    with connected(url) as connection:
        connection.execute("ALTER TABLE windowed_sensor_data DROP arrival_ts")
    found, _ = read_all(sliced(url, "windowed_sensor_data", windows), windows)
    expected, _ = read_all(tmp_path / "w.parquet", windows)
    assert [row[2] for row in plain(found)] == sorted(row[2] for row in plain(found))
    assert sorted(plain(found)) == sorted(plain(expected))
    assert len(plain(found)) == 200


TYPES = """
CREATE TABLE {} (
    instrument_id varchar(8), timeframe char(4), ts timestamp,
    open numeric, high real, low smallint, close bigint, volume numeric(20, 3)
)
"""


def test_numbers_of_every_type_are_the_nearest_floats(url: str) -> None:
    with connected(url) as connection:
        connection.execute("SET TimeZone = 'Asia/Tokyo'")
        make(connection, "ohlcv", TYPES)
        into = "INSERT INTO ohlcv VALUES ('a', '1m', '2024-01-02 00:00:{}', {}, 3.1, 1, 2, 0.001)"
        numbers = ["1.1", "2.99999999999999999999999999", "1e400", "1e-400", "'NaN'", "NULL"]
        for second, number in enumerate(numbers):
            connection.execute(into.format(second, number))
    reads, _ = read_all(sliced(url))
    rows = [(row[2], *np.array(row[4:], np.int64).view(np.float64)) for row in plain(reads)]
    start = 1_704_153_600 * 10**9
    real = float(np.float32(3.1))
    assert rows == [
        (start, 1.1, real, 1.0, 2.0, 0.001),
        (start + 10**9, 3.0, real, 1.0, 2.0, 0.001),
    ]
    dead = letters([read.dead for read in reads])
    assert [reason for reason, _ in dead] == [
        "not_finite", "out_of_bounds", "not_finite", "missing"
    ]  # fmt: skip


def test_arrays_with_nulls_or_of_several_dimensions_stop_nothing(url: str) -> None:
    with connected(url) as connection:
        make(connection, "w", WINDOWS)
        for number, values in enumerate(("{1,NULL,3}", "{{1,2},{3,4}}", "{}", "{1,NaN}", "{5}")):
            connection.execute(
                "INSERT INTO w VALUES ('a', NULL, 'x', '2024-01-02'::timestamptz + %s * "
                "interval '1s', 4, %s)",
                [number, values],
            )
    reads, _ = read_all(sliced(url, "w", windows), windows)
    assert [np.frombuffer(row[-1]).tolist() for row in plain(reads)] == [[1, 2, 3, 4], [5]]
    dead = letters([read.dead for read in reads])
    assert sorted(str(reason) for reason, _ in dead) == ["no_samples", "not_finite", "wrong_type"]


BAD = [
    ("NULL", "'1m'", "'2024-01-02'", "1", "missing"),
    ("'x y'", "'1m'", "'2024-01-02'", "1", "bad_entity"),
    ("E'a\\nb'", "'1m'", "'2024-01-02'", "1", "bad_entity"),
    ("'a'", "''", "'2024-01-02'", "1", "missing"),
    ("'a'", "'1m'", "NULL", "1", "missing"),
    ("'a'", "'1m'", "'infinity'", "1", "time_range"),
    ("'a'", "'1m'", "'-infinity'", "1", "time_range"),
    ("'a'", "'1m'", "'4713-01-01 BC'", "1", "time_range"),
    ("'a'", "'1m'", "'294276-12-31'", "1", "time_range"),
    ("'a'", "'1m'", "'2024-01-02'", "NULL", "missing"),
    ("'a'", "'1m'", "'2024-01-02'", "'-Infinity'", "not_finite"),
    ("'a'", "'1m'", "'2024-01-02'", "-1", "out_of_bounds"),
]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_rows_that_cant_be_used_are_put_aside_as_json(url: str, rows: int) -> None:
    with connected(url) as connection:
        make(connection, "ohlcv")
        connection.execute(
            "ALTER TABLE ohlcv DROP arrival_ts, ALTER instrument_id DROP NOT NULL, "
            "ALTER timeframe DROP NOT NULL, ALTER ts DROP NOT NULL"
        )
        for entity, series, ts, close, _ in BAD:
            connection.execute(
                f"INSERT INTO ohlcv VALUES ({entity}, {series}, {ts}, 1, 1, 0.5, {close}, 1)"
            )
        connection.execute("INSERT INTO ohlcv VALUES ('a', '1m', '2024-01-03', 1, 1, 1, 1, 1)")
    given = sliced(url)
    reads, positions = read_all(given, rows=rows)
    assert len(plain(reads)) == 1
    dead = letters([read.dead for read in reads])
    assert sorted(reason for reason, _ in dead) == sorted(row[-1] for row in BAD)
    assert {json.loads(original)["open"] for _, original in dead} == {1.0}
    for position in positions:  # among rows that tie, that have no time, and that have an odd one
        again, _ = read_all(given, rows=rows, position=position)
        after = letters([read.dead for read in again])
        assert after == dead[len(dead) - len(after) :]
        row = position["place"].get("row", 0)
        assert len(after) + len(plain(again)) == (given.size() - row if position["started"] else 0)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_reader_goes_on_from_any_position(url: str, indexed: bool) -> None:
    frame = ohlcv(500).with_columns(pl.col("arrival_ts").dt.truncate("20m"))
    filled(url, frame)
    if indexed:
        with connected(url) as connection:
            connection.execute("CREATE INDEX ON ohlcv (arrival_ts)")
            connection.execute("SET enable_sort = off")
    given = sliced(url)
    reads, positions = read_all(given, rows=13)
    whole, told = plain(reads), letters([read.dead for read in reads])
    assert len(whole) + len(told) == 500
    for number in range(0, len(positions), 5):
        again, _ = read_all(given, rows=31, position=positions[number])
        before = reads[: number + 1]
        assert plain(before) + plain(again) == whole
        dead = [read.dead for read in before + again]
        assert letters(dead) == told


def test_slices_part_a_table_by_entity_and_leave_out_nobody(url: str) -> None:
    filled(url, ohlcv(600, names=40))
    with connected(url) as connection:
        connection.execute("ALTER TABLE ohlcv ALTER instrument_id DROP NOT NULL")
        connection.execute("UPDATE ohlcv SET instrument_id = NULL WHERE instrument_id = 'i7'")
    whole, _ = read_all(sliced(url))
    with TableSnapshot(Database(url)) as snapshot:
        facts = snapshot.facts(bars, TableName.of("public.ohlcv"), parts=3)
        parts = [read_all(InputTable(Database(url), each.slice))[0] for each in facts]
    assert [each.slice.name for each in facts] == [f"public.ohlcv/{n}-of-3" for n in range(3)]
    assert sum(each.slice.rows for each in facts) == 600
    keys = [{row[0] for row in plain(part)} for part in parts]
    assert not keys[0] & keys[1] | keys[1] & keys[2] | keys[0] & keys[2]
    assert sorted(row for part in parts for row in plain(part)) == sorted(plain(whole))
    for each, part in zip(facts, keys, strict=True):
        assert part == set(each.entities)
    dead = [reason for part in parts for reason, _ in letters([read.dead for read in part])]
    assert dead.count("missing") == 15


def test_all_that_is_read_is_of_one_moment(url: str) -> None:
    filled(url, ohlcv(300))
    market = named_set("market_lab")
    with TableInputs() as tables, connected(url) as connection:
        files = scan_inputs(market, ["bars=table:ohlcv"], tables)
        connection.execute("UPDATE ohlcv SET close = 1")
        connection.execute("DELETE FROM ohlcv WHERE instrument_id = 'i0'")
        fill(connection, "ohlcv", ohlcv(300, seed=9))
        reads, _ = read_all(files[0].input)
    assert sum(len(read.batch) + len(read.dead) for read in reads) == files[0].rows == 300


@pytest.mark.parametrize(("workers", "cluster"), [(2, False), (2, True)])
def test_shards_of_a_backfill_read_their_own_slices(
    url: str, tmp_path: Path, workers: int, cluster: bool
) -> None:
    frame = ohlcv(2_000, names=20)
    frame.write_parquet(tmp_path / "bars.parquet")
    filled(url, frame)
    lab, expected = named_set("market_lab"), tmp_path / "truth.parquet"
    told = scan_inputs(lab, [f"bars={tmp_path}/bars.parquet"])
    truth = compute(lab, told, expected, lambda *_: None, 97)
    request = Request(
        "market_lab", ["bars=table:ohlcv"], tmp_path / "gold", workers, cluster, batch_rows=150
    )
    result = backfill(request, lambda *_: None)
    if not cluster:
        assert "its own files" in result.split
    assert compare(read_vectors(request.output), read_vectors(expected)).equal
    assert result.account == truth.account
    assert result.unread == truth.unread


def test_a_killed_backfill_goes_on_with_the_rows_that_it_began_with(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hunter2"
    tell(monkeypatch, url.replace("postgres@", f"postgres:{secret}@"))
    frame = ohlcv(2_000, names=20)
    filled(url, frame)
    lab, expected = named_set("market_lab"), tmp_path / "truth.parquet"
    with TableInputs() as tables:
        told = scan_inputs(lab, ["bars=table:ohlcv"], tables)
        compute(lab, told, expected, lambda *_: None, 97)
    output, recovery = tmp_path / "gold", tmp_path / "state"
    arguments = [
        "market_lab", "--input", "bars=table:ohlcv", "--output", str(output),
        "--recovery", str(recovery), "--batch-rows", "40", "--snapshot-every", "0",
    ]  # fmt: skip
    said = ""
    for rows in (300, 900):
        run = Running(recovery, arguments)
        run.wait_for_rows(rows)
        run.process.kill()
        said += run.end()[1]
        later = ohlcv(50).with_columns(pl.col("ts") + pl.duration(days=9, milliseconds=rows))
        with connected(url) as connection:
            fill(connection, "ohlcv", later.with_columns(arrival_ts="ts"))
    code, last = Running(recovery, arguments).end()
    assert code == 0, last
    assert compare(read_vectors(output), read_vectors(expected)).equal
    written = [path for root in (output, recovery) for path in root.rglob("*") if path.is_file()]
    assert secret not in said + last
    assert not [path for path in written if secret.encode() in path.read_bytes()]


def test_a_table_that_has_changed_is_not_resumed(url: str, tmp_path: Path) -> None:
    filled(url, ohlcv(300))
    request = Request(
        "market_lab", ["bars=table:ohlcv"], tmp_path / "gold", recovery=tmp_path / "state"
    )
    backfill(request, lambda *_: None)
    with connected(url) as connection:
        connection.execute("UPDATE ohlcv SET close = close + 0.5 WHERE ctid = '(0,1)'")
    with pytest.raises(RecoveryError, match=r"table:ohlcv must have, up to 2024.*, the 300 rows"):
        backfill(request, lambda *_: None)


def test_urls_are_refused_as_inputs_and_not_repeated(url: str) -> None:
    with pytest.raises(RefusedInputError, match="bars=table:NAME, found a URL") as caught:
        scan_inputs(named_set("market_lab"), ["bars=postgresql://u:hunter2@h/d"])
    assert "hunter2" not in str(caught.value)


def test_a_table_without_a_database_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIFFLE_DATABASE__URL", raising=False)
    told_database.cache_clear()
    with pytest.raises(SettingsError, match="RIFFLE_DATABASE__URL or RIFFLE_DATABASE__URL_FILE"):
        scan_inputs(named_set("market_lab"), ["bars=table:ohlcv"])


@pytest.mark.parametrize("name", ["none", "no.where", "a.b.c", "o'; DROP TABLE ohlcv; --", ""])
def test_tables_that_are_not_there_are_refused(url: str, name: str) -> None:
    filled(url, ohlcv(10))
    with pytest.raises(RefusedInputError, match="must be"):
        scan_inputs(named_set("market_lab"), [f"bars=table:{name}"])
    assert sliced(url).size() == 10


def test_a_database_that_is_away_is_told_without_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    held = tmp_path / "url"
    held.write_text("postgresql://u:hunter2@127.0.0.1:1/d\n")
    monkeypatch.delenv("RIFFLE_DATABASE__URL", raising=False)
    monkeypatch.setenv("RIFFLE_DATABASE__URL_FILE", str(held))
    told_database.cache_clear()
    with pytest.raises(DatabaseError, match=r"127\.0\.0\.1:1/d") as caught:
        scan_inputs(named_set("market_lab"), ["bars=table:ohlcv"])
    assert "hunter2" not in str(caught.value)


def test_the_tables_of_the_documentation_can_be_read(url: str) -> None:
    text = (Path(__file__).parents[1] / "docs" / "table_sources.md").read_text()
    with connected(url) as connection:
        for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL):
            connection.execute(block)
        for stream, name in (
            (bars, "ohlcv"),
            (readings(100.0), "preprocessed_sensor_data"),
            (windows, "windowed_sensor_data"),
            (bars, "bars_of_quotes"),
        ):
            assert sliced(url, name, stream).size() == 0
            plan_feed(connection, stream, TableName.of(name))
