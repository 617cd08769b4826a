"""A live flow to Kafka, a table and the online store: made, run, compared, all by the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis as client
from typer.testing import CliRunner

from dataflows.cli import app
from dataflows.live_settings import live_settings
from dataflows.topics import wanted_topics
from tests.services.kafka import Topics
from tests.services.names import unique
from tests.test_replay import NAMES, bars, news, publish

ROOT = Path(__file__).parents[1]
PARTITIONS = 2
PATIENCE_S = 60.0
SPAN = ("--from", "2026-01-01T00:30:00Z", "--to", "2026-01-01T01:10:00Z")
COUNT = 40 * len(NAMES)


def cli(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


class World:
    """A flow over an hour and a half of bars and news, with all its places."""

    def __init__(self, folder: Path, kafka: str, database: str, redis: str) -> None:
        self.database, self.folder = database, folder
        self.redis = urlsplit(redis).netloc
        self.name = unique("places")
        self.store = folder / "store"
        self.store.mkdir()
        (self.store / "feature_store.yaml").write_text(
            f"""
            project: {self.name.replace("-", "_")}
            provider: local
            registry: registry.db
            online_store: {{type: redis, connection_string: "{self.redis}", skip_dedup: true}}
            offline_store: {{type: feature_repo.store.GoldOfflineStore}}
            entity_key_serialization_version: 3
            """
        )
        self.config = folder / "flow.toml"
        self.config.write_text(
            f"""
            name = "{self.name}"
            recovery = "{folder}/state"
            snapshot_every = "1s"
            listen = ""
            [kafka]
            bootstrap = "{kafka}"
            clock_topic = "{self.name}-clock"
            progress_topic = "{self.name}-progress"
            [database]
            url = "{database}"
            namespace = "places"
            [online]
            store = "{self.store}"
            wait = "200ms"
            [inputs.bars]
            topic = "{self.name}-bars"
            arrival = "column"
            [inputs.news]
            topic = "{self.name}-news"
            arrival = "column"
            [sets.market]
            topic = "{self.name}-vectors"
            sinks = ["kafka", "table", "online"]
            """
        )

    def run(self, enough: int) -> str:
        """Runs the flow until the table has so many vectors, and drains it; gives its log."""
        log = self.folder / "log"
        with log.open("wb") as told:
            process = subprocess.Popen(
                [sys.executable, "-m", "dataflows.cli", "live", str(self.config)],
                cwd=ROOT, stderr=told, env={**os.environ, "RIFFLE_LOG_FORM": "json"},
            )  # fmt: skip
        try:
            deadline_s = time.monotonic() + PATIENCE_S
            while self.rows() < enough:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline_s, (self.rows(), log.read_text())
                time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
        return log.read_text()

    def rows(self) -> int:
        with psycopg.connect(self.database) as connection:
            found = connection.execute("SELECT count(*) FROM places.market_fs_v1").fetchone()
        return int(found[0]) if found else 0

    def verified(self, *, code: int) -> dict[str, Any]:
        told = cli("verify", "market", *SPAN, "-c", self.config, "--json", code=code)
        found: dict[str, Any] = json.loads(told)
        return found


@pytest.fixture
def world(tmp_path: Path, kafka: str, database: str, redis: str, topic: Topics) -> Iterator[World]:
    made = World(tmp_path, kafka, database, redis)
    told = cli("apply", made.config, "--partitions", str(PARTITIONS))
    assert "market_fs_v1" in told
    assert "registered" in told
    publish(kafka, f"{made.name}-bars", bars(), PARTITIONS)
    publish(kafka, f"{made.name}-news", news(), PARTITIONS)
    yield made
    topic.names += [each.name for each in wanted_topics(live_settings(made.config), None)]


def test_all_places_hold_what_is_computed_again_and_each_difference_is_found(world):
    world.run(enough=80 * len(NAMES))
    found = world.verified(code=0)
    assert [held["compared"] for held in found["held"]] == [COUNT, COUNT]
    (served,) = found["served"]
    assert served["equal"]
    assert served["later"] == len(NAMES)  # the flow has given more than the range

    with psycopg.connect(world.database) as connection:
        connection.execute(
            "UPDATE places.market_fs_v1 SET vol_20 = vol_20 * (1 + 1e-15) WHERE instrument_id = "
            "'i1' AND ts = '2026-01-01T01:00:00Z'"
        )
        connection.execute(
            "DELETE FROM places.market_fs_v1 WHERE instrument_id = 'i2' AND ts = "
            "'2026-01-01T01:00:00Z'"
        )
    found = world.verified(code=1)
    topic, table = found["held"]
    assert topic["equal"]
    assert (table["different"], table["missing"]) == (1, 1)
    assert found["served"][0]["equal"]
    for _ in range(2):  # the second one meets what the first has written
        told = cli("replay", "market", *SPAN, "--table", "-c", world.config)
        assert f"{COUNT} vectors in its table" in told
    _, table = world.verified(code=0)["held"]
    assert table["compared"] == COUNT

    host, _, port = world.redis.partition(":")
    store = client.Redis(host, int(port))
    project = world.name.replace("-", "_").encode()
    for key in store.scan_iter(b"*" + project + b"*"):
        store.delete(key)
    (served,) = world.verified(code=1)["served"]
    assert served["missing"] == len(NAMES)
    told = cli("verify", "market", *SPAN, "-c", world.config, code=1)
    assert f"{len(NAMES)} none" in told
