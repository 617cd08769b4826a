"""A live flow as its operators see it: asked while it runs, stopped, and read in its log."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families

from dataflows.live_settings import LiveSettings, live_settings
from dataflows.topics import apply, wanted_topics
from tests.services.names import unique
from tests.services.process import free_port

ROOT = Path(__file__).parents[1]
DEADLINE_S = 90.0
CANARY = "c4nary-S3cret"
INSTRUMENTS = [f"I{number}" for number in range(8)]


@pytest.fixture
def settings(kafka: str, tmp_path: Path) -> Iterator[LiveSettings]:
    """A flow of its own, with its topics."""
    name = unique("seen")
    path = tmp_path / "flow.toml"
    path.write_text(
        f"""
        name = "{name}"
        recovery = "{tmp_path}/state"
        snapshot_every = "1s"
        [kafka]
        bootstrap = "{kafka}"
        clock_topic = "{name}-clock"
        progress_topic = "{name}-progress"
        [kafka.properties]
        "sasl.password" = "{CANARY}"
        [inputs.bars]
        topic = "{name}-bars"
        [sets.market_lab]
        topic = "{name}-features"
        """
    )
    settings = live_settings(path)
    apply(settings, 2, 1)
    yield settings
    topics = [topic.name for topic in wanted_topics(settings, None)]
    for done in AdminClient({"bootstrap.servers": kafka}).delete_topics(topics).values():
        with suppress(KafkaException):
            done.result(30)


class Running:
    """The flow, as one process."""

    def __init__(self, settings: LiveSettings, folder: Path, port: int) -> None:
        self.log = folder / "log"
        self.port = port
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "RIFFLE_CONFIG": str(folder / "flow.toml"),
            "RIFFLE_LISTEN": f"127.0.0.1:{port}", "RIFFLE_LOG": "json", "RIFFLE_LOG_LEVEL": "debug",
        }  # fmt: skip
        state = folder / "state" / "shard-0-of-1"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bytewax.run", "dataflows.live", "-r", str(state), "-s", "1",
                 "-b", "0"],
                env=environment, stdout=log, stderr=log, cwd=folder,
            )  # fmt: skip

    def ask(self, path: str, timeout_s: float = 10.0) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def metrics(self) -> dict[tuple[str, str], float]:
        """Totals by name and fate, reason or kind."""
        found: dict[tuple[str, str], float] = {}
        _, body = self.ask("/metrics")
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                kinds = (sample.labels.get(label, "") for label in ("fate", "reason", "kind"))
                key = (sample.name, "".join(kinds))
                found[key] = found.get(key, 0.0) + sample.value
        return found

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            with suppress(OSError):
                if condition():
                    return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline_s, self.log.read_text()
            time.sleep(0.05)


@pytest.fixture
def flow(settings: LiveSettings, tmp_path: Path) -> Iterator[Running]:
    running = Running(settings, tmp_path, free_port())
    yield running
    running.process.kill()
    running.process.wait()


def bar(instrument: str, ts_s: float) -> bytes:
    ts = datetime.fromtimestamp(ts_s, UTC).isoformat(timespec="milliseconds")
    prices = dict.fromkeys(("open", "high", "low", "close"), 10.0)
    row = {"instrument_id": instrument, "timeframe": "1s", "ts": ts, **prices, "volume": 1.0}
    return json.dumps(row).encode()


def feed(kafka: str, topic: str) -> None:
    """Four bars of each instrument, one that is late, and one message that is none."""
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random"})
    now_s = time.time()
    for instrument in INSTRUMENTS:
        for age_s in range(4):
            producer.produce(topic, bar(instrument, now_s - age_s), instrument)
    producer.produce(topic, bar("I0", now_s - 60), "I0")
    producer.produce(topic, b"{ no bar\n\x1b[31m", "I0")
    assert producer.flush(30) == 0


def test_a_live_flow_tells_how_it_is_until_it_is_stopped(
    flow: Running, settings: LiveSettings, kafka: str
) -> None:
    flow.until(lambda: flow.ask("/ready")[0] == 200)
    feed(kafka, settings.topic_of("bars"))
    wanted = 4 * len(INSTRUMENTS)
    flow.until(lambda: flow.metrics().get(("riffle_sink_records_total", ""), 0) >= wanted)

    told = flow.metrics()
    assert told["riffle_source_messages_total", ""] == wanted + 2
    assert told["riffle_source_rows_total", "rows"] == wanted
    assert told["riffle_source_rows_total", "late"] == 1
    assert told["riffle_source_rows_total", "dead"] == 1
    assert told["riffle_source_dead_letters_total", "malformed"] == 1
    assert told["riffle_engine_rows_total", "applied"] == wanted
    assert told["riffle_engine_pending_rows", ""] == 0
    assert told["riffle_vectors_total", "final"] == wanted
    assert told["riffle_engine_entities", ""] == len(INSTRUMENTS)
    assert told["riffle_source_lag_records", ""] == 0
    assert told["riffle_compute_duration_seconds_count", ""] > 0
    assert told["riffle_sink_transactions_total", ""] > 0
    flow.until(lambda: flow.metrics()["riffle_snapshot_size_bytes", ""] > 0)

    epochs = told["riffle_epochs_total", ""]
    flow.until(lambda: flow.metrics()["riffle_epochs_total", ""] > epochs + 1)
    assert flow.ask("/health")[0] == 200
    assert flow.metrics()["riffle_dependency_up", ""] == 1

    flow.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, flow.process.pid, os.WSTOPPED)
    with pytest.raises(TimeoutError, match="timed out"):
        flow.ask("/health", 2.0)
    flow.process.send_signal(signal.SIGCONT)
    flow.until(lambda: flow.ask("/health")[0] == 200)

    flow.process.send_signal(signal.SIGTERM)
    assert flow.process.wait(30) == 0
    lines = flow.log.read_text().splitlines()
    assert {"time", "level", "logger", "event"} <= set.intersection(
        *(set(json.loads(line)) for line in lines)
    )
    assert CANARY not in flow.log.read_text()
