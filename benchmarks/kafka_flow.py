"""A live flow as it is run by users, in processes of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.contest import ROOT
from benchmarks.kafka_broker import given_out, reader, remove
from dataflows import processes, topics
from dataflows.commands.live import workers_of
from dataflows.live_settings import live_settings

POLL_S = 0.1
READY_S = 60.0
QUIET_S = 1.0
DRAIN_S = 60.0
STARTED_S = 3.0


@dataclass(frozen=True)
class Flow:
    """What a flow is told.

    Attributes:
        name: of the flow; a new one for each run.
        bootstrap: address of the broker.
        inputs: topic of each stream.
        feature_set: as on the command line.
        output: topic of its final vectors.
        arrival: where the time of arrival comes from.
        settings: of the set's table, beyond the topic.
        kafka: of the Kafka table, beyond the address.
        shards: how many processes share the partitions.
        more: other tables of the settings, as TOML.
    """

    name: str
    bootstrap: str
    inputs: Mapping[str, str]
    feature_set: str
    output: str
    arrival: str = "broker"
    settings: Mapping[str, str | list[str]] | None = None
    kafka: Mapping[str, str] | None = None
    shards: int = 1
    more: str = ""

    def toml(self, recovery: Path) -> str:
        """The settings as a file."""
        kafka = {
            "bootstrap": self.bootstrap,
            "clock_topic": f"{self.name}-clock",
            "progress_topic": f"{self.name}-progress",
            **(self.kafka or {}),
        }
        flow = {"name": self.name, "recovery": str(recovery), "listen": "", "alignment": "1h"}
        lines = [*_pairs(flow), f"shards = {self.shards}", "[kafka]", *_pairs(kafka)]
        for stream, topic in self.inputs.items():
            told = {"topic": topic, "arrival": self.arrival}
            lines += [f"[inputs.{stream}]", *_pairs(told)]
        given = {"topic": self.output, **(self.settings or {})}
        lines += [f'[sets."{self.feature_set}"]', *_pairs(given)]
        return "\n".join([*lines, self.more]) + "\n"

    def letters(self) -> list[str]:
        """The topics of what was not used."""
        return [topic + end for topic in self.inputs.values() for end in (".dlq", ".late")]


def _pairs(told: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {json.dumps(value)}" for name, value in told.items()]


class EndedError(RuntimeError):
    """A flow that ended before it was asked to."""


class Running:
    """The processes of a flow."""

    def __init__(self, flow: Flow, processes: list[subprocess.Popen[bytes]], log: Path) -> None:
        self.flow = flow
        self._processes = processes
        self._log = log
        self._usage = [psutil.Process(process.pid) for process in processes]
        self.started_s = time.monotonic()

    def cpu_seconds(self) -> float:
        """Processor time that they have used."""
        times = [each.cpu_times() for each in self._usage]
        return float(sum(each.user + each.system for each in times))

    def _said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-4_000:]

    def look(self) -> None:
        """Raises what they said if one has ended."""
        for process in self._processes:
            if process.poll() is not None:
                msg = f"flow {self.flow.name} ended with code {process.returncode}: {self._said()}"
                raise EndedError(msg)

    def until_offsets(
        self, topic: str, count: int, patience_s: float, quiet_s: float = QUIET_S
    ) -> None:
        """Waits until so many offsets of a topic are given out, and for a while no more.

        Ends of transactions take offsets too, so that the last messages come after the count.
        """
        deadline_s = time.monotonic() + patience_s
        consumer = reader(self.flow.bootstrap)
        try:
            before = -1
            while (found := given_out(consumer, topic)) < count or (quiet_s and found != before):
                before = found
                self.look()
                if time.monotonic() > deadline_s:
                    must = f"{topic} must hold {count} within {patience_s:.0f} s"
                    msg = f"{must}, found {found}; {self._said()}"
                    raise TimeoutError(msg)
                time.sleep(POLL_S if found < count else quiet_s)
        finally:
            consumer.close()

    def until_ready(self) -> None:
        """Waits until it reads: a clock ticks then, and all of them a moment later."""
        self.until_offsets(f"{self.flow.name}-clock", 1, READY_S, quiet_s=0)
        if len(self._processes) > 1:
            time.sleep(STARTED_S)

    def drain(self) -> None:
        """Asks them to stop, and waits until they have."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(DRAIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def running(flow: Flow, core: int | None) -> Iterator[Running]:
    """Makes the topics of a flow and runs it meanwhile; its own topics are removed at the end.

    Args:
        flow: what it is told.
        core: that it has for itself; None for all.
    """
    with tempfile.TemporaryDirectory(prefix="riffle-bench-") as folder:
        config = Path(folder) / "flow.toml"
        config.write_text(flow.toml(Path(folder) / "state"), encoding="utf-8")
        settings = live_settings(config)
        partitions = 4
        wrong = [each for each in topics.apply(settings, partitions, 1) if not each.ok]
        assert not wrong, wrong
        workers = workers_of(settings, config, 0)
        log = Path(folder) / "log"
        pin = [] if core is None else ["taskset", "-c", str(core)]
        with log.open("wb") as told:
            started = [
                processes.start([*pin, *worker.command], worker.environment, told, folder=ROOT)
                for worker in workers
            ]
        run = Running(flow, started, log)
        try:
            yield run
        finally:
            run.drain()
            kafka = settings.kafka
            own = [flow.output, kafka.clock_topic, kafka.progress_topic, *flow.letters()]
            provisional = (flow.settings or {}).get("provisional_topic")
            early = [str(provisional)] if provisional else []
            remove(flow.bootstrap, [*own, *early])
