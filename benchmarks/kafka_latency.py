"""From event to vector: how long a reader waits, with broker, feeder, flow and reader on all cores.

An event happens when the feeder writes its time into a bar and hands it to its producer, which
sends every 5 ms as producers do unless told otherwise. The vector has come when a plain consumer
in another process holds it. What is told of:

- *provisional*, at least once: from the bar's time to the first vector of that instant. It is
  final already if its rows took longer than their delay; that counts like any other;
- *final*, exactly once: from the moment at which a vector can be final, which is the bar's time
  and the delay of its streams, to the committed vector.

The first seconds are not counted. A bar that came too late, because the machine held the feeder up,
has no final vector; there must be one for every other bar.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import ROOT, Timing, WrongOutputError
from benchmarks.kafka import BY_THE_BROKER
from benchmarks.kafka_broker import address, count_of, topics
from benchmarks.kafka_flow import Flow, Running, running
from benchmarks.kafka_messages import PARTITIONS
from benchmarks.kafka_sets import DELAY_MS
from benchmarks.report import Line
from benchmarks.workload import Int64s

SET = "benchmarks.kafka_sets:prompt"
PATIENCE_S = 120.0
"""A flow that is behind has caught up within this, once the feeder has ended."""
TRANSACTION_MS = 100
GOAL_MS = 50
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True)
class Load:
    """What is measured at.

    Attributes:
        rate: messages a second.
        seconds: that count.
        warm_s: seconds before them.
    """

    rate: int
    seconds: float
    warm_s: float


@dataclass(frozen=True)
class Kind:
    """Which vectors, and how long after which moment they may come.

    Attributes:
        name: for the tables.
        settings: of the set.
        final: whether they are.
        goal_ms: of the p99 at the lowest load.
    """

    name: str
    settings: Mapping[str, str]
    final: bool
    goal_ms: int


PROVISIONAL = Kind("provisional, at least once", {"delivery": "at_least_once"}, False, GOAL_MS)
FINAL = Kind(
    "final, exactly once",
    {"transaction": f"{TRANSACTION_MS}ms"},
    True,
    TRANSACTION_MS + GOAL_MS,
)
QUICK = (Load(500, 2.0, 1.0),)
FULL = (Load(10_000, 20.0, 8.0), Load(50_000, 20.0, 8.0))


def measure(
    loads: tuple[Load, ...], bootstrap: str | None = None
) -> tuple[list[Line], list[Timing]]:
    """Measures both kinds of vectors at each load; the goals are for the lowest."""
    bootstrap = bootstrap or address()
    lines: list[Line] = []
    for kind in (PROVISIONAL, FINAL):  # a broker compiles itself in its first minutes of work
        _measured(bootstrap, kind, loads[0], judged=False)
    for kind in (PROVISIONAL, FINAL):
        for load in loads:
            lines += _measured(bootstrap, kind, load, judged=load is loads[0])
    return lines, []


def _measured(bootstrap: str, kind: Kind, load: Load, *, judged: bool) -> list[Line]:
    name = f"bench-{uuid.uuid4().hex[:10]}"
    inputs = {"bars": PARTITIONS, "news": PARTITIONS}
    with (
        topics(bootstrap, inputs, **BY_THE_BROKER) as names,
        topics(bootstrap, {"vectors": PARTITIONS, "provisional": PARTITIONS}) as (out, early),
    ):
        settings = dict(kind.settings)
        if not kind.final:
            settings["provisional_topic"] = early
        flow = Flow(
            name, bootstrap, dict(zip(("bars", "news"), names, strict=True)), SET, out,
            settings=settings,
        )  # fmt: skip
        with running(flow, None) as run:
            told, ts_ns, came_ns, cores = _heard(
                run, names, [out] if kind.final else [out, early], load
            )
            late = count_of(bootstrap, [f"{topic}.late" for topic in names])
    waited_ms = _waited_ms(kind, ts_ns, came_ns)
    _check(kind, told, len(np.unique(ts_ns)), len(ts_ns), late)
    order = np.unique(ts_ns)
    counted = waited_ms[order >= order[0] + int(load.warm_s * 1e9)]
    what = f"latency: {kind.name}, {load.rate:,}/s"
    lines = []
    for title, quantile in QUANTILES.items():
        found = float(np.quantile(counted, quantile))
        goal = judged and title == "p99"
        lines.append(
            Line(
                f"{what}, {title}", found, found, found, "ms",
                f"< {kind.goal_ms} ms" if goal else "", found < kind.goal_ms if goal else None,
            )
        )  # fmt: skip
    return [
        *lines,
        Line.value(f"{what}, greatest", [float(counted.max())], "ms"),
        Line.value(f"{what}, cores that the flow used", [cores], ""),
        Line.value(f"{what}, rows too late by the feeder", [float(late)], ""),
        Line.value(f"{what}, feeder behind its pace", [told["behind_ms"]], "ms"),
    ]


def _heard(
    run: Running, names: list[str], listened: list[str], load: Load
) -> tuple[dict[str, Any], Int64s, Int64s, float]:
    """Feeds a running flow, and listens: what was sent, and what came when."""
    bootstrap = run.flow.bootstrap
    with tempfile.TemporaryDirectory(prefix="riffle-bench-") as folder:
        path = Path(folder) / "heard.npz"
        listener = _started("listener", {"bootstrap": bootstrap, "names": listened}, str(path))
        assert listener.stdout is not None
        listener.stdout.readline()
        run.until_ready()
        seconds = load.warm_s + load.seconds
        feeding = {"bootstrap": bootstrap, "names": names, "rate": load.rate, "seconds": seconds}
        before, began_s = run.cpu_seconds(), time.monotonic()
        feeder = _started("feeder", feeding)
        told, _ = feeder.communicate()
        cores = (run.cpu_seconds() - before) / (time.monotonic() - began_s)
        run.look()
        listener.communicate(timeout=PATIENCE_S)  # closes its input
        run.look()
        if feeder.returncode or listener.returncode:
            msg = "feeder and listener must end well, found otherwise; the error is above"
            raise RuntimeError(msg)
        with np.load(path) as found:
            return json.loads(told), found["ts_ns"], found["came_ns"], cores


def _started(module: str, told: Mapping[str, Any], *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.kafka_{module}", json.dumps(told), *more],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def _waited_ms(kind: Kind, ts_ns: Int64s, came_ns: Int64s) -> np.ndarray:
    """How long each instant was waited for, in the order of time."""
    order = np.lexsort((came_ns, ts_ns))
    first = np.flatnonzero(np.diff(ts_ns[order], prepend=-1))
    chosen = order[first]
    since_ns = ts_ns[chosen] + (DELAY_MS * 10**6 if kind.final else 0)
    waited: np.ndarray = (came_ns[chosen] - since_ns) / 1e6
    return waited


def _check(kind: Kind, told: Mapping[str, Any], instants: int, vectors: int, late: int) -> None:
    """An instant for every bar that was in time, and a final vector once."""
    wanted = told["bars"] - late
    # Late news have no vector of their own, so a few more may be there than are counted.
    if (
        told["left"]
        or not wanted <= instants <= told["bars"]
        or (kind.final and vectors > instants)
    ):
        msg = (
            f"{kind.name}: there must be a vector for each of {told['bars']} bars but those of "
            f"{late} late rows, found {instants} instants in {vectors} vectors"
        )
        raise WrongOutputError(msg)
