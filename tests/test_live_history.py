"""A live flow that begins in an archive: warm at its first vector, and verified while it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from dataflows.cli import app
from dataflows.commands.replay import spelled
from dataflows.live_settings import live_settings
from dataflows.topics import wanted_topics
from sources.kafka_client import murmur2
from tests.chaos.flow import Unit
from tests.chaos.watch import until
from tests.history_sets import month
from tests.kafka_topics import read_topic
from tests.services.kafka import Topics
from tests.services.names import unique

DAY_NS = 86_400 * 10**9
START_NS = 1_767_225_600 * 10**9
PARTITIONS = 2
PATIENCE_S = 90


def pulses(first_day: int, last_day: int, seed: int) -> pl.DataFrame:
    """Rows of some days, ten a day and sensor."""
    rng = np.random.default_rng(seed)
    count = (last_day - first_day) * 40
    ts_ns = START_NS + np.sort(rng.integers(first_day * DAY_NS, last_day * DAY_NS, count))
    return pl.DataFrame(
        {
            "sensor_id": rng.choice([f"s{i}" for i in range(4)], count),
            "ts_ns": ts_ns,
            "arrival_ts_ns": ts_ns + 10**6,
            "x": rng.standard_normal(count),
        }
    )


def publish(bootstrap: str, topic: str, frame: pl.DataFrame) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for row in frame.iter_rows(named=True):
        key = row["sensor_id"].encode()
        producer.produce(topic, msgspec.json.encode(row), key, murmur2(key) % PARTITIONS)
    assert producer.flush(20) == 0


def cli(*arguments: str | Path, code: int | None = 0) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert code is None or result.exit_code == code, (result.output, result.exception)
    return result.exit_code, result.output


@pytest.fixture
def config(kafka: str, topic: Topics, tmp_path: Path) -> Iterator[Path]:
    """The settings of a flow over a topic whose past is archived."""
    name = unique("history", "-")
    path = tmp_path / "flow.toml"
    path.write_text(
        f"""
name = "{name}"
emit_from = "{spelled(START_NS + 35 * DAY_NS)}"
recovery = "{tmp_path}/state"
snapshot_every = "1s"
alignment = "40d"
listen = ""
[kafka]
bootstrap = "{kafka}"
clock_topic = "{name}-clock"
progress_topic = "{name}-progress"
[inputs.pulses]
topic = "{topic(PARTITIONS)}"
arrival = "column"
archive = "{tmp_path}/past"
[sets."tests.history_sets:month"]
topic = "{topic(3)}"
"""
    )
    yield path
    client = AdminClient({"bootstrap.servers": kafka})
    there = client.list_topics(timeout=10).topics
    own = [each.name for each in wanted_topics(live_settings(path), None)]
    for done in client.delete_topics([name for name in own if name in there]).values():
        done.result(20)


def test_a_month_is_warm_at_its_first_live_vector(kafka, config, tmp_path):
    settings = live_settings(config)
    source, output = settings.topic_of("pulses"), settings.sets["tests.history_sets:month"].topic
    past, present = pulses(0, 33, seed=1), pulses(33, 38, seed=2)
    publish(kafka, source, past)
    _, told = cli("archive", source, "--output", tmp_path / "past", "--config", config)
    assert f"{len(past):,} messages more" in told
    client = AdminClient({"bootstrap.servers": kafka})
    latest = TopicPartition(source, 0, -1), TopicPartition(source, 1, -1)
    for done in client.delete_records(list(latest)).values():
        done.result(20)
    cli("apply", config, "--partitions", str(PARTITIONS), "--replication", "1")

    flow = Unit(settings, config, tmp_path / "log")
    flow.start()
    try:
        publish(kafka, source, present)
        span = [spelled(START_NS + day * DAY_NS) for day in (30, 38)]
        asked = ["tests.history_sets:month", "--from", span[0], "--to", span[1], "-c", config]
        verdicts: list[str] = []

        def verified() -> bool:
            flow.check_alive()
            code, told = cli("verify", *asked, "--json", code=None)
            verdicts.append(told)
            return code == 0

        until(verified, PATIENCE_S, "all that is computed must be held")
        flow.drain()
    finally:
        if flow.running:
            flow.kill()

    both = pl.concat([past, present])
    wanted = month.compute(both)
    held = [msgspec.json.decode(m.value or b"") for m in read_topic(kafka, output)]
    found = json.loads(verdicts[-1])
    # A lane that is ahead of the others has given more than is compared.
    assert 50 < found["held"][0]["same"] <= len(held)
    first = min(held, key=lambda vector: vector["ts"])
    assert first["ts"] >= spelled(START_NS + 35 * DAY_NS)
    assert first["count_30d"] > 200
    by_key = {
        (row["sensor_id"], str(row["ts"])): row
        for row in wanted.with_columns(
            pl.col("ts").dt.to_string("%Y-%m-%dT%H:%M:%S%.9f").str.strip_chars_end("0")
        ).iter_rows(named=True)
    }
    for vector in held:
        row = by_key[vector["sensor_id"], vector["ts"].removesuffix("Z")]
        for name in ("count_30d", "mean_30d", "std_30d"):
            assert vector[name] == row[name]
