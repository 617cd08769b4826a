"""A live flow that follows a table: killed often, as is its database, it misses nothing."""

from __future__ import annotations

import random
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import msgspec
import polars as pl
import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from dataflows.cli import app
from dataflows.live_plan import new_flow, plan_flow
from dataflows.live_settings import live_settings
from dataflows.live_state import settle
from dataflows.recovery_folder import RecoveryError
from dataflows.settings import SettingsError
from dataflows.topics import apply, wanted_topics
from operators.notebook import RefusedRowsWarning
from tests.chaos.flow import Unit
from tests.chaos.watch import until
from tests.history_sets import month
from tests.input_tables import connected
from tests.kafka_topics import read_topic
from tests.services.kafka import Topics
from tests.services.names import unique
from tests.services.process import Server

PATIENCE_S = 60
KILLS = 4
PULSES = """
CREATE TABLE pulses (
    sensor_id text, ts timestamptz, x double precision,
    arrival_ts timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
SET = "tests.history_sets:month"


@pytest.fixture
def config(kafka: str, topic: Topics, tmp_path: Path) -> Iterator[Path]:
    """The settings of a flow that reads a table; its database is told by the environment."""
    name = unique("pulses", "-")
    path = tmp_path / "flow.toml"
    path.write_text(
        f"""
name = "{name}"
recovery = "{tmp_path}/state"
snapshot_every = "1s"
listen = ""
[kafka]
bootstrap = "{kafka}"
partitioner = "none"
clock_topic = "{name}-clock"
progress_topic = "{name}-progress"
[database]
url_file = "{tmp_path}/url"
[inputs.pulses]
table = "pulses"
poll = "50ms"
[sets."{SET}"]
topic = "{topic(3)}"
"""
    )
    yield path
    client = AdminClient({"bootstrap.servers": kafka})
    there = client.list_topics(timeout=10).topics
    own = [each.name for each in wanted_topics(live_settings(path), None)]
    for done in client.delete_topics([each for each in own if each in there]).values():
        done.result(20)


class Writer:
    """Writes rows in transactions that last, fail and cross each other, until it is stopped."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._chance = random.Random(seed)
        self._stopped = Event()
        self._thread = Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            with suppress(psycopg.OperationalError), psycopg.connect(self._url) as connection:
                while not self._stopped.is_set():
                    self._transaction(connection)
            time.sleep(0.05)

    def _transaction(self, connection: psycopg.Connection[Any]) -> None:
        chance = self._chance
        for _ in range(chance.randrange(1, 6)):
            sensor, x = f"s{chance.randrange(5)}", chance.gauss(0, 1)
            late = chance.choice([0, 0, 0, 0, 0, 5])
            bad = chance.random() < 0.1
            connection.execute(
                "INSERT INTO pulses VALUES (%s, clock_timestamp() - %s * interval '1s', %s)",
                [sensor, late, None if bad else x],
            )
            time.sleep(chance.random() * chance.choice([0.01, 0.01, 0.3]))
        if chance.random() < 0.2:
            connection.rollback()
        else:
            connection.commit()


def test_a_flow_that_is_killed_misses_no_row_and_gives_none_twice(
    kafka: str,
    config: Path,
    private_postgres: Server,
    tmp_path: Path,
) -> None:
    url = private_postgres.address
    (tmp_path / "url").write_text(url)
    with connected(url) as connection:
        connection.execute(PULSES)
        connection.execute("CREATE INDEX ON pulses (arrival_ts)")
    settings = live_settings(config)
    apply(settings, 1, 1)
    output = settings.sets[SET].topic
    flow = Unit(settings, config, tmp_path / "log")
    chance = random.Random(7)
    writers = [Writer(url, seed) for seed in range(3)]
    try:
        for kill in range(KILLS):
            flow.start()
            time.sleep(4 + 3 * chance.random())
            flow.check_alive()
            if kill == 1:
                private_postgres.kill()
                time.sleep(1)
                private_postgres.start()
                time.sleep(2)
                flow.check_alive()
            flow.kill()
        for writer in writers:
            writer.stop()
        flow.start()
        with connected(url) as connection:
            rows = connection.execute("SELECT sensor_id, ts, x, arrival_ts FROM pulses").fetchall()
        frame = pl.DataFrame(
            rows,
            orient="row",
            schema=["sensor_id", "ts", "x", "arrival_ts"],
            infer_schema_length=None,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RefusedRowsWarning)
            wanted = month.compute(frame)

        def held() -> list[dict[str, Any]]:
            return [msgspec.json.decode(m.value or b"") for m in read_topic(kafka, output)]

        def complete() -> bool:
            flow.check_alive()
            return len(held()) >= len(wanted)

        until(complete, PATIENCE_S, "all vectors must come")
        flow.drain()
        found = held()
    except BaseException:
        print(flow.last_lines())  # noqa: T201 - for who reads the failure
        raise
    finally:
        for writer in writers:
            writer.stop()
        flow.end()

    late = frame.filter(pl.col("arrival_ts") - pl.col("ts") > pl.duration(seconds=1))
    bad = frame.filter(pl.col("x").is_null())
    assert len(wanted) == len(frame) - len(late.filter(pl.col("x").is_not_null())) - len(bad)
    assert min(len(wanted), len(late), len(bad)) > 5
    spelled = pl.col("ts").dt.to_string("%Y-%m-%dT%H:%M:%S%.9f").str.strip_chars_end("0")
    expected = {
        (row["sensor_id"], row["ts"]): row
        for row in wanted.with_columns(ts=spelled).iter_rows(named=True)
    }
    assert len(found) == len(expected)
    for vector in found:
        row = expected[vector["sensor_id"], vector["ts"].removesuffix("Z")]
        for name in ("count_30d", "mean_30d", "std_30d", "n_rows"):
            assert vector[name] == row[name]

    topics = {name: read_topic(kafka, f"pulses.{name}") for name in ("dlq", "late")}
    assert len(topics["dlq"]) == len(bad)
    assert len(topics["late"]) == len(late) - len(late.filter(pl.col("x").is_null()))
    again = Counter(message.value for message in topics["dlq"] + topics["late"])
    assert set(again.values()) == {1}
    assert msgspec.json.decode(topics["dlq"][0].value or b"")["x"] is None


def test_a_table_needs_rows_to_be_spread_by_hash(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIFFLE_KAFKA__PARTITIONER", "murmur2")
    with pytest.raises(SettingsError, match=r"partitioner must be 'none' where an input is a"):
        live_settings(config)


def test_an_input_is_of_a_topic_or_of_a_table(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIFFLE_INPUTS__PULSES__TOPIC", "pulses")
    with pytest.raises(SettingsError, match="must be of a topic or of a table, found"):
        live_settings(config)


@pytest.mark.parametrize("command", ["replay", "verify"])
def test_what_came_from_a_table_is_not_computed_again_from_a_log(
    config: Path, tmp_path: Path, command: str
) -> None:
    (tmp_path / "url").write_text("postgresql://nobody@127.0.0.1:1/none")
    asked = ["--from", "2026-01-01", "--to", "2026-01-02", "--config", str(config)]
    asked += ["--output", str(tmp_path / "gold")] if command == "replay" else []
    told = CliRunner().invoke(app, [command, SET, *asked])
    assert told.exit_code == 2, (told.output, told.exception)
    assert "found tables for ['pulses']; use `riffle backfill`" in " ".join(told.output.split())


def test_a_table_needs_a_database(config: Path) -> None:
    lines = config.read_text().splitlines()
    without = config.with_name("without.toml")
    kept = [line for line in lines if "database" not in line and "url" not in line]
    without.write_text("\n".join(kept))
    with pytest.raises(SettingsError, match="database must be set, as inputs are tables"):
        live_settings(without)


def test_state_of_a_table_does_not_fit_a_topic(
    kafka: str, config: Path, tmp_path: Path, topic: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text("postgresql://nobody@127.0.0.1:1/none")
    plan = plan_flow(live_settings(config))
    assert plan.partitions == {"pulses": 1}
    assert plan.own_lanes(cluster=False) == list(range(8))
    settle(tmp_path / "state", new_flow(plan, cluster=False))
    monkeypatch.setenv("RIFFLE_INPUTS__PULSES__TABLE", "others")
    other = new_flow(plan_flow(live_settings(config)), cluster=False)
    with pytest.raises(RecoveryError, match="must come from table 'pulses', found table 'others'"):
        settle(tmp_path / "state", other)
    monkeypatch.delenv("RIFFLE_INPUTS__PULSES__TABLE")
    text = config.read_text().replace('table = "pulses"', f'topic = "{topic(1)}"')
    config.write_text(text.replace('poll = "50ms"', 'arrival = "column"'))
    other = new_flow(plan_flow(live_settings(config)), cluster=False)
    with pytest.raises(RecoveryError, match="must come from table 'pulses', found topic"):
        settle(tmp_path / "state", other)
